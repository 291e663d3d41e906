"""Statistics of what enters each layer of a block, gathered as calibration tokens run through it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from eggs_core.layers import PrunableLayer

SAMPLED_TOKENS = 1024


class InputStatistics:
    """Of the inputs X (tokens, C_in) of one or more layers: tokens, squared channel norms, a sample of rows."""

    def __init__(self, keep_every: int) -> None:
        self.tokens = 0
        self._keep_every = keep_every
        self._square_sum: Tensor | None = None
        self._sample: list[Tensor] = []
        self.last: Tensor | None = None
        """The tensor last added. Layers that are fed the same tensor share one object, which adds it once."""

    def add(self, X: Tensor) -> None:
        """Adds inputs of shape (..., C_in), unless they are the tensor added last."""
        if X is self.last:
            return
        self.last = X
        rows = X.reshape(-1, X.shape[-1])
        squares = rows.float().square_().sum(dim=0)
        self._square_sum = squares if self._square_sum is None else self._square_sum.add_(squares)
        # The phase goes on from batch to batch, so that small batches are sampled at the same rate.
        self._sample.append(rows[-self.tokens % self._keep_every :: self._keep_every].clone())
        self.tokens += rows.shape[0]

    @property
    def norm(self) -> Tensor | None:
        """L2 norm of each input channel, (C_in,) float32; None where no token came."""
        return None if self._square_sum is None else self._square_sum.sqrt()

    @property
    def sample(self) -> Tensor | None:
        """Evenly spaced rows of X, (at most about `SAMPLED_TOKENS`, C_in), in the model's dtype."""
        return torch.cat(self._sample) if self.tokens else None


@contextmanager
def gather(layers: Sequence[PrunableLayer], tokens: int) -> Iterator[dict[str, InputStatistics]]:
    """Gathers, while open, the statistics of every layer's inputs, by layer name. `tokens`: how many will come."""
    statistics: dict[str, InputStatistics] = {}
    keep_every = max(1, tokens // SAMPLED_TOKENS)

    def observe(name: str, X: Tensor) -> None:
        if name not in statistics:
            shared = (s for s in statistics.values() if s.last is X)
            statistics[name] = next(shared, None) or InputStatistics(keep_every)
        statistics[name].add(X)

    def hook(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        observe(name, args[0])

    handles = [
        layer.owner.register_forward_pre_hook(partial(hook, layer.name))
        for layer in layers
        if layer.expert is None
    ]
    try:
        with _ExpertProducts(layers, observe):
            yield statistics
    finally:
        for handle in handles:
            handle.remove()
        for entry in statistics.values():
            entry.last = None


class _ExpertProducts(TorchFunctionMode):
    """Sees every product of an input with one expert's slice of a fused parameter, and reports its input."""

    def __init__(self, layers: Sequence[PrunableLayer], observe: Any) -> None:
        super().__init__()
        self._observe = observe
        self._names = {_address(layer.weight): layer.name for layer in layers if layer.expert is not None}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._names and func in _PRODUCTS and len(args) > 1:
            name = self._names.get(_address(args[1]))
            if name is not None:
                self._observe(name, args[0])
        return func(*args, **(kwargs or {}))


_PRODUCTS = (nn.functional.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm)


def _address(weight: Tensor) -> tuple[int, int]:
    return weight.untyped_storage().data_ptr(), int(weight.storage_offset())
