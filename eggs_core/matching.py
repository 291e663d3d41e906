"""The best mask under the expander constraint, exactly; and the largest minimum degree that costs next to nothing.

Keep exactly N scores in every group of every row and at least B in every column, of the largest sum: a b-matching.
Groups are independent. The linear programme of a group has integral optima (its matrix is that of a bipartite
graph; Schrijver, "Combinatorial Optimization", 2003, chapter 21), and its dual has one multiplier λ ≥ 0 a channel:

    D(λ) = Σ_rows (sum of the N largest of S + λ) - B Σ λ

bounds every mask's kept score from above, and the best λ meets the best mask. Only a group in which the best N of
every row leave a channel short needs any work.

Shapes: S (C_out, C_in) float32, at least 0 and finite. Within, P (g, M, C_out) int64 holds the scores of g groups
in units of 2⁻³⁶ of the group's largest, so that sums and ties are exact and the same on every device.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from eggs_core.masks import check_fit, input_degrees, kept_score, largest, lost_score, top_n_mask
from eggs_core.pattern import NMPattern

# With B chosen by itself a mask may lose this share more importance than the best N of every group lose.
DEFAULT_TOLERANCE = 0.0001

_UNITS = 2**36
_NONE = 2**60
# Scores worked on at a time: bounds the memory.
_CHUNK = 1 << 21
# Rounds of raising multipliers. The last of them gain little, and exchanges finish the work from anywhere.
_ROUNDS = 100


@dataclass(frozen=True, slots=True)
class Matching:
    """A mask (C_out, C_in), bool, True where kept; and by how much its kept score may be below the largest
    possible, as a share of what the best N per group keep: 0 up to rounding."""

    mask: Tensor
    duality_gap: float


def matching_mask(S: Tensor, pattern: NMPattern, min_degree: int, layer: str = "the layer") -> Matching:
    """The mask of largest kept score with N per group and row, and B = `min_degree` edges or more per channel.

    Raises `PatternDoesNotFit` or `MinDegreeImpossible`, naming `layer`.
    """
    check_fit((S.shape[0], S.shape[1]), pattern, min_degree, layer)
    return _solve(S, top_n_mask(S, pattern), pattern, min_degree).matching


def auto_matching(
    S: Tensor, pattern: NMPattern, layer: str = "the layer", tolerance: float = DEFAULT_TOLERANCE
) -> tuple[Matching, int]:
    """The matching with the largest B that loses at most 1 + `tolerance` times the score that the best N per group
    lose; and B.

    The cost is a convex function of B, of which the sum of the multipliers is a slope: where the tangent at any B
    passes the tolerance, the cost has passed it before. So a few steps of Newton's method lead down to the largest
    B from where a bound of the cost allows it, which is often that B itself.

    Raises `PatternDoesNotFit`, naming `layer`.
    """
    check_fit((S.shape[0], S.shape[1]), pattern, 0, layer)
    best = top_n_mask(S, pattern)
    allowed = tolerance * lost_score(S, best)
    min_degree = _most_edges(S, pattern, allowed)
    while (found := _solve(S, best, pattern, min_degree)).cost > allowed:
        tangent = min_degree - (found.cost - allowed) / found.slope
        min_degree = max(0, min(min_degree - 1, math.floor(tangent)))
    return found.matching, min_degree


@dataclass(frozen=True, slots=True)
class _Solution:
    """The best mask for some B, by how much less it keeps than the best N per group, and by how much less again an
    edge more for every channel would, at least."""

    matching: Matching
    cost: float
    slope: float


def _solve(S: Tensor, best: Tensor, pattern: NMPattern, min_degree: int) -> _Solution:
    mask = best.clone()
    cost = slope = gap = 0.0
    for problem in _deficient_groups(S, input_degrees(best), pattern, min_degree):
        kept, multipliers = problem.solve()
        mask.view(S.shape[0], -1, pattern.m)[:, problem.groups] = kept.permute(2, 0, 1)
        kept_units = problem.kept(kept)
        cost += problem.score(problem.bound(torch.zeros_like(multipliers)) - kept_units)
        slope += problem.score(multipliers.sum(dim=1))
        gap += problem.score(problem.bound(multipliers) - kept_units)
    return _Solution(Matching(mask, gap / kept_score(S, best) if gap else 0.0), cost, slope)


def _most_edges(S: Tensor, pattern: NMPattern, allowed: float) -> int:
    """A B that no larger one costs `allowed` or less.

    In a row with t as the N-th largest of a group, every kept channel with a score s < t costs t - s or more,
    whichever others leave for it. So B edges cost a channel at least the B smallest of its max(0, t - s).
    """
    rows, columns = S.shape
    threshold = largest(S.view(-1, pattern.m, 1), pattern.n)[-1]
    short = (threshold - S.view(-1, pattern.m)).clamp_(min=0).view(rows, columns)
    least = torch.zeros(rows, dtype=torch.float64, device=S.device)
    for channels in short.T.split(max(1, _CHUNK // rows)):
        least += _ascending(channels.contiguous()).sum(dim=0, dtype=torch.float64)
    return min(int((least.cumsum(dim=0) <= allowed).sum()), pattern.n * rows // pattern.m)


def _ascending(values: Tensor) -> Tensor:
    """Every row of `values` sorted. On a CPU by numpy, whose sort is vectorised: 7 times as fast as torch's."""
    if values.device.type == "cpu":
        return torch.from_numpy(numpy.sort(values.numpy(), axis=1))
    return values.sort(dim=1).values


def _deficient_groups(S: Tensor, degree: Tensor, pattern: NMPattern, min_degree: int) -> Iterator["_Problem"]:
    """The groups in which the best N per row leave a channel below `min_degree`, some at a time."""
    rows = S.shape[0]
    scores = S.view(rows, -1, pattern.m)
    deficient = (degree.view(-1, pattern.m) < min_degree).any(dim=1).nonzero().flatten()
    per_chunk = max(1, _CHUNK // (rows * pattern.m))
    for groups in deficient.split(per_chunk) if len(deficient) else ():
        values = scores[:, groups].permute(1, 2, 0).double()
        yield _Problem(groups, values, pattern.n, min_degree)


class _Problem:
    """The b-matchings of g groups: `values` (g, M, C_out), N of M kept a row and at least B a channel."""

    def __init__(self, groups: Tensor, values: Tensor, n: int, min_degree: int) -> None:
        self.groups = groups
        self.unit = values.amax(dim=(1, 2)).clamp(min=torch.finfo(torch.float32).tiny) / _UNITS  # (g,)
        self.P = (values / self.unit[:, None, None]).round_().long().contiguous()
        self.n = n
        self.min_degree = min_degree

    def solve(self) -> tuple[Tensor, Tensor]:
        """Which scores to keep, bool (g, M, C_out), and the best multipliers λ (g, M)."""
        kept = _first_n(self.P + self.multipliers()[..., None], self.n)
        cost = self._exchange(kept)
        # λ is 0 for a channel with edges to spare, and for others what it costs to fetch an edge from one of
        # those. Where no channel has any to spare, λ is free up to a constant.
        spare = kept.sum(dim=2) > self.min_degree
        fetched = cost.masked_fill(~spare[..., None], _NONE).amin(dim=1)
        free = cost[:, 0] - cost[:, 0].amin(dim=1, keepdim=True)
        return kept, torch.where(spare.any(dim=1, keepdim=True), fetched, free).clamp(min=0)

    def bound(self, multipliers: Tensor) -> Tensor:
        """D(λ) of every group, in its units."""
        best = torch.stack(largest(self.P + multipliers[..., None], self.n)).sum(dim=(0, 2))
        return best - self.min_degree * multipliers.sum(dim=1)

    def kept(self, kept: Tensor) -> Tensor:
        """What a mask of the groups keeps, in their units."""
        return (self.P * kept).sum(dim=(1, 2))

    def score(self, units: Tensor) -> float:
        """The sum of a number of units of every group."""
        return float((units * self.unit).sum())

    def multipliers(self) -> Tensor:
        """λ (g, M), close below the smallest best.

        In every round each channel that has fewer than B edges, ties counted for it, raises its λ to the B-th
        smallest of the thresholds at which it would enter a row's N. That is exact descent of D along each
        coordinate. Multipliers only ever rise, and never above the smallest best: a rise takes edges from the
        other channels and gives them none. Ends where ties are all that a group lacks, but for a few edges.
        """
        multipliers = torch.zeros(self.P.shape[:2], dtype=torch.int64, device=self.P.device)
        groups, P = torch.arange(len(self.P), device=self.P.device), self.P
        for _ in range(_ROUNDS):
            current = multipliers[groups][..., None]
            values = P + current
            *_, last_in, first_out = largest(values, self.n + 1)
            last_in, first_out = last_in[:, None], first_out[:, None]
            threshold = torch.where(values >= last_in, first_out, last_in).sub_(P)
            lacking = self.min_degree - (threshold <= current).sum(dim=2)
            unfinished = lacking.clamp(min=0).sum(dim=1) >= P.shape[1]
            if not bool(unfinished.any()):
                break
            poor = (lacking > 0) & unfinished[:, None]
            group, channel = poor.nonzero(as_tuple=True)
            multipliers[groups[group], channel] = threshold[poor].kthvalue(self.min_degree).values
            if not bool(unfinished.all()):
                groups, P = groups[unfinished], P[unfinished]
        return multipliers

    def _exchange(self, kept: Tensor) -> Tensor:
        """Moves edges along cheapest paths until every channel has B and no move gains; in place. Returns the cost
        of the cheapest way to move one more edge from channel a to channel b, (g, M, M).

        `kept` must be the best of its own degrees, as N largest of P + λ are. Each round moves one edge in every
        group that needs it, from a channel with more than B edges to the one with fewer that it costs least to
        reach. Successive shortest paths keep the best of its degrees (Ahuja, Magnanti and Orlin, "Network Flows",
        1993, section 9.7), so at the end it is the best of all.
        """
        direct = _Exchanges(self.P, kept)
        groups = torch.arange(len(kept), device=kept.device)
        while len(groups):
            cost, following = _cheapest_paths(direct.cost[groups])
            degree = kept[groups].sum(dim=2)
            short = degree < self.min_degree
            cost.masked_fill_((degree <= self.min_degree)[..., None], _NONE)
            cost.masked_fill_((short.any(dim=1, keepdim=True) & ~short)[:, None], _NONE)
            least, pair = cost.flatten(1).min(dim=1)
            here = ((least < 0) | short.any(dim=1)).nonzero().flatten()
            groups, following = groups[here], following[here]
            channel, end = pair[here] // self.P.shape[1], pair[here] % self.P.shape[1]
            moved = []
            on_the_way = torch.arange(len(groups), device=kept.device)
            while len(on_the_way):
                group, left = groups[on_the_way], channel[on_the_way]
                entered = following[on_the_way, left, end[on_the_way]]
                row = direct.row[group, left, entered]
                kept[group, left, row] = False
                kept[group, entered, row] = True
                moved.append((group, row))
                channel[on_the_way] = entered
                on_the_way = on_the_way[entered != end[on_the_way]]
            direct.update(moved)
        return _cheapest_paths(direct.cost)[0]


class _Exchanges:
    """The cheapest exchange within one row that moves an edge from channel a to channel b: `cost` and `row`, both
    (g, M, M) int64, for P and a mask `kept` (g, M, C_out) that may change."""

    def __init__(self, P: Tensor, kept: Tensor) -> None:
        self._P, self._kept = P, kept
        count, m, _ = P.shape
        self.cost, self.row = torch.empty(2, count, m, m, dtype=torch.int64, device=P.device)
        for a in range(m):
            self.cost[:, a], self.row[:, a] = self._loss(P[:, a : a + 1], kept[:, a : a + 1], P, kept).min(dim=2)

    def update(self, moved: list[tuple[Tensor, Tensor]]) -> None:
        """After changes of `kept` in `moved`, (groups, a row of each): looks only at what these rows concern."""
        stale = torch.zeros_like(self.cost, dtype=torch.bool)
        for group, row in moved:
            stale[group] |= self.row[group] == row[:, None, None]
        for group, row in moved:
            value, kept = self._P[group, :, row], self._kept[group, :, row]
            loss = self._loss(value[:, :, None], kept[:, :, None], value[:, None], kept[:, None])
            cheaper = loss < self.cost[group]
            self.cost[group] = torch.where(cheaper, loss, self.cost[group])
            self.row[group] = torch.where(cheaper, row[:, None, None], self.row[group])
        group, a, b = stale.nonzero(as_tuple=True)
        loss = self._loss(self._P[group, a], self._kept[group, a], self._P[group, b], self._kept[group, b])
        self.cost[group, a, b], self.row[group, a, b] = loss.min(dim=1)

    @staticmethod
    def _loss(value: Tensor, kept: Tensor, other: Tensor, other_kept: Tensor) -> Tensor:
        return torch.where(kept & ~other_kept, value - other, _NONE)


def _cheapest_paths(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Over direct costs (g, M, M): the least cost of a way from a to b, and the node that follows a on it.
    Floyd and Warshall's algorithm; there must be no way round of negative cost."""
    m = cost.shape[1]
    cost = cost.clone()
    cost.diagonal(dim1=1, dim2=2).zero_()
    following = torch.arange(m, device=cost.device).expand_as(cost)
    for k in range(m):
        through = cost[:, :, k, None] + cost[:, None, k]
        shorter = through < cost
        cost = torch.where(shorter, through, cost)
        following = torch.where(shorter, following[:, :, k, None], following)
    return cost, following


def _first_n(values: Tensor, n: int) -> Tensor:
    """The n largest along the second dimension of (g, M, C_out), of equals the first; bool."""
    last_in = largest(values, n)[-1][:, None]
    above, equal = values > last_in, values == last_in
    return above | (equal & (equal.cumsum(dim=1) <= n - above.sum(dim=1, keepdim=True)))
