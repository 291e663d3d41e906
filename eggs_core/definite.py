"""Factors and inverses of positive definite matrices in their own place: of wide inputs they are all that counts.

Shapes: H (n, n) float32 or float64, symmetric and contiguous. LAPACK works on columns, so H goes to it as its
transpose, which it equals; anything else would be copied first.
"""

import torch
from torch import Tensor


def invert(H: Tensor) -> Tensor:
    """The inverse of H, in its place. Raises `torch.linalg.LinAlgError` where H is not positive definite."""
    columns = H.mT
    torch.linalg.cholesky(columns, out=columns)
    torch.cholesky_inverse(columns, out=columns)
    return H


def upper_factor(H: Tensor) -> Tensor:
    """Upper triangular U with UᵀU = H, in the place of H. Raises as `invert` does."""
    columns = H.mT
    torch.linalg.cholesky(columns, upper=True, out=columns)
    return columns
