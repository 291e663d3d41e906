"""By how many bytes a part of pruning raises the memory of a process, see test_memory.py."""

import multiprocessing
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from eggs_core.checkpoint import Checkpoint, CheckpointWriter
from eggs_core.layers import PrunableLayer, prunable_layers
from eggs_core.masks import top_n_mask
from eggs_core.memory import map_large_tensors
from eggs_core.prune import plan, prune_blocks
from eggs_core.reconstruct import reconstruct
from eggs_core.skeleton import Skeleton
from eggs_core.solve import FIGURES, PrunedLayer, needs_gram, prune_layers
from eggs_core.spec import PruneSpec
from eggs_core.statistics import InputStatistics, gather


def peak(part: Callable[..., int], *arguments: Any) -> int:
    """That of one of the parts below, in a process that has done nothing before but to load the libraries."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    with processes.Pool(1) as pool:
        return pool.apply(_alone, (part, arguments))


@torch.no_grad()
def _alone(part: Callable[..., int], arguments: Sequence[Any]) -> int:
    torch.set_num_threads(1)
    map_large_tensors()
    return part(*arguments)


def choosing(rows: Sequence[int], columns: int, changes: dict[str, Any]) -> int:
    """Of layers (rows[i], columns) that read one input of 2048 tokens, by a PruneSpec with these changes."""
    spec = PruneSpec(model="none", **changes)
    _choose([64], torch.randn(512, 256).bfloat16(), spec)  # after which every library is in memory
    X = torch.randn(2048, columns).bfloat16()
    peak = _Peak()
    _choose(rows, X, spec)
    return peak.bytes()


def _choose(rows: Sequence[int], X: Tensor, spec: PruneSpec) -> None:
    block = nn.ModuleList(nn.Linear(X.shape[1], of_layer, bias=False, dtype=X.dtype) for of_layer in rows)
    layers = prunable_layers(block, "block", ())
    with gather(layers, len(X), int(needs_gram(spec))) as statistics:
        for layer in block:
            layer(X)
    prune_layers(layers, statistics["block.0"], spec)


def gathering(columns: int, with_gram: bool) -> int:
    """Of the statistics of 1024 tokens, with what they hold."""
    X = torch.randn(1024, columns).bfloat16()
    peak = _Peak()
    statistics = InputStatistics(2, with_gram)
    statistics.add(X)
    if with_gram:
        assert statistics.gram[-1, 0] == statistics.gram[0, -1]
    return peak.bytes()


def training(widths: Sequence[int], dtype: str) -> int:
    """Of a block of layers (widths[i + 1], widths[i]), one after the other, on batches of few tokens."""
    _train(*_pruned_block([64, 64], getattr(torch, dtype)))
    block, pruned = _pruned_block(widths, getattr(torch, dtype))
    peak = _Peak()
    _train(block, pruned)
    return peak.bytes()


def _pruned_block(widths: Sequence[int], dtype: torch.dtype) -> tuple[nn.Module, list[PrunedLayer]]:
    linear = (nn.Linear(*size, bias=False, dtype=dtype) for size in pairwise(widths))
    block = nn.Sequential(*linear).requires_grad_(False)

    def pruned(layer: PrunableLayer) -> PrunedLayer:
        mask = top_n_mask(layer.weight.float().abs(), PruneSpec(model="none").pattern)
        layer.weight.mul_(mask)
        return PrunedLayer(layer, layer.weight, mask, torch.zeros(FIGURES), 0)

    return block, list(map(pruned, prunable_layers(block, "block", ())))


def _train(block: nn.Module, pruned: Sequence[PrunedLayer]) -> None:
    first = pruned[0].weights
    inputs = [torch.randn(1, 16, first.shape[1], dtype=first.dtype) for _ in range(4)]
    reconstruct(pruned, 0, lambda X, _: block(X), inputs, [torch.tanh(block(X)) for X in inputs])


def block(small: str, folder: str, changes: dict[str, Any]) -> int:
    """Of the only block of the model in `folder`, by a PruneSpec with these changes; `small` is of its family."""
    _prune(PruneSpec(model=small, **changes))  # after which every library is in memory
    peak = _Peak()
    _prune(PruneSpec(model=folder, **changes))
    return peak.bytes()


def _prune(spec: PruneSpec) -> None:
    skeleton = Skeleton(Checkpoint(Path(spec.model)), torch.device("cpu"))
    tokens = torch.arange(4 * 64).view(4, 64)
    with TemporaryDirectory() as out:
        writer = CheckpointWriter(Path(out), 2)
        prune_blocks(skeleton, spec, plan(skeleton, spec), tokens, writer, lambda *_: None)


class _Peak:
    """The most memory that the process has had since this was made, beyond what it had then."""

    def __init__(self) -> None:
        self._before = _kibibytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew

    def bytes(self) -> int:
        return (_kibibytes("VmHWM") - self._before) * 1024


def _kibibytes(name: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith(f"{name}:")).split()[1])
