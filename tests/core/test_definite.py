"""Inverses and factors that take the place of what they are of."""

import pytest
import torch
from torch import Tensor

from eggs_core.definite import _factor_or_nan, _inverse_or_nan, invert, upper_factor


def definite(size: int, dtype: torch.dtype) -> Tensor:
    X = torch.randn(2 * size + 1, size, dtype=dtype, generator=torch.Generator().manual_seed(size))
    return X.T @ X


@pytest.mark.parametrize("size", [1, 2, 33, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_their_own_place(size: int, dtype: torch.dtype) -> None:
    H = definite(size, dtype)
    identity = torch.eye(size, dtype=dtype)
    inverse = H.clone()
    assert invert(inverse) is inverse
    torch.testing.assert_close(inverse @ H, identity, rtol=0, atol=1e-2 if dtype is torch.float32 else 1e-9)
    assert torch.equal(inverse, inverse.T)
    factor = H.clone()
    U = upper_factor(factor)
    assert U.data_ptr() == factor.data_ptr()
    assert torch.equal(U, U.triu())
    torch.testing.assert_close(U.T @ U, H, rtol=1e-4, atol=1e-3)


def test_what_is_not_definite() -> None:
    for function in (invert, upper_factor):
        with pytest.raises(torch.linalg.LinAlgError):
            function(-torch.eye(3))


@pytest.mark.parametrize("size", [1, 33, 200])
def test_as_on_a_gpu(size: int) -> None:
    H = definite(size, torch.float64)
    torch.testing.assert_close(_inverse_or_nan(H.clone()), invert(H.clone()), rtol=1e-9, atol=1e-12)
    assert torch.equal(_factor_or_nan(H.clone().mT, upper=True), upper_factor(H.clone()))
    H[-1, -1] = -1
    assert bool(_inverse_or_nan(H.clone()).isnan().all())
    assert bool(_factor_or_nan(H.mT, upper=True).isnan().any())
