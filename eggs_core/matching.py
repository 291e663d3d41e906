"""The best mask under the expander constraint, exactly; and the largest minimum degree that costs next to nothing.

Keep exactly N scores in every group of every row and at least B in every column, of the largest sum. Groups are
independent, each a b-matching (`eggs_core.b_matching`). Only a group in which the best N of every row leave a
channel short needs any work, and in it only the rows in which such a channel is nearly kept: with multipliers λ,
channel c enters none of the rows in which it is below the N-th best by λ_c or more. So a few rows are solved, and
where the λ found says that others would change too, all rows of the group.

On a GPU with Triton all rows are solved, and the host need not listen (`eggs_core.matching_on_gpu`).

Shapes: S (C_out, C_in) float32, at least 0 and finite.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eggs_core import kernels
from eggs_core.b_matching import FIXED, UNITS, Problem
from eggs_core.masks import compiled, kept_score, nearest, top_n
from eggs_core.pattern import NMPattern, check_fit

# With B chosen by itself a mask may lose this share more importance than the best N of every group lose.
DEFAULT_TOLERANCE = 0.0001

# Channels looked at first, which tell how many more there are to look at; and scores looked at at a time.
_FIRST_CHANNELS = 32
_TILE = 1 << 20
# Scores in a problem: more of them than of rows that fill up.
_PART = 1 << 18
# Rows that are solved of a group beyond those that its channels are likely to need.
_SPARE_ROWS = 8


@dataclass(frozen=True, slots=True)
class Matching:
    """A mask (C_out, C_in), bool, True where kept; and by how much its kept score may be below the largest
    possible, as a share of what the best N per group keep: 0 up to rounding, and from a GPU a tensor (), float64,
    where `kernels.by_triton`."""

    mask: Tensor
    duality_gap: float | Tensor


def matching_mask(S: Tensor, pattern: NMPattern, min_degree: int, layer: str = "the layer") -> Matching:
    """The mask of largest kept score with N per group and row, and B = `min_degree` edges or more per channel.

    Raises `PatternDoesNotFit` or `MinDegreeImpossible`, naming `layer`.
    """
    check_fit((S.shape[0], S.shape[1]), pattern, min_degree, layer)
    if kernels.by_triton(S):
        from eggs_core import matching_on_gpu

        return matching_on_gpu.matching_mask(S, pattern, min_degree)
    best, _, degree = top_n(S, pattern)
    contest = _Contest(S, best, degree, pattern, min_degree)
    return contest.settle(contest.solve(min_degree))


def auto_matching(
    S: Tensor, pattern: NMPattern, layer: str = "the layer", tolerance: float = DEFAULT_TOLERANCE
) -> tuple[Matching, int | Tensor]:
    """The matching with the largest B that loses at most 1 + `tolerance` times the score that the best N per group
    lose; and B, from a GPU a tensor (), int64, where `kernels.by_triton`.

    The cost is a convex function of B, of which the sum of the multipliers is a slope: where the tangent at any B
    passes the tolerance, the cost has passed it before. So a few steps of Newton's method lead down to the largest
    B from where a bound of the cost allows it, which is often that B itself.

    Raises `PatternDoesNotFit`, naming `layer`.
    """
    check_fit((S.shape[0], S.shape[1]), pattern, 0, layer)
    if kernels.by_triton(S):
        from eggs_core import matching_on_gpu

        return matching_on_gpu.auto_matching(S, pattern, tolerance)
    best, lost, degree = top_n(S, pattern)
    allowed = tolerance * float(lost)
    contest = _Contest(S, best, degree, pattern, pattern.n * S.shape[0] // pattern.m, allowed)
    min_degree = contest.most
    while (found := contest.solve(min_degree, allowed)).cost > allowed:
        tangent = min_degree - (found.cost - allowed) / found.slope
        min_degree = max(0, min(min_degree - 1, math.floor(tangent)))
    return contest.settle(found), min_degree


class _Change(NamedTuple):
    """What is kept of some rows, as `eggs_core.kernels.put` takes it: without the scores, which are eight times as
    large."""

    groups: Tensor  # (k,)
    rows: Tensor  # (k, R)
    counts: Tensor  # (k,), of them
    solved: Tensor  # (k,), bool: whose rows change
    kept: Tensor  # (k, M, R), bool


@dataclass(slots=True)
class _Solution:
    """What the best mask for some B has otherwise than the best N per group: `changes`, by how much less it keeps,
    by how much less again an edge more for every channel would, at least, and how far it may be from the best.

    Of a B that costs too much: no changes, a bound of the cost that is too much, and its slope.
    """

    changes: list[_Change]
    cost: float = 0.0
    slope: float = 0.0
    gap: float = 0.0


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of g groups that may change."""

    groups: Tensor  # (g,)
    count: Tensor  # (g,), of rows
    row: Tensor  # (Σ count,), those of one group after those of the one before, in rising order
    limit: Tensor  # (g, M), up to which multipliers leave the other rows as they are


@dataclass(frozen=True, slots=True)
class _Part:
    """Groups with about as many rows that may change, the first `count` of (k, R)."""

    groups: Tensor  # (k,)
    row: Tensor
    count: Tensor  # (k,)
    limit: Tensor  # (k, M)
    unit: Tensor  # (k,), of P
    P: Tensor  # (k, M, R)
    elsewhere: Tensor  # (k, M), edges in other rows, less those of rows that fill up
    best: Tensor  # (k,), units that the best N of every row keep

    def within(self, multipliers: Tensor) -> Tensor:
        """Whether multipliers leave the other rows as they are, (k,). Units are rounded, and so are the limits."""
        low = multipliers + 2 < self.limit / self.unit[:, None] * (1 - 2**-20)
        return ((multipliers == 0) | low).all(dim=1)

    def score(self, units: Tensor) -> float:
        """The sum of units of each group, (k,)."""
        return float((units * self.unit).sum())


class _Contest:
    """A layer's mask, open to what channels with fewer than B edges need, for B up to `most`.

    `most` falls to the largest B that a bound of the cost allows: in a row with t as the N-th largest of a group,
    every kept channel with a score s < t costs t - s or more, whichever others leave for it. So B edges cost a
    channel at least the B smallest of its max(0, t - s), which is nothing where it has as many already. Channels
    are looked at in the order of their edges, until all have enough.
    """

    def __init__(
        self, S: Tensor, best: Tensor, degree: Tensor, pattern: NMPattern, most: int, allowed: float = math.inf
    ) -> None:
        self._S, self._best, self._degree, self._pattern = S.contiguous(), best, degree, pattern
        self._least = torch.zeros(most, dtype=torch.float64, device=S.device)
        self._limit = torch.zeros(S.shape[1], device=S.device)
        self.most = most
        degree, order = degree.sort(stable=True)
        near = [order[:0]]
        start, size = 0, _FIRST_CHANNELS
        while start < len(order) and most:
            tile = slice(start, start + size)
            poor = order[tile][degree[tile] <= self.most].sort().values  # as they lie in memory
            if not len(poor):
                break
            near.append(self._nearest(poor, allowed))
            start, size = start + size, min(2 * size, max(1, _TILE // len(S)))
        at = torch.cat(near).unique()
        groups, count = (at // len(S)).unique_consecutive(return_counts=True)
        many = count > len(S) // 2  # where the few are unlikely to do
        row, limit = (at % len(S))[~many.repeat_interleave(count)], self._limit.view(-1, pattern.m)[groups[~many]]
        few = _Rows(groups[~many], count[~many], row, limit)
        self._parts = [*self._parts_of(few), *self._parts_of(self._whole([groups[many]]))]

    def _nearest(self, channels: Tensor, allowed: float) -> Tensor:
        """Lowers `most`, with what these channels cost added to the bound; and finds the rows in which they are
        nearest to being kept, somewhat more than all of their group lack together: each group · C_out + row."""
        rows = len(self._S)
        group, degree = channels // self._pattern.m, self._degree[channels]
        size = min(rows, max(1, self.most, int(self._last(group, degree).max()) + 1))
        short, row = nearest(self._S, self._best, channels, self._pattern, size)
        if allowed < math.inf:
            self._least[: self.most] += short[:, : self.most].clamp(min=0).sum(dim=0, dtype=torch.float64)
            self.most = int((self._least[: self.most].cumsum(dim=0) <= allowed).sum())
        last = self._last(group, degree)[:, None]
        limit = short.gather(1, last.clamp(min=0, max=size - 1)).masked_fill_(last >= rows, torch.inf)
        self._limit[channels] = limit.masked_fill_(last < 0, -1).flatten()
        rank = torch.arange(size, device=channels.device)
        near = (rank >= degree[:, None]) & (rank <= last)  # before those it is kept
        return (group[:, None] * rows + row)[near]

    def _last(self, group: Tensor, degree: Tensor) -> Tensor:
        """Up to which rank a channel's rows may change, (k,), from its group and its degree; -1 for none."""
        lacking = (self.most - self._degree).clamp_(min=0).view(-1, self._pattern.m).sum(dim=1)[group]
        last = degree + lacking * 5 // 4 + _SPARE_ROWS
        return last.masked_fill_((degree > self.most) | (lacking == 0), -1)

    def _parts_of(self, rows: _Rows) -> Iterator[_Part]:
        if not len(rows.groups):
            return
        m = self._pattern.m
        start = rows.count.cumsum(dim=0) - rows.count
        parts = -(-len(rows.groups) * m * int(rows.count.max()) // _PART)
        for part in rows.count.argsort(stable=True).chunk(parts):
            groups, count = rows.groups[part], rows.count[part]
            position = torch.arange(int(count.max()), device=part.device)
            real = position < count[:, None]
            row = rows.row[torch.where(real, start[part][:, None] + position, 0)]
            P, unit, edges, best = self._problems(groups, row, count, real)
            elsewhere = self._degree.view(-1, m)[groups] - edges
            yield _Part(groups, row, count, rows.limit[part], unit, P, elsewhere, best)

    def _problems(
        self, groups: Tensor, row: Tensor, count: Tensor, real: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """P and its unit; and of what the best N keep in their rows the edges (k, M) and the sum (k,) in units."""
        n, m = self._pattern.n, self._pattern.m
        if compiled(self._S):
            return kernels.take(self._S, self._best, self._pattern, groups, row, count, UNITS, FIXED)
        scores, mask = (T.view(len(T), -1, m) for T in (self._S, self._best))
        fixed = torch.tensor([FIXED] * n + [0] * (m - n), device=scores.device)
        values = scores[row, groups[:, None]].double().masked_fill_(~real[..., None], 0)  # (k, R, M)
        unit = values.amax(dim=(1, 2)).clamp_(min=torch.finfo(torch.float32).tiny) / UNITS
        P = values.div_(unit[:, None, None]).round_().long().where(real[..., None], fixed)
        # The rows that fill up have their edges at the first channels.
        kept = torch.where(real[..., None], mask[row, groups[:, None]], fixed > 0)
        return P.transpose(1, 2).contiguous(), unit, kept.sum(dim=1), (P * kept).sum(dim=(1, 2))

    def solve(self, min_degree: int, allowed: float = math.inf) -> _Solution:
        """The best mask for B = `min_degree`, at most `most`, unless it is found to cost more than is allowed."""
        problems = [Problem(part.P, self._pattern.n, min_degree - part.elsewhere) for part in self._parts]
        multipliers = [problem.multipliers() for problem in problems]
        solution = _Solution([])
        if allowed < math.inf:
            for part, problem, found in zip(self._parts, problems, multipliers, strict=True):
                bounding = found * part.within(found)[:, None]
                solution.cost += part.score(part.best - problem.bound(bounding))
                solution.slope += part.score(bounding.sum(dim=1))
            if solution.cost > allowed:
                return solution
        solution = _Solution([])
        failed = [
            self._add_to(solution, part, problem, found)
            for part, problem, found in zip(self._parts, problems, multipliers, strict=True)
        ]
        for part in self._parts_of(self._whole(failed)):
            problem = Problem(part.P, self._pattern.n, min_degree - part.elsewhere)
            self._add_to(solution, part, problem, problem.multipliers())
        return solution

    def _add_to(self, solution: _Solution, part: _Part, problem: Problem, multipliers: Tensor) -> Tensor:
        """Solves a problem from multipliers that are close below the best. Returns the groups whose other rows
        would change as well: these are left out."""
        kept, edges, value, multipliers = problem.solve(multipliers)
        solved = part.within(multipliers) & (edges >= problem.need).all(dim=1)
        solution.cost += part.score((part.best - value) * solved)
        solution.slope += part.score(multipliers.sum(dim=1) * solved)
        solution.gap += part.score((problem.bound(multipliers) - value) * solved)
        solution.changes.append(_Change(part.groups, part.row, part.count, solved, kept))
        return part.groups[~solved]

    def _whole(self, failed: list[Tensor]) -> _Rows:
        """All rows of groups."""
        groups = torch.cat([self._degree[:0], *failed])
        rows = len(self._S)
        every = torch.arange(rows, device=groups.device).repeat(len(groups))
        unlimited = torch.full((len(groups), self._pattern.m), torch.inf, device=groups.device)
        return _Rows(groups, torch.full_like(groups, rows), every, unlimited)

    def settle(self, solution: _Solution) -> Matching:
        """The mask of a solution. Ends the contest: the mask of the best N is written over."""
        gap = solution.gap / float(kept_score(self._S, self._best)) if solution.gap else 0.0
        for change in solution.changes:
            self._put(change)
        return Matching(self._best, gap)

    def _put(self, change: _Change) -> None:
        if compiled(self._S):
            kernels.put(self._best, self._pattern, *change)
            return
        groups, rows, counts, solved, kept = change
        changed = (torch.arange(rows.shape[1], device=rows.device) < counts[:, None]) & solved[:, None]
        mask = self._best.view(len(self._S), -1, self._pattern.m)
        mask[rows[changed], groups[:, None].expand_as(changed)[changed]] = kept.transpose(1, 2)[changed]
