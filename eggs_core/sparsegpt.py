"""SparseGPT (Frantar & Alistarh, "Massive language models can be accurately pruned in one-shot", ICML 2023).

Shapes: W (rows, C_in), the rows of all layers that read one input; G (C_in, C_in) float32, its Gram matrix.
"""

import torch
from torch import Tensor

from eggs_core.definite import invert, upper_factor
from eggs_core.pattern import NMPattern

DAMPENING = 0.01
BLOCK_SIZE = 128


def sparsegpt(W: Tensor, G: Tensor, pattern: NMPattern) -> tuple[Tensor, Tensor]:
    """The pruned weights (rows, C_in) float32 and their mask, bool, by the paper's Algorithm 1 for N:M.

    Columns are taken from left to right. At the first of each group the mask of the group is chosen, the N with
    the largest w² / [H⁻¹]², and each column's error is made good by the columns that are still to come. H is G
    with `DAMPENING` times the mean of its diagonal added to it; columns are worked in blocks of `BLOCK_SIZE`.
    """
    columns = W.shape[1]
    # Columns are rows here, so that each step reads contiguous memory.
    V = W.float().T.clone(memory_format=torch.contiguous_format)
    mask = torch.empty_like(V, dtype=torch.bool)
    U = _inverse_factor(G)
    V.masked_fill_(G.diagonal()[:, None] == 0, 0)
    block_size = max(BLOCK_SIZE // pattern.m, 1) * pattern.m
    for start in range(0, columns, block_size):
        end = min(start + block_size, columns)
        block, factor = V[start:end], U[start:end, start:end]
        errors = torch.empty_like(block)
        for i in range(end - start):
            if i % pattern.m == 0:
                group = slice(i, i + pattern.m)
                scores = (block[group] / factor.diagonal()[group, None]).square_()
                order = scores.argsort(dim=0, descending=True, stable=True)
                keep = torch.zeros_like(scores, dtype=torch.bool).scatter_(0, order[: pattern.n], True)
                mask[start + i : start + i + pattern.m] = keep
            errors[i] = block[i].masked_fill(keep[i % pattern.m], 0) / factor[i, i]
            block[i].masked_fill_(~keep[i % pattern.m], 0)
            block[i + 1 :].addr_(factor[i, i + 1 :], errors[i], alpha=-1)
        V[end:].addmm_(U[start:end, end:].T, errors, alpha=-1)
    return V.T, mask.T


def _inverse_factor(G: Tensor) -> Tensor:
    """Upper triangular U with UᵀU = H⁻¹, H the dampened Gram matrix."""
    H = G.clone()
    dead = H.diagonal() == 0
    H.diagonal().masked_fill_(dead, 1)
    H.diagonal().add_(DAMPENING * H.diagonal().mean())
    return upper_factor(invert(H))
