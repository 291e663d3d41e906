"""Products with 2:4 weights on a GPU by torch's semi-structured tensors, for more tokens than a few.

Tensor cores leave out half of the products there. torch has two kinds of such tensors: those of cuSPARSELt, where
it was built with that library, and those of CUTLASS, whose kernels it has for compute capability 8 alone. Each has
a layout of its own for what is kept and where that belongs: with CUTLASS values (C_out, C_in / 2) and metadata
(C_out, C_in / 16) int16, with cuSPARSELt both in one tensor of C_out · C_in · 9 / 16 elements of W's dtype.
"""

import warnings
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS

from eggs_core.pattern import NMPattern

PATTERN = NMPattern(2, 4)
# In float32 torch's pattern is 1:2, and it would leave out weights of a 2:4 matrix without a word.
_DTYPES = (torch.float16, torch.bfloat16)
# Multiples that both kinds take; layers of language models are.
_ROWS, _COLUMNS = 32, 64


class Backend(StrEnum):
    """Whose kernels multiply."""

    CUSPARSELT = "cuSPARSELt"
    CUTLASS = "CUTLASS"


_KINDS = {
    Backend.CUSPARSELT: SparseSemiStructuredTensorCUSPARSELT,
    Backend.CUTLASS: SparseSemiStructuredTensorCUTLASS,
}


def eligible(shape: tuple[int, int], dtype: torch.dtype, pattern: NMPattern, device: torch.device) -> bool:
    """Whether a matrix (C_out, C_in) is one that semi-structured tensors are made for."""
    rows, columns = shape
    return (
        device.type == "cuda"
        and pattern == PATTERN
        and dtype in _DTYPES
        and rows > 0 < columns
        and rows % _ROWS == columns % _COLUMNS == 0
    )


def compress(W: Tensor, backend: Backend) -> tuple[Tensor, Tensor | None]:
    """The values and metadata of W; with cuSPARSELt one tensor for both.

    Raises `RuntimeError` where this torch, or this GPU, does not have the backend.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*prototype stage")
        tensor: Any = _KINDS[backend].from_dense(W)
    return tensor.packed, tensor.meta


def compressed_bytes(shape: tuple[int, int], dtype: torch.dtype) -> int:
    """What `compress` gives takes of memory, for a matrix (C_out, C_in): 0.5625 of the dense one."""
    rows, columns = shape
    return rows * columns * dtype.itemsize * 9 // 16


def backend_of(metadata: Tensor | None) -> Backend:
    """For which one `compress` gave this metadata."""
    return Backend.CUSPARSELT if metadata is None else Backend.CUTLASS


def linear(x: Tensor, values: Tensor, metadata: Tensor | None, bias: Tensor | None, rows: int) -> Tensor:
    """y = x Wᵀ + bias of what `compress` gave: x (tokens, C_in), y (tokens, C_out), C_out being `rows`.

    Sums are in float32. What is pruned is not multiplied: NaN and infinity in x reach only rows that keep their
    channel, where the zeros of a dense matrix make them NaN in all others as well.
    """
    W = _KINDS[backend_of(metadata)](
        torch.Size((rows, x.shape[1])),
        packed=values,
        meta=metadata,
        packed_t=None,
        meta_t=None,
        compressed_swizzled_bitmask=None,
    )
    return nn.functional.linear(x, W, bias).contiguous()
