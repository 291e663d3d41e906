"""Factors and inverses of positive definite matrices in their own place: of wide inputs they are all that counts.

Shapes: H (n, n) float32 or float64, symmetric and contiguous. LAPACK works on columns, so H goes to it as its
transpose, which it equals; anything else would be copied first. On a GPU nothing is raised: the result is NaN.
"""

import torch
from torch import Tensor


def invert(H: Tensor) -> Tensor:
    """The inverse of H, in its place. Raises `torch.linalg.LinAlgError` where H is not positive definite."""
    if H.device.type != "cpu":
        return _inverse_or_nan(H)
    columns = H.mT
    torch.linalg.cholesky(columns, out=columns)
    torch.cholesky_inverse(columns, out=columns)
    return H


def upper_factor(H: Tensor) -> Tensor:
    """Upper triangular U with UᵀU = H, in the place of H. Raises as `invert` does."""
    if H.device.type != "cpu":
        return _factor_or_nan(H.mT, upper=True)
    columns = H.mT
    torch.linalg.cholesky(columns, upper=True, out=columns)
    return columns


def _inverse_or_nan(H: Tensor) -> Tensor:
    root = _factor_or_nan(H.mT, upper=False)
    inverse_root = torch.eye(len(H), dtype=H.dtype, device=H.device)
    torch.linalg.solve_triangular(root, inverse_root, upper=False, out=inverse_root)
    return torch.mm(inverse_root.T, inverse_root, out=H)


def _factor_or_nan(columns: Tensor, upper: bool) -> Tensor:
    """In place; NaN where there is no factor, which to hear of the host would have to wait."""
    failed = torch.empty((), dtype=torch.int32, device=columns.device)
    torch.linalg.cholesky_ex(columns, upper=upper, out=(columns, failed))
    return columns.mul_(torch.where(failed == 0, 1.0, torch.nan))
