"""The compiled kernels against products in float64, at every level; what this processor lacks are skipped."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from eggs_core import kernels
from eggs_core.b_matching import ROUNDS, Problem
from eggs_core.kernels import Level
from eggs_core.masks import top_n_mask
from eggs_core.packing import DTYPES, pack
from eggs_core.pattern import NMPattern
from tests.core.mask_problems import computed_by, problems

BEST = kernels.best_level()
LEVELS = [
    pytest.param(
        level,
        id=level.name,
        marks=pytest.mark.skipif(BEST is None or level > BEST, reason=f"{level.name} is not of this processor"),
    )
    for level in Level
]
PATTERNS = ["2:4", "4:8", "1:4", "8:16", "3:5", "7:24", "1:32", "31:32", "4:4", "1:1"]
SOURCES = Path(kernels.__file__).parent


def sparse(rows: int, columns: int, pattern: NMPattern, dtype: torch.dtype, seed: int) -> Tensor:
    W = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return W.masked_fill(~top_n_mask(W.float().abs(), pattern), 0)


def assert_close(y: Tensor, x: Tensor, W: Tensor, bias: Tensor | None) -> None:
    """Within the rounding of the result, and of sums in float32 whatever their order."""
    exact = x.double() @ W.double().T + (0 if bias is None else bias.double())
    terms = x.double().abs() @ W.double().abs().T + (0 if bias is None else bias.double().abs())
    within = torch.finfo(y.dtype).eps * exact.abs() + 4e-6 * terms + torch.finfo(y.dtype).tiny
    assert bool(((y.double() - exact).abs() <= within).all())


def test_the_kernels_were_built() -> None:
    assert kernels.available()
    assert kernels.best_level() is not None


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=40)
@given(
    pattern=st.sampled_from(PATTERNS).map(NMPattern.parse),
    rows=st.integers(1, 40),
    groups=st.integers(1, 150),
    tokens=st.integers(0, 17) | st.integers(18, 100),
    biased=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_products_and_the_way_back(
    level: Level,
    dtype: torch.dtype,
    pattern: NMPattern,
    rows: int,
    groups: int,
    tokens: int,
    biased: bool,
    seed: int,
) -> None:
    columns = groups * pattern.m
    W = sparse(rows, columns, pattern, dtype, seed)
    values, mask = pack(W, pattern)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, columns, generator=generator).to(dtype)
    bias = torch.randn(rows, generator=generator).to(dtype) if biased else None
    y = kernels.linear(x, values, mask, bias, pattern, level)
    assert (y.shape, y.dtype) == ((tokens, rows), dtype)
    assert_close(y, x, W, bias)
    assert torch.equal(y, kernels.linear(x, values, mask, bias, pattern, level)), "the same from run to run"
    out = torch.empty(rows * columns, dtype=dtype)
    assert torch.equal(kernels.unpack_rows(values, mask, pattern, 0, rows, out, level), W)
    assert_close(kernels.dense_linear(x, W, bias, level), x, W, bias)
    if rows > 2:
        part = kernels.unpack_rows(values, mask, pattern, 1, rows - 1, out, level)
        assert torch.equal(part, W[1 : rows - 1])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pattern", ["2:4", "3:5"])
@pytest.mark.parametrize("tokens", [5, 20])
def test_what_is_not_finite_passes_through_as_in_torch(
    level: Level, dtype: torch.dtype, pattern: str, tokens: int
) -> None:
    """Zeros of a pruned matrix turn infinite inputs into NaN, as those of a dense one do."""
    nm = NMPattern.parse(pattern)
    W = sparse(33, 8 * nm.m, nm, dtype, seed=0)
    x = torch.randn(tokens, 8 * nm.m).to(dtype)
    x[0, 3], x[1, 4], x[2, 5] = torch.inf, -torch.inf, torch.nan
    W[7, 0] = torch.inf
    W[9, 0] = torch.nan
    for row in (7, 9):
        W[row, 1 : nm.m] = 0
    values, mask = pack(W, nm)
    y = kernels.linear(x, values, mask, None, nm, level)
    expected = nn.functional.linear(x, W)
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.isinf(), expected.isinf())
    assert torch.equal(y[y.isinf()], expected[expected.isinf()])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tokens", [1, 27])
def test_results_are_rounded_as_torch_rounds(level: Level, dtype: torch.dtype, tokens: int) -> None:
    """One weight of 1 a row, so that the sum is the input and the bias: ties, overflow and subnormal results
    too."""
    x = torch.tensor([[1.0]], dtype=dtype)
    # Every value of the dtype as an input, and half a unit in its last place as a bias.
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)[:, None]
    every = every[every.isfinite()][:, None]
    half = (every.float() * torch.finfo(dtype).eps / 2).to(dtype).flatten()
    values, mask = pack(every.where(every != 0, 1), NMPattern(1, 1))
    ones = x.expand(tokens, 1).contiguous()
    y = kernels.linear(ones, values, mask, half, NMPattern(1, 1), level)
    denormal = torch.finfo(dtype).tiny  # below which some processors take inputs for zero
    normal = values.flatten().abs() >= denormal
    expected = (values.flatten().float() + half.float()).to(dtype)
    assert torch.equal(y[:, normal], expected[normal].expand(tokens, -1))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("pattern", ["2:4", "7:24"])
def test_more_tokens_and_columns_than_are_worked_on_at_a_time(level: Level, pattern: str) -> None:
    """Of the way that many tokens take, by blocks, of which the last ends within a step of 32 columns."""
    nm, columns = NMPattern.parse(pattern), 24 * 201
    W = sparse(301, columns, nm, torch.bfloat16, 0)
    x = torch.randn(530, columns, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert_close(kernels.linear(x, *pack(W, nm), None, nm, level), x, W, None)
    # Infinite at every other kept place: no row may see what its place held in the block before.
    row = W[5].flatten()
    row[row.nonzero()[::2]] = torch.inf
    y, expected = kernels.linear(x.abs(), *pack(W, nm), None, nm, level), nn.functional.linear(x.abs(), W)
    assert torch.equal(y[:, 5], expected[:, 5])


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize("values", [2, 5, 30, 2**20])
def test_groups_of_sixteen_that_are_sorted(level: Level, values: int) -> None:
    S = torch.randint(0, values, (37, 16 * 9), generator=torch.Generator().manual_seed(values)).float()
    for n in range(1, 17):
        mask, portable = torch.empty_like(S, dtype=torch.bool), torch.empty_like(S, dtype=torch.bool)
        lost, degree = kernels.best_n(S, NMPattern(n, 16), mask, level)
        lost_by_portable, _ = kernels.best_n(S, NMPattern(n, 16), portable, Level.PORTABLE)
        assert lost == lost_by_portable
        assert torch.equal(mask, portable)
        assert torch.equal(degree, mask.sum(dim=0))


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@given(problem=problems(), shrink=st.sampled_from([1.0, 0.5, 1 / 3]))
def test_projections(
    level: Level, dtype: torch.dtype, problem: tuple[Tensor, NMPattern, int], shrink: float
) -> None:
    S, pattern, _ = problem
    generator = torch.Generator().manual_seed(0)
    Y = S * (torch.rand(S.shape, generator=generator) - 0.5).sign()
    target = torch.randn(S.shape, generator=generator)
    D, rest = Y.clone(), torch.empty_like(Y, dtype=dtype)
    kernels.project(D, target, pattern, shrink, rest, level)
    assert torch.equal(D, Y.masked_fill(~top_n_mask(Y.abs(), pattern), 0))
    expected = (target.double() - (D - shrink * (Y - D).double())).to(dtype)
    torch.testing.assert_close(rest, expected, rtol=2**-7 if dtype is torch.bfloat16 else 1e-5, atol=1e-6)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_bfloat16_is_rounded_as_torch_rounds(level: Level) -> None:
    bits = torch.randint(-(2**31), 2**31, (2**16,), generator=torch.Generator().manual_seed(0), dtype=torch.int64)
    half_way = torch.tensor([1.00390625, 1.01171875, -0.0])
    target = torch.cat([half_way, bits.to(torch.int32).view(torch.float32)])
    target = target[target.isfinite()]
    rest = torch.empty_like(target, dtype=torch.bfloat16)
    kernels.project(torch.zeros_like(target), target, NMPattern(1, 1), 0.0, rest, level)
    assert torch.equal(rest, target.bfloat16())


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@given(problem=problems())
def test_masks_are_the_same_at_every_level(level: Level, problem: tuple[Tensor, NMPattern, int]) -> None:
    S, pattern, _ = problem
    mask, portable = torch.empty_like(S, dtype=torch.bool), torch.empty_like(S, dtype=torch.bool)
    lost, degree = kernels.best_n(S, pattern, mask, level)
    lost_by_portable, _ = kernels.best_n(S, pattern, portable, Level.PORTABLE)
    assert lost == pytest.approx(float(lost_by_portable), rel=1e-6)  # each level adds up in an order of its own
    assert torch.equal(mask, portable)
    assert torch.equal(degree, mask.sum(dim=0))
    channels, size = torch.arange(0, S.shape[1], 3), -(-len(S) // 2)
    by, row = kernels.nearest(S, mask, channels, pattern, size, level)
    expected = kernels.nearest(S, mask, channels, pattern, size, Level.PORTABLE)
    assert torch.equal(by, expected[0])
    assert torch.equal(row, expected[1])
    assert kernels.kept_score(S, mask, level) == kernels.kept_score(S, mask, Level.PORTABLE)


@st.composite
def b_matchings(draw: st.DrawFn) -> tuple[Tensor, int, Tensor]:
    """P, N and the need of a few problems, some with ties, some with columns that cannot have what they need."""
    m, rows, count = draw(st.integers(2, 32)), draw(st.integers(1, 70)), draw(st.integers(1, 4))
    n = draw(st.integers(1, m - 1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    P = torch.randint(0, 2 ** draw(st.sampled_from([2, 36])), (count, m, rows), generator=generator)
    most = draw(st.sampled_from([0, n * rows // m, rows]))
    need = torch.randint(-2, most + 1, (count, m), generator=generator)
    return P, n, torch.full_like(need, most) if draw(st.booleans()) else need


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@given(problem=b_matchings())
def test_matchings_are_those_of_torch(level: Level, problem: tuple[Tensor, int, Tensor]) -> None:
    P, n, need = problem
    with computed_by("torch"):
        by_torch = Problem(*problem)
    raised = by_torch.multipliers()
    assert torch.equal(kernels.raise_multipliers(P, n, need, ROUNDS, level), raised)
    assert torch.equal(kernels.bounds(P, n, need, raised, level), by_torch.bound(raised))
    for found, expected in zip(kernels.solve(P, n, need, raised, level), by_torch.solve(raised), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 2, 8), (5, 3, 9), (13, 17, 100), (64, 63, 577)], ids=str)
def test_sums_of_the_larger(level: Level, shape: tuple[int, int, int]) -> None:
    a, b, length = shape
    generator = torch.Generator().manual_seed(0)
    A, B = torch.randn(a, length, generator=generator), torch.randn(b, length, generator=generator)
    expected = torch.maximum(A[:, None].double(), B.double()).sum(dim=2)
    torch.testing.assert_close(kernels.sums_of_larger(A, B, level).double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("level", LEVELS[Level.AVX512_BF16 :])
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (2, 16), (5, 49), (511, 100), (1031, 333)], ids=str)
def test_gram_matrices(level: Level, shape: tuple[int, int]) -> None:
    X = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    before = torch.randn(shape[1], shape[1], generator=torch.Generator().manual_seed(1))
    gram = before.clone()
    kernels.add_gram(gram, X, level)
    exact, terms = X.double().T @ X.double(), X.double().abs().T @ X.double().abs()
    wrong = ((gram.double() - before - exact).abs() > 2e-6 * (terms + before.abs())).triu()
    assert not bool(wrong.any())
    again = before.clone()
    kernels.add_gram(again, X.T.contiguous().T, level)
    assert torch.equal(again.triu(), gram.triu())


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("tokens", [3, 40])
def test_threads_change_nothing(threads: int, tokens: int) -> None:
    pattern = NMPattern(2, 4)
    values, mask = pack(sparse(1001, 256, pattern, torch.bfloat16, 0), pattern)
    x = torch.randn(tokens, 256).bfloat16()
    before = torch.get_num_threads()
    one = kernels.linear(x, values, mask, None, pattern)
    try:
        torch.set_num_threads(threads)
        assert torch.equal(kernels.linear(x, values, mask, None, pattern), one)
    finally:
        torch.set_num_threads(before)


def test_no_read_or_write_out_of_bounds_and_nothing_undefined(tmp_path: Path) -> None:
    """Every level on exactly allocated memory, under the address and undefined-behaviour sanitizers."""
    compiler = shutil.which("gcc")
    assert compiler, "gcc is needed to build the kernels with sanitizers"
    program = tmp_path / "sanitized"
    flags = ["-O1", "-g", "-fopenmp", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{SOURCES}"]
    sources = [source for source in SOURCES.glob("*.c") if source.name != "module.c"]
    harness = Path(__file__).with_name("sanitized_kernels.c")
    subprocess.run([compiler, *flags, harness, *sources, "-lm", "-o", program], check=True)
    run = subprocess.run([program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert f"levels 0 to {BEST}" in run.stdout
