"""Masks under the expander constraint: what both solvers keep, and the matching against a linear programme."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor

from eggs_core.diagonals import diagonal_mask
from eggs_core.errors import MinDegreeImpossible, PatternDoesNotFit
from eggs_core.masks import input_degrees, kept_score, top_n_mask
from eggs_core.matching import auto_matching, matching_mask
from eggs_core.pattern import NMPattern
from tests.core.mask_problems import both_ways, computed_by, problems, scores

Solver = Callable[..., Tensor]


def exact_mask(S: Tensor, pattern: NMPattern, min_degree: int, layer: str = "the layer") -> Tensor:
    return matching_mask(S, pattern, min_degree, layer).mask


both_solvers = pytest.mark.parametrize("solver", [diagonal_mask, exact_mask])


def optimum(S: Tensor, pattern: NMPattern, min_degree: int) -> float:
    """Largest kept score under the constraint, by a general solver of linear programmes."""
    rows, columns = S.shape
    groups = columns // pattern.m
    cell = np.arange(rows * columns).reshape(rows, groups, pattern.m)
    in_row_group = np.zeros((rows * groups, rows * columns))
    in_row_group[np.repeat(np.arange(rows * groups), pattern.m), cell.reshape(-1)] = 1
    in_column = np.zeros((columns, rows * columns))
    in_column[np.tile(np.arange(columns), rows), np.arange(rows * columns)] = 1
    solution = linprog(
        -S.double().numpy().reshape(-1),
        A_eq=in_row_group,
        b_eq=np.full(rows * groups, pattern.n),
        A_ub=-in_column,
        b_ub=np.full(columns, -min_degree),
        bounds=(0, 1),
    )
    return float(-solution.fun)


@both_solvers
@given(problem=problems())
def test_the_pattern_and_every_channel_are_kept(solver: Solver, problem: tuple[Tensor, NMPattern, int]) -> None:
    S, pattern, min_degree = problem
    before = S.clone()
    mask = solver(S, pattern, min_degree)
    assert bool((mask.reshape(-1, pattern.m).sum(dim=1) == pattern.n).all())
    assert int(input_degrees(mask).min()) >= min_degree
    assert torch.equal(mask, solver(S, pattern, min_degree)), "not identical on repeat"
    assert torch.equal(S, before), "the scores were changed"


@both_solvers
@given(problem=problems())
def test_without_a_minimum_the_best_are_kept(solver: Solver, problem: tuple[Tensor, NMPattern, int]) -> None:
    S, pattern, _ = problem
    assert torch.equal(solver(S, pattern, 0), top_n_mask(S, pattern))


@both_solvers
@given(problem=problems())
def test_more_than_possible_is_refused_by_name(solver: Solver, problem: tuple[Tensor, NMPattern, int]) -> None:
    S, pattern, _ = problem
    largest = pattern.n * S.shape[0] // pattern.m
    with pytest.raises(
        MinDegreeImpossible, match=rf"model\.layers\.0\.q_proj .* at most {largest} edges"
    ) as raised:
        solver(S, pattern, largest + 1, "model.layers.0.q_proj")
    assert "ignore" in str(raised.value)


@both_solvers
def test_width_that_m_does_not_divide_is_refused_by_name(solver: Solver) -> None:
    with pytest.raises(PatternDoesNotFit, match=r"h\.0\.c_attn has 6 input channels.*ignore"):
        solver(torch.ones(4, 6), NMPattern(2, 4), 0, "h.0.c_attn")


@both_solvers
def test_a_channel_of_zeros_keeps_its_edges(solver: Solver) -> None:
    S = torch.rand(16, 8, generator=torch.Generator().manual_seed(0))
    S[:, 3] = 0
    assert int(top_n_mask(S, NMPattern(2, 4)).sum(dim=0)[3]) == 0
    assert int(solver(S, NMPattern(2, 4), 4).sum(dim=0)[3]) == 4


@st.composite
def small_problems(draw: st.DrawFn) -> tuple[Tensor, NMPattern, int]:
    """Few scores, for a general solver, with what makes a matching hard: ties, and columns that are alike."""
    m = draw(st.integers(2, 8))
    pattern = NMPattern(draw(st.integers(1, m)), m)
    S = draw(scores(pattern, max_rows=16, max_groups=2))
    if draw(st.booleans()):
        S[:, 0] = S[:, -1] + draw(st.sampled_from([0, 1e-6, 100])) * S[:, 0]
    return S, pattern, draw(st.integers(0, pattern.n * S.shape[0] // m))


@both_ways
@settings(max_examples=150)
@given(problem=small_problems())
def test_the_matching_is_optimal_and_proves_it(way: str, problem: tuple[Tensor, NMPattern, int]) -> None:
    S, pattern, min_degree = problem
    with computed_by(way):
        matching = matching_mask(S, pattern, min_degree)
    assert kept_score(S, matching.mask) == pytest.approx(optimum(S, pattern, min_degree), rel=1e-6, abs=1e-6)
    assert 0 <= matching.duality_gap < 1e-9


@both_ways
@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8"])
@pytest.mark.parametrize("seed", range(8))
def test_the_matching_is_optimal_where_few_of_the_rows_matter(way: str, pattern: str, seed: int) -> None:
    """Channels of very different size in many rows, of which some must give up all that they have to spare."""
    chosen = NMPattern.parse(pattern)
    generator = torch.Generator().manual_seed(seed)
    S = torch.rand(240, 2 * chosen.m, generator=generator) * torch.randn(2 * chosen.m, generator=generator).exp()
    for share in (0.05, 0.2, 0.5):
        min_degree = int(share * chosen.n * len(S) / chosen.m)
        with computed_by(way):
            matching = matching_mask(S, chosen, min_degree)
        assert int(input_degrees(matching.mask).min()) >= min_degree
        assert bool((matching.mask.reshape(-1, chosen.m).sum(dim=1) == chosen.n).all())
        assert kept_score(S, matching.mask) == pytest.approx(optimum(S, chosen, min_degree), rel=1e-7)
        assert 0 <= matching.duality_gap < 1e-9


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8", "8:16", "3:5"])
@pytest.mark.parametrize("tolerance", [0.0001, 0.01, 0.2])
def test_both_ways_give_the_same(pattern: str, tolerance: float) -> None:
    """Where groups have different numbers of rows that may change, of scores of different size."""
    chosen = NMPattern.parse(pattern)
    generator = torch.Generator().manual_seed(0)
    for size in (1e-30, 1, 1e6):
        S = (
            torch.rand(200, 8 * chosen.m, generator=generator)
            * torch.randn(8 * chosen.m, generator=generator).exp()
        )
        S[:, : chosen.m] = 0
        with computed_by("torch"):
            expected = auto_matching(S * size, chosen, tolerance=tolerance)
        matching, min_degree = auto_matching(S * size, chosen, tolerance=tolerance)
        assert min_degree == expected[1]
        assert torch.equal(matching.mask, expected[0].mask)
        assert matching.duality_gap == pytest.approx(expected[0].duality_gap)


def test_scores_that_lie_by_columns() -> None:
    S = torch.rand(200, 64, generator=torch.Generator().manual_seed(0)) * torch.arange(64)
    found, expected = (exact_mask(scores, NMPattern(2, 4), 60) for scores in (S.T.contiguous().T, S))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8", "8:16"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1])
def test_the_gap_closes_on_larger_layers(pattern: str, share: float) -> None:
    chosen = NMPattern.parse(pattern)
    generator = torch.Generator().manual_seed(0)
    S = torch.rand(300, 64, generator=generator) * torch.randn(64, generator=generator).exp()
    min_degree = int(share * chosen.n * len(S) / chosen.m)
    matching = matching_mask(S, chosen, min_degree)
    assert int(input_degrees(matching.mask).min()) >= min_degree
    assert 0 <= matching.duality_gap < 1e-9
    assert kept_score(S, diagonal_mask(S, chosen, min_degree)) <= kept_score(S, matching.mask) * (1 + 1e-9)


@given(problems())
def test_diagonals_keep_their_share_of_the_unconstrained_optimum(problem: tuple[Tensor, NMPattern, int]) -> None:
    """Up to one diagonal a block, as the docstring says."""
    S, pattern, min_degree = problem
    min_degree = min(min_degree, len(S) // pattern.m)
    share = max((pattern.n - 1) / pattern.n, 1 / pattern.m)
    best = kept_score(S, top_n_mask(S, pattern))
    assert kept_score(S, diagonal_mask(S, pattern, min_degree)) >= share * best - 1e-6


@both_ways
@settings(max_examples=60)
@given(problem=small_problems(), tolerance=st.sampled_from([0.0, 0.001, 0.02, 0.2]))
def test_auto_is_the_largest_minimum_within_the_tolerance(
    way: str, problem: tuple[Tensor, NMPattern, int], tolerance: float
) -> None:
    S, pattern, _ = problem
    with computed_by(way):
        matching, chosen = auto_matching(S, pattern, tolerance=tolerance)
    assert torch.equal(matching.mask, exact_mask(S, pattern, chosen))
    best = kept_score(S, top_n_mask(S, pattern))
    allowed = tolerance * (float(S.double().sum()) - best)

    def given_up(min_degree: int) -> float:
        return best - kept_score(S, exact_mask(S, pattern, min_degree))

    rounding = 1e-9 * best
    assert given_up(chosen) <= allowed + rounding
    if chosen < pattern.n * len(S) // pattern.m:
        assert given_up(chosen + 1) >= allowed - rounding
