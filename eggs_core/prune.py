"""Prunes one decoder block after the other, from one checkpoint to the next."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from eggs_core.checkpoint import CheckpointWriter
from eggs_core.errors import BrokenCheckpoint
from eggs_core.expansion import expansion_figures
from eggs_core.importance import importance
from eggs_core.layers import PrunableLayer, prunable_layers
from eggs_core.masks import check_fit, eggs_mask, top_n_mask
from eggs_core.report import LayerReport
from eggs_core.skeleton import Skeleton
from eggs_core.spec import Method, PruneSpec
from eggs_core.statistics import InputStatistics, gather
from eggs_core.stream import BlockCall, BlockStream

# Forward passes through a block that pruning needs: one to see what enters its layers, one to pass on what
# the pruned block makes of it. The last block is passed through once.
PASSES = 2


def plan(skeleton: Skeleton, spec: PruneSpec) -> list[list[PrunableLayer]]:
    """The layers that will be pruned, block by block. Needs no weights.

    Raises `PatternDoesNotFit` or `MinDegreeImpossible` for the first layer that cannot be pruned as asked.
    """
    layers = [
        prunable_layers(block, name, spec.ignore)
        for block, name in zip(skeleton.blocks, skeleton.block_names, strict=True)
    ]
    for layer in (layer for block in layers for layer in block):
        check_fit(layer.shape, spec.pattern, spec.effective_min_degree, layer.name)
    return layers


@torch.no_grad()
def prune_blocks(
    skeleton: Skeleton,
    spec: PruneSpec,
    layers: list[list[PrunableLayer]],
    tokens: Tensor,
    writer: CheckpointWriter,
    on_block: Callable[[int, list[LayerReport]], None],
) -> None:
    """Prunes the `layers` that were planned, on calibration `tokens` (windows, L), writing a shard for each block.

    Shard 0 holds what lies outside the blocks, unchanged. Each block is measured on what the pruned blocks
    before it make of the tokens. `on_block` is called with each block's index and figures once its shard is
    on disk, and may raise to stop the run.
    """
    stream = BlockStream(skeleton, tokens)
    hidden = stream.embed()
    writer.write(0, skeleton.checkpoint.read(skeleton.names_outside))

    def visit(index: int, block: nn.Module, call: BlockCall) -> None:
        with gather(layers[index], tokens.numel()) as statistics:
            for states in hidden:
                call(states)
        figures = [_prune_layer(layer, index, statistics.get(layer.name), spec) for layer in layers[index]]
        statistics.clear()
        changed = {layer.full_parameter_name: layer.parameter.data for layer in layers[index]}
        writer.write(index + 1, skeleton.checkpoint_tensors(index, changed))
        if index + 1 < len(skeleton.blocks):
            for i, states in enumerate(hidden):
                hidden[i] = call(states)
        on_block(index, figures)

    stream.run(visit)


def _prune_layer(
    layer: PrunableLayer, block: int, statistics: InputStatistics | None, spec: PruneSpec
) -> LayerReport:
    """Sets the weights of `layer` that the mask drops to zero, in place."""
    W = layer.weight
    norm = statistics.norm if statistics else None
    S = importance(spec.method, W, norm)
    if not bool(S.isfinite().all()):
        raise BrokenCheckpoint(
            f"{layer.name} has weights or activations that are not finite, so it cannot be ranked."
        )
    if spec.method is Method.EGGS:
        mask = eggs_mask(S, spec.pattern, spec.effective_min_degree, layer.name)
    else:
        mask = top_n_mask(S, spec.pattern)
    error = _relative_output_error(W, mask, statistics.sample if statistics else None)
    W.mul_(mask)
    expansion = expansion_figures(mask)
    best = S.view(-1, spec.pattern.m).topk(spec.pattern.n).values.sum(dtype=torch.float64)
    kept = S[mask].sum(dtype=torch.float64)
    return LayerReport(
        name=layer.name,
        type=layer.type,
        block=block,
        shape=layer.shape,
        sparsity=1 - W.count_nonzero().item() / W.numel(),
        kept_importance=float(kept / best) if best > 0 else 1.0,
        relative_output_error=error,
        min_input_degree=expansion.min_input_degree,
        mean_input_degree=expansion.mean_input_degree,
        channels_cut_off=expansion.channels_cut_off,
        second_singular_value=expansion.second_singular_value,
        calibration_tokens=statistics.tokens if statistics else 0,
        importance=_IMPORTANCE[spec.method] if norm is not None else "weight-only",
    )


def _relative_output_error(W: Tensor, mask: Tensor, X: Tensor | None) -> float | None:
    """||X(W-W')ᵀ||² / ||XWᵀ||² in float32; X (tokens, C_in), W and mask (C_out, C_in)."""
    if X is None:
        return None
    X, W = X.float(), W.float()
    dense = (X @ W.T).square().sum(dtype=torch.float64)
    lost = (X @ W.masked_fill(mask, 0).T).square().sum(dtype=torch.float64)
    return float(lost / dense) if dense > 0 else 0.0


_IMPORTANCE = {
    Method.EGGS: "ria",
    Method.RIA: "ria",
    Method.WANDA: "wanda",
    Method.MAGNITUDE: "magnitude",
}
