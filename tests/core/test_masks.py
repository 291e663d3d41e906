"""What every mask must satisfy, on every shape; and how far the diagonals are from the exact optimum."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eggs_core.errors import MinDegreeImpossible, PatternDoesNotFit
from eggs_core.masks import eggs_mask, top_n_mask
from eggs_core.pattern import NMPattern


@st.composite
def patterns(draw: st.DrawFn, max_m: int = 32) -> NMPattern:
    m = draw(st.integers(1, max_m))
    return NMPattern(draw(st.integers(1, m)), m)


@st.composite
def scores(draw: st.DrawFn, pattern: NMPattern, max_rows: int = 40, max_groups: int = 4) -> Tensor:
    """Random scores, some with ties, zero rows and zero columns."""
    rows = draw(st.integers(1, max_rows))
    columns = pattern.m * draw(st.integers(1, max_groups))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    S = torch.rand(rows, columns, generator=generator)
    if draw(st.booleans()):
        S = (S * 3).floor()  # ties
    if draw(st.booleans()):
        S[draw(st.integers(0, rows - 1))] = 0
    if draw(st.booleans()):
        S[:, draw(st.integers(0, columns - 1))] = 0
    return S


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, NMPattern, int]:
    """Scores, a pattern, and a minimum degree up to the largest possible."""
    pattern = draw(patterns())
    S = draw(scores(pattern))
    return S, pattern, draw(st.integers(0, pattern.n * S.shape[0] // pattern.m))


def kept(S: Tensor, mask: Tensor) -> float:
    return float(S[mask].double().sum())


def assert_pattern(mask: Tensor, pattern: NMPattern) -> None:
    assert bool((mask.reshape(-1, pattern.m).sum(dim=1) == pattern.n).all())


@given(problems())
def test_top_n_keeps_exactly_n_and_the_largest(problem: tuple[Tensor, NMPattern, int]) -> None:
    S, pattern, _ = problem
    mask = top_n_mask(S, pattern)
    assert mask.shape == S.shape
    assert_pattern(mask, pattern)
    groups, chosen = S.reshape(-1, pattern.m), mask.reshape(-1, pattern.m)
    least_kept = groups.masked_fill(~chosen, torch.inf).amin(dim=1)
    most_dropped = groups.masked_fill(chosen, -torch.inf).amax(dim=1)
    assert bool((least_kept >= most_dropped).all())


@given(problems())
def test_eggs_keeps_the_pattern_and_every_channel(problem: tuple[Tensor, NMPattern, int]) -> None:
    S, pattern, min_degree = problem
    before = S.clone()
    mask = eggs_mask(S, pattern, min_degree)
    assert_pattern(mask, pattern)
    assert int(mask.sum(dim=0).min()) >= min_degree
    assert kept(S, mask) <= kept(S, top_n_mask(S, pattern)) + 1e-9
    assert torch.equal(mask, eggs_mask(S, pattern, min_degree)), "not identical on repeat"
    assert torch.equal(S, before), "the scores were changed"


@given(problems())
def test_without_a_minimum_eggs_is_top_n(problem: tuple[Tensor, NMPattern, int]) -> None:
    S, pattern, _ = problem
    assert torch.equal(eggs_mask(S, pattern, 0), top_n_mask(S, pattern))


@given(problems())
def test_more_than_possible_is_refused_by_name(problem: tuple[Tensor, NMPattern, int]) -> None:
    S, pattern, _ = problem
    largest = pattern.n * S.shape[0] // pattern.m
    with pytest.raises(
        MinDegreeImpossible, match=rf"model\.layers\.0\.q_proj .* at most {largest} edges"
    ) as raised:
        eggs_mask(S, pattern, largest + 1, "model.layers.0.q_proj")
    assert "ignore" in str(raised.value)


def test_width_that_m_does_not_divide_is_refused_by_name() -> None:
    with pytest.raises(PatternDoesNotFit, match=r"h\.0\.c_attn has 6 input channels.*ignore"):
        eggs_mask(torch.ones(4, 6), NMPattern(2, 4), 0, "h.0.c_attn")


def test_ties_go_to_the_left() -> None:
    mask = top_n_mask(torch.ones(2, 4), NMPattern(2, 4))
    assert mask.tolist() == [[True, True, False, False]] * 2


def test_a_channel_of_zeros_keeps_its_edges() -> None:
    S = torch.rand(16, 8, generator=torch.Generator().manual_seed(0))
    S[:, 3] = 0
    assert int(top_n_mask(S, NMPattern(2, 4)).sum(dim=0)[3]) == 0
    assert int(eggs_mask(S, NMPattern(2, 4), 4).sum(dim=0)[3]) == 4


def optimum(S: Tensor, pattern: NMPattern, min_degree: int) -> float:
    """Largest kept score under the constraint, over every mask of one column group."""
    choices = list(itertools.combinations(range(pattern.m), pattern.n))
    best = -1.0
    for rows in itertools.product(choices, repeat=S.shape[0]):
        degree = [sum(c in row for row in rows) for c in range(pattern.m)]
        if min(degree) >= min_degree:
            best = max(best, sum(float(S[r, c]) for r, row in enumerate(rows) for c in row))
    return best


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_distance_from_the_exact_optimum(data: st.DataObject) -> None:
    """Up to one diagonal a block, EGGS keeps max((N-1)/N, 1/M) of the optimum at least, as its docstring says."""
    pattern = data.draw(st.sampled_from([NMPattern(1, 2), NMPattern(1, 3), NMPattern(2, 3), NMPattern(2, 4)]))
    rows = data.draw(st.integers(1, {2: 8, 3: 6, 4: 4}[pattern.m]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    S = torch.rand(rows, pattern.m, generator=generator) ** data.draw(st.sampled_from([1, 4]))
    min_degree = data.draw(st.integers(0, rows // pattern.m))
    best = optimum(S, pattern, min_degree)
    achieved = kept(S, eggs_mask(S, pattern, min_degree))
    assert achieved <= best + 1e-6
    assert achieved >= max((pattern.n - 1) / pattern.n, 1 / pattern.m) * best - 1e-6


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_largest_possible_minimum_is_met(data: st.DataObject) -> None:
    """Beyond one diagonal a block the result is still feasible and below the brute-force optimum."""
    pattern = data.draw(st.sampled_from([NMPattern(1, 2), NMPattern(2, 3), NMPattern(3, 4)]))
    rows = data.draw(st.integers(2, {2: 8, 3: 6, 4: 4}[pattern.m]))
    largest = pattern.n * rows // pattern.m
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    S = torch.rand(rows, pattern.m, generator=generator)
    mask = eggs_mask(S, pattern, largest)
    assert int(mask.sum(dim=0).min()) >= largest
    assert kept(S, mask) <= optimum(S, pattern, largest) + 1e-6
