"""Assignments have the largest sum there is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from eggs_core.assignment import best_assignment


@given(
    k=st.integers(1, 4),
    a=st.integers(1, 40),
    values=st.sampled_from([1, 2, 7, 10**6]),
    outlier=st.sampled_from([0, 1, 2**24]),
    seed=st.integers(0, 2**32),
)
def test_the_sum_is_the_largest(k: int, a: int, values: int, outlier: int, seed: int) -> None:
    """Whole numbers, which float32 adds up exactly; many equal ones, all of them, and some beyond all others."""
    generator = torch.Generator().manual_seed(seed)
    gains = torch.randint(0, values, (k, a, a), generator=generator).float()
    gains[:, 0, -1] += outlier
    gains[:, :, 0] -= outlier
    before = gains.clone()
    found = best_assignment(gains)
    assert torch.equal(found.sort(dim=1).values, torch.arange(a).expand(k, a))
    assert torch.equal(gains, before)
    for matrix, columns in zip(gains.double(), found, strict=True):
        rows, best = linear_sum_assignment(matrix.numpy(), maximize=True)
        assert matrix[torch.arange(a), columns].sum() == matrix[rows, best].sum()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_of_any_size(scale: float) -> None:
    gains = torch.rand(1, 50, 50, generator=torch.Generator().manual_seed(0)) * scale
    _, best = linear_sum_assignment(gains[0].double().numpy(), maximize=True)
    assert best_assignment(gains)[0].tolist() == best.tolist()
