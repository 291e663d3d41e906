"""What a pruning run is asked to do, as the REST API, the command line and `eggs_core.pipeline` all take it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from eggs_core.pattern import NMPattern
from eggs_core.sources import HUB_NAME

DEFAULT_IGNORE = ("*embed*", "*lm_head", "*.gate", "*.gate.wg", "*.router*", "*shared_expert_gate", "*.altup.*")

MOST_COMPARED = 8
_BRANCH = "^[A-Za-z0-9][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*$"
Reference = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1024)]
_PART = r"[^./\\\s][^/\\\s]*"
# As git has them, as far as it matters: the Hub's client reads and writes a file of a revision's name.
Revision = Annotated[str, StringConstraints(pattern=f"^{_PART}(/{_PART})*$", max_length=256)]


def _number_or_auto(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(value)
    except ValidationError as error:  # which tells of every alternative
        raise ValueError('Write a number of edges, 0 or more, or "auto".') from error


MinDegree = Annotated[Annotated[int, Field(ge=0)] | Literal["auto"], WrapValidator(_number_or_auto)]


class Method(StrEnum):
    """How weights are chosen; see `METHOD_DESCRIPTIONS`."""

    EGGS = "eggs"
    SPARSEGPT = "sparsegpt"
    RIA = "ria"
    WANDA = "wanda"
    MAGNITUDE = "magnitude"


METHOD_DESCRIPTIONS = {
    Method.EGGS: "Every input channel keeps at least min_degree edges (an expander); `effort` says how the mask "
    "is chosen and whether weights move.",
    Method.SPARSEGPT: "Column by column, each column's error made good by those to come (Frantar & Alistarh, "
    "ICML 2023).",
    Method.RIA: "Relative importance and activations (Zhang et al., ICLR 2024), the best N of each group.",
    Method.WANDA: "|W| times the input channel's norm (Sun et al., ICLR 2024), the best N of each group.",
    Method.MAGNITUDE: "|W|, the best N of each group; needs no calibration text to choose.",
}


class Effort(StrEnum):
    """How much method `eggs` does; see `EFFORT_DESCRIPTIONS`."""

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"


EFFORT_DESCRIPTIONS = {
    Effort.FAST: "RIA importance, from one pass of the dense model; the kept weights stay as they are.",
    Effort.BALANCED: "Mask and weights chosen together, to keep each layer's outputs on the calibration text.",
    Effort.BEST: "As balanced, then every block is trained on the calibration text to give the dense model's "
    "outputs. Takes several times as long.",
}


def _described(descriptions: Mapping[Effort, str] | Mapping[Method, str]) -> str:
    return " ".join(f"`{value}`: {text}" for value, text in descriptions.items())


def method_label(method: Method, effort: Effort | None) -> str:
    """A method as the command line has it: `ria`, `eggs:fast`; `effort` as it is made, None for the others."""
    return str(method) if effort is None else f"{method}:{effort}"


def _effort_made(method: Method, effort: Effort | None) -> Effort | None:
    return (effort or Effort.BALANCED) if method is Method.EGGS else None


def _refuse_unless_eggs(method: Method, **options: Any) -> None:
    for name, value in options.items():
        if method is not Method.EGGS and value is not None:
            raise ValueError(f"{name} belongs to method eggs; leave it out for method {method}.")


_SOURCES = (
    "`pydocs` (built in), `file:PATH` (.txt, .jsonl or .parquet) or `hub:ORG/NAME` (optionally "
    "`hub:ORG/NAME/FILE.parquet`): a data set of the Hugging Face Hub; in the "
    "service also an uploaded text, `file_…`, or an S3 URL below an allowed one"
)


class Spec(BaseModel):
    # A report repeats the request in JSON, which cannot write infinity, though 1e999 is read as that.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _without_duplicates(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice} is given twice. Leave one out.")
    return names


class WindowSpec(Spec):
    """How text is read and cut into windows of `sequence_length` tokens."""

    text_field: str = Field("text", description="The field that holds the text in JSONL and Parquet files.")
    sequence_length: int = Field(1024, ge=8, le=131072, description="Tokens in a window.")


class TextSpec(WindowSpec):
    """Windows of one text."""

    source: Reference = Field(
        "pydocs",
        description=f"{_SOURCES}.",
        examples=["pydocs", "file:/data/wikipedia.txt", "hub:Salesforce/wikitext"],
    )
    samples: int | None = Field(None, ge=1, le=65536, description="Windows of the text; null takes all of it.")


class CalibrationSpec(TextSpec):
    """Text the activations are measured on."""

    samples: int = Field(32, ge=1, le=65536, description="Windows drawn from the text.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the draw.")


class EvaluationSpec(WindowSpec):
    """Held-out texts on which the dense and the pruned model are compared."""

    sources: tuple[Reference, ...] = Field(
        ("pydocs",),
        min_length=1,
        max_length=16,
        description=f"The texts, each measured by itself: {_SOURCES}.",
        examples=[["pydocs", "hub:Salesforce/wikitext"]],
    )
    samples: int | None = Field(
        16, ge=1, le=65536, description="Windows from the start of each text; null takes all of it."
    )
    generations: int = Field(
        3,
        ge=0,
        le=16,
        description="Windows whose beginning both models continue by greedy decoding. Needs the whole model in "
        "memory; where it does not fit, the report has a note instead.",
    )

    speed: bool = Field(
        False,
        description="Times the pruned model in dense and in packed form on the worker's machine. Needs both in "
        "memory; where they do not fit, the report has a note instead.",
    )
    tasks: tuple[Reference, ...] = Field(
        (),
        max_length=64,
        description="Tasks both models are put to: names of lm-evaluation-harness (`hellaswag`), whose data comes "
        "from the Hugging Face Hub, or `file:PATH.yaml`, a task file under an allowed folder. Needs the whole "
        "model in memory.",
        examples=[["hellaswag", "file:mine/quiz.yaml"]],
    )
    task_limit: int | None = Field(None, ge=1, description="Examples of each task; null takes all of them.")

    @field_validator("sources", "tasks")
    @classmethod
    def _nothing_twice(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _without_duplicates(names)

    @property
    def texts(self) -> list[TextSpec]:
        """The texts one by one, in order."""
        shared = {"text_field": self.text_field, "sequence_length": self.sequence_length, "samples": self.samples}
        return [TextSpec(source=source, **shared) for source in self.sources]


class OutputFormat(StrEnum):
    """In which forms the pruned model is left; see `OutputSpec`."""

    DENSE = "dense"
    PACKED = "packed"
    BOTH = "both"


class OutputSpec(Spec):
    """What a run leaves."""

    format: OutputFormat = Field(
        OutputFormat.BOTH,
        description="`dense`: with its zeros, for every tool. `packed`: without them, smaller and faster, for "
        "transformers after `import eggs_core`; `eggs unpack` makes the dense one of it. `both`: the dense one, "
        "and the packed one in the folder `packed`.",
    )


class AcceptIf(Spec):
    """What a pruned model must keep to on every evaluation text; what is null is not asked for."""

    perplexity_ratio: float | None = Field(
        None, gt=0, description="Perplexity pruned / dense at most.", examples=[1.15]
    )
    kl_divergence: float | None = Field(
        None, gt=0, description="Mean KL divergence per predicted token at most, in nats."
    )
    top1_agreement: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of predicted tokens for which both models hold the same token likeliest, at least.",
    )

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if all(value is None for _, value in self):
            raise ValueError("accept_if asks for nothing. Give a criterion, such as perplexity_ratio.")
        return self


class HubPush(Spec):
    """A repository of the Hugging Face Hub that a finished model is pushed to."""

    repo_id: Annotated[str, StringConstraints(pattern=f"^{HUB_NAME}/{HUB_NAME}$")] = Field(
        description="`ORG/NAME`; made where there is none.", examples=["acme/smollm2-135m-2of4"]
    )
    private: bool = Field(True, description="Whether the repository is private, if it has to be made.")
    revision: Annotated[str, StringConstraints(pattern=_BRANCH, max_length=200)] = Field(
        "main", description="The branch; made where there is none."
    )


class ComparedSpec(Spec):
    """A method that the job's own is compared with."""

    method: Method
    effort: Effort | None = Field(
        None,
        description="For method `eggs` only: `fast`, or `balanced`, which null means. `best` is not compared.",
    )

    @model_validator(mode="after")
    def _needs_no_training(self) -> Self:
        _refuse_unless_eggs(self.method, effort=self.effort)
        if self.effort is Effort.BEST:
            raise ValueError(
                "effort best trains every block, which a comparison does not. Compare with balanced, or ask for "
                "best in a job of its own."
            )
        return self

    @property
    def label(self) -> str:
        """The method and its effort, see `method_label`."""
        return method_label(self.method, _effort_made(self.method, self.effort))


class PruneSpec(Spec):
    """One pruning run: a model, an N:M pattern, a method and the texts it is measured on."""

    model: Reference = Field(
        description="A model of this installation (`GET /v1/models`), a folder or GGUF file under an allowed "
        "root (relative paths start there), a Hugging Face Hub id, an uploaded model, `file_…`, or an S3 URL "
        "below an allowed one.",
        examples=["smollm2-135m-instruct", "Qwen/Qwen3-0.6B"],
    )
    revision: Revision | None = Field(None, description="Branch, tag or commit of a Hub model.")
    # JSON Schema would have the default as an object, and the pattern is written as a string.
    pattern: NMPattern = Field(NMPattern(2, 4), json_schema_extra={"default": "2:4"})
    method: Method = Field(Method.EGGS, description="How weights are chosen. " + _described(METHOD_DESCRIPTIONS))
    effort: Effort | None = Field(
        None, description="For method `eggs` only, where null means `balanced`. " + _described(EFFORT_DESCRIPTIONS)
    )
    min_degree: MinDegree | None = Field(
        None,
        description="Edges that every input channel keeps at least (B); for method `eggs` only, where null means "
        "`auto`: in each layer the most that costs next to nothing. 0 asks for none.",
    )
    permute: bool | None = Field(
        None,
        description="Reorders channels within a block first, so that fewer important weights compete in one "
        "group; what the dense model computes stays the same. null means true for method `eggs` and false for "
        "the others.",
    )
    ignore: tuple[Annotated[str, StringConstraints(min_length=1, max_length=256)], ...] = Field(
        DEFAULT_IGNORE,
        max_length=256,
        description="Layers left dense: shell patterns over whole module names, such as `*.down_proj`. Those of "
        "the default, routers above all, stay dense in any case, and so do embeddings and the output head, as "
        "only layers inside decoder blocks are ever pruned.",
    )
    calibration: CalibrationSpec = CalibrationSpec()
    evaluation: EvaluationSpec | None = Field(
        EvaluationSpec(), description="null skips the evaluation; the report then has none."
    )
    accept_if: AcceptIf | None = Field(
        None,
        description="Decides whether the report calls the model accepted or rejected; the run succeeds anyway.",
        examples=[{"perplexity_ratio": 1.15}],
    )
    output: OutputSpec = OutputSpec()
    seeds: int = Field(
        1,
        ge=1,
        le=16,
        description="Repeats the run with the seeds that follow `calibration.seed`, to tell how far perplexity "
        "depends on the draw. The first seed's model is published, of the others only perplexities are kept.",
    )
    compare: tuple[ComparedSpec, ...] = Field(
        (),
        max_length=MOST_COMPARED,
        description="Methods that prune every block as well, from the statistics gathered for the job's own "
        "method, and without `permute`. Their figures are reported, their models are not kept.",
        examples=[[{"method": "ria"}, {"method": "eggs", "effort": "fast"}]],
    )

    @field_validator("compare")
    @classmethod
    def _nothing_twice(cls, compare: tuple[ComparedSpec, ...]) -> tuple[ComparedSpec, ...]:
        _without_duplicates(tuple(entry.label for entry in compare))
        return compare

    @model_validator(mode="after")
    def _compares_others_by_evaluation(self) -> Self:
        if self.compare and self.evaluation is None:
            raise ValueError("compare measures methods on evaluation texts. Ask for some, or leave compare out.")
        if self.label in (entry.label for entry in self.compare):
            raise ValueError(f"compare has the job's own method, {self.label}. Leave it out of compare.")
        return self

    @model_validator(mode="after")
    def _acceptance_is_evaluated(self) -> Self:
        if self.accept_if is not None and self.evaluation is None:
            raise ValueError("accept_if is about evaluation texts. Ask for some, or leave accept_if out.")
        return self

    @model_validator(mode="after")
    def _seeds_are_evaluated(self) -> Self:
        if self.seeds > 1 and self.evaluation is None:
            raise ValueError("seeds repeats the run to compare evaluations. Ask for one, or leave seeds out.")
        return self

    @model_validator(mode="after")
    def _speed_is_that_of_the_packed_form(self) -> Self:
        if self.evaluation is not None and self.evaluation.speed and self.output.format is OutputFormat.DENSE:
            raise ValueError(
                "speed compares the packed form with the dense one. Ask for output format packed or both."
            )
        return self

    @model_validator(mode="after")
    def _only_for_eggs(self) -> Self:
        _refuse_unless_eggs(self.method, effort=self.effort, min_degree=self.min_degree)
        return self

    @property
    def effective_effort(self) -> Effort | None:
        """The effort that is made; None for every method but eggs."""
        return _effort_made(self.method, self.effort)

    @property
    def label(self) -> str:
        """The method and its effort, see `method_label`."""
        return method_label(self.method, self.effective_effort)

    @property
    def compared(self) -> "list[PruneSpec]":
        """What the methods of `compare` are to do with a block: as this run, but no channel is moved."""
        return [
            self.model_copy(
                update={
                    "method": entry.method,
                    "effort": entry.effort,
                    "min_degree": self.min_degree if entry.method is Method.EGGS else None,
                    "permute": False,
                    "compare": (),
                }
            )
            for entry in self.compare
        ]

    @property
    def left_dense(self) -> tuple[str, ...]:
        """The patterns of `ignore`, and those that hold in any case."""
        return (*DEFAULT_IGNORE, *self.ignore)

    @property
    def permutes(self) -> bool:
        """Whether channels are reordered first."""
        return self.method is Method.EGGS if self.permute is None else self.permute

    @property
    def effective_min_degree(self) -> int | Literal["auto"]:
        """B as it is asked for: 0 for every method but eggs."""
        if self.method is not Method.EGGS:
            return 0
        return "auto" if self.min_degree is None else self.min_degree
