"""The product with packed weights on a GPU, for few tokens: one pass over the packed bytes.

Shapes as in `eggs_core.packing`; x (tokens, C_in), y (tokens, C_out). Each program takes some rows and goes along
their groups a few at a time: the bits of the mask say which columns are kept, their running sum where the values
of those lie. Groups of M lie M_PADDED apart, a power of two, as Triton's ranges are.

With TRITON_INTERPRET=1 in the environment it runs on CPU tensors.
"""

import os

import triton
import triton.language as tl
from torch import Tensor

from eggs_core.pattern import NMPattern

# What `tl.dot` takes at least, so that fewer tokens are padded to as many.
TOKENS = 16
# The interpreter takes the bits of bfloat16 for numbers in a product.
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_ROWS = 32
_COLUMNS = 128


# Its compiler takes no annotations but its own.
@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    values_ptr,
    mask_ptr,
    bias_ptr,
    y_ptr,
    tokens,
    rows,
    columns,
    N: tl.constexpr,
    M: tl.constexpr,
    M_PADDED: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    BIASED: tl.constexpr,
    WIDENED: tl.constexpr,
) -> None:
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.arange(0, TOKENS)
    place = tl.arange(0, GROUPS * M_PADDED)
    group, channel = place // M_PADDED, place % M_PADDED
    kept_in_row = columns // M * N
    bytes_in_row = (columns + 7) // 8
    row_start = row.to(tl.int64)[:, None]
    sums = tl.zeros((ROWS, TOKENS), dtype=tl.float32)
    for first in range(0, columns // M, GROUPS):
        column = (first + group) * M + channel
        there = (channel < M) & (column < columns)
        of_rows = there[None, :] & (row < rows)[:, None]
        byte = tl.load(mask_ptr + row_start * bytes_in_row + (column // 8)[None, :], mask=of_rows, other=0)
        bit = (byte.to(tl.int32) >> (column % 8)[None, :]) & 1
        before = tl.cumsum(bit, axis=1) - bit
        values = values_ptr + row_start * kept_in_row + first * N + before
        w = tl.load(values, mask=of_rows & (bit == 1), other=0.0)
        inputs = x_ptr + token[None, :] * columns + column[:, None]
        x = tl.load(inputs, mask=there[:, None] & (token < tokens)[None, :], other=0.0)
        if WIDENED:
            w, x = w.to(tl.float32), x.to(tl.float32)
        sums = tl.dot(w, x, sums, input_precision="ieee")
    if BIASED:
        sums += tl.load(bias_ptr + row, mask=row < rows, other=0.0).to(tl.float32)[:, None]
    outputs = y_ptr + token[None, :] * rows + row[:, None]
    tl.store(outputs, sums.to(y_ptr.dtype.element_ty), mask=(row < rows)[:, None] & (token < tokens)[None, :])


def linear(x: Tensor, values: Tensor, mask: Tensor, bias: Tensor | None, pattern: NMPattern) -> Tensor:
    """y = x Wᵀ + bias for up to `TOKENS` tokens, with sums in float32. Everything is contiguous, on one device.

    The mask must be one that `eggs_core.packing.check` accepts: nothing is checked here.
    """
    tokens, columns = x.shape
    rows = len(values)
    y = x.new_empty(tokens, rows)
    if y.numel():
        _kernel[(triton.cdiv(rows, _ROWS),)](
            x,
            values,
            mask,
            bias if bias is not None else x,
            y,
            tokens,
            rows,
            columns,
            **constants(pattern, bias is not None),
        )
    return y


def constants(pattern: NMPattern, biased: bool) -> dict[str, int]:
    """What the kernel is compiled for."""
    padded = triton.next_power_of_2(pattern.m)
    return {
        "N": pattern.n,
        "M": pattern.m,
        "M_PADDED": padded,
        "GROUPS": _COLUMNS // padded,
        "ROWS": _ROWS,
        "TOKENS": TOKENS,
        "BIASED": biased,
        "WIDENED": _INTERPRETED,
    }
