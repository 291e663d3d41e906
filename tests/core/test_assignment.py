"""Assignments have all but the largest sum there is, whichever way the auction is held."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from eggs_core import kernels
from eggs_core.assignment import BIDS, best_assignment
from tests.core.auctions import by_numpy, problems
from tests.core.mask_problems import both_ways, computed_by
from tests.core.test_kernels import LEVELS


def step(gains: Tensor) -> Tensor:
    """Of the auctions, as long as it is not doubled, (k,)."""
    cost = gains.amax(dim=2, keepdim=True) - gains
    cost -= cost.amin(dim=1, keepdim=True)
    return cost.mean(dim=2).median(dim=1).values / 1000


def below_the_largest(gains: Tensor, found: Tensor) -> Tensor:
    """By how much the sum of each assignment is, (k,)."""
    largest = [
        gains[i].double()[linear_sum_assignment(gains[i].double(), maximize=True)] for i in range(len(gains))
    ]
    return torch.stack([best.sum() for best in largest]) - gains.double().gather(2, found[..., None]).sum(
        dim=(1, 2)
    )


@both_ways
@given(
    k=st.integers(1, 4),
    a=st.integers(1, 40),
    values=st.sampled_from([1, 2, 7, 10**6]),
    outlier=st.sampled_from([0, 1, 2**24]),
    seed=st.integers(0, 2**32),
)
def test_the_sum_is_all_but_the_largest(way: str, k: int, a: int, values: int, outlier: int, seed: int) -> None:
    """Many equal gains, all of them, and some beyond all others."""
    generator = torch.Generator().manual_seed(seed)
    gains = torch.randint(0, values, (k, a, a), generator=generator).float()
    gains[:, 0, -1] += outlier
    gains[:, :, 0] -= outlier
    before = gains.clone()
    with computed_by(way):
        found = best_assignment(gains)
    assert torch.equal(found.sort(dim=1).values, torch.arange(a).expand(k, a))
    assert torch.equal(gains, before)
    rounding = 2  # of the largest of them in float32
    assert bool((below_the_largest(gains, found) <= a * step(gains) + rounding).all())


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize("bids", [1, BIDS])
@pytest.mark.parametrize(
    ("count", "size", "values"), [(1, 1, 9), (2, 3, 2), (3, 16, 1), (3, 33, 5), (2, 100, 10**6)], ids=str
)
def test_every_level_is_as_numpy(level: kernels.Level, bids: int, count: int, size: int, values: int) -> None:
    auction = problems(count, size, values, seed=size)
    assert torch.equal(kernels.auction(*auction, bids, level), by_numpy(*auction, bids))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_of_any_size(scale: float) -> None:
    gains = torch.rand(1, 50, 50, generator=torch.Generator().manual_seed(0)) * scale
    assert float(below_the_largest(gains, best_assignment(gains))) < 50 * 0.001 * scale


def test_of_what_is_not_finite_there_is_some() -> None:
    gains = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))
    gains[0, 3] = torch.inf
    gains[1, :, 4] = torch.nan
    gains[2, 5, 5] = -torch.inf
    assert torch.equal(best_assignment(gains).sort(dim=1).values, torch.arange(20).expand(3, 20))
