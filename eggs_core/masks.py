"""Which weights to keep: the best N of every M, and what a mask keeps.

Shapes: S scores (C_out, C_in) float32, at least 0 and finite; masks (C_out, C_in) bool, True where kept.
A *group* is M consecutive input channels; the mask is read as the bipartite graph of EGGS-PTP
(arXiv 2508.09471) in which a kept weight is an edge from its input channel to its output channel.
"""

import torch
from torch import Tensor

from eggs_core import kernels, memory
from eggs_core.pattern import NMPattern

# Scores ranked or added up at a time: few enough to stay in the cache from one pass over them to the next, and
# enough that a pass outweighs its call.
_TILE = 1 << 19
# Integers with a byte for each position of a group, where there are such.
_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def top_n_mask(S: Tensor, pattern: NMPattern) -> Tensor:
    """Keeps the N largest scores of every group of every row; of equal scores, those further left.

    A position is kept if fewer than N of its group beat it. S must be at least 0: only then are the bits of its
    float32 integers of the same order, which compare faster. Raises TypeError where S is not float32.
    """
    if compiled(S):
        return top_n(S, pattern)[0]
    mask = _fresh_mask(S)
    _write_top_n(S.reshape(-1).view(torch.int32), pattern, mask.view(-1))
    return mask


def top_n(S: Tensor, pattern: NMPattern) -> tuple[Tensor, Tensor, Tensor]:
    """`top_n_mask`, the sum of the scores that it does not keep, (), float64, and its `input_degrees`."""
    if compiled(S):
        mask = _fresh_mask(S)
        return mask, *kernels.best_n(S.contiguous(), pattern, mask)
    mask = top_n_mask(S, pattern)
    return mask, kept_score(S, ~mask), input_degrees(mask)


def _fresh_mask(S: Tensor) -> Tensor:
    return memory.in_large_pages(torch.empty(S.shape, dtype=torch.bool, device=S.device))


def compiled(S: Tensor) -> bool:
    """Whether these scores are for the compiled kernels. Raises TypeError where they are not float32."""
    if S.dtype is not torch.float32:  # the kernels would read past the end of smaller scores
        raise TypeError(f"Scores must be float32, not {S.dtype}.")
    return S.device.type == "cpu" and kernels.available()


def _write_top_n(scores: Tensor, pattern: NMPattern, mask: Tensor) -> None:
    """Each distance d within a group takes one comparison of the scores with themselves, shifted by d, so that no
    element is gathered or moved."""
    n, m = pattern.n, pattern.m
    size = min(scores.numel(), _TILE // m * m)
    position = torch.arange(m, dtype=torch.uint8, device=scores.device)
    beaten_by_all_on_the_right = (m - 1 - position).repeat(size // m)
    word = _WORDS.get(m)
    partnered = [(position < m - d).byte().repeat(size // m) for d in range(m if word is None else 0)]
    compared = torch.empty(size, dtype=torch.int32, device=scores.device)
    wins = torch.zeros(size, dtype=torch.uint8, device=scores.device)
    ranks = torch.empty(size, dtype=torch.uint8, device=scores.device)
    for start in range(0, scores.numel(), size):
        tile = scores[start : start + size]
        count = tile.numel()
        rank, win = ranks[:count], wins[:count]
        rank.copy_(beaten_by_all_on_the_right[:count])
        for d in range(1, m):
            # 1 where the position is not beaten by the one d to its right, which then takes over one beating.
            win[:-d].copy_(torch.ge(tile[:-d], tile[d:], out=compared[: count - d]))
            if word is not None:
                within_group = win.view(word).bitwise_and_(256 ** (m - d) - 1)
                rank.view(word).add_(within_group, alpha=256**d - 1)  # one more d bytes on, one less here
            else:
                within_group = win[:-d].bitwise_and_(partnered[d][: count - d])
                rank[d:].add_(within_group)
                rank[:-d].sub_(within_group)
        torch.le(rank, n - 1, out=mask[start : start + size].view(torch.uint8))


def input_degrees(mask: Tensor) -> Tensor:
    """Edges of every input channel: (C_in,) int64."""
    # Bytes add up fast, and up to 255 rows fit one.
    return torch.stack([part.sum(dim=0, dtype=torch.uint8) for part in mask.view(torch.uint8).split(255)]).sum(
        dim=0
    )


def kept_score(S: Tensor, mask: Tensor) -> Tensor:
    """Sum of the scores that a mask keeps, (), float64."""
    if compiled(S):
        return kernels.kept_score(S.contiguous(), mask.contiguous())
    rows = max(1, _TILE // S.shape[1])  # a sum in float64 makes a copy of what it adds
    parts = zip(S.split(rows), mask.split(rows), strict=True)
    return torch.stack([(s * kept).sum(dtype=torch.float64) for s, kept in parts]).sum()


def best_score(S: Tensor, pattern: NMPattern) -> Tensor:
    """Sum of the N largest scores of every group of every row, (), float64: what no N:M mask can exceed."""
    return kept_score(S, top_n_mask(S, pattern))


def nearest(S: Tensor, mask: Tensor, channels: Tensor, pattern: NMPattern, size: int) -> tuple[Tensor, Tensor]:
    """In which `size` rows each of `channels` (k,), int64, is nearest to being kept, those first in which it is:
    how far it is below the least score that the mask of the best N keeps of its group, -1 where it is kept itself,
    (k, size) float32, rising; and these rows, (k, size) int64, of equals those further up.
    """
    if compiled(S):
        return kernels.nearest(S.contiguous(), mask.contiguous(), channels.contiguous(), pattern, size)
    scores, kept = (T.view(len(S), -1, pattern.m)[:, channels // pattern.m] for T in (S, mask))
    threshold = torch.where(kept, scores, torch.inf).amin(dim=2)
    short = (threshold - S[:, channels]).masked_fill_(mask[:, channels], -1)
    rising, row = short.T.sort(dim=1, stable=True)
    return rising[:, :size], row[:, :size]


def largest(values: Tensor, count: int) -> list[Tensor]:
    """The `count` largest along the second dimension of (a, M, b), in falling order, each (a, b)."""
    held: list[Tensor] = []
    for value in values.unbind(dim=1):
        for i, other in enumerate(held):
            held[i], value = torch.maximum(other, value), torch.minimum(other, value)
        if len(held) < count:
            held.append(value)
    return held
