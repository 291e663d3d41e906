"""The compiled product with packed weights, and choice of masks, on a CPU, where this installation has them.

Shapes as in `eggs_core.packing`; x (tokens, C_in), bias (C_out,), y (tokens, C_out), all of the values' dtype.
Scores and masks as in `eggs_core.masks`, problems as in `eggs_core.b_matching`. Everything lies on the CPU and is
contiguous; all rows of a packed mask may also be one, expanded.
"""

from enum import IntEnum
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from eggs_core.pattern import NMPattern

try:
    from eggs_core.kernels import _compiled  # type: ignore[attr-defined]
except ImportError:  # there was no C compiler when the package was built
    _compiled = None

_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class Level(IntEnum):
    """What the kernels use of a processor, each with all before it."""

    PORTABLE = 0
    AVX2 = 1
    AVX512 = 2
    AVX512_BF16 = 3
    AMX = 4


_BEST = None if _compiled is None else Level(_compiled.best_level())


def best_level() -> Level | None:
    """The highest level of this processor; None where the kernels were not built."""
    return _BEST


def level_for(dtype: torch.dtype) -> Level:
    """What products of this dtype use of this processor, where the kernels were built: what is beyond AVX-512 is
    for bfloat16 alone."""
    assert _BEST is not None
    return _BEST if dtype is torch.bfloat16 else min(_BEST, Level.AVX512)


def available() -> bool:
    """Whether the kernels were built."""
    return _compiled is not None


def by_triton(tensor: Tensor) -> bool:
    """Whether work on what lies with this tensor, on a GPU, is for the kernels in Triton."""
    return tensor.device.type != "cpu" and find_spec("triton") is not None


def vectorised() -> bool:
    """Whether the kernels were built, and have a level of their own for this processor."""
    return _compiled is not None and _BEST != Level.PORTABLE


def any_batch(dtype: torch.dtype) -> bool:
    """Whether `linear` is the fast way for any number of tokens in this dtype, not only for some."""
    return _BEST is not None and level_for(dtype) >= Level.AVX512_BF16


def linear(
    x: Tensor, values: Tensor, mask: Tensor, bias: Tensor | None, pattern: NMPattern, level: Level | None = None
) -> Tensor:
    """y = x Wᵀ + bias, of the packed W, with sums in float32.

    The mask must be one that `eggs_core.packing.check` accepts: nothing is checked here. The result is the same
    from run to run.
    """
    tokens = x.shape[0]
    y = x.new_empty(tokens, values.shape[0])
    if y.numel():
        _compiled.linear(
            *_numbers(values, mask, pattern),
            x.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            y.data_ptr(),
            tokens,
            _BEST if level is None else level,
            torch.get_num_threads(),
        )
    return y


_DENSE = NMPattern(1, 1)


def dense_linear(x: Tensor, W: Tensor, bias: Tensor | None, level: Level | None = None) -> Tensor:
    """As `linear`, with a dense W (C_out, C_in): as a packed one of which everything is kept."""
    rows, columns = W.shape
    return linear(x, W, _whole_row(columns).expand(rows, -1), bias, _DENSE, level)


@cache
def _whole_row(columns: int) -> Tensor:
    return torch.full((1, -(-columns // 8)), 0xFF, dtype=torch.uint8)


def unpack_rows(
    values: Tensor,
    mask: Tensor,
    pattern: NMPattern,
    first: int,
    last: int,
    out: Tensor,
    level: Level | None = None,
) -> Tensor:
    """Rows `first` to before `last` of the dense matrix, written to and returned as the beginning of `out`."""
    columns = values.shape[1] // pattern.n * pattern.m
    dense = out.view(-1)[: (last - first) * columns].view(last - first, columns)
    if dense.numel():
        numbers = _numbers(values, mask, pattern)
        level = _BEST if level is None else level
        _compiled.unpack(*numbers, first, last, dense.data_ptr(), level, torch.get_num_threads())
    return dense


def best_n(S: Tensor, pattern: NMPattern, mask: Tensor, level: Level | None = None) -> tuple[Tensor, Tensor]:
    """Writes True to `mask` for the N largest scores of every group of S, of equals for those further left, and
    else False. Returns the sum of what is left out, the same from run to run: float32 within a group, or over four
    scores of as many, and float64 over them, (); and how many rows keep each channel, (C_in,) int64.

    S (C_out, C_in) float32, at least 0, of the mask's size.
    """
    rows, columns = S.shape
    blocks = -(-rows // _compiled.ROWS)
    lost = torch.empty(blocks, dtype=torch.float64)
    edges = torch.empty(blocks, columns, dtype=torch.uint8)
    degree = torch.empty(columns, dtype=torch.int64)
    layer = S.data_ptr(), mask.data_ptr(), rows, columns, pattern.n, pattern.m
    found = lost.data_ptr(), edges.data_ptr(), degree.data_ptr()
    _compiled.best_n(*layer, *found, _BEST if level is None else level, torch.get_num_threads())
    return lost.sum(), degree


def project(
    Y: Tensor, target: Tensor, pattern: NMPattern, shrink: float, rest: Tensor, level: Level | None = None
) -> None:
    """As `eggs_core.joint.project`, into `rest`, float32 or bfloat16."""
    layer = Y.data_ptr(), target.data_ptr(), Y.numel() // pattern.m, pattern.n, pattern.m
    numbers = *layer, rest.data_ptr(), rest.dtype is torch.bfloat16
    _compiled.project(*numbers, _BEST if level is None else level, torch.get_num_threads(), shrink)


def kept_score(S: Tensor, mask: Tensor, level: Level | None = None) -> Tensor:
    """As `eggs_core.masks.kept_score`, the same from run to run."""
    sums = torch.empty(-(-S.numel() // _compiled.SCORES), dtype=torch.float64)
    level = _BEST if level is None else level
    _compiled.kept_sums(S.data_ptr(), mask.data_ptr(), S.numel(), sums.data_ptr(), level, torch.get_num_threads())
    return sums.sum()


def nearest(
    S: Tensor, mask: Tensor, channels: Tensor, pattern: NMPattern, size: int, level: Level | None = None
) -> tuple[Tensor, Tensor]:
    """As `eggs_core.masks.nearest`."""
    count = len(channels)
    by, row = torch.empty(count, size), torch.empty(count, size, dtype=torch.int64)
    layer = S.data_ptr(), mask.data_ptr(), *S.shape, pattern.n, pattern.m
    wanted = channels.data_ptr(), count, size, by.data_ptr(), row.data_ptr()
    _compiled.nearest(*layer, *wanted, _BEST if level is None else level, torch.get_num_threads())
    return by, row


def raise_multipliers(P: Tensor, n: int, need: Tensor, rounds: int, level: Level | None = None) -> Tensor:
    """As `Problem.multipliers` of `eggs_core.b_matching`, in so many rounds at most."""
    multipliers = torch.empty_like(need)
    numbers = *_problems(P, n, need), multipliers.data_ptr(), rounds, _BEST if level is None else level
    _compiled.raise_multipliers(*numbers, torch.get_num_threads())
    return multipliers


def solve(
    P: Tensor, n: int, need: Tensor, multipliers: Tensor, level: Level | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `Problem.solve` of `eggs_core.b_matching`."""
    kept, edges, multipliers = torch.empty_like(P, dtype=torch.bool), torch.empty_like(need), multipliers.clone()
    sums = torch.empty(len(P), dtype=torch.int64)
    found = multipliers.data_ptr(), kept.data_ptr(), edges.data_ptr(), sums.data_ptr()
    _compiled.solve(*_problems(P, n, need), *found, _BEST if level is None else level, torch.get_num_threads())
    return kept, edges, sums, multipliers


def bounds(P: Tensor, n: int, need: Tensor, multipliers: Tensor, level: Level | None = None) -> Tensor:
    """As `Problem.bound` of `eggs_core.b_matching`."""
    bounds = torch.empty(len(P), dtype=torch.int64)
    numbers = *_problems(P, n, need), multipliers.data_ptr(), bounds.data_ptr(), _BEST if level is None else level
    _compiled.bounds(*numbers, torch.get_num_threads())
    return bounds


def take(
    S: Tensor,
    mask: Tensor,
    pattern: NMPattern,
    groups: Tensor,
    rows: Tensor,
    counts: Tensor,
    units: int,
    fixed: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """P (k, M, R) int64 of `groups` (k,), each with the first counts[i] of `rows` (k, R) int64: the scores in
    units, with so many in the largest of a group. What is beyond are rows with `fixed` in their first N.

    Also returns the unit (k,) float64, and of what the mask keeps in these rows the edges (k, M) and the sum in
    units (k,), int64.
    """
    count, size = rows.shape
    P, edges = (
        torch.empty(count, pattern.m, size, dtype=torch.int64),
        torch.empty(count, pattern.m, dtype=torch.int64),
    )
    unit, best = torch.empty(count, dtype=torch.float64), torch.empty(count, dtype=torch.int64)
    layer = S.data_ptr(), mask.data_ptr(), S.shape[1], pattern.n, pattern.m
    wanted = groups.data_ptr(), rows.data_ptr(), counts.data_ptr(), count, size, fixed, units
    found = P.data_ptr(), unit.data_ptr(), edges.data_ptr(), best.data_ptr()
    _compiled.take(*layer, *wanted, *found, torch.get_num_threads())
    return P, unit, edges, best


def put(
    mask: Tensor, pattern: NMPattern, groups: Tensor, rows: Tensor, counts: Tensor, solved: Tensor, kept: Tensor
) -> None:
    """Writes to a layer's mask what is kept, bool (k, M, R), in the rows that `take` had of `groups`, of those
    that are `solved`, bool (k,)."""
    layer = mask.data_ptr(), mask.shape[1], pattern.m
    wanted = groups.data_ptr(), rows.data_ptr(), counts.data_ptr(), solved.data_ptr(), *rows.shape
    _compiled.put(*layer, *wanted, kept.data_ptr(), torch.get_num_threads())


def sums_of_larger(A: Tensor, B: Tensor, level: Level | None = None) -> Tensor:
    """(a, b) float32: for every row of A (a, length) and of B (b, length), both float32, the sum of the larger of
    each two numbers."""
    sums = torch.empty(len(A), len(B))
    pairs = A.data_ptr(), len(A), B.data_ptr(), len(B), A.shape[1], sums.data_ptr()
    _compiled.sums_of_larger(*pairs, _BEST if level is None else level, torch.get_num_threads())
    return sums


def grams(X: Tensor) -> bool:
    """Whether `add_gram` is there for X."""
    bf16 = X.device.type == "cpu" and X.dtype is torch.bfloat16
    return bf16 and _BEST is not None and _BEST >= Level.AVX512_BF16


def add_gram(gram: Tensor, X: Tensor, level: Level | None = None) -> None:
    """Adds XᵀX of X (tokens, C_in) bfloat16, summed up in float32, to `gram` (C_in, C_in) float32, contiguous: on
    and above the diagonal; what is below has no meaning. The same from run to run. For `Level.AVX512_BF16` and up.
    """
    X = X.contiguous()
    level = _BEST if level is None else level
    _compiled.add_gram(X.data_ptr(), *X.shape, gram.data_ptr(), level, torch.get_num_threads())


def auction(cost: Tensor, price: Tensor, step: Tensor, bids: int, level: Level | None = None) -> Tensor:
    """The row that gets each column, (k, a) int64; `bids` a row until the step is doubled. See
    `eggs_core.assignment._auction`."""
    cost, step = cost.contiguous(), step.contiguous()  # held until the kernel has read them
    price = price.clone(memory_format=torch.contiguous_format)
    owner = torch.empty_like(price, dtype=torch.int64)
    problems = cost.data_ptr(), *price.shape, price.data_ptr(), step.data_ptr(), bids
    _compiled.auction(*problems, owner.data_ptr(), _BEST if level is None else level, torch.get_num_threads())
    return owner


def _problems(P: Tensor, n: int, need: Tensor) -> tuple[int, ...]:
    count, m, rows = P.shape
    return P.data_ptr(), need.data_ptr(), count, rows, n, m


def _numbers(values: Tensor, mask: Tensor, pattern: NMPattern) -> tuple[int, ...]:
    rows, kept = values.shape
    columns = kept // pattern.n * pattern.m
    shape = mask.stride(0), rows, columns, pattern.n, pattern.m
    return values.data_ptr(), mask.data_ptr(), *shape, _DTYPES[values.dtype]
