"""Keeps N of M scores in every row and so many or more in every column, of the largest sum: a b-matching, exactly.

The linear programme has integral optima (its matrix is that of a bipartite graph; Schrijver, "Combinatorial
Optimization", 2003, chapter 21), and its dual has one multiplier λ ≥ 0 a column:

    D(λ) = Σ_rows (sum of the N largest of P + λ) - Σ need · λ

bounds what any choice keeps from above, and the best λ meets the best choice.

Shapes: P (g, M, R) int64, the scores of g problems of M columns and R rows in units, so that sums and ties are
exact and the same on every device; need (g, M) int64, edges that every column must have at least.
"""

import torch
from torch import Tensor

from eggs_core import kernels
from eggs_core.masks import largest

UNITS = 2**36
"""The largest of the scores in units, but for rows that are to stay as they are, which may have `FIXED`."""
FIXED = 2**42
ROUNDS = 100
"""Of raising multipliers, at most. The last of them gain little, and exchanges finish the work from anywhere."""
_NONE = 2**60


class Problem:
    """g problems, each of N a row. P and need are contiguous.

    Solved by the compiled kernels where they were built and P lies on the CPU, else by torch, to the same bits.
    """

    def __init__(self, P: Tensor, n: int, need: Tensor) -> None:
        self.P, self.n, self.need = P, n, need
        self._compiled = P.device.type == "cpu" and kernels.available()

    def solve(self, multipliers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Which scores to keep, bool (g, M, R), how many of every column (g, M), their sums (g,), and the best
        multipliers λ (g, M).

        `multipliers` are close below these. Where not all columns can have what they need, some are left short.
        """
        if self._compiled:
            return kernels.solve(self.P, self.n, self.need, multipliers)
        kept = _first_n(self.P + multipliers[..., None], self.n)
        cost = self._exchange(kept)
        # λ is 0 for a column with edges to spare, and for others what it costs to fetch an edge from one of
        # those. Where no column has any to spare, λ is free up to a constant.
        edges = kept.sum(dim=2)
        spare = edges > self.need
        fetched = cost.masked_fill(~spare[..., None], _NONE).amin(dim=1)
        free = cost[:, 0] - cost[:, 0].amin(dim=1, keepdim=True)
        best = torch.where(spare.any(dim=1, keepdim=True), fetched, free).clamp(min=0)
        return kept, edges, (self.P * kept).sum(dim=(1, 2)), best

    def bound(self, multipliers: Tensor) -> Tensor:
        """D(λ) of every problem."""
        if self._compiled:
            return kernels.bounds(self.P, self.n, self.need, multipliers)
        best = torch.stack(largest(self.P + multipliers[..., None], self.n)).sum(dim=(0, 2))
        return best - (self.need * multipliers).sum(dim=1)

    def multipliers(self) -> Tensor:
        """λ (g, M), close below the smallest best.

        In every round each column that has fewer edges than it needs, ties counted for it, raises its λ to that of
        the thresholds at which it would enter a row's N, in rising order, which gives it as many. That is exact
        descent of D along each coordinate. Multipliers only ever rise, and never above the smallest best: a rise
        takes edges from the other columns and gives them none. Ends where ties are all that a problem lacks, but
        for a few edges.
        """
        if self._compiled:
            return kernels.raise_multipliers(self.P, self.n, self.need, ROUNDS)
        multipliers = torch.zeros(self.P.shape[:2], dtype=torch.int64, device=self.P.device)
        groups, P, need = torch.arange(len(self.P), device=self.P.device), self.P, self.need
        for _ in range(ROUNDS):
            current = multipliers[groups][..., None]
            values = P + current
            *_, last_in, first_out = largest(values, self.n + 1)
            last_in, first_out = last_in[:, None], first_out[:, None]
            threshold = torch.where(values >= last_in, first_out, last_in).sub_(P)
            lacking = need - (threshold <= current).sum(dim=2)
            unfinished = lacking.clamp(min=0).sum(dim=1) >= P.shape[1]
            if not bool(unfinished.any()):
                break
            poor = (lacking > 0) & unfinished[:, None]
            group, column = poor.nonzero(as_tuple=True)
            rising = _ascending(threshold[poor])
            multipliers[groups[group], column] = rising.gather(1, need[poor][:, None] - 1).flatten()
            if not bool(unfinished.all()):
                groups, P, need = groups[unfinished], P[unfinished], need[unfinished]
        return multipliers

    def _exchange(self, kept: Tensor) -> Tensor:
        """Moves edges along cheapest paths until every column has what it needs, as far as it can, and no move
        gains; in place. Returns the cost of the cheapest way to move one more edge from column a to column b,
        (g, M, M).

        `kept` must be the best of its own degrees, as N largest of P + λ are. Each round moves one edge in every
        problem that needs it, from a column with edges to spare to the one short of them that it costs least to
        reach. Successive shortest paths keep the best of its degrees (Ahuja, Magnanti and Orlin, "Network Flows",
        1993, section 9.7), so at the end it is the best of all.
        """
        direct = _Exchanges(self.P, kept)
        groups = torch.arange(len(kept), device=kept.device)
        while len(groups):
            cost, following = _cheapest_paths(direct.cost[groups])
            spare = kept[groups].sum(dim=2) - self.need[groups]
            short = spare < 0
            cost.masked_fill_((spare <= 0)[..., None], _NONE)
            cost.masked_fill_((short.any(dim=1, keepdim=True) & ~short)[:, None], _NONE)
            least, pair = cost.flatten(1).min(dim=1)
            wanted = (least < 0) | (short.any(dim=1) & (least < _NONE // 2))
            here = wanted.nonzero().flatten()
            groups, following = groups[here], following[here]
            column, end = pair[here] // self.P.shape[1], pair[here] % self.P.shape[1]
            moved = []
            on_the_way = torch.arange(len(groups), device=kept.device)
            while len(on_the_way):
                group, left = groups[on_the_way], column[on_the_way]
                entered = following[on_the_way, left, end[on_the_way]]
                row = direct.row[group, left, entered]
                kept[group, left, row] = False
                kept[group, entered, row] = True
                moved.append((group, row))
                column[on_the_way] = entered
                on_the_way = on_the_way[entered != end[on_the_way]]
            direct.update(moved)
        return _cheapest_paths(direct.cost)[0]


class _Exchanges:
    """The cheapest exchange within one row that moves an edge from column a to column b: `cost` and `row`, both
    (g, M, M) int64, for P and a mask `kept` (g, M, R) that may change."""

    def __init__(self, P: Tensor, kept: Tensor) -> None:
        self._P, self._kept = P, kept
        count, m, _ = P.shape
        self.cost, self.row = torch.empty(2, count, m, m, dtype=torch.int64, device=P.device)
        # As `_loss`, in fewer passes: what cannot be given or taken makes the difference too large to be one.
        given, taken = torch.where(kept, P, _NONE // 2), torch.where(kept, -_NONE // 2, P)
        for a in range(m):
            self.cost[:, a], self.row[:, a] = (given[:, a : a + 1] - taken).min(dim=2)
        self.cost.masked_fill_(self.cost > _NONE // 4, _NONE)

    def update(self, moved: list[tuple[Tensor, Tensor]]) -> None:
        """After changes of `kept` in `moved`, (problems, a row of each): looks only at what these rows concern."""
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
    """The n largest along the second dimension of (g, M, R), of equals the first; bool."""
    last_in = largest(values, n)[-1][:, None]
    above, equal = values > last_in, values == last_in
    return above | (equal & (equal.cumsum(dim=1) <= n - above.sum(dim=1, keepdim=True)))


def _ascending(values: Tensor) -> Tensor:
    """Every row of `values` (a, b) in rising order. On a CPU by numpy, whose sort is vectorised: 7 times torch's
    speed."""
    if values.device.type != "cpu":
        return values.sort(dim=1).values
    values.numpy().sort(axis=1)
    return values
