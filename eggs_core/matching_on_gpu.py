"""`eggs_core.matching` on a GPU: nothing is read back, so that the host runs ahead of the device.

A GPU has the time for all rows of every group in which a channel lacks edges, by kernels that need no word from
the host (`eggs_core.kernels.triton_b_matching`). Where B is to be found, it lies on the device, and there is a
launch for every step that its search may take: those after its end return at once.

Shapes as in `eggs_core.matching`; numbers are tensors (), and sums float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from eggs_core.kernels import triton_b_matching
from eggs_core.masks import kept_score, top_n
from eggs_core.matching import Matching
from eggs_core.pattern import NMPattern

# Steps of Newton's method, of which two or three will do; after them halving ends the search for certain.
_NEWTON_STEPS = 6
# Scores sorted at a time.
_TILE = 1 << 24


class _Found(NamedTuple):
    """By how much less a mask keeps than the best N per group; by how much less again an edge more for every
    channel would, at least; and how far it may be from the best."""

    cost: Tensor
    slope: Tensor
    gap: Tensor


class _Contest:
    """A layer's mask, open to what channels with fewer than B edges need, for B up to `most`."""

    def __init__(self, S: Tensor, best: Tensor, degree: Tensor, pattern: NMPattern, most: Tensor) -> None:
        self._S, self._best, self._degree, self._pattern = S, best, degree, pattern
        self._P, self._unit = triton_b_matching.take(S, degree, most, pattern)
        groups, m, _ = self._P.shape
        self._solved = torch.full_like(most, -1)
        self._multipliers = torch.zeros(groups, m, dtype=torch.int64, device=S.device)
        self._kept = torch.empty_like(self._P, dtype=torch.uint8)
        self._sums = torch.zeros(groups, 3, dtype=torch.int64, device=S.device)

    def solve(self, min_degree: Tensor) -> _Found:
        """What the best mask for B = `min_degree` is like."""
        found = self._multipliers, self._kept, self._sums
        triton_b_matching.solve(self._P, self._pattern, self._degree, min_degree, self._solved, *found)
        self._solved.copy_(min_degree)
        best, kept, bound = self._sums.unbind(dim=1)
        units = best - kept, self._multipliers.sum(dim=1), bound - kept
        return _Found(*((unit * self._unit).sum() for unit in units))

    def settle(self, min_degree: Tensor) -> Matching:
        """The best mask for B = `min_degree`."""
        gap = self.solve(min_degree).gap
        rows, m = len(self._best), self._pattern.m
        changed = (self._degree.view(-1, m) < min_degree).any(dim=1)[:, None]
        mask = torch.where(changed, self._kept.permute(2, 0, 1) > 0, self._best.view(rows, -1, m))
        return Matching(mask.view(rows, -1), torch.where(gap > 0, gap / kept_score(self._S, self._best), 0))


def matching_mask(S: Tensor, pattern: NMPattern, min_degree: int) -> Matching:
    """As `eggs_core.matching.matching_mask`."""
    S = S.contiguous()
    best, _, degree = top_n(S, pattern)
    asked = torch.full((), min_degree, dtype=torch.int64, device=S.device)
    return _Contest(S, best, degree, pattern, asked).settle(asked)


def auto_matching(S: Tensor, pattern: NMPattern, tolerance: float) -> tuple[Matching, Tensor]:
    """As `eggs_core.matching.auto_matching`."""
    S = S.contiguous()
    best, lost, degree = top_n(S, pattern)
    allowed = tolerance * lost
    limit = pattern.n * len(S) // pattern.m
    high = _bound(S, best, pattern, allowed, limit)
    low = torch.zeros_like(high)
    contest = _Contest(S, best, degree, pattern, high)
    for step in range(_NEWTON_STEPS + limit.bit_length()):
        tried = high if step < _NEWTON_STEPS else (low + high + 1) // 2
        cost, slope, _ = contest.solve(tried)
        tangent = (tried - (cost - allowed) / slope).floor().long()
        enough = cost <= allowed
        low = torch.where(enough, tried, low)
        high = torch.where(enough, high, torch.minimum(tangent, tried - 1).clamp(min=low))
    return contest.settle(low), low


def _bound(S: Tensor, best: Tensor, pattern: NMPattern, allowed: Tensor, limit: int) -> Tensor:
    """The largest B up to `limit` that a bound of the cost allows; see `eggs_core.matching`."""
    rows, m = len(S), pattern.m
    threshold = torch.where(best, S, torch.inf).view(rows, -1, m).amin(dim=2)
    least = torch.zeros(rows, dtype=torch.float64, device=S.device)
    groups = max(1, _TILE // (rows * m))
    for scores, needed in zip(S.split(groups * m, dim=1), threshold.split(groups, dim=1), strict=True):
        short = (needed[..., None] - scores.view(rows, -1, m)).clamp_(min=0)
        least += short.view(rows, -1).sort(dim=0).values.sum(dim=1, dtype=torch.float64)
    return (least[:limit].cumsum(dim=0) <= allowed).sum()
