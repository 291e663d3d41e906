"""Importance against the formulas of the papers, written out weight by weight."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from eggs_core.importance import importance, magnitude, ria, wanda
from eggs_core.spec import Method


def example(seed: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(rows, columns, generator=generator).bfloat16()
    return W, torch.rand(columns, generator=generator)


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 12))
def test_formulas(seed: int, rows: int, columns: int) -> None:
    W, norm = example(seed, rows, columns)
    A = W.double().abs()
    row_sum, column_sum = A.sum(dim=1), A.sum(dim=0)
    for i in range(rows):
        for j in range(columns):
            a = A[i, j]
            assert magnitude(W)[i, j].item() == pytest.approx(a.item())
            assert wanda(W, norm)[i, j].item() == pytest.approx((a * norm[j]).item(), rel=1e-5)
            relative = (a / column_sum[j] + a / row_sum[i]) * norm[j].double() ** 0.5
            assert ria(W, norm)[i, j].item() == pytest.approx(relative.item(), rel=1e-5)


def test_zero_rows_and_columns_score_zero() -> None:
    W, norm = example(0, 6, 8)
    W[2], W[:, 5] = 0, 0
    S = ria(W, norm)
    assert bool(S.isfinite().all())
    assert not S[2].any()
    assert not S[:, 5].any()


@pytest.mark.parametrize("method", Method)
def test_without_a_norm_weights_decide_alone(method: Method) -> None:
    W, norm = example(0, 6, 8)
    alone = importance(method, W, None)
    assert alone.dtype == torch.float32
    assert torch.allclose(alone, importance(method, W, torch.ones_like(norm)))
    if method is not Method.MAGNITUDE:
        assert not torch.equal(alone, importance(method, W, norm))
