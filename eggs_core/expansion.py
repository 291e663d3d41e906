"""How well a mask spreads: figures of the bipartite graph whose edges are the kept weights.

A mask (C_out, C_in), bool, is read as its biadjacency matrix A: input channel j and output channel i are joined
where A_ij = 1. docs/expansion.md says what the figures show and what they do not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eggs_core.devices import brought
from eggs_core.masks import input_degrees

# Sets of input channels that the neighbourhood ratio starts from: those of fewest edges, and as many at random.
_LOWEST = _RANDOM = 8
_LARGEST_SET = 4
# After which a direction whose singular value is below the largest by a millionth counts for nothing.
_SQUARINGS = 25


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
    return figures_of(measure(mask).tolist(), (mask.shape[0], mask.shape[1]))


def measure(mask: Tensor) -> Tensor:
    """What the figures of a mask are told from, (`MEASURED`,) float64, where the mask is; see `figures_of`."""
    degree = input_degrees(mask)
    of_degrees = degree.min(), degree.double().mean(), (degree == 0).sum()
    of_graph = second_singular_value(mask), neighbourhood_ratio(mask)
    return torch.stack([figure.double() for figure in (*of_degrees, *of_graph)])


MEASURED = 5


def figures_of(measured: Sequence[float], shape: tuple[int, int]) -> ExpansionFigures:
    """The figures of a mask of this shape, of which so much was measured."""
    least, mean, cut_off, singular_value, ratio = measured
    rows, columns = shape
    return ExpansionFigures(
        min_input_degree=int(least),
        mean_input_degree=mean,
        channels_cut_off=int(cut_off),
        second_singular_value=singular_value,
        ramanujan_bound=ramanujan_bound(mean, mean * columns / rows),
        neighbourhood_ratio=ratio,
    )


def second_singular_value(mask: Tensor) -> Tensor:
    """Second largest singular value of D_out^(-1/2) · A · D_in^(-1/2), A the 0/1 matrix of `mask`; ().

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
        return _spectral_norm(A if mask.shape[0] <= 8 else A.T)
    probe = brought(torch.randn(8, A.shape[1], generator=torch.Generator().manual_seed(0)), A.device)
    for _ in range(8):
        probe = torch.linalg.qr(((probe @ A.T) @ A).T).Q.T.contiguous()  # as rows: thin products are faster so
    return _spectral_norm(probe @ A.T)


def _spectral_norm(rows: Tensor) -> Tensor:
    """Of a matrix with a few rows; (), float64. By powers of its Gram matrix: a decomposition has the host wait
    for a GPU, to hear whether it converged."""
    gram = rows.double() @ rows.double().T
    power = gram
    for _ in range(_SQUARINGS):
        power = power / power.trace().clamp(min=torch.finfo(torch.float64).tiny)
        power = power @ power
    return ((power * gram).sum() / power.trace().clamp(min=torch.finfo(torch.float64).tiny)).sqrt()


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


def neighbourhood_ratio(mask: Tensor) -> Tensor:
    """Smallest |N(T)| / min(C_out, edges of T) found over sets T of one to four input channels; ().

    N(T) are the output channels that keep an edge to some channel of T; a lossless expander has ratios near 1.
    A channel without edges has ratio 0. Sets start from the eight channels of fewest edges and from eight at
    random, with a fixed seed, and grow by the channel that makes the ratio smallest: an upper bound of the
    smallest ratio there is.
    """
    rows, columns = mask.shape
    degree = input_degrees(mask).float()
    A = mask.float()
    shuffled = torch.randperm(columns, generator=torch.Generator().manual_seed(0))
    added = torch.cat([degree.argsort(stable=True)[:_LOWEST], brought(shuffled[:_RANDOM], mask.device)])
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
    return smallest


def _ratio(reached: Tensor, edges: Tensor, rows: int) -> Tensor:
    return reached / edges.clamp(1, rows)
