"""How much each weight matters: one score per weight, the larger the more.

Shapes: W (C_out, C_in), norm (C_in,) the L2 norm of each input channel over the calibration tokens,
scores (C_out, C_in). All scores are float32.
"""

import torch
from torch import Tensor

from eggs_core import memory
from eggs_core.spec import Method

RIA_ACTIVATION_POWER = 0.5


def magnitude(W: Tensor) -> Tensor:
    """|W|."""
    return memory.in_large_pages(torch.empty_like(W, dtype=torch.float32)).copy_(W).abs_()


def wanda(W: Tensor, norm: Tensor) -> Tensor:
    """|W| · norm(X) (Sun et al., "A simple and effective pruning approach for LLMs", ICLR 2024)."""
    return magnitude(W).mul_(norm)


def ria(W: Tensor, norm: Tensor | None, power: float = RIA_ACTIVATION_POWER) -> Tensor:
    """(|W| / column sum of |W| + |W| / row sum of |W|) · norm(X)**power, 0 in a column or row of zeros.

    Zhang et al., "Plug-and-play: an efficient post-training pruning method for LLMs", ICLR 2024, with
    power 0.5. Without a norm (no calibration token) the first factor alone.
    """
    A = magnitude(W)
    inverse_columns = _inverse(A.sum(dim=0))
    inverse_rows = _inverse(A.sum(dim=1))
    relative = memory.in_large_pages(torch.empty_like(A))
    torch.add(inverse_columns, inverse_rows.unsqueeze(1), out=relative).mul_(A)
    return relative if norm is None else relative.mul_(norm.pow(power))


def importance(method: Method, W: Tensor, norm: Tensor | None) -> Tensor:
    """The scores `method` ranks weights by; RIA's for SparseGPT, which ranks them by the error they make.

    Where `norm` is None, from the weights alone.

    W: (C_out, C_in), any float dtype; norm: (C_in,) float32 or None; returns (C_out, C_in) float32.
    """
    match method:
        case Method.MAGNITUDE:
            return magnitude(W)
        case Method.WANDA:
            return magnitude(W) if norm is None else wanda(W, norm)
        case Method.RIA | Method.EGGS | Method.SPARSEGPT:
            return ria(W, norm)


def _inverse(sums: Tensor) -> Tensor:
    return torch.where(sums > 0, sums, torch.inf).reciprocal()
