"""Prunes the weight matrices that read one input, by the method that was asked for."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from eggs_core.errors import BrokenCheckpoint
from eggs_core.expansion import expansion_figures
from eggs_core.importance import importance
from eggs_core.joint import OutputError, choose, fit
from eggs_core.layers import PrunableLayer
from eggs_core.masks import best_score, kept_score, top_n_mask
from eggs_core.matching import Matching, auto_matching, matching_mask
from eggs_core.report import LayerReport
from eggs_core.sparsegpt import sparsegpt
from eggs_core.spec import Effort, Method, PruneSpec
from eggs_core.statistics import InputStatistics

# What the methods take at most, in bytes of memory; see `prune_layers`.
GRAM_SHARE = 18
WEIGHT_SHARE = 28
WORKING_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class PrunedLayer:
    """What becomes of a layer. `weights` (C_out, C_in) in the layer's dtype, 0 where `mask` is False."""

    layer: PrunableLayer
    weights: Tensor
    mask: Tensor
    report: LayerReport


def needs_gram(spec: PruneSpec) -> bool:
    """Whether the method weighs the error in a layer's output, which takes the Gram matrix of its inputs."""
    return spec.method is Method.SPARSEGPT or spec.effective_effort in (Effort.BALANCED, Effort.BEST)


def prune_layers(
    layers: Sequence[PrunableLayer], block: int, statistics: InputStatistics | None, spec: PruneSpec
) -> list[PrunedLayer]:
    """Prunes the `layers` of block number `block`, which all read the input that `statistics` tell of.

    The layers themselves stay as they are. Without `statistics`, where no calibration token came, the masks are
    chosen by the weights alone. Raises `BrokenCheckpoint`, naming a layer, for what is not finite, and
    `MinDegreeImpossible`.

    Takes at most `GRAM_SHARE` bytes for each entry of the layers' Gram matrix, where the method needs it and with
    it, `WEIGHT_SHARE` for each of their weights, and `WORKING_BYTES`.
    """
    norm = statistics.norm if statistics else None
    for layer in layers:
        if not bool(layer.weight.isfinite().all()) or (norm is not None and not bool(norm.isfinite().all())):
            raise BrokenCheckpoint(
                f"{layer.name} has weights or activations that are not finite, so it cannot be pruned."
            )
    if statistics is None or not needs_gram(spec):
        return [_by_importance(layer, block, statistics, spec) for layer in layers]
    return _by_output_error(layers, block, statistics, spec)


def _by_importance(
    layer: PrunableLayer, block: int, statistics: InputStatistics | None, spec: PruneSpec
) -> PrunedLayer:
    S = importance(spec.method, layer.weight, statistics.norm if statistics else None)
    matching, min_degree = _match(S, layer.name, spec)
    weights = layer.weight.masked_fill(~matching.mask, 0)  # not times the mask, which would leave -0
    return _pruned(layer, block, S, weights, matching, min_degree, statistics, spec)


def _by_output_error(
    layers: Sequence[PrunableLayer], block: int, statistics: InputStatistics, spec: PruneSpec
) -> list[PrunedLayer]:
    W = torch.cat([layer.weight for layer in layers])
    rows = [layer.shape[0] for layer in layers]
    if spec.method is Method.SPARSEGPT:
        weights, mask = sparsegpt(W, statistics.gram, spec.pattern)
        matched = [(Matching(part, 0.0), 0) for part in mask.split(rows)]
    else:
        error = OutputError(statistics.gram)
        Y = choose(W, error, spec.pattern)
        matched = [
            _match(scores.square(), layer.name, spec) for layer, scores in zip(layers, Y.split(rows), strict=True)
        ]
        weights = fit(W, Y, torch.cat([matching.mask for matching, _ in matched]), error)
    return [
        _pruned(
            layer,
            block,
            importance(spec.method, layer.weight, statistics.norm),
            of_layer,
            matching,
            min_degree,
            statistics,
            spec,
        )
        for layer, of_layer, (matching, min_degree) in zip(
            layers, weights.to(W.dtype).split(rows), matched, strict=True
        )
    ]


def _match(S: Tensor, name: str, spec: PruneSpec) -> tuple[Matching, int]:
    """The mask that keeps most of the scores S (C_out, C_in), and the edges it gives every input channel."""
    if spec.method is not Method.EGGS:
        return Matching(top_n_mask(S, spec.pattern), 0.0), 0
    asked = spec.effective_min_degree
    if asked == "auto":
        return auto_matching(S, spec.pattern, name)
    return matching_mask(S, spec.pattern, asked, name), asked


def _pruned(
    layer: PrunableLayer,
    block: int,
    S: Tensor,
    weights: Tensor,
    matching: Matching,
    min_degree: int,
    statistics: InputStatistics | None,
    spec: PruneSpec,
) -> PrunedLayer:
    """The layer with its figures; S (C_out, C_in) is the importance that they are told by."""
    best = best_score(S, spec.pattern)
    report = LayerReport(
        name=layer.name,
        type=layer.type,
        block=block,
        shape=layer.shape,
        sparsity=share_of_zeros(weights),
        kept_importance=kept_score(S, matching.mask) / best if best > 0 else 1.0,
        relative_output_error=_relative_output_error(layer.weight, weights, statistics),
        min_degree=min_degree,
        duality_gap=matching.duality_gap,
        **asdict(expansion_figures(matching.mask)),
        calibration_tokens=statistics.tokens if statistics else 0,
        importance=_IMPORTANCE[spec.method] if statistics else "weight-only",
    )
    return PrunedLayer(layer, weights, matching.mask, report)


def share_of_zeros(weights: Tensor) -> float:
    return 1 - weights.count_nonzero().item() / weights.numel()


def _relative_output_error(W: Tensor, pruned: Tensor, statistics: InputStatistics | None) -> float | None:
    """||X(W-W')ᵀ||² / ||XWᵀ||² on the sampled tokens, in float32."""
    if statistics is None or (X := statistics.sample) is None:
        return None
    X, W = X.float(), W.float()
    dense = (X @ W.T).square().sum(dtype=torch.float64)
    lost = (X @ W.sub(pruned).T).square().sum(dtype=torch.float64)
    return float(lost / dense) if dense > 0 else 0.0


_IMPORTANCE = {
    Method.EGGS: "ria",
    Method.SPARSEGPT: "ria",
    Method.RIA: "ria",
    Method.WANDA: "wanda",
    Method.MAGNITUDE: "magnitude",
}
