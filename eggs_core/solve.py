"""Prunes the weight matrices that read one input, by the method that was asked for."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from eggs_core.devices import number
from eggs_core.errors import BrokenCheckpoint
from eggs_core.expansion import MEASURED, figures_of, measure
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

Figure = TypeVar("Figure", Tensor, float)


@dataclass(frozen=True, slots=True)
class PrunedLayer:
    """What becomes of a layer. `weights` (C_out, C_in) in the layer's dtype, 0 where `mask` is False.

    `figures` (`FIGURES`,) float64 lie where the weights do, so that the host need not wait for a GPU between one
    layer and the next; see `layer_reports`. `tokens`: how many calibration tokens reached the layer.
    """

    layer: PrunableLayer
    weights: Tensor
    mask: Tensor
    figures: Tensor
    tokens: int


class _Figures(NamedTuple, Generic[Figure]):
    """But for those that `eggs_core.expansion` measures, which follow."""

    finite: Figure
    sparsity: Figure
    kept_importance: Figure
    relative_output_error: Figure
    min_degree: Figure
    duality_gap: Figure


_OWN = len(_Figures._fields)
FIGURES = _OWN + MEASURED


def needs_gram(spec: PruneSpec) -> bool:
    """Whether the method weighs the error in a layer's output, which takes the Gram matrix of its inputs."""
    return spec.method is Method.SPARSEGPT or spec.effective_effort in (Effort.BALANCED, Effort.BEST)


def prune_layers(
    layers: Sequence[PrunableLayer], statistics: InputStatistics | None, spec: PruneSpec
) -> list[PrunedLayer]:
    """Prunes the `layers`, which all read the input that `statistics` tell of.

    The layers themselves stay as they are. Without `statistics`, where no calibration token came, the masks are
    chosen by the weights alone. Raises `BrokenCheckpoint`, naming a layer, for what is not finite, but on a GPU
    leaves that to `layer_reports`; and `MinDegreeImpossible`.

    Takes at most `GRAM_SHARE` bytes for each entry of the layers' Gram matrix, where the method needs it and with
    it, `WEIGHT_SHARE` for each of their weights, and `WORKING_BYTES`.
    """
    if statistics is not None and not statistics.tokens:  # of an expert that its model runs on no rows
        statistics = None
    for layer in layers:
        if layer.weight.device.type == "cpu" and not bool(_finite(layer, statistics)):
            raise _not_finite(layer)
    if statistics is None or not needs_gram(spec):
        return [_by_importance(layer, statistics, spec) for layer in layers]
    return _by_output_error(layers, statistics, spec)


def layer_reports(pruned: Sequence[PrunedLayer], block: int, spec: PruneSpec) -> list[LayerReport]:
    """The figures of layers of block number `block`, read from their device at once.

    Raises `BrokenCheckpoint`, naming a layer, for what is not finite.
    """
    figures = torch.stack([entry.figures for entry in pruned]).tolist() if pruned else []
    return [
        _report(entry, block, spec, _Figures(*of_layer[:_OWN]), of_layer[_OWN:])
        for entry, of_layer in zip(pruned, figures, strict=True)
    ]


def _report(
    pruned: PrunedLayer, block: int, spec: PruneSpec, figures: _Figures[float], measured: Sequence[float]
) -> LayerReport:
    layer = pruned.layer
    if not figures.finite:
        raise _not_finite(layer)
    return LayerReport(
        name=layer.name,
        type=layer.type,
        block=block,
        shape=layer.shape,
        sparsity=figures.sparsity,
        kept_importance=figures.kept_importance,
        relative_output_error=figures.relative_output_error if pruned.tokens else None,
        min_degree=int(figures.min_degree),
        duality_gap=figures.duality_gap,
        **asdict(figures_of(measured, layer.shape)),
        calibration_tokens=pruned.tokens,
        importance=_IMPORTANCE[spec.method] if pruned.tokens else "weight-only",
    )


def _not_finite(layer: PrunableLayer) -> BrokenCheckpoint:
    return BrokenCheckpoint(
        f"{layer.name} has weights or activations that are not finite, or too large to compute with, so it cannot "
        "be pruned."
    )


def _finite(layer: PrunableLayer, statistics: InputStatistics | None) -> Tensor:
    """Whether all is that a layer is pruned by, ()."""
    norm = statistics.norm if statistics else None
    finite = layer.weight.isfinite().all()
    return finite if norm is None else finite & norm.isfinite().all()


def _sound(layer: PrunableLayer, weights: Tensor, statistics: InputStatistics | None) -> Tensor:
    """Whether all is finite that a layer was pruned by, and to, (). The former is known before on a CPU."""
    finite = weights.isfinite().all()
    return finite if weights.device.type == "cpu" else finite & _finite(layer, statistics)


def _by_importance(layer: PrunableLayer, statistics: InputStatistics | None, spec: PruneSpec) -> PrunedLayer:
    S = importance(spec.method, layer.weight, statistics.norm if statistics else None)
    matching, min_degree = _match(S, layer.name, spec)
    weights = layer.weight.masked_fill(~matching.mask, 0)  # not times the mask, which would leave -0
    return _pruned(layer, S, weights, matching, min_degree, statistics, spec)


def _by_output_error(
    layers: Sequence[PrunableLayer], statistics: InputStatistics, spec: PruneSpec
) -> list[PrunedLayer]:
    W = torch.cat([layer.weight for layer in layers])
    rows = [layer.shape[0] for layer in layers]
    matched: list[tuple[Matching, int | Tensor]]
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


def _match(S: Tensor, name: str, spec: PruneSpec) -> tuple[Matching, int | Tensor]:
    """The mask that keeps most of the scores S (C_out, C_in), and the edges it gives every input channel."""
    if spec.method is not Method.EGGS:
        return Matching(top_n_mask(S, spec.pattern), 0.0), 0
    asked = spec.effective_min_degree
    if asked == "auto":
        return auto_matching(S, spec.pattern, name)
    return matching_mask(S, spec.pattern, asked, name), asked


def _pruned(
    layer: PrunableLayer,
    S: Tensor,
    weights: Tensor,
    matching: Matching,
    min_degree: int | Tensor,
    statistics: InputStatistics | None,
    spec: PruneSpec,
) -> PrunedLayer:
    """The layer with its figures; S (C_out, C_in) is the importance that they are told by."""
    best = best_score(S, spec.pattern)
    figures = _Figures(
        finite=_sound(layer, weights, statistics),
        sparsity=_share_of_zeros(weights),
        kept_importance=torch.where(best > 0, kept_score(S, matching.mask) / best, 1),
        relative_output_error=_relative_output_error(layer.weight, weights, statistics),
        min_degree=number(min_degree, S.device),
        duality_gap=number(matching.duality_gap, S.device),
    )
    found = torch.cat([torch.stack([figure.double() for figure in figures]), measure(matching.mask)])
    return PrunedLayer(layer, weights, matching.mask, found, statistics.tokens if statistics else 0)


def after_training(pruned: PrunedLayer) -> PrunedLayer:
    """The layer once its weights were trained in the block, in which a kept one may become 0 or cease to be it.

    Its output error stays that from before: what it is told from, the dense weights and the sampled inputs, would
    have to be held in memory during the training.
    """
    figures = pruned.figures.clone()
    figures[_Figures._fields.index("sparsity")] = _share_of_zeros(pruned.layer.weight)
    return replace(pruned, figures=figures)


def _share_of_zeros(weights: Tensor) -> Tensor:
    """(), float64."""
    return 1 - weights.count_nonzero().double() / weights.numel()


def _relative_output_error(W: Tensor, pruned: Tensor, statistics: InputStatistics | None) -> Tensor:
    """||X(W-W')ᵀ||² / ||XWᵀ||² on the sampled tokens, in float32; 0 where there are none."""
    if statistics is None or (X := statistics.sample) is None:
        return W.new_zeros(())
    X, W = X.float(), W.float()
    dense = (X @ W.T).square().sum(dtype=torch.float64)
    lost = (X @ W.sub(pruned).T).square().sum(dtype=torch.float64)
    return torch.where(dense > 0, lost / dense, 0)


_IMPORTANCE = {
    Method.EGGS: "ria",
    Method.SPARSEGPT: "ria",
    Method.RIA: "ria",
    Method.WANDA: "wanda",
    Method.MAGNITUDE: "magnitude",
}
