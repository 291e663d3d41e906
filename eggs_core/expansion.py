"""How well a mask spreads: figures of the bipartite graph whose edges are the kept weights."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ExpansionFigures:
    """Of one mask. Degrees count a channel's edges."""

    min_input_degree: int
    mean_input_degree: float
    channels_cut_off: int
    second_singular_value: float


def expansion_figures(mask: Tensor) -> ExpansionFigures:
    """Degrees and spectral figure of a mask (C_out, C_in), bool."""
    degree = mask.sum(dim=0)
    return ExpansionFigures(
        min_input_degree=int(degree.min()),
        mean_input_degree=float(degree.double().mean()),
        channels_cut_off=int((degree == 0).sum()),
        second_singular_value=second_singular_value(mask),
    )


def second_singular_value(mask: Tensor) -> float:
    """Second largest singular value of D_out^(-1/2) · A · D_in^(-1/2), A the 0/1 matrix of `mask`.

    The largest is 1, with the square roots of the degrees as its vectors; the further below 1 the second, the
    better the graph expands. That known pair is taken away and the rest estimated by a randomised
    decomposition with a fixed seed (Halko et al. 2011), good to a few per cent.
    """
    out_root, in_root = mask.sum(dim=1).float().sqrt(), mask.sum(dim=0).float().sqrt()
    A = mask.float().div_(out_root.clamp(min=1)[:, None]).div_(in_root.clamp(min=1))
    A.addr_(out_root / out_root.norm(), in_root / in_root.norm(), alpha=-1)
    if min(mask.shape) <= 8:
        return float(torch.linalg.matrix_norm(A, ord=2))
    generator = torch.Generator(A.device).manual_seed(0)
    probe = torch.randn(A.shape[1], 4, generator=generator, device=A.device)
    for _ in range(4):
        probe = torch.linalg.qr(A.T @ (A @ probe)).Q
    return float(torch.linalg.matrix_norm(A @ probe, ord=2))
