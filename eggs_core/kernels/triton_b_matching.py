"""Problems of `eggs_core.b_matching` on a GPU, a program each; see `eggs_core.matching_on_gpu`.

With TRITON_INTERPRET=1 in the environment it runs on CPU tensors.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from eggs_core.b_matching import ROUNDS, UNITS
from eggs_core.pattern import NMPattern

_NONE = tl.constexpr(2**60)
# Scores at a time: eight for each thread of a program.
_TILE = 1024


# Its compiler takes no annotations but its own.
@triton.jit  # type: ignore[untyped-decorator]
def take_kernel(  # type: ignore[no-untyped-def]
    S_ptr, degree_ptr, most_ptr, P_ptr, unit_ptr, rows, columns,
    UNITS: tl.constexpr, M: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    group = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    there = channel < M
    if _idle(degree_ptr, group, tl.load(most_ptr), M, CHANNELS):
        tl.store(unit_ptr + group, 0.0)
        return
    highest = tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
    for first in range(0, rows, ROWS):
        highest = tl.maximum(highest, _scores(S_ptr, group, first, rows, columns, M, CHANNELS, ROWS))
    # The least of normal numbers, where all scores are 0.
    unit = tl.maximum(tl.max(tl.max(highest, axis=1), axis=0), 1.1754943508222875e-38).to(tl.float64) / UNITS
    tl.store(unit_ptr + group, unit)
    for first in range(0, rows, ROWS):
        scores = _scores(S_ptr, group, first, rows, columns, M, CHANNELS, ROWS).to(tl.float64) / unit
        # Rounded to even by a sum that has no bits for fractions.
        P = ((scores + 4503599627370496.0) - 4503599627370496.0).to(tl.int64)
        row = first + tl.arange(0, ROWS)[:, None]
        tl.store(P_ptr + (group * M + channel) * rows + row, P, mask=there & (row < rows))


@triton.jit  # type: ignore[untyped-decorator]
def raise_kernel(  # type: ignore[no-untyped-def]
    P_ptr, degree_ptr, need_ptr, solved_ptr, multiplier_ptr, kept_ptr, bar_ptr, rows, rounds,
    N: tl.constexpr, M: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    group = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    there = channel < M
    need = tl.load(need_ptr)
    if need == tl.load(solved_ptr):
        return
    if _idle(degree_ptr, group, need, M, CHANNELS):
        return
    P_ptr += group * M * rows
    bar_ptr += group * 2 * rows
    multiplier = tl.zeros((CHANNELS,), dtype=tl.int64)
    left = rounds
    while left > 0:
        left -= 1
        edges = tl.zeros((CHANNELS,), dtype=tl.int64)
        high = multiplier
        for first in range(0, rows, ROWS):
            value, last_in, first_out = _bars(P_ptr, multiplier, first, rows, N, M, CHANNELS, ROWS)
            row = first + tl.arange(0, ROWS)
            tl.store(bar_ptr + row, last_in, mask=row < rows)
            tl.store(bar_ptr + rows + row, first_out, mask=row < rows)
            threshold = _threshold(value, multiplier, last_in, first_out)
            real = there & (row < rows)[:, None]
            edges += tl.sum((real & (threshold <= multiplier)).to(tl.int64), axis=0)
            high = tl.maximum(high, tl.max(tl.where(real, threshold, 0), axis=0))
        tl.debug_barrier()  # until all threads of the program see the bars
        poor = there & (edges < need)
        if tl.sum(tl.where(poor, need - edges, 0), axis=0) < M:
            left = 0
        else:
            # The least value at which a column has its edges: more than `low`, and `high` or less.
            low = multiplier
            while tl.max(tl.where(poor, high - low, 0), axis=0) > 1:
                middle = low + (high - low) // 2
                edges = tl.zeros((CHANNELS,), dtype=tl.int64)
                for first in range(0, rows, ROWS):
                    P, real = _load(P_ptr, first, rows, M, CHANNELS, ROWS)
                    row = first + tl.arange(0, ROWS)
                    last_in = tl.load(bar_ptr + row, mask=row < rows, other=0)
                    first_out = tl.load(bar_ptr + rows + row, mask=row < rows, other=0)
                    threshold = _threshold(P + multiplier, multiplier, last_in, first_out)
                    edges += tl.sum((real & (threshold <= middle)).to(tl.int64), axis=0)
                high = tl.where(edges >= need, middle, high)
                low = tl.where(edges >= need, low, middle)
            multiplier = tl.where(poor, high, multiplier)
            tl.debug_barrier()  # until all of them are done with the bars
    tl.store(multiplier_ptr + group * M + channel, multiplier, mask=there)
    for first in range(0, rows, ROWS):
        value, last_in, _ = _bars(P_ptr, multiplier, first, rows, N, M, CHANNELS, ROWS)
        above, equal = value > last_in[:, None], value == last_in[:, None]
        row = first + tl.arange(0, ROWS)[:, None]
        # Of equals the first, from channel `row` mod M on and then from the left: where many are equal, as zeros
        # are, no channel has most of them, which would have to be moved one by one.
        late = equal & (channel < row % M)
        rank = tl.cumsum(equal.to(tl.int32), axis=1) - tl.sum(late.to(tl.int32), axis=1)[:, None]
        rank += tl.where(late, tl.sum(equal.to(tl.int32), axis=1)[:, None], 0)
        kept = above | (equal & (rank <= N - tl.sum(above.to(tl.int32), axis=1)[:, None]))
        at = kept_ptr + (group * M + channel) * rows + row
        tl.store(at, kept.to(tl.uint8), mask=there & (row < rows))


@triton.jit  # type: ignore[untyped-decorator]
def exchange_kernel(  # type: ignore[no-untyped-def]
    P_ptr, degree_ptr, need_ptr, solved_ptr, multiplier_ptr, kept_ptr, sum_ptr, rows,
    N: tl.constexpr, M: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    group = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    there = channel < M
    need = tl.load(need_ptr)
    if need == tl.load(solved_ptr):
        return
    best, value, bound = need * 0, need * 0, need * 0
    multiplier = tl.zeros((CHANNELS,), dtype=tl.int64)
    if not _idle(degree_ptr, group, need, M, CHANNELS):
        P_ptr += group * M * rows
        kept_ptr += group * M * rows
        spare = tl.where(there, -need, 0)
        for first in range(0, rows, ROWS):
            spare += tl.sum(_kept(kept_ptr, first, rows, M, CHANNELS, ROWS).to(tl.int64), axis=0)
        direct, place = _direct(P_ptr, kept_ptr, rows, M, CHANNELS, ROWS)
        cost, following = _cheapest_paths(direct, M, CHANNELS)
        start, end, wanted = _next_move(cost, spare, M, CHANNELS)
        while wanted:
            spare = spare - (channel == start) + (channel == end)
            while start != end:
                entered = _at(following, start, end, CHANNELS)
                row = _at(place, start, entered, CHANNELS)
                tl.store(kept_ptr + start * rows + row, 0)
                tl.store(kept_ptr + entered * rows + row, 1)
                start = entered
            tl.debug_barrier()  # until all threads of the program see what is kept
            direct, place = _direct(P_ptr, kept_ptr, rows, M, CHANNELS, ROWS)
            cost, following = _cheapest_paths(direct, M, CHANNELS)
            start, end, wanted = _next_move(cost, spare, M, CHANNELS)
        giving = (spare > 0) & there
        fetched = tl.min(tl.where(giving[:, None], cost, _NONE), axis=0)
        free = tl.sum(tl.where(channel[:, None] == 0, cost, 0), axis=0)
        free -= tl.min(tl.where(there, free, _NONE), axis=0)
        multiplier = tl.where(tl.max(giving.to(tl.int32), axis=0) > 0, fetched, free)
        multiplier = tl.where(there, tl.maximum(multiplier, 0), 0)
        for first in range(0, rows, ROWS):
            P, real = _load(P_ptr, first, rows, M, CHANNELS, ROWS)
            kept = _kept(kept_ptr, first, rows, M, CHANNELS, ROWS)
            value += tl.sum(tl.sum(tl.where(kept, P, 0), axis=1), axis=0)
            best += _largest(P, real, N, CHANNELS, ROWS)
            bound += _largest(P + tl.where(there, multiplier, 0), real, N, CHANNELS, ROWS)
        bound -= tl.sum(multiplier, axis=0) * need
    tl.store(multiplier_ptr + group * M + channel, multiplier, mask=there)
    tl.store(sum_ptr + group * 3, best)
    tl.store(sum_ptr + group * 3 + 1, value)
    tl.store(sum_ptr + group * 3 + 2, bound)


@triton.jit  # type: ignore[untyped-decorator]
def _idle(degree_ptr, group, need, M: tl.constexpr, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Whether the best N of every row give all channels of a group what they need."""
    channel = tl.arange(0, CHANNELS)
    degree = tl.load(degree_ptr + group * M + channel, mask=channel < M, other=_NONE)
    return tl.min(degree, axis=0) >= need


@triton.jit  # type: ignore[untyped-decorator]
def _scores(  # type: ignore[no-untyped-def]
    S_ptr, group, first, rows, columns, M: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr
):
    """Of some rows of a layer, (ROWS, CHANNELS), 0 for what is not there or not finite."""
    channel = tl.arange(0, CHANNELS)
    row = first + tl.arange(0, ROWS)[:, None]
    at = S_ptr + row.to(tl.int64) * columns + group * M + channel
    scores = tl.load(at, mask=(channel < M) & (row < rows), other=0.0)
    return tl.where(scores < float("inf"), scores, 0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _load(P_ptr, first, rows, M: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Some rows of a problem, (ROWS, CHANNELS), very low for channels that are not there; and which rows are."""
    channel = tl.arange(0, CHANNELS)
    row = first + tl.arange(0, ROWS)[:, None]
    P = tl.load(P_ptr + channel * rows + row, mask=(channel < M) & (row < rows), other=0)
    return tl.where(channel < M, P, -_NONE), row < rows


@triton.jit  # type: ignore[untyped-decorator]
def _kept(kept_ptr, first, rows, M: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    channel = tl.arange(0, CHANNELS)
    row = first + tl.arange(0, ROWS)[:, None]
    return tl.load(kept_ptr + channel * rows + row, mask=(channel < M) & (row < rows), other=0) > 0


@triton.jit  # type: ignore[untyped-decorator]
def _largest(value, real, N: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The sum of the N largest of the rows that are there."""
    ordered = tl.sort(value, dim=1, descending=True)
    return tl.sum(tl.sum(tl.where(real & (tl.arange(0, CHANNELS) < N), ordered, 0), axis=1), axis=0)


@triton.jit  # type: ignore[untyped-decorator]
def _bars(  # type: ignore[no-untyped-def]
    P_ptr, multiplier, first, rows, N: tl.constexpr, M: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr
):
    """Some rows' scores with multipliers; the N-th largest of each row, and the one after it."""
    channel = tl.arange(0, CHANNELS)
    P, _ = _load(P_ptr, first, rows, M, CHANNELS, ROWS)
    value = P + multiplier
    ordered = tl.sort(value, dim=1, descending=True)
    last_in = tl.sum(tl.where(channel == N - 1, ordered, 0), axis=1)
    return value, last_in, tl.sum(tl.where(channel == N, ordered, 0), axis=1)


@triton.jit
def _threshold(value, multiplier, last_in, first_out):  # type: ignore[no-untyped-def]
    """At which multiplier each channel enters the N largest of a row, where all others keep theirs."""
    bar = tl.where(value >= last_in[:, None], first_out[:, None], last_in[:, None])
    return bar - value + multiplier


@triton.jit  # type: ignore[untyped-decorator]
def _direct(P_ptr, kept_ptr, rows, M: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The cheapest exchange within one row that moves an edge from one channel to another: its cost, and that
    row, (CHANNELS, CHANNELS)."""
    channel = tl.arange(0, CHANNELS)
    cost = tl.full((CHANNELS, CHANNELS), _NONE, dtype=tl.int64)
    place = tl.zeros((CHANNELS, CHANNELS), dtype=tl.int32)
    for giver in range(0, M):
        lowest = tl.full((ROWS, CHANNELS), _NONE, dtype=tl.int64)
        at = tl.zeros((ROWS, CHANNELS), dtype=tl.int32)
        for first in range(0, rows, ROWS):
            row = first + tl.arange(0, ROWS)
            given = tl.load(P_ptr + giver * rows + row, mask=row < rows, other=0)[:, None]
            gives = tl.load(kept_ptr + giver * rows + row, mask=row < rows, other=0)[:, None] > 0
            P, _ = _load(P_ptr, first, rows, M, CHANNELS, ROWS)
            takes = (channel < M) & (_kept(kept_ptr, first, rows, M, CHANNELS, ROWS) == 0)
            loss = tl.where(gives & takes, given - P, _NONE)
            at = tl.where(loss < lowest, row[:, None], at)
            lowest = tl.minimum(loss, lowest)
        least = tl.min(lowest, axis=0)
        first_of = tl.min(tl.where(lowest == least, at, rows), axis=0)
        cost = tl.where(channel[:, None] == giver, least, cost)
        place = tl.where(channel[:, None] == giver, first_of, place)
    return cost, place


@triton.jit  # type: ignore[untyped-decorator]
def _cheapest_paths(direct, M: tl.constexpr, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Floyd and Warshall's algorithm: the least cost of a way from one channel to another, and what follows the
    one on it."""
    channel = tl.arange(0, CHANNELS)
    cost = tl.where(channel[:, None] == channel, 0, direct)
    following = tl.zeros((CHANNELS, CHANNELS), dtype=tl.int32) + channel
    for by in range(0, M):
        to = tl.sum(tl.where(channel == by, cost, 0), axis=1)
        beyond = tl.sum(tl.where(channel[:, None] == by, cost, 0), axis=0)
        begun = tl.sum(tl.where(channel == by, following, 0), axis=1)
        through = to[:, None] + beyond
        following = tl.where(through < cost, begun[:, None], following)
        cost = tl.minimum(through, cost)
    return cost, following


@triton.jit  # type: ignore[untyped-decorator]
def _next_move(cost, spare, M: tl.constexpr, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
    """From which channel to which an edge is to be moved next; and whether one is."""
    channel = tl.arange(0, CHANNELS)
    short = (spare < 0) & (channel < M)
    any_short = tl.max(short.to(tl.int32), axis=0) > 0
    can = ((spare > 0) & (channel < M))[:, None] & (channel < M) & ((any_short == 0) | short)
    cost = tl.where(can, cost, _NONE)
    least = tl.min(tl.min(cost, axis=1), axis=0)
    pair = tl.where(cost == least, channel[:, None] * CHANNELS + channel, CHANNELS * CHANNELS - 1)
    found = tl.min(tl.min(pair, axis=1), axis=0)
    wanted = (least < 0) | (any_short & (least < _NONE // 2))
    return found // CHANNELS, found % CHANNELS, wanted


@triton.jit  # type: ignore[untyped-decorator]
def _at(matrix, row, column, CHANNELS: tl.constexpr):  # type: ignore[no-untyped-def]
    channel = tl.arange(0, CHANNELS)
    here = (channel[:, None] == row) & (channel == column)
    return tl.sum(tl.sum(tl.where(here, matrix, 0), axis=1), axis=0)


def sizes(pattern: NMPattern) -> dict[str, int]:
    """What the kernels are compiled for, but for N."""
    channels = triton.next_power_of_2(pattern.m)
    return {"M": pattern.m, "CHANNELS": channels, "ROWS": _TILE // channels, "num_warps": 4}


def take(S: Tensor, degree: Tensor, most: Tensor, pattern: NMPattern) -> tuple[Tensor, Tensor]:
    """P (g, M, C_out) int64 of all groups of S, contiguous, in which a channel has fewer edges than `most`, (),
    int64, and its unit (g,) float64; of other groups P has no meaning, and the unit is 0. What is not finite
    counts as 0."""
    rows, columns = S.shape
    groups = columns // pattern.m
    P = torch.empty(groups, pattern.m, rows, dtype=torch.int64, device=S.device)
    unit = torch.empty(groups, dtype=torch.float64, device=S.device)
    take_kernel[(groups,)](S, degree, most, P, unit, rows, columns, UNITS=UNITS, **sizes(pattern))
    return P, unit


def solve(
    P: Tensor,
    pattern: NMPattern,
    degree: Tensor,
    need: Tensor,
    solved: Tensor,
    multipliers: Tensor,
    kept: Tensor,
    sums: Tensor,
) -> None:
    """As `Problem.solve` after `Problem.multipliers` of `eggs_core.b_matching`, where every column needs `need`
    edges, (), int64. Writes λ to `multipliers` (g, M) int64, what is kept to `kept` (g, M, R) uint8, and to `sums`
    (g, 3) int64 what the best N of every row keep, what is kept, and D(λ).

    Of groups whose `degree` is enough nothing but zeros is written, to all but `kept`. Does nothing where `need`
    is `solved`, (), int64: these have it then.
    """
    groups, _, rows = P.shape
    problems = P, degree, need, solved, multipliers, kept
    bars = torch.empty(groups, 2, rows, dtype=torch.int64, device=P.device)
    raise_kernel[(groups,)](*problems, bars, rows, ROUNDS, N=pattern.n, **sizes(pattern))
    exchange_kernel[(groups,)](*problems, sums, rows, N=pattern.n, **sizes(pattern))
