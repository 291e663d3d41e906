"""Prunes one decoder block after the other, from one checkpoint to the next."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from eggs_core.checkpoint import CheckpointWriter
from eggs_core.compared import ComparedModel
from eggs_core.distributed import ALONE, Group, deal
from eggs_core.importance import importance
from eggs_core.journal import Journal
from eggs_core.layers import PrunableLayer, prunable_layers
from eggs_core.pattern import check_fit
from eggs_core.permute import Site, SiteFinder, apply, best_order
from eggs_core.reconstruct import EPOCHS, MIN_BATCHES, reconstruct
from eggs_core.report import BlockTraining, LayerReport
from eggs_core.skeleton import Skeleton
from eggs_core.solve import FIGURES, PrunedLayer, after_training, layer_reports, needs_gram, prune_layers
from eggs_core.spec import Effort, PruneSpec
from eggs_core.statistics import InputStatistics, gather
from eggs_core.stream import BlockCall, BlockStream

GRAM_BYTES = 2 << 30
"""Gram matrices of one block that are held at once; where they are more, the text is passed through again."""
BLOCK_SHARE = 8
"""Bytes that a block takes at most for each weight in 16 bits, to be read, held with what it is pruned to, and
written, beside what gathering, choosing and training take. Most are for experts that are stored one by one."""

OnBlock = Callable[[int, list[LayerReport], BlockTraining | None], None]
"""Called with a block's index, the figures of its layers, and of its training where effort `best` has one."""


def passes(spec: PruneSpec) -> int:
    """Work per block and calibration token, in forward passes.

    One to see what enters its layers; but for effort `fast` one to pass on what the pruned block makes of it; and
    for training one for the targets, then epochs of three.
    """
    match spec.effective_effort:
        case Effort.FAST:
            return 1
        case Effort.BEST:
            return 3 + 3 * EPOCHS
        case _:
            return 2


def plan(skeleton: Skeleton, spec: PruneSpec) -> list[list[PrunableLayer]]:
    """The layers that will be pruned, block by block. Needs no weights.

    Raises `PatternDoesNotFit` or `MinDegreeImpossible` for the first layer that cannot be pruned as asked.
    """
    layers = [
        prunable_layers(block, name, spec.left_dense)
        for block, name in zip(skeleton.blocks, skeleton.block_names, strict=True)
    ]
    asked = spec.effective_min_degree
    for layer in (layer for block in layers for layer in block):
        check_fit(layer.shape, spec.pattern, asked if isinstance(asked, int) else 0, layer.name)
    return layers


@torch.no_grad()
def prune_blocks(
    skeleton: Skeleton,
    spec: PruneSpec,
    layers: list[list[PrunableLayer]],
    tokens: Tensor,
    writer: CheckpointWriter,
    on_block: OnBlock,
    group: Group = ALONE,
    compared: Sequence[ComparedModel] = (),
    journal: Journal | None = None,
) -> None:
    """Prunes the `layers` that were planned, on calibration `tokens` (windows, L), writing a shard for each block.

    Shard 0 holds what lies outside the blocks, unchanged. Each block is measured on what the pruned blocks
    before it make of the tokens, or with effort `fast` on what the dense ones do. `on_block` is called with each
    block's index and figures once its shard is on disk, and may raise to stop the run. The models that are
    `compared` get their shards of each block from the same statistics, gathered as the blocks of `spec` pass the
    tokens on.

    Blocks that the `journal` has as finished are not pruned again; they pass the tokens on as they did, to the bit
    (pruned, or with effort `fast` dense), and `on_block` is called for them too.

    The processes of a `group` are called with the same arguments; the first one writes, and calls `on_block`, and
    what is raised in one is raised in all. Raises `TooManyProcesses` for fewer windows than processes.
    """
    done = group.first(lambda: _finished(journal, len(layers)))

    def adopt(index: int) -> None:
        writer.adopt(index + 1)
        for model, figures in zip(compared, done[index]["compared"], strict=True):
            model.adopt_block(index, figures)
        trained = done[index].get("training")  # an earlier version's journal has none
        training = None if trained is None else BlockTraining.model_validate(trained)
        on_block(index, list(map(LayerReport.model_validate, done[index]["layers"])), training)

    group.first(lambda: _write_outside(skeleton, [writer, *(model.writer for model in compared)]))
    if len(done) == len(layers):
        for index in range(len(layers)):
            group.first(partial(adopt, index))
        return
    best = spec.effective_effort is Effort.BEST
    fast = spec.effective_effort is Effort.FAST
    stream = BlockStream(skeleton, group.shard(tokens), MIN_BATCHES if best else 1)
    hidden = stream.embed()
    # Where blocks are trained to give the dense model's outputs, its hidden states go along.
    dense = list(hidden) if best else []
    finder = SiteFinder(skeleton.config, group) if spec.permutes else None
    with_gram = any(needs_gram(asked) for asked in (spec, *(model.spec for model in compared)))

    def replay(index: int, call: BlockCall) -> None:
        if not fast:
            skeleton.replace(index, load_file(writer.path(index + 1)))
        for i, states in enumerate(hidden):
            hidden[i] = call(states, i)
        group.first(partial(adopt, index))

    def visit(index: int, block: nn.Module, call: BlockCall) -> None:
        for i, states in enumerate(dense):
            dense[i] = call(states, i, dense=True)
        if index < len(done):
            replay(index, call)
            return
        sites = finder.find(block, layers[index], call, hidden[0]) if finder else []
        orders: list[tuple[Site, Tensor]] | None = None
        changed: dict[str, Tensor] = {}
        pruned: list[PrunedLayer] = []
        waiting = layers[index]
        passed = list(hidden) if with_gram else hidden  # for Gram matrices the text may pass through again
        while waiting:
            with gather(waiting, tokens.numel(), GRAM_BYTES if with_gram else 0, group) as statistics:
                for i, states in enumerate(hidden):
                    if fast:
                        passed[i] = call(states, i)
                    else:
                        statistics.feed(partial(call, batch=i), states)
            ready, waiting = _split(waiting, statistics, with_gram)
            sets = list(_sharing(ready, statistics))
            for model in compared:
                _prune_aside(model, sets, index, statistics, group)
            if orders is None:
                # Values that later blocks read too cannot be reordered for this one.
                orders = [] if call.leaves else _best_orders(sites, statistics, spec, group)
            changed |= _reorder(orders, statistics)
            pruned += _prune(sets, statistics, spec, group)
            if waiting:  # for which the text passes through the channels as they were
                for site, order in orders:
                    apply(site, order.argsort())
            statistics.clear()
        pruned = list(map(_in_block, pruned))
        training = reconstruct(pruned, index, call, hidden, dense, group) if best else None
        changed |= {layer.full_parameter_name: layer.parameter.data for layer in layers[index]}
        reports = layer_reports(list(map(after_training, pruned)) if best else pruned, index, spec)
        pruned.clear()

        def write() -> None:
            files = [writer.write(index + 1, skeleton.checkpoint_tensors(index, changed))]
            files += [model.write_block(skeleton, index, layers[index]) for model in compared]
            if journal is not None:
                figures = {
                    "layers": [report.model_dump(mode="json") for report in reports],
                    "training": None if training is None else training.model_dump(mode="json"),
                    "compared": [model.block_figures() for model in compared],
                }
                journal.record(_step(index), figures, files)

        group.first(write)
        if fast and layers[index]:
            hidden[:] = passed
        elif index + 1 < len(skeleton.blocks):
            for i, states in enumerate(hidden):
                hidden[i] = call(states, i)
        group.first(lambda: on_block(index, reports, training))

    stream.run(visit)


def _in_block(pruned: PrunedLayer) -> PrunedLayer:
    """The layer once the block has its weights, which are then in memory there alone."""
    pruned.layer.weight.copy_(pruned.weights)
    return replace(pruned, weights=pruned.layer.weight)


def _step(block: int) -> str:
    return f"block-{block}"


def _finished(journal: Journal | None, blocks: int) -> list[dict[str, Any]]:
    """What the journal has of the first blocks, up to one that is not finished."""
    done: list[dict[str, Any]] = []
    while journal is not None and len(done) < blocks and (entry := journal.recall(_step(len(done)))) is not None:
        done.append(entry)
    return done


def _write_outside(skeleton: Skeleton, writers: Sequence[CheckpointWriter]) -> None:
    tensors = skeleton.checkpoint.read(skeleton.names_outside)
    for writer in writers:
        writer.write(0, tensors)


def _split(
    layers: Sequence[PrunableLayer], statistics: Mapping[str, InputStatistics], with_gram: bool
) -> tuple[list[PrunableLayer], list[PrunableLayer]]:
    """The layers whose statistics are whole, and those whose Gram matrix is still to be gathered."""
    ready: list[PrunableLayer] = []
    waiting: list[PrunableLayer] = []
    for layer in layers:
        found = statistics.get(layer.name)
        (ready if found is None or found.with_gram or not with_gram else waiting).append(layer)
    return ready, waiting


def _sharing(
    layers: Sequence[PrunableLayer], statistics: Mapping[str, InputStatistics]
) -> Iterator[list[PrunableLayer]]:
    """Layers that come one after the other and read one input, together."""
    numbered = enumerate(layers)
    for _, together in groupby(numbered, lambda pair: id(statistics.get(pair[1].name, pair[0]))):
        yield [layer for _, layer in together]


def _prune(
    sets: Sequence[list[PrunableLayer]],
    statistics: Mapping[str, InputStatistics],
    spec: PruneSpec,
    group: Group,
) -> list[PrunedLayer]:
    """Prunes sets of layers that read one input each, dealt over the processes. All of them know all results."""
    own: dict[str, PrunedLayer] = {}

    def prune_set(number: int) -> None:
        layers = sets[number]
        pruned = prune_layers(layers, statistics.get(layers[0].name), spec)
        own.update({entry.layer.name: entry for entry in pruned})

    costs = [sum(layer.shape[0] for layer in layers) * layers[0].shape[1] ** 2 for layers in sets]
    owners = deal(costs, group.size)
    group.share(owners, prune_set)

    def known(layer: PrunableLayer, owner: int) -> PrunedLayer:
        W, seen = layer.weight, statistics.get(layer.name)
        found = own.get(layer.name) or PrunedLayer(
            layer,
            torch.empty_like(W),
            torch.empty_like(W, dtype=torch.bool),
            torch.empty(FIGURES, dtype=torch.float64, device=W.device),
            seen.tokens if seen else 0,
        )
        parts = found.weights, found.mask, found.figures
        weights, mask, figures = (group.broadcast(part.contiguous(), owner) for part in parts)
        return replace(found, weights=weights, mask=mask, figures=figures)

    return [known(layer, owner) for layers, owner in zip(sets, owners, strict=True) for layer in layers]


def _prune_aside(
    model: ComparedModel,
    sets: Sequence[list[PrunableLayer]],
    block: int,
    statistics: Mapping[str, InputStatistics],
    group: Group,
) -> None:
    """Prunes the sets for a model that is compared, which keeps what comes out."""
    started = time.monotonic()
    pruned = _prune(sets, statistics, model.spec, group)
    reports = layer_reports(pruned, block, model.spec)  # which a GPU has when it has done the work
    model.seconds += time.monotonic() - started
    group.first(lambda: model.keep(pruned, reports))


def _best_orders(
    sites: Sequence[Site], statistics: Mapping[str, InputStatistics], spec: PruneSpec, group: Group
) -> list[tuple[Site, Tensor]]:
    """The sites whose channels are to be reordered for the scores of `spec`, and how.

    The search is dealt over the processes.
    """

    def order_of(number: int) -> Tensor:
        consumer = sites[number].consumer
        seen = statistics.get(consumer.name)
        S = importance(spec.method, consumer.weight, seen.norm if seen else None)
        order = best_order(sites[number], S, spec.pattern)
        return order.cpu() if group.size > 1 else order  # other processes have other devices

    owners = deal([site.consumer.weight.numel() for site in sites], group.size)
    return list(zip(sites, group.share(owners, order_of), strict=True))


def _reorder(
    orders: Sequence[tuple[Site, Tensor]], statistics: Mapping[str, InputStatistics]
) -> dict[str, Tensor]:
    """Reorders the channels of the sites, and their statistics. Returns what changed."""
    changed: dict[str, Tensor] = {}
    for site, order in orders:
        seen = statistics.get(site.consumer.name)
        if seen is not None:
            seen.permute(order)
        changed |= apply(site, order)
    return changed
