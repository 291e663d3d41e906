"""How packed 2:4 layers on a GPU multiply more than a few tokens, chosen by a measurement when a model is loaded.

They are unpacked for every product, or, where that is faster than even a dense layer would be, held a second time
as semi-structured tensors.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import nn

from eggs_core.kernels import semi_structured
from eggs_core.kernels.semi_structured import PATTERN, Backend
from eggs_core.packed_linear import PackedLinear
from eggs_core.packing import pack, packed_shapes, unpack

TOKENS = 2048
"""Of the products that are timed: a long prompt, or some that are taken in together."""
# Of a dense product's time, what a semi-structured one takes at most: times scatter, and it costs memory.
_MOST_TIME = 0.95
# Of the memory that is left beside the model: caches and activations are to find some too.
_MOST_MEMORY = 0.5
_ROUNDS, _CALLS = 5, 10
_DENSE, _UNPACKED = "dense", "unpacked"


class Shape(NamedTuple):
    """What the time of a layer's product depends on."""

    rows: int
    columns: int
    dtype: torch.dtype
    biased: bool
    device: torch.device


class Measured(NamedTuple):
    """Median seconds of a product of `TOKENS` tokens: with a dense matrix in memory, with one that is unpacked
    first, and semi-structured by each backend that works here."""

    dense: float
    unpacked: float
    semi_structured: Mapping[Backend, float]

    @property
    def chosen(self) -> Backend | None:
        """The fastest backend, where neither of the others is as fast: none is taken to save memory."""
        fastest = min(self.semi_structured, key=self.semi_structured.__getitem__, default=None)
        if fastest is None or self.semi_structured[fastest] > _MOST_TIME * min(self.dense, self.unpacked):
            return None
        return fastest


def choose_products(model: nn.Module) -> None:
    """Has the packed layers of `model` hold semi-structured tensors where `backends` says so.

    `from_pretrained` calls it, for layers that are loaded onto a GPU; for a model that is moved to one later, call
    it then.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, PackedLinear)]
    for layer in layers:
        layer.compress(None)
    try:
        for layer, backend in zip(layers, backends(layers), strict=True):
            layer.compress(backend)
    except torch.OutOfMemoryError:  # there is hardly room for the model itself, which works without
        for layer in layers:
            layer.compress(None)


def backends(layers: Sequence[PackedLinear], device: torch.device | None = None) -> list[Backend | None]:
    """By which backend each of a model's layers is to hold semi-structured tensors: where those of its shape were
    faster. `device` is that of the layers, or the one that they are to be on.

    None where all would take more than half of the memory that is free, nor in a model that is spread over GPUs:
    torch has one handle of cuSPARSELt in a thread, which is of one GPU.
    """
    shapes = [_shape(layer, device) for layer in layers]
    eligible = [shape for shape in shapes if shape is not None]
    if len({shape.device for shape in eligible}) != 1:
        return [None] * len(layers)
    try:
        chosen = [None if shape is None else measure(shape).chosen for shape in shapes]
        torch.cuda.empty_cache()  # what was measured with
        free = torch.cuda.mem_get_info(eligible[0].device)[0]
    except torch.OutOfMemoryError:
        return [None] * len(layers)
    needed = sum(bytes_besides(layer, backend) for layer, backend in zip(layers, chosen, strict=True))
    return chosen if needed <= _MOST_MEMORY * free else [None] * len(layers)


def bytes_besides(layer: PackedLinear, backend: Backend | None) -> int:
    """Of memory that the layer takes beside its packed form, if it is to hold W by this backend."""
    if backend is None:
        return 0
    return semi_structured.compressed_bytes((layer.out_features, layer.in_features), layer.weight_values.dtype)


@cache
def measure(shape: Shape) -> Measured:
    """Times products with random weights and inputs, once in a process."""
    rows, columns, dtype, biased, device = shape
    generator = torch.Generator(device).manual_seed(0)  # its own: loading a model changes nothing that others draw
    random = partial(torch.randn, generator=generator, dtype=dtype, device=device)
    kept, _ = packed_shapes((rows, columns), PATTERN)
    one_row = torch.ones(1, columns, dtype=dtype, device=device)
    one_row[:, 2::4] = one_row[:, 3::4] = 0
    values, mask = random(kept), pack(one_row, PATTERN)[1].repeat(rows, 1)
    x, bias = random((TOKENS, columns)), random(rows) if biased else None
    W = unpack(values, mask, PATTERN)
    calls: dict[str, Callable[[], Any]] = {
        _DENSE: partial(nn.functional.linear, x, W, bias),
        _UNPACKED: partial(torch.ops.eggs.nm_linear, x, values, mask, bias, PATTERN.n, PATTERN.m),
    }
    with torch.no_grad(), torch.cuda.device_of(x):
        for backend in Backend:
            try:
                compressed, metadata = semi_structured.compress(W, backend)
                call = partial(semi_structured.linear, x, compressed, metadata, bias, rows)
                call()
            except RuntimeError:  # so torch says that it lacks the library, or a kernel for this GPU
                continue
            calls[backend] = call
        seconds = medians(calls)
    dense, unpacked = seconds.pop(_DENSE), seconds.pop(_UNPACKED)
    return Measured(dense, unpacked, {Backend(name): taken for name, taken in seconds.items()})


def medians(calls: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Seconds that each call takes, of rounds in which they take turns, when it is made again and again."""
    from torch.utils.benchmark import Timer  # 8 MiB that nobody needs who has no GPU

    timers = {name: Timer("call()", globals={"call": call}) for name, call in calls.items()}
    rounds = [{name: timer.timeit(_CALLS).mean for name, timer in timers.items()} for _ in range(_ROUNDS)]
    return {name: statistics.median(of[name] for of in rounds) for name in calls}


def _shape(layer: PackedLinear, device: torch.device | None) -> Shape | None:
    """None where there is nothing to choose."""
    values = layer.weight_values
    shape = Shape(
        layer.out_features, layer.in_features, values.dtype, layer.bias is not None, device or values.device
    )
    eligible = semi_structured.eligible(shape[:2], shape.dtype, layer.pattern, shape.device)
    return shape if eligible else None
