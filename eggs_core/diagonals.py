"""The paper's way to a mask under the expander constraint: protected diagonals. Fast, and close to the best.

Shapes as in `eggs_core.masks`, whose `top_n_mask` fills what the diagonals leave.
"""

import torch
from torch import Tensor

from eggs_core.masks import top_n_mask
from eggs_core.matching import matching_mask
from eggs_core.pattern import NMPattern, check_fit


def diagonal_mask(S: Tensor, pattern: NMPattern, min_degree: int, layer: str = "the layer") -> Tensor:
    """The best N of every group of every row, such that every input channel keeps at least B = `min_degree` edges.

    Diagonal selection: each M×M block of S has M wrapped diagonals {(r, (r + k) mod M)}, each a perfect
    matching between M inputs and M outputs. In each group the B blocks with the best diagonals protect one
    each, which gives every channel of the group B edges, and rows are filled up to N by score. A B above
    C_out // M asks for more diagonals than there are blocks, and gets the exact matching.

    The kept score is at least max((N-1)/N, 1/M) of the unconstrained optimum: a row gives up at most its N-th
    best weight, and a block's best diagonal holds at least 1/M of its total.

    Raises `PatternDoesNotFit` or `MinDegreeImpossible`, naming `layer`.
    """
    rows, columns = S.shape
    check_fit((rows, columns), pattern, min_degree, layer)
    if min_degree > rows // pattern.m:
        return matching_mask(S, pattern, min_degree, layer).mask
    # A protected weight outranks every other of its row, by position and not by an added constant that
    # would round scores away.
    return top_n_mask(S.masked_fill(_protected(S, pattern.m, min_degree), torch.inf), pattern)


def _protected(S: Tensor, m: int, count: int) -> Tensor:
    """In each group, the best diagonal of the `count` blocks in which it is largest. Bool, shaped as S."""
    rows, columns = S.shape
    protected = torch.zeros_like(S, dtype=torch.bool)
    if count == 0:
        return protected
    whole = rows // m * m  # the last rows may not make a block
    blocks = S[:whole].reshape(whole // m, m, columns // m, m)  # (row block, r, group, channel)
    r = torch.arange(m, device=S.device)
    totals = torch.stack(
        [blocks[:, r, :, (r + k) % m].sum(dim=0) for k in range(m)]  # advanced indices first: (m, block, group)
    )
    best_total, best_k = totals.max(dim=0)  # (row block, group)
    chosen = best_total.argsort(dim=0, descending=True, stable=True)[:count]  # (count, group)
    group = torch.arange(columns // m, device=S.device).expand_as(chosen)
    k = best_k.gather(0, chosen)
    row = chosen[..., None] * m + r
    column = group[..., None] * m + (r + k[..., None]) % m
    protected[row, column] = True
    return protected
