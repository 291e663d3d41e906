"""Products with packed weights on a GPU, for few tokens: one pass over the packed bytes.

Shapes as in `eggs_core.packing`; x (tokens, C_in), y (tokens, C_out). A lane takes whole groups: it has their N
values in registers and goes along the M channels, of which each that the mask keeps takes the first of the values
that are left. So few instructions are needed for it that memory is what is waited for: tests/core/test_triton.py
counts them.

With TRITON_INTERPRET=1 in the environment it runs on CPU tensors.
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from eggs_core.pattern import NMPattern

# What `tl.dot` takes at least, so that fewer tokens but one are padded to as many.
TOKENS = 16
# The interpreter takes the bits of bfloat16 for numbers in a product.
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# Enough to keep any GPU's memory busy; where rows are few, each takes a part of the columns.
_PROGRAMS = 512


# Triton's compiler takes no annotations but its own, and knows one way alone to make a tuple longer, which a tuple
# becomes as loops are unrolled.
# ruff: noqa: RUF005
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, assignment, misc, var-annotated"
@triton.jit
def _bits(mask_ptr, group, there, bytes_in_row, M: tl.constexpr, BYTES: tl.constexpr):
    """The mask's bits of groups in a row, 0 for those that are not there."""
    first = group * M
    bits = tl.load(mask_ptr + (first >> 3)).to(tl.int64 if M > 25 else tl.int32)
    for number in tl.static_range(1, BYTES):
        byte = tl.minimum((first >> 3) + number, bytes_in_row - 1)
        bits |= tl.load(mask_ptr + byte).to(bits.dtype) << (8 * number)
    if M % 8 != 0:
        bits = bits >> (first & 7).to(bits.dtype)
    return tl.where(there, bits, 0)


@triton.jit
def _after(left, kept, N: tl.constexpr):
    """The values that are left of a group's once a channel is passed, which took the first if it is kept."""
    following = ()
    for number in tl.static_range(N - 1):
        following = following + (tl.where(kept, left[number + 1], left[number]),)
    return following + (left[N - 1],)


@triton.jit
def _one_token(
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
    BYTES: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    BIASED: tl.constexpr,
) -> None:
    first_row = tl.program_id(0) * ROWS
    groups = columns // M
    bytes_in_row = (columns + 7) // 8
    part = tl.cdiv(tl.cdiv(groups, GROUPS), tl.num_programs(1)) * GROUPS
    start = tl.program_id(1) * part
    sums = ()
    for _ in tl.static_range(ROWS):
        sums = sums + (tl.zeros((GROUPS,), dtype=tl.float32),)
    for first in range(start, tl.minimum(start + part, groups), GROUPS):
        # Rows and groups that are not there read the last, which costs less than not to read.
        there = first + tl.arange(0, GROUPS) < groups
        group = tl.minimum(first + tl.arange(0, GROUPS), groups - 1)
        x = ()
        for channel in tl.static_range(M):
            x = x + (tl.load(x_ptr + group * M + channel, mask=there, other=0.0).to(tl.float32),)
        added = ()
        for number in tl.static_range(ROWS):
            row = tl.minimum(first_row + number, rows - 1).to(tl.int64)
            bits = _bits(mask_ptr + row * bytes_in_row, group, there, bytes_in_row, M, BYTES)
            values = values_ptr + row * (groups * N) + group * N
            left = ()
            for place in tl.static_range(N):
                left = left + (tl.load(values + place).to(tl.float32),)
            total = sums[number]
            for channel in tl.static_range(M):
                kept = (bits & (1 << channel)) != 0
                total += tl.where(kept, left[0], 0.0) * x[channel]
                left = _after(left, kept, N)
            added = added + (total,)
        sums = added
    for number in tl.static_range(ROWS):
        row = first_row + number
        if row < rows:
            y = tl.sum(sums[number], axis=0)
            if BIASED and start == 0:
                y += tl.load(bias_ptr + row).to(tl.float32)
            tl.store(y_ptr + tl.program_id(1) * rows + row, y.to(y_ptr.dtype.element_ty))


@triton.jit
def _some_tokens(
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
    BYTES: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
    BIASED: tl.constexpr,
    TOKENS: tl.constexpr,
    WIDENED: tl.constexpr,
) -> None:
    """Each channel of all groups is a product of its own, so that nothing is put in order for the tensor cores."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.arange(0, TOKENS)
    groups = columns // M
    bytes_in_row = (columns + 7) // 8
    row_read = tl.minimum(row, rows - 1).to(tl.int64)[:, None]
    part = tl.cdiv(tl.cdiv(groups, GROUPS), tl.num_programs(1)) * GROUPS
    start = tl.program_id(1) * part
    sums = tl.zeros((ROWS, TOKENS), dtype=tl.float32)
    for first in range(start, tl.minimum(start + part, groups), GROUPS):
        there = first + tl.arange(0, GROUPS) < groups
        group = tl.minimum(first + tl.arange(0, GROUPS), groups - 1)
        bits = _bits(mask_ptr + row_read * bytes_in_row, group[None, :], there[None, :], bytes_in_row, M, BYTES)
        values = values_ptr + row_read * (groups * N) + (group * N)[None, :]
        left = ()
        for place in tl.static_range(N):
            value = tl.load(values + place)
            left = left + (value.to(tl.float32) if WIDENED else value,)
        for channel in tl.static_range(M):
            kept = (bits & (1 << channel)) != 0
            inputs = x_ptr + token[None, :] * columns + (group * M + channel)[:, None]
            x = tl.load(inputs, mask=there[:, None] & (token < tokens)[None, :], other=0.0)
            w = tl.where(kept, left[0], 0.0)
            sums = tl.dot(w, x.to(tl.float32) if WIDENED else x, sums, input_precision="ieee")
            left = _after(left, kept, N)
    if BIASED and start == 0:
        sums += tl.load(bias_ptr + row, mask=row < rows, other=0.0).to(tl.float32)[:, None]
    outputs = y_ptr + (tl.program_id(1) * tokens + token[None, :]) * rows + row[:, None]
    tl.store(outputs, sums.to(y_ptr.dtype.element_ty), mask=(row < rows)[:, None] & (token < tokens)[None, :])


def linear(x: Tensor, values: Tensor, mask: Tensor, bias: Tensor | None, pattern: NMPattern) -> Tensor:
    """y = x Wᵀ + bias for up to `TOKENS` tokens, with sums in float32. Everything is contiguous, on one device.

    The mask must be one that `eggs_core.packing.check` accepts: nothing is checked here.
    """
    tokens, columns = x.shape
    rows = len(values)
    if not tokens * rows:
        return x.new_empty(tokens, rows)
    kernel, sizes = compiled_for(tokens, pattern, biased=bias is not None)
    programs = triton.cdiv(rows, sizes["ROWS"])
    parts = max(1, min(_PROGRAMS // programs, triton.cdiv(columns // pattern.m, sizes["GROUPS"])))
    y = x.new_empty(parts, tokens, rows, dtype=x.dtype if parts == 1 else torch.float32)
    biases = x if bias is None else bias
    kernel[(programs, parts)](x, values, mask, biases, y, tokens, rows, columns, **sizes)
    return y[0] if parts == 1 else y.sum(dim=0).to(x.dtype)


def compiled_for(tokens: int, pattern: NMPattern, biased: bool) -> tuple[triton.JITFunction, dict[str, int]]:
    """The kernel for so many tokens, and what it is compiled for, with how many warps."""
    n, m = pattern.n, pattern.m
    # The bytes that the bits of a group may lie in.
    spread = 1 if 8 % m == 0 else m // 8 if m % 8 == 0 else (m + 14) // 8
    sizes = {"N": n, "M": m, "BYTES": spread, "BIASED": biased}
    if tokens == 1:
        return _one_token, sizes | {"ROWS": 4, "GROUPS": 256, "num_warps": 8}
    more = {"TOKENS": TOKENS, "WIDENED": _INTERPRETED}
    return _some_tokens, sizes | more | {"ROWS": 64, "GROUPS": 32, "num_warps": 4}
