"""What a pruning run is asked to do, as the REST API, the command line and `eggs_core.pipeline` all take it."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from eggs_core.pattern import NMPattern

DEFAULT_MIN_DEGREE = 4
DEFAULT_IGNORE = ("*embed*", "*lm_head", "*.gate", "*.gate.wg", "*.router*", "*shared_expert_gate")

Reference = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1024)]


class Method(StrEnum):
    """How weights are chosen; see `METHOD_DESCRIPTIONS`."""

    EGGS = "eggs"
    RIA = "ria"
    WANDA = "wanda"
    MAGNITUDE = "magnitude"


METHOD_DESCRIPTIONS = {
    Method.EGGS: "RIA importance, and every input channel keeps at least min_degree edges (an expander).",
    Method.RIA: "Relative importance and activations (Zhang et al., ICLR 2024), the best N of each group.",
    Method.WANDA: "|W| times the input channel's norm (Sun et al., ICLR 2024), the best N of each group.",
    Method.MAGNITUDE: "|W|, the best N of each group; needs no calibration text to choose.",
}


class Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextSpec(Spec):
    """Which text, cut into windows of `sequence_length` tokens."""

    source: Reference = Field(
        "pydocs",
        description="`pydocs` (built in), `file:PATH` (.txt, .jsonl or .parquet) or `hub:ORG/NAME` "
        "(optionally `hub:ORG/NAME/FILE.parquet`): a data set of the Hugging Face Hub.",
        examples=["pydocs", "file:/data/wikipedia.txt", "hub:Salesforce/wikitext"],
    )
    text_field: str = Field("text", description="The field that holds the text in JSONL and Parquet files.")
    sequence_length: int = Field(1024, ge=8, le=131072, description="Tokens in a window.")


class CalibrationSpec(TextSpec):
    """Text the activations are measured on."""

    samples: int = Field(32, ge=1, le=65536, description="Windows drawn from the text.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the draw.")


class EvaluationSpec(TextSpec):
    """Held-out text on which the dense and the pruned model are compared."""

    samples: int | None = Field(
        16, ge=1, le=65536, description="Windows from the start of the text; null takes all of it."
    )


class PruneSpec(Spec):
    """One pruning run: a model, an N:M pattern, a method and the texts it is measured on."""

    model: Reference = Field(
        description="A model of this installation (`GET /v1/models`), a folder or GGUF file under an allowed "
        "root (relative paths start there), or a Hugging Face Hub id.",
        examples=["smollm2-135m-instruct", "Qwen/Qwen3-0.6B"],
    )
    revision: str | None = Field(None, max_length=256, description="Branch, tag or commit of a Hub model.")
    pattern: NMPattern = Field(NMPattern(2, 4))
    method: Method = Method.EGGS
    min_degree: int | None = Field(
        None,
        ge=0,
        description="Edges that every input channel keeps at least (B); for method `eggs` only, "
        f"where null means {DEFAULT_MIN_DEGREE}. 0 is the plain best N of each group.",
    )
    ignore: tuple[Annotated[str, StringConstraints(min_length=1, max_length=256)], ...] = Field(
        DEFAULT_IGNORE,
        max_length=256,
        description="Layers left dense: shell patterns over module names. Only layers inside decoder blocks "
        "are ever pruned, so embeddings and the output head stay dense in any case.",
    )
    calibration: CalibrationSpec = CalibrationSpec()
    evaluation: EvaluationSpec | None = Field(
        EvaluationSpec(), description="null skips the evaluation; the report then has no perplexity."
    )

    @model_validator(mode="after")
    def _min_degree_only_for_eggs(self) -> Self:
        if self.min_degree is not None and self.method is not Method.EGGS:
            raise ValueError(f"min_degree belongs to method eggs; leave it out for method {self.method}.")
        return self

    @property
    def effective_min_degree(self) -> int:
        """B as it is enforced: 0 for every method but eggs."""
        if self.method is not Method.EGGS:
            return 0
        return DEFAULT_MIN_DEGREE if self.min_degree is None else self.min_degree
