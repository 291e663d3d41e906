"""Which weights to keep: N:M masks, plain and under the expander constraint.

Shapes: S scores (C_out, C_in) float32, at least 0 and finite; masks (C_out, C_in) bool, True where kept.
A *group* is M consecutive input channels; the mask is read as the bipartite graph of EGGS-PTP
(arXiv 2508.09471) in which a kept weight is an edge from its input channel to its output channel.
"""

import torch
from torch import Tensor

from eggs_core.errors import MinDegreeImpossible, PatternDoesNotFit
from eggs_core.pattern import NMPattern


def check_fit(shape: tuple[int, int], pattern: NMPattern, min_degree: int, layer: str) -> None:
    """Raises `PatternDoesNotFit` or `MinDegreeImpossible`, naming `layer`, where no such mask exists.

    C_out rows keep N edges in each group of M channels, so every channel can have B exactly when M·B ≤ N·C_out.
    """
    rows, columns = shape
    if columns % pattern.m:
        raise PatternDoesNotFit(
            f"{layer} has {columns} input channels, which {pattern.m} does not divide, so {pattern} does not fit. "
            f'Choose another pattern, or leave the layer dense by adding "{layer}" to ignore.'
        )
    if min_degree * pattern.m > pattern.n * rows:
        raise MinDegreeImpossible(
            f"{layer} keeps {pattern.n} of {pattern.m} weights in each of {rows} rows, so its input channels can "
            f"have at most {pattern.n * rows // pattern.m} edges each, and min_degree {min_degree} cannot be met. "
            f'Lower min_degree, or leave the layer dense by adding "{layer}" to ignore.'
        )


def top_n_mask(S: Tensor, pattern: NMPattern) -> Tensor:
    """Keeps the N largest scores of every group of every row; of equal scores, those further left."""
    rows, columns = S.shape
    groups = S.reshape(rows * columns // pattern.m, pattern.m)
    order = groups.argsort(dim=1, descending=True, stable=True)
    mask = torch.zeros_like(groups, dtype=torch.bool)
    mask.scatter_(1, order[:, : pattern.n], True)
    return mask.reshape(rows, columns)


def eggs_mask(S: Tensor, pattern: NMPattern, min_degree: int, layer: str = "the layer") -> Tensor:
    """The best N of every group of every row, such that every input channel keeps at least B = `min_degree` edges.

    Diagonal selection: each M×M block of S has M wrapped diagonals {(r, (r + k) mod M)}, each a perfect
    matching between M inputs and M outputs. In each group the B blocks with the best diagonals protect one
    each, which gives every channel of the group B edges, and rows are filled up to N by score. Where B exceeds
    the number of blocks, exchanges within a row make up what is missing.

    For B up to C_out // M the kept score is at least max((N-1)/N, 1/M) of the unconstrained optimum: a row
    gives up at most its N-th best weight, and a block's best diagonal holds at least 1/M of its total.

    Raises `PatternDoesNotFit` or `MinDegreeImpossible`, naming `layer`.
    """
    rows, columns = S.shape
    check_fit((rows, columns), pattern, min_degree, layer)
    protected = _protected_diagonals(S, pattern.m, min(min_degree, rows // pattern.m))
    # A protected weight outranks every other of its row, by position and not by an added constant that
    # would round scores away.
    mask = top_n_mask(S.masked_fill(protected, torch.inf), pattern)
    if min_degree > rows // pattern.m:
        _raise_degrees(mask, S, pattern.m, min_degree)
    return mask


def _protected_diagonals(S: Tensor, m: int, count: int) -> Tensor:
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


def _raise_degrees(mask: Tensor, S: Tensor, m: int, min_degree: int) -> None:
    """Exchanges edges within rows, the cheapest first, until every channel has `min_degree` of them; in place.

    While a channel of a group has too few edges, another of the group has too many (there are at least M·B in
    all), so some row keeps the second and not the first, and exchanging the two brings the end one step nearer.
    """
    rows, columns = mask.shape
    kept = mask.view(rows, columns // m, m)
    scores = S.view(rows, columns // m, m)
    for g in (kept.sum(dim=0) < min_degree).any(dim=1).nonzero().flatten().tolist():
        group, score = kept[:, g], scores[:, g]  # (C_out, M) views
        degree = group.sum(dim=0)
        while int(degree.min()) < min_degree:
            poorest = int(degree.argmin())
            loss = score - score[:, poorest : poorest + 1]
            exchangeable = group & ~group[:, poorest : poorest + 1] & (degree > min_degree)
            cheapest = int(loss.masked_fill(~exchangeable, torch.inf).argmin())
            row, richer = divmod(cheapest, m)
            group[row, richer], group[row, poorest] = False, True
            degree[richer] -= 1
            degree[poorest] += 1
