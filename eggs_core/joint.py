"""Mask and weights chosen together, against the error they make in the layer's output.

Minimises tr((W'-W) G (W'-W)ᵀ), the squared error of the layer's outputs on the calibration tokens, over all W'
with an N:M mask. G = XᵀX is the Gram matrix of the inputs, shared by all layers that read them, so such layers
are stacked and solved at once. The mask is found by the alternating direction method of multipliers (as in
ALPS, Meng et al., NeurIPS 2024, here with inverses held for a few iterations and in coordinates in which G has
a unit diagonal), the weights by least squares on that mask.

Shapes: W, W' and Y (rows, C_in), rows those of all stacked layers; G (C_in, C_in) float32.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from eggs_core import kernels
from eggs_core.definite import invert
from eggs_core.masks import compiled, top_n_mask
from eggs_core.pattern import NMPattern
from eggs_core.products import dtype_of_products

DAMPENING = 0.01
"""Added to the diagonal of G, as a share of its mean: the pull towards the dense weights."""
# The penalty rises from stage to stage and with it the grip of the mask. Steps of 2.3 would cost 2 to 3% of the
# layer's error; three times as many iterations would save 1%.
PENALTIES = (0.15, 0.21, 0.3, 0.42, 0.58, 0.8)
ITERATIONS_PER_STAGE = 5
FIT_ITERATIONS = 4
_TILE_ELEMENTS = 1 << 20


class OutputError:
    """The squared output error as a function of the weights, in coordinates in which G has a unit diagonal.

    A weight w of input channel c has there the value w · scale[c].
    """

    def __init__(self, G: Tensor, dampening: float = DAMPENING) -> None:
        diagonal = G.diagonal() + dampening * G.diagonal().mean()
        # Channels that are always zero can have no error: any scale will do.
        self.scale = torch.where(diagonal > 0, diagonal, 1).sqrt()
        self.G = torch.empty_like(G)
        for rows in _row_tiles(G):  # by products of two scales, so that it stays symmetric to the bit
            torch.div(G[rows], self.scale[rows, None] * self.scale, out=self.G[rows])
        self.G.diagonal().fill_(1)

    def of(self, W: Tensor, pruned: Tensor) -> Tensor:
        """tr((W'-W) G (W'-W)ᵀ) with the dampened G, float64."""
        total = torch.zeros((), dtype=torch.float64, device=W.device)
        for rows in _row_tiles(W):
            E = (pruned[rows].float() - W[rows].float()) * self.scale
            total += (E @ self.G).mul_(E).sum(dtype=torch.float64)
        return total


def choose(W: Tensor, error: OutputError, pattern: NMPattern) -> Tensor:
    """Y, (rows, C_in) float32: the scores |Y| tell the mask, the N largest of each group, and Y the weights.

    Y is the point that ADMM projects on the N:M matrices, in the coordinates of `error`: W' = project(Y) / scale.
    The projection on N:M matrices with any further constraint keeps the entries with the largest sum of Y².

    With D = project(Y) and the multiplier U = Y - D, one iteration is X = argmin error + penalty/2 ||X - D + U||²
    and Y = X + U. With T = D - U, X is T + (W - T) step, so that Y becomes D + (W - T) step. Products for W
    of 16 bits are of bfloat16, where that is fast: they only move the difference of W and T.
    """
    target = W.float() * error.scale
    Y = target.clone()
    previous = PENALTIES[0]
    dtype = dtype_of_products(W)
    for penalty in PENALTIES:
        step = _step(error.G, penalty).to(dtype)
        for iteration in range(ITERATIONS_PER_STAGE):
            shrink = previous / penalty if iteration == 0 else 1.0
            for rows in _row_tiles(W):
                Y[rows].add_(project(Y[rows], target[rows], pattern, shrink, dtype) @ step)
        previous = penalty
        del step  # before the next one is made
    return Y


def project(Y: Tensor, target: Tensor, pattern: NMPattern, shrink: float, dtype: torch.dtype) -> Tensor:
    """Makes Y, contiguous, its projection D on the N:M matrices, in its place, and returns in `dtype`
    target - (D - shrink · (Y - D)).
    """
    if compiled(Y):
        rest = torch.empty_like(Y, dtype=dtype)
        kernels.project(Y, target, pattern, shrink, rest)
        return rest
    dropped = ~top_n_mask(Y.abs(), pattern)
    rest = target.add(Y, alpha=shrink)
    rest.sub_(Y.masked_fill_(dropped, 0), alpha=1 + shrink)
    return rest.to(dtype)


def fit(W: Tensor, Y: Tensor, mask: Tensor, error: OutputError) -> Tensor:
    """The kept weights that minimise the output error on a fixed mask, (rows, C_in) float32.

    Conjugate gradients from Y on all rows at once, a few iterations; each is one product with G. After the first,
    these are of bfloat16 where that is fast: directions may be rounded, as the error is quadratic in them. A row
    takes no step where its curvature is no more than what rounding G may make of it, as where all tokens are the
    same: G would not be definite there.
    """
    fitted = torch.empty_like(Y)
    dtype = dtype_of_products(W)
    G = error.G.to(dtype)
    # The largest eigenvalue of the rounding errors, were they independent, is 0.58 times this.
    rounding = torch.finfo(dtype).eps * torch.linalg.matrix_norm(error.G) / len(G) ** 0.5
    for rows in _row_tiles(W):
        M = mask[rows]
        V = Y[rows].masked_fill(~M, 0)
        R = ((W[rows].float() * error.scale).sub_(V) @ error.G).masked_fill_(~M, 0)
        P = R.clone()
        square = R.square().sum(dim=1, keepdim=True)
        for _ in range(FIT_ITERATIONS):
            Q = (P.to(dtype) @ G).float().masked_fill_(~M, 0)
            curvature = (P * Q).sum(dim=1, keepdim=True)
            known = curvature > rounding * torch.linalg.vector_norm(P, dim=1, keepdim=True).square_()
            step = torch.where(known, square / curvature, 0)
            V.addcmul_(step, P)
            R.addcmul_(step, Q, value=-1)
            next_square = R.square().sum(dim=1, keepdim=True)
            P.mul_(next_square / square.clamp(min=torch.finfo(torch.float32).tiny)).add_(R)
            square = next_square
        fitted[rows] = V.div_(error.scale)
    return fitted


def _step(G: Tensor, penalty: float) -> Tensor:
    """G (G + penalty I)⁻¹ = I - penalty (G + penalty I)⁻¹, whose eigenvalues lie between 0 and 1."""
    step = G.clone()
    step.diagonal().add_(penalty)
    invert(step).mul_(-penalty)
    step.diagonal().add_(1)
    return step


def _row_tiles(W: Tensor) -> Iterator[slice]:
    """Rows are independent given G; a tile of them bounds the memory that the temporaries take."""
    size = max(1, _TILE_ELEMENTS // W.shape[1])
    for start in range(0, W.shape[0], size):
        yield slice(start, min(start + size, W.shape[0]))
