"""Permutations of input channels that cost nothing at inference, since the layers before absorb them.

N:M keeps N of every M *consecutive* input channels, so the order of the channels decides which weights compete.
Where a layer (the *consumer*) reads what other layers of its block (the *producers*) write channel by channel,
both can be reordered together and the block computes what it did before: the inner channels of an MLP, and the
value channels of attention within a head. Channel permutation for N:M: Pool and Yu, NeurIPS 2021; the search
here is that of RIA (Zhang et al., "Plug-and-play", ICLR 2024).

Shapes: W (C_out, C_in), S scores (C_out, C_in) float32. An *order* is an int64 vector: new channel i is the old
channel order[i].
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eggs_core import kernels
from eggs_core.assignment import best_assignment
from eggs_core.devices import brought
from eggs_core.distributed import ALONE, Group
from eggs_core.layers import PrunableLayer
from eggs_core.masks import compiled, largest
from eggs_core.pattern import NMPattern
from eggs_core.statistics import gather

ROUNDS = 2
GROUPS_AT_ONCE = 384
"""Assigned anew together, in time in proportion to it. The inner channels of SmolLM2-135M are so many groups; 64
at once gain five sixths of what they do."""


@dataclass(frozen=True, slots=True)
class Producer:
    """A layer that writes what the consumer reads. `rows` (k, C_in): its rows that make each input channel."""

    layer: PrunableLayer
    rows: Tensor


@dataclass(frozen=True, slots=True)
class Site:
    """Where input channels can be reordered for nothing.

    `channels` (sets, copies, size): the input channels of the consumer. Channels may be permuted within a set;
    the copies of a set move alike, as the query heads do that share one head's values.
    """

    consumer: PrunableLayer
    producers: tuple[Producer, ...]
    channels: Tensor

    @property
    def kind(self) -> str:
        """Names of the layers that take part, such as "gate_proj, up_proj → down_proj"."""
        return f"{', '.join(p.layer.type for p in self.producers)} → {self.consumer.type}"


class SiteFinder:
    """Finds the sites of decoder blocks; of several blocks of one structure, the first is examined.

    Which layers feed which is guessed from shapes alone and accepted only where it proves true: the block runs
    with random weights, once with the consumer's columns permuted and once with the producers' rows as well,
    and the second must undo what the first did. Weights are random so that the answer holds for any: a trained
    attention that looks at one token only, or a norm of ones, would let false guesses pass. Of several processes
    the first one judges.
    """

    def __init__(self, config: Any, group: Group = ALONE) -> None:
        heads = getattr(config.get_text_config(), "num_attention_heads", None)
        self._heads = heads if isinstance(heads, int) else 1
        self._group = group
        self._proven: dict[object, list[int]] = {}

    def find(
        self, block: nn.Module, layers: Sequence[PrunableLayer], call: Callable[[Tensor], Tensor], hidden: Tensor
    ) -> list[Site]:
        """The sites among `layers` of a loaded `block`. Runs it by `call` on inputs shaped as `hidden` (b, L, H).

        The first block of a structure is held in memory twice meanwhile.
        """
        guesses = list(_guesses(layers, self._heads))
        names = [module for module, _ in block.named_modules()]
        structure = (*names, *((layer.type, layer.shape) for layer in layers))
        if structure not in self._proven:
            self._proven[structure] = self._group.first(lambda: _proven(guesses, block, layers, call, hidden))
        return [site for number in self._proven[structure] for site in guesses[number]]


@torch.no_grad()
def apply(site: Site, order: Tensor) -> dict[str, Tensor]:
    """Reorders the consumer's input channels, in place. Returns the parameters changed, by full name."""
    return _permute_columns(site, order) | _permute_rows(site, order)


def best_order(site: Site, S: Tensor, pattern: NMPattern) -> Tensor:
    """An order of the consumer's input channels that keeps more of the scores S, or the one they have, (C_in,)."""
    sets, _, size = site.channels.shape
    channels = brought(site.channels, S.device)
    # Copies move alike, so that one's rows may as well be further rows of the other's.
    of_sets = S[:, channels].permute(1, 2, 0, 3).reshape(sets, -1, size)
    return _order(channels, best_permutations(of_sets, pattern))


def best_permutations(S: Tensor, pattern: NMPattern) -> Tensor:
    """Permutations of the columns of each S[i], (sets, rows, width), that keep more by the best N of every M, and
    never less; (sets, width) int64.

    First the columns are dealt to the groups in turn, the largest sums first. Then, a slot at a time, one column
    of each group is taken out, and within random parts of the groups all are assigned anew, as well as can be. A
    row keeps max(t, s) more with a column of score s where t is the N-th best of the others, so what an assignment
    keeps is Σ max(t, s).
    """
    n, m = pattern.n, pattern.m
    sets, rows, width = S.shape
    unchanged = torch.arange(width, device=S.device).expand(sets, width)
    if width % m or n == m:
        return unchanged
    groups = width // m
    columns = S.transpose(1, 2).reshape(-1, rows)
    first = torch.arange(0, sets * width, width, device=S.device)[:, None]
    deal = S.sum(dim=1).argsort(dim=1, descending=True, stable=True) + first
    slots = deal.view(sets, m, groups)
    generator = torch.Generator().manual_seed(0)
    parts = -(-groups // GROUPS_AT_ONCE)
    for _ in range(ROUNDS):
        for slot in range(m):
            # A few groups may be left over, others each time.
            order = torch.randperm(groups, generator=generator)[: groups // parts * parts]
            of_parts = brought(order.view(parts, -1), S.device)
            keeps: list[Tensor] = []
            for part in of_parts:
                others = torch.cat([slots[:, :slot, part], slots[:, slot + 1 :, part]], dim=1)
                threshold = largest(columns[others.flatten()].view(sets, m - 1, -1), n)[-1].view(sets, -1, rows)
                candidates = columns[slots[:, slot, part].flatten()].view(sets, -1, rows)
                keeps.extend(map(_kept_together, threshold, candidates))
            assigned = best_assignment(torch.stack(keeps)).view(parts, sets, -1)
            for part, column in zip(of_parts, assigned, strict=True):
                slots[:, slot, part] = slots[:, slot, part].gather(1, column)
    found = slots.transpose(1, 2).flatten(1)

    def kept(order: Tensor) -> Tensor:
        best = largest(columns[order.flatten()].view(-1, m, rows), n)
        return torch.stack(best).view(n, sets, -1).sum(dim=(0, 2), dtype=torch.float64)

    better = kept(found) > kept(unchanged + first)
    return torch.where(better[:, None], found - first, unchanged)


def _kept_together(threshold: Tensor, candidates: Tensor) -> Tensor:
    """Σ max(t, s) over the rows, for every pair of thresholds (a, rows) and candidates (b, rows): (a, b).

    Up to a factor, and what is the same for every assignment.
    """
    if compiled(threshold):
        return kernels.sums_of_larger(threshold, candidates)
    return torch.cdist(threshold, candidates, p=1)  # max(t, s) = (t + s + |t - s|) / 2


def _order(channels: Tensor, within: Tensor) -> Tensor:
    """The order of all channels from the permutation `within` (sets, size) of each set."""
    order = torch.empty(channels.numel(), dtype=torch.int64, device=channels.device)
    order[channels] = channels.gather(2, within[:, None].expand_as(channels))
    return order


def _permute_columns(site: Site, order: Tensor) -> dict[str, Tensor]:
    W = site.consumer.weight
    W.copy_(W.index_select(1, order.to(W.device)))
    return {site.consumer.full_parameter_name: site.consumer.parameter.data}


def _permute_rows(site: Site, order: Tensor) -> dict[str, Tensor]:
    changed: dict[str, Tensor] = {}
    for producer in site.producers:
        layer, W = producer.layer, producer.layer.weight
        rows = brought(producer.rows, W.device)
        new, old = rows.flatten(), rows[:, order.to(W.device)].flatten()
        W.index_copy_(0, new, W.index_select(0, old))
        changed[layer.full_parameter_name] = layer.parameter.data
        name = "bias" if layer.expert is None else f"{layer.parameter_name}_bias"
        bias = layer.owner._parameters.get(name)
        if bias is not None:
            b = bias.data if layer.expert is None else bias.data[layer.expert]
            b[new] = b[old]
            changed[f"{layer.module_name}.{name}"] = bias.data
    return changed


Guess = tuple[Site, ...]
"""A site, or that of every expert of a fused parameter: they share one layout, and no token visits them all."""


def _guesses(layers: Sequence[PrunableLayer], heads: int) -> Iterator[Guess]:
    """Ways in which some layers might feed another, in the order in which to try them."""
    homes: dict[tuple[str, int | None], list[PrunableLayer]] = {}
    for layer in layers:
        homes.setdefault(_home(layer), []).append(layer)
    experts: dict[tuple[str, str], list[list[Site]]] = {}
    for layer in layers:
        siblings = [sibling for sibling in homes[_home(layer)] if sibling is not layer]
        guesses = list(_guesses_for(layer, siblings, heads))
        experts.setdefault((layer.module_name, layer.parameter_name), []).append(guesses)
    for guesses_of_each in experts.values():
        # Where the one has a layer to feed it that the other has not, as one is ignored, none is reordered.
        if len(set(map(len, guesses_of_each))) == 1:
            yield from zip(*guesses_of_each, strict=True)


def _home(layer: PrunableLayer) -> tuple[str, int | None]:
    """Layers feed each other within one module, and within one expert of it."""
    if layer.expert is not None:
        return layer.module_name, layer.expert
    return layer.module_name.rpartition(".")[0], None


def _guesses_for(consumer: PrunableLayer, siblings: Sequence[PrunableLayer], heads: int) -> Iterator[Site]:
    width = consumer.shape[1]
    every = torch.arange(width)  # tried first: an MLP's channels may be permuted within parts, too
    alike = tuple(Producer(sibling, every[None]) for sibling in siblings if sibling.shape[0] == width)
    if alike:
        yield Site(consumer, alike, every.view(1, 1, width))
    for sibling in siblings:
        if sibling.shape[0] == 2 * width:  # gate and up in one, one after the other or by turns
            for rows in (torch.stack([every, width + every]), torch.stack([2 * every, 2 * every + 1])):
                yield Site(consumer, (Producer(sibling, rows),), every.view(1, 1, width))
    if width % heads == 0:
        for sibling in siblings:
            for rows, channels in _value_layouts(sibling.shape[0], heads, width // heads):
                yield Site(consumer, (Producer(sibling, rows),), channels)


def _value_layouts(rows: int, heads: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Where `rows` rows may hold the values of attention with `heads` query heads of `size` channels.

    Alone, or last after queries and keys; after those of all heads, or of each key-value head in turn.
    """
    if rows % size:
        return
    alone, fused = rows // size, (rows // size - heads) // 2
    for kv_heads in dict.fromkeys([alone, fused]):
        if kv_heads < 1 or heads % kv_heads or rows not in (kv_heads * size, (heads + 2 * kv_heads) * size):
            continue
        channels = torch.arange(heads * size).view(kv_heads, heads // kv_heads, size)
        kv_head = torch.arange(kv_heads)[:, None, None]
        channel = torch.arange(size).expand_as(channels)
        after_all = rows - kv_heads * size + kv_head * size + channel
        after_each = (kv_head + 1) * (rows // kv_heads) - size + channel
        yield after_all.view(1, -1), channels
        if not torch.equal(after_all, after_each):
            yield after_each.view(1, -1), channels


@torch.no_grad()
def _proven(
    guesses: Sequence[Guess],
    block: nn.Module,
    layers: Sequence[PrunableLayer],
    call: Callable[[Tensor], Tensor],
    hidden: Tensor,
) -> list[int]:
    """The guesses that hold, by number; one at most for each consumer."""
    generator = torch.Generator(hidden.device).manual_seed(0)
    tolerance = torch.finfo(hidden.dtype).eps ** 0.5
    proven: dict[str, int] = {}
    with _random_weights(block, generator):
        X = torch.randn(hidden.shape, generator=generator, device=hidden.device).to(hidden.dtype)
        with gather(layers, X[..., 0].numel()) as inputs:
            own = call(X).float()
        readers = Counter(map(id, inputs.values()))
        for number, guess in enumerate(guesses):
            consumer = guess[0].consumer.name
            # What several layers read cannot be permuted for one of them.
            if consumer in proven or readers[id(inputs.get(consumer))] > 1:
                continue
            orders = [_random_order(site, generator) for site in guess]
            for site, order in zip(guess, orders, strict=True):
                _permute_columns(site, order)
            broken = (call(X).float() - own).norm(dim=-1)
            for site, order in zip(guess, orders, strict=True):
                _permute_rows(site, order)
            left = (call(X).float() - own).norm(dim=-1)
            for site, order in zip(guess, orders, strict=True):
                apply(site, order.argsort())
            # Tokens that no expert saw are not broken. In others rounding may tip the choice of an expert,
            # so the median decides.
            seen = broken > 0
            if bool(seen.any()) and float((left[seen] / broken[seen]).median()) < tolerance:
                proven[consumer] = number
    return list(proven.values())


def _random_order(site: Site, generator: torch.Generator) -> Tensor:
    sets, _, size = site.channels.shape
    device = generator.device
    within = torch.rand(sets, size, generator=generator, device=device).argsort(dim=1)
    return _order(site.channels.to(device), within)


@contextmanager
def _random_weights(block: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Normal weights while open, of a size that keeps activations near 1 and attention uneven."""
    own = {parameter: parameter.data for parameter in block.parameters()}
    try:
        for parameter, data in own.items():
            scale = 2 * data.shape[-1] ** -0.5 if data.ndim > 1 else 1
            random = torch.empty_like(data, memory_format=torch.contiguous_format)
            parameter.data = random.normal_(generator=generator).mul_(scale)
        yield
    finally:
        for parameter, data in own.items():
            parameter.data = data
