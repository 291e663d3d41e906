"""The report of a pruning run: what was asked, what came out, and all that is needed to repeat it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from eggs_core.pattern import NMPattern
from eggs_core.spec import Method, PruneSpec

SCHEMA_VERSION: Literal[1] = 1


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


class Perplexity(ReportModel):
    """exp of the mean negative log-likelihood per predicted token, on the same windows."""

    dense: float
    pruned: float
    ratio: float = Field(description="pruned / dense")
    tokens: int = Field(description="Predicted tokens.")


class Sparsity(ReportModel):
    """Share of weights that are zero."""

    pruned_layers: float
    model: float
    by_layer_type: dict[str, float] = Field(description="By the last part of the layer's name.")


class Bytes(ReportModel):
    """Sizes on disk, and the memory that the run took."""

    dense_checkpoint: int
    pruned_checkpoint: int
    peak_resident: int = Field(description="Peak resident memory of the process, in bytes.")
    peak_device: int | None = Field(None, description="Peak memory allocated on the GPU, in bytes.")


class Expansion(ReportModel):
    """The mask read as a bipartite graph from input to output channels, over all pruned layers."""

    min_input_degree: int = Field(description="Fewest edges of any input channel in any layer.")
    mean_input_degree: float = Field(description="Mean over all input channels of all layers.")
    channels_cut_off: int = Field(description="Input channels that keep no edge at all.")
    max_second_singular_value: float = Field(
        description="Largest over the layers; see LayerReport.second_singular_value."
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
        description="||X(W-W')ᵀ||² / ||XWᵀ||² on sampled calibration tokens; null if the layer saw none."
    )
    min_input_degree: int
    mean_input_degree: float
    channels_cut_off: int
    second_singular_value: float = Field(
        description="Of the degree-normalised mask, whose largest is 1: the smaller, the better the expander."
    )
    calibration_tokens: int = Field(description="Calibration tokens that reached the layer.")
    importance: Literal["magnitude", "wanda", "ria", "weight-only"] = Field(
        description="weight-only: an expert that saw no calibration token."
    )


class Report(ReportModel):
    """Everything a run has to say. `schema_version` rises when a field changes its meaning or goes away."""

    schema_version: Literal[1] = SCHEMA_VERSION
    model: ModelInfo
    method: Method
    pattern: NMPattern
    min_degree: int = Field(description="B as it was enforced; 0 where the method has no such constraint.")
    perplexity: Perplexity | None
    sparsity: Sparsity
    bytes: Bytes
    seconds: dict[str, float] = Field(description="By stage, and in total.")
    expansion: Expansion
    layers: list[LayerReport]
    notes: list[str] = Field(description="What a reader should know, such as experts that saw no token.")
    calibration: TextInfo
    evaluation: TextInfo | None
    spec: PruneSpec = Field(description="The request: running it again gives the same bytes on one machine.")
    versions: dict[str, str] = Field(description="Of eggs, Python and the libraries the numbers depend on.")
    device: str
    threads: int
