"""Statistics of what enters each layer of a block, gathered as calibration tokens run through it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from eggs_core import kernels
from eggs_core.distributed import ALONE, Group
from eggs_core.layers import PrunableLayer
from eggs_core.products import fast_products

SAMPLED_TOKENS = 512
"""Rows kept of a layer that all tokens reach, at least, where so many come; and not twice as many."""
GATHERING_BYTES = 80 << 20
"""Memory that adding to statistics takes at most, beyond what they hold."""
# What is taken at a time: bounds the float32 copies, and saves a third of the products of a Gram matrix.
_PART_TOKENS = 1024
_PART_ELEMENTS = 8 << 20
_TILE_COLUMNS = 512


class InputStatistics:
    """Of the inputs X (tokens, C_in) of one or more layers: tokens, squared channel norms, a sample of rows.

    With `with_gram` also their Gram matrix, 4 · C_in² bytes. Adding inputs, however wide, takes at most
    `GATHERING_BYTES`.
    """

    def __init__(self, keep_every: int, with_gram: bool) -> None:
        self.tokens = 0
        self.with_gram = with_gram
        self._keep_every = keep_every
        self._square_sum: Tensor | None = None
        self._upper: Tensor | None = None
        self._sample: list[Tensor] = []
        self.last: Tensor | None = None
        """The tensor last added. Layers that are fed the same tensor share one object, which adds it once."""

    def add(self, X: Tensor) -> None:
        """Adds inputs of shape (..., C_in), unless they are the tensor added last."""
        if X is self.last:
            return
        self.last = X
        rows = X.reshape(-1, X.shape[-1])
        if self._square_sum is None:
            self._square_sum = torch.zeros(rows.shape[1], device=X.device)
            if self.with_gram:
                self._upper = torch.zeros(rows.shape[1], rows.shape[1], device=X.device)
        for part in rows.split(max(1, min(_PART_TOKENS, _PART_ELEMENTS // rows.shape[1]))):
            self._square_sum += part.float().square().sum(dim=0)
            if self._upper is not None:
                _add_upper_gram(self._upper, part)
        # The phase goes on from batch to batch, so that small batches are sampled at the same rate.
        self._sample.append(rows[-self.tokens % self._keep_every :: self._keep_every].clone())
        self.tokens += rows.shape[0]

    def combine(self, group: Group) -> None:
        """Makes these the statistics of all processes' inputs. Each has added an empty tensor at least."""
        assert self._square_sum is not None
        group.sum(self._square_sum)
        if self._upper is not None:
            group.sum(self._upper)
        self._sample = [group.concatenate(torch.cat(self._sample))]
        self.tokens = sum(group.gather(self.tokens))

    def permute(self, order: Tensor) -> None:
        """Reorders the channels: new channel i is the old channel order[i]."""
        if self._square_sum is not None:
            self._square_sum = self._square_sum[order]
        if self._upper is not None:
            self._upper = self.gram[order][:, order]
        self._sample = [rows[:, order] for rows in self._sample]

    @property
    def norm(self) -> Tensor | None:
        """L2 norm of each input channel, (C_in,) float32; None where no token came."""
        return None if self._square_sum is None else self._square_sum.sqrt()

    @property
    def gram(self) -> Tensor:
        """XᵀX, (C_in, C_in) float32, not to be written to. To be asked for once all tokens have come, and only
        where one came and `with_gram` is set. Of wide inputs it is the largest thing in memory, so it is no copy.
        """
        assert self._upper is not None
        for start in range(0, self._upper.shape[1], _TILE_COLUMNS):
            end = min(start + _TILE_COLUMNS, self._upper.shape[1])
            tile = self._upper[start:end, start:end].triu()
            self._upper[start:end, start:end] = tile + tile.triu(1).T
            self._upper[end:, start:end] = self._upper[start:end, end:].T
        return self._upper

    @property
    def sample(self) -> Tensor | None:
        """Evenly spaced rows of X, (fewer than about twice `SAMPLED_TOKENS`, C_in), in the model's dtype."""
        return torch.cat(self._sample) if self.tokens else None


def _add_upper_gram(upper: Tensor, X: Tensor) -> None:
    """Adds XᵀX to `upper`, in tiles of columns and only from the diagonal on, as the matrix is symmetric."""
    if kernels.grams(X):
        kernels.add_gram(upper, X)
        return
    exact = X if X.is_cuda else X.float()  # a product on a CPU would be rounded to the dtype of X
    for start in range(0, upper.shape[1], _TILE_COLUMNS):
        left, right = exact[:, start : start + _TILE_COLUMNS].T, exact[:, start:]
        tile = upper[start : start + _TILE_COLUMNS, start:]
        if X.is_cuda:
            tile += torch.mm(left, right, out_dtype=torch.float32)
        else:
            tile.addmm_(left, right)


class Gathering(dict[str, InputStatistics]):
    """Statistics by layer name, and the way to gather them that does no more than is needed."""

    def __init__(self, layers: Sequence[PrunableLayer]) -> None:
        super().__init__()
        # What goes to an expert differs from batch to batch.
        self._alike = all(layer.expert is None for layer in layers)
        self._needed: int | None = None
        self._seen = 0

    def feed(self, call: Callable[[Tensor], Tensor], hidden: Tensor) -> None:
        """Runs the block on a batch of hidden states, but no further than to what enters its last layer.

        The first batch runs to the end, and tells how many inputs there are. That saves the product of the last
        layer, an eighth of all work in a Llama.
        """
        self._seen = 0
        try:
            call(hidden)
        except _AllSeen:
            return
        if self._alike:
            self._needed = self._seen

    def count(self) -> None:
        """Counts an input that was seen; ends the call that it belongs to where it is the last."""
        self._seen += 1
        if self._seen == self._needed:
            raise _AllSeen


class _AllSeen(Exception):
    """Ends a call of a block of which no more is needed."""


@contextmanager
def gather(
    layers: Sequence[PrunableLayer], tokens: int, gram_bytes: int = 0, group: Group = ALONE
) -> Iterator[Gathering]:
    """Gathers, while open, the statistics of every layer's inputs, by layer name. `tokens`: how many will come.

    Of several processes each gathers from tokens of its own, and at the end all have the statistics of all.
    Gram matrices are gathered of the first layers whose own would fit into `gram_bytes`, of one in any case where
    it is not 0, and of those that share an input with one of them.
    """
    statistics = Gathering(layers)
    keep_every = max(1, tokens // SAMPLED_TOKENS)
    # Chosen before any token comes, so that processes that see other tokens choose alike.
    sizes = accumulate(4 * layer.shape[1] ** 2 for layer in layers)
    fit = {layer.name for layer, size in zip(layers, sizes, strict=True) if size <= gram_bytes}
    if gram_bytes:
        fit.add(layers[0].name)

    def observe(name: str, X: Tensor) -> None:
        if name not in statistics:
            shared = (s for s in statistics.values() if s.last is X and s.with_gram >= (name in fit))
            statistics[name] = next(shared, None) or InputStatistics(keep_every, name in fit)
        statistics[name].add(X)

    def hook(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        observe(name, args[0])
        statistics.count()

    handles = [
        layer.owner.register_forward_pre_hook(partial(hook, layer.name))
        for layer in layers
        if layer.expert is None
    ]
    device = layers[0].weight.device if layers else torch.device("cpu")
    try:
        with fast_products(device), _ExpertProducts(layers, observe):
            yield statistics
        _combine(statistics, {layer.name: layer for layer in layers}, keep_every, group)
    finally:
        for handle in handles:
            handle.remove()
        for entry in statistics.values():
            entry.last = None


def _combine(
    statistics: dict[str, InputStatistics], layers: Mapping[str, PrunableLayer], keep_every: int, group: Group
) -> None:
    """Makes what each process gathered what all did, in place: an expert may have seen tokens in some of them."""
    first_of = {id(entry): name for name, entry in reversed(statistics.items())}
    own = {name: (first_of[id(entry)], entry.with_gram) for name, entry in statistics.items()}
    known: dict[str, tuple[str, bool]] = {}
    for theirs in group.gather(own):
        known |= {name: entry for name, entry in theirs.items() if name not in known}
    for name, (first, with_gram) in known.items():
        if name == first:
            statistics.setdefault(name, InputStatistics(keep_every, with_gram))
            statistics[name].add(layers[name].weight.new_empty(0, layers[name].shape[1]))
            statistics[name].combine(group)
        statistics[name] = statistics[first]


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
