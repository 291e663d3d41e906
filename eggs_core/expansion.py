"""How well a mask spreads: figures of the bipartite graph whose edges are the kept weights.

A mask (C_out, C_in), bool, is read as its biadjacency matrix A: input channel j and output channel i are joined
where A_ij = 1. docs/expansion.md says what the figures show and what they do not.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eggs_core.masks import input_degrees

# Sets of input channels that the neighbourhood ratio starts from: those of fewest edges, and as many at random.
_LOWEST = _RANDOM = 8
_LARGEST_SET = 4


@dataclass(frozen=True, slots=True)
class ExpansionFigures:
    """Of one mask. Degrees count a channel's edges."""

    min_input_degree: int
    mean_input_degree: float
    channels_cut_off: int
    second_singular_value: float
    ramanujan_bound: float
    neighbourhood_ratio: float


def expansion_figures(mask: Tensor) -> ExpansionFigures:
    """Every figure of a mask (C_out, C_in), bool, in a few products with a matrix of its size."""
    degree = input_degrees(mask)
    mean = float(degree.double().mean())
    return ExpansionFigures(
        min_input_degree=int(degree.min()),
        mean_input_degree=mean,
        channels_cut_off=int((degree == 0).sum()),
        second_singular_value=second_singular_value(mask),
        ramanujan_bound=ramanujan_bound(mean, mean * mask.shape[1] / mask.shape[0]),
        neighbourhood_ratio=neighbourhood_ratio(mask),
    )


def second_singular_value(mask: Tensor) -> float:
    """Second largest singular value of D_out^(-1/2) · A · D_in^(-1/2), A the 0/1 matrix of `mask`.

    The largest is 1, with the square roots of the degrees as its vectors; the further below 1 the second, the
    better the graph expands. That known pair is taken away and the rest estimated by a randomised
    decomposition with a fixed seed (Halko et al. 2011): never too large, and too small by 3% at most on random
    masks, whose spectra are the flattest.
    """
    A = mask.float()
    out_root, in_root = A.sum(dim=1).sqrt_(), A.sum(dim=0).sqrt_()
    A.div_(out_root.clamp(min=1)[:, None]).div_(in_root.clamp(min=1))
    A.addr_(out_root / out_root.norm(), in_root / in_root.norm(), alpha=-1)
    if min(mask.shape) <= 8:
        return float(torch.linalg.matrix_norm(A, ord=2))
    generator = torch.Generator(A.device).manual_seed(0)
    probe = torch.randn(8, A.shape[1], generator=generator, device=A.device)
    for _ in range(8):
        probe = torch.linalg.qr(((probe @ A.T) @ A).T).Q.T.contiguous()  # as rows: thin products are faster so
    return float(torch.linalg.matrix_norm(probe @ A.T, ord=2))


def ramanujan_bound(input_degree: float, output_degree: float) -> float:
    """(√(d_in - 1) + √(d_out - 1)) / √(d_in · d_out): no more has the second singular value of a Ramanujan graph.

    For graphs in which every input channel has d_in edges and every output channel d_out (Feng and Li, 1996;
    Marcus, Spielman and Srivastava, 2015, prove that such graphs exist). For others, with the mean degrees, it is
    a yardstick and no theorem. 0 without edges.
    """
    if input_degree * output_degree == 0:
        return 0.0
    roots = math.sqrt(max(0.0, input_degree - 1)) + math.sqrt(max(0.0, output_degree - 1))
    return roots / math.sqrt(input_degree * output_degree)


def neighbourhood_ratio(mask: Tensor) -> float:
    """Smallest |N(T)| / min(C_out, edges of T) found over sets T of one to four input channels.

    N(T) are the output channels that keep an edge to some channel of T; a lossless expander has ratios near 1.
    A channel without edges has ratio 0. Sets start from the eight channels of fewest edges and from eight at
    random, with a fixed seed, and grow by the channel that makes the ratio smallest: an upper bound of the
    smallest ratio there is.
    """
    rows, columns = mask.shape
    degree = input_degrees(mask).float()
    A = mask.float()
    shuffled = torch.randperm(columns, generator=torch.Generator().manual_seed(0)).to(mask.device)
    added = torch.cat([degree.argsort(stable=True)[:_LOWEST], shuffled[:_RANDOM]])
    taken = torch.zeros(len(added), columns, dtype=torch.bool, device=mask.device)
    missed = 1 - A[:, added].T  # (set, C_out): 1 for the output channels that T does not reach
    edges = degree[added]
    smallest = _ratio(rows - missed.sum(dim=1), edges, rows).amin()
    for _ in range(1, min(_LARGEST_SET, columns)):
        taken.scatter_(1, added[:, None], True)
        reached = rows - missed.sum(dim=1, keepdim=True) + missed @ A  # (set, C_in), with each channel added
        ratio, added = _ratio(reached, edges[:, None] + degree, rows).masked_fill_(taken, torch.inf).min(dim=1)
        smallest = torch.minimum(smallest, ratio.amin())
        missed.mul_(1 - A[:, added].T)
        edges += degree[added]
    return float(smallest)


def _ratio(reached: Tensor, edges: Tensor, rows: int) -> Tensor:
    return reached / edges.clamp(1, rows)
