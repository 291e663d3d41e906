"""The report of a pruning run: what was asked, what came out, and all that is needed to repeat it."""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from eggs_core.pattern import NMPattern
from eggs_core.spec import Effort, Method, PruneSpec

SCHEMA_VERSION: Literal[2] = 2


class ReportModel(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ModelInfo(ReportModel):
    """Which model was pruned."""

    reference: str = Field(description="The model as it was asked for.")
    revision: str | None = Field(description="Resolved commit of a Hub model.")
    architecture: str
    parameters: int
    blocks: int
    dtype: str
    fingerprint: str = Field(description="sha256 over the names and contents of the checkpoint's files.")


class TextInfo(ReportModel):
    """The windows that were used of a text."""

    source: str
    fingerprint: str = Field(description="sha256 over the token ids of the windows.")
    windows: int
    sequence_length: int
    seed: int | None = None


class Interval(ReportModel):
    """A 95% bootstrap interval over the windows of a text."""

    low: float
    high: float


class Perplexity(ReportModel):
    """exp of the mean negative log-likelihood per predicted token, on the same windows."""

    dense: float
    pruned: float
    ratio: float = Field(description="pruned / dense")
    tokens: int = Field(description="Predicted tokens.")
    pruned_interval: Interval | None = Field(description="Of pruned; null for a single window.")
    ratio_interval: Interval | None = Field(
        description="Of the ratio, both models on the same resampled windows; null for a single window."
    )


class Spread(ReportModel):
    """Of the pruned model's perplexity over calibration seeds."""

    mean: float
    standard_deviation: float = Field(description="Of the sample: over one less than there are seeds.")


class TextEvaluation(ReportModel):
    """How the pruned model compares with the dense one on one text."""

    text: TextInfo
    perplexity: Perplexity
    kl_divergence: float = Field(
        description="Mean KL divergence per predicted token of the pruned model's distribution from the dense "
        "model's, KL(dense || pruned), in nats."
    )
    top1_agreement: float = Field(
        description="Share of predicted tokens for which both models hold the same token for the likeliest."
    )
    kl_divergence_interval: Interval | None = Field(None, description="null for a single window.")
    top1_agreement_interval: Interval | None = Field(None, description="null for a single window.")
    over_seeds: Spread | None = Field(None, description="null where the request has one seed.")


class Repeat(ReportModel):
    """The same run with the calibration windows of one seed."""

    seed: int
    perplexities: list[float] = Field(description="The pruned model's, in the order of the texts.")


class Compared(ReportModel):
    """Another method, given the same inputs of every block as the job's own."""

    method: Method
    effort: Effort | None = Field(description="As it was made; null where the method has none.")
    min_degree: int = Field(description="Least B of any layer; 0 where the method has no such constraint.")
    perplexities: list[float] = Field(description="Of the model it makes, in the order of the texts.")
    mean_relative_output_error: float | None = Field(
        description="Mean over the layers that saw a token; see LayerReport.relative_output_error."
    )
    seconds: float = Field(description="That its choices took in all blocks, a part of the stage prune.")


class Generation(ReportModel):
    """What both models make of the beginning of a held-out window, by greedy decoding."""

    prompt: str
    dense: str
    pruned: str


class TaskResult(ReportModel):
    """One metric of one task of lm-evaluation-harness, or of a group of them."""

    name: str
    metric: str = Field(description="With the filter that answers went through, where there is one.")
    dense: float | None = Field(description="null where it is no finite number, as all figures here.")
    pruned: float | None
    dense_stderr: float | None = Field(description="Standard error over the examples.")
    pruned_stderr: float | None
    examples: int


class ModelSpeed(ReportModel):
    """How fast one form of the pruned model generates."""

    prefill_seconds: float = Field(description="To take in the prompts of the batch.")
    tokens_per_second: float = Field(description="Decoded one after the other, over all sequences of the batch.")


class LayerProducts(ReportModel):
    """How the packed layers of one shape multiplied."""

    shape: tuple[int, int] = Field(description="(C_out, C_in)")
    layers: int = Field(description="As many have the shape, and multiplied so.")
    prefill: str = Field(
        description="Where the prompts were taken in: `packed`, from the packed form, with what the kernels used "
        "of the processor, or Triton; `semi-structured`, on a GPU, with whose kernels; `unpacked`, for every "
        "product."
    )
    decode: str = Field(description="The same for single tokens of the batch.")


class Speed(ReportModel):
    """Greedy decoding of a batch of sequences with the pruned model in both its forms, on the worker's machine."""

    batch: int
    prompt_tokens: int
    new_tokens: int
    dense: ModelSpeed
    packed: ModelSpeed
    ratio: float = Field(description="Tokens per second packed / dense; below 1 the packed form is slower.")
    products: list[LayerProducts] = Field([], description="Of the packed form; empty where it was not noted.")


class Evaluation(ReportModel):
    """The pruned model compared with the dense one on held-out text."""

    texts: list[TextEvaluation] = Field(description="In the order of the request.")
    repeats: list[Repeat] = Field(
        description="One for each seed, the published model's first; empty where the request has one seed."
    )
    compared: list[Compared] = Field([], description="In the order of the request's `compare`.")
    generations: list[Generation] = Field(description="Empty where the whole model did not fit into memory.")
    speed: list[Speed] = Field([], description="One for each size of batch; empty where none was asked for.")
    tasks: list[TaskResult] = Field(
        description="Every metric of every task and group; empty where none were asked for."
    )


class Verdict(StrEnum):
    """Whether a model keeps to what `accept_if` asks for."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"


class Check(ReportModel):
    """One criterion of `accept_if` on one text."""

    criterion: str
    limit: float
    source: str = Field(description="Of the text.")
    value: float
    met: bool


class Acceptance(ReportModel):
    """What came of `accept_if`."""

    verdict: Verdict = Field(description="`accepted` where every check is met.")
    checks: list[Check] = Field(description="Every criterion that was asked for, on every text.")


class Sparsity(ReportModel):
    """Share of weights that are zero."""

    pruned_layers: float
    model: float
    by_layer_type: dict[str, float] = Field(description="By the last part of the layer's name.")


class Bytes(ReportModel):
    """Sizes on disk, and the memory that the run took."""

    dense_checkpoint: int
    pruned_checkpoint: int = Field(description="In dense form, whether it was kept or not.")
    packed_checkpoint: int | None = Field(None, description="null where the output was asked for in dense form.")
    pruned_in_memory: int | None = Field(
        None, description="Of all tensors of the pruned model, once it is loaded in dense form."
    )
    packed_in_memory: int | None = Field(
        None, description="The same of the packed model, loaded onto the worker's device."
    )
    peak_resident: int = Field(description="Peak resident memory of the process, the first of several, in bytes.")
    peak_device: int | None = Field(None, description="Peak memory allocated on the GPU, in bytes.")


class Expansion(ReportModel):
    """The mask read as a bipartite graph from input to output channels, over all pruned layers."""

    min_input_degree: int = Field(description="Fewest edges of any input channel in any layer.")
    mean_input_degree: float = Field(description="Mean over all input channels of all layers.")
    channels_cut_off: int = Field(description="Input channels that keep no edge at all.")
    max_second_singular_value: float = Field(
        description="Largest over the layers; see LayerReport.second_singular_value."
    )
    max_ramanujan_ratio: float = Field(
        description="Largest over the layers of second singular value / Ramanujan bound; at most 1 is as good."
    )
    min_neighbourhood_ratio: float = Field(
        description="Smallest over the layers; see LayerReport.neighbourhood_ratio."
    )


class LayerReport(ReportModel):
    """One pruned weight matrix (for fused experts: one matrix of one expert)."""

    name: str
    type: str = Field(description="Last part of the layer's name, such as q_proj.")
    block: int
    shape: tuple[int, int] = Field(description="(C_out, C_in)")
    sparsity: float
    kept_importance: float = Field(description="Importance kept, as a share of what the best N per group keep.")
    relative_output_error: float | None = Field(
        description="||X(W-W')ᵀ||² / ||XWᵀ||² on sampled calibration tokens; null if the layer saw none. With "
        "effort `best` W' is as it was before the block was trained; see BlockTraining for what came of that."
    )
    min_degree: int = Field(description="B, the edges that every input channel was given at least.")
    duality_gap: float = Field(
        description="By how much the mask's score may be below the best under that constraint, as a share of "
        "what the best N per group keep."
    )
    min_input_degree: int
    mean_input_degree: float
    channels_cut_off: int
    second_singular_value: float = Field(
        description="Of the degree-normalised mask, whose largest is 1: the smaller, the better the expander."
    )
    ramanujan_bound: float = Field(
        description="Of the second singular value of the best sparse expanders of the layer's mean degrees."
    )
    neighbourhood_ratio: float = Field(
        description="Fewest output channels that a set of 1 to 4 input channels was found to reach, as a share of "
        "the set's edges or of all output channels, whichever are fewer."
    )
    calibration_tokens: int = Field(description="Calibration tokens that reached the layer.")
    importance: Literal["magnitude", "wanda", "ria", "weight-only"] = Field(
        description="weight-only: an expert that saw no calibration token."
    )


class BlockTraining(ReportModel):
    """What the training of effort `best` made of one decoder block.

    Errors are those of the block's outputs against the dense model's, ||Y'-Y||² / ||Y||² in the mean over the
    calibration tokens that were held out; null where nothing was trained, or for no finite number.
    """

    block: int
    error_before: float | None = Field(description="With the weights as the method chose them.")
    error_after: float | None = Field(description="With the weights that were kept, which are published.")
    epochs: int = Field(
        description="After which the weights that were kept were found; 0 where they are those from before."
    )
    skipped: Literal["nothing-pruned", "too-few-batches"] | None = Field(
        description="Why nothing was trained; too-few-batches: the calibration text, or a process's part of it, "
        "was one batch, of which nothing can be held out. null where the block was trained."
    )


class Report(ReportModel):
    """Everything a run has to say. `schema_version` rises when a field changes its meaning or goes away."""

    schema_version: Literal[2] = SCHEMA_VERSION
    model: ModelInfo
    method: Method
    pattern: NMPattern
    effort: Effort | None = Field(description="As it was made; null where the method has none.")
    min_degree: int = Field(description="Least B of any layer; 0 where the method has no such constraint.")
    evaluation: Evaluation | None = Field(description="null where the request skipped it.")
    acceptance: Acceptance | None = Field(None, description="null where the request has no `accept_if`.")
    sparsity: Sparsity
    bytes: Bytes
    seconds: dict[str, float] = Field(description="By stage, and in total.")
    expansion: Expansion
    layers: list[LayerReport]
    training: list[BlockTraining] = Field(
        [],
        description="One for each decoder block with effort `best`; empty with any other, which trains nothing.",
    )
    notes: list[str] = Field(description="What a reader should know, such as experts that saw no token.")
    calibration: TextInfo
    spec: PruneSpec = Field(
        description="The request: on one machine, as many processes make the same bytes of it."
    )
    versions: dict[str, str] = Field(
        description="Of eggs, with its commit where that is known, Python and the libraries."
    )
    device: str
    threads: int = Field(description="Of each process.")
    processes: int = Field(1, description="That shared the pruning.")
