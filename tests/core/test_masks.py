"""What every mask of the best N must satisfy, on every shape."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from eggs_core.masks import input_degrees, kept_score, nearest, top_n, top_n_mask
from eggs_core.pattern import NMPattern
from tests.core.mask_problems import both_ways, computed_by, problems


def best_of_each_group(S: Tensor, pattern: NMPattern) -> Tensor:
    """The mask of the N first of each group in a stable descending order."""
    groups = S.reshape(-1, pattern.m)
    order = groups.argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order[:, : pattern.n], True).reshape(S.shape)


@both_ways
@given(problem=problems())
def test_top_n_keeps_the_n_largest_and_of_equals_the_left(
    way: str, problem: tuple[Tensor, NMPattern, int]
) -> None:
    S, pattern, _ = problem
    with computed_by(way):
        assert torch.equal(top_n_mask(S, pattern), best_of_each_group(S, pattern))


@both_ways
@pytest.mark.parametrize("pattern", ["1:2", "2:4", "3:5", "4:8", "8:16", "20:32"])
def test_top_n_of_a_matrix_of_several_tiles(way: str, pattern: str) -> None:
    chosen = NMPattern.parse(pattern)
    S = torch.rand(1031, 240 // chosen.m * chosen.m * 5, generator=torch.Generator().manual_seed(0))
    S[::3] = (S[::3] * 4).floor()
    S[1, 2] = torch.inf
    with computed_by(way):
        assert torch.equal(top_n_mask(S, chosen), best_of_each_group(S, chosen))
        assert torch.equal(top_n_mask(S.T.contiguous().T, chosen), best_of_each_group(S, chosen))


@both_ways
@given(problem=problems())
def test_degrees_and_scores_are_of_what_is_kept(way: str, problem: tuple[Tensor, NMPattern, int]) -> None:
    S, pattern, _ = problem
    with computed_by(way):
        mask, lost, degree = top_n(S, pattern)
        assert torch.equal(mask, top_n_mask(S, pattern))
        assert input_degrees(mask).tolist() == degree.tolist() == mask.sum(dim=0).tolist()
        assert kept_score(S, mask) == pytest.approx(float(S[mask].double().sum()), rel=1e-12)
        assert lost == pytest.approx(float(S[~mask].double().sum()))


@both_ways
def test_scores_of_a_matrix_of_several_tiles(way: str) -> None:
    generator = torch.Generator().manual_seed(0)
    S = torch.rand(1031, 1003, generator=generator)
    mask = torch.rand(1003, 1031, generator=generator).T < 0.3
    with computed_by(way):
        assert kept_score(S, mask) == pytest.approx(float(S[mask].double().sum()), rel=1e-12)
        best, lost, degree = top_n(S, NMPattern(3, 17))
        assert lost == pytest.approx(float(S[~best].double().sum()))
        assert degree.tolist() == best.sum(dim=0).tolist()


@both_ways
@given(problem=problems(), data=st.data())
def test_channels_are_nearest_to_the_least_that_is_kept(
    way: str, problem: tuple[Tensor, NMPattern, int], data: st.DataObject
) -> None:
    S, pattern, _ = problem
    mask = top_n_mask(S, pattern)
    channels = data.draw(st.lists(st.integers(0, S.shape[1] - 1), max_size=20))
    size = data.draw(st.integers(1, len(S)))
    with computed_by(way):
        found, rows = nearest(S, mask, torch.tensor(channels, dtype=torch.int64), pattern, size)
    assert found.shape == rows.shape == (len(channels), size)
    for channel, by, row in zip(channels, found, rows, strict=True):
        group = slice(channel // pattern.m * pattern.m, (channel // pattern.m + 1) * pattern.m)
        least = S[:, group].masked_fill(~mask[:, group], torch.inf).amin(dim=1)
        expected, order = torch.where(mask[:, channel], -1, least - S[:, channel]).sort(stable=True)
        assert torch.equal(by, expected[:size])
        assert torch.equal(row, order[:size])


@both_ways
def test_the_nearest_of_many_rows(way: str) -> None:
    """With more rows and channels than are gone down together, and scores that only their last bits tell apart."""
    S = torch.randint(0, 40, (777, 96), generator=torch.Generator().manual_seed(0)) * 2.0**-20 + 1
    mask, channels = top_n_mask(S, NMPattern(2, 4)), torch.arange(0, 96, 2)
    with computed_by("torch"):
        expected = nearest(S, mask, channels, NMPattern(2, 4), 500)
    with computed_by(way):
        for found, wanted in zip(nearest(S, mask, channels, NMPattern(2, 4), 500), expected, strict=True):
            assert torch.equal(found, wanted)


def test_degrees_beyond_a_byte() -> None:
    assert input_degrees(torch.ones(777, 3, dtype=torch.bool)).tolist() == [777] * 3


def test_ties_go_to_the_left() -> None:
    mask = top_n_mask(torch.ones(2, 4), NMPattern(2, 4))
    assert mask.tolist() == [[True, True, False, False]] * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@both_ways
def test_scores_that_are_not_float32(way: str, dtype: torch.dtype) -> None:
    S = torch.rand(2, 8).to(dtype)
    with computed_by(way), pytest.raises(TypeError, match="must be float32"):
        top_n_mask(S, NMPattern(2, 4))
