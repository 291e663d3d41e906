"""Products with packed weights on a GPU, for few tokens: one pass over the packed bytes.

Shapes as in `eggs_core.packing`; x (tokens, C_in), y (tokens, C_out). A lane takes a unit at a time: a group, or
as many as have eight channels. It has a group's N values in registers and goes along the M channels, of which each
that the mask keeps takes the first of the values that are left. So few instructions are needed for it that memory
is what is waited for: tests/core/test_triton.py counts them.

With TRITON_INTERPRET=1 in the environment it runs on CPU tensors.
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from eggs_core.packing_config import in_parities, mask_bits
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
def _mask(
    masks,
    unit,
    bytes_in_row,
    M: tl.constexpr,
    JOINED: tl.constexpr,
    BITS: tl.constexpr,
    BYTES: tl.constexpr,
    RAGGED: tl.constexpr,
):
    """What is stored of the mask for units, in rows whose masks begin there."""
    first = unit * (JOINED * BITS)
    last = (first + (JOINED * BITS - 1)) >> 3
    if RAGGED:
        last = tl.minimum(last, bytes_in_row - 1)
    stored = tl.load(masks + (first >> 3)).to(tl.int64 if BYTES > 4 or M > 25 else tl.int32)
    for number in tl.static_range(1, BYTES):
        # Not beyond the last bit's byte. If that is an earlier one, nothing of it is asked for here.
        byte = last if number == BYTES - 1 else tl.minimum((first >> 3) + number, last)
        stored += tl.load(masks + byte).to(stored.dtype) << (8 * number)
    shift = (first & 7).to(stored.dtype)
    # Parities begin at bit 16, so that nothing is taken for numbers of 16 bits, which cost more instructions.
    return stored << (16 - shift) if BITS < M else stored >> shift


@triton.jit
def _kept(
    stored, joined: tl.constexpr, channel: tl.constexpr, N: tl.constexpr, M: tl.constexpr, BITS: tl.constexpr
):
    """Whether a channel is kept of the group of this number in a unit."""
    if BITS == M:
        kept = (stored & (1 << channel)) != 0
    else:
        bit: tl.constexpr = 16 + joined * BITS + channel
        if channel == 0:
            kept = (stored & (1 << bit)) != 0
        elif channel < M - 1:  # the parity is another than the one before
            kept = ((stored ^ (stored << 1)) & (1 << bit)) != 0
        else:
            kept = (stored & (1 << bit - 1)) != 0 if N % 2 == 0 else (stored & (1 << bit - 1)) == 0
    return kept


@triton.jit
def _after(left, kept, N: tl.constexpr):
    """The values that are left of a group's once a channel is passed, which took the first if it is kept."""
    following = ()
    for number in tl.static_range(N - 1):
        following = following + (tl.where(kept, left[number + 1], left[number]),)
    return following + (left[N - 1],)


@triton.jit
def _with_units_of_one_token(
    sums,
    x_ptr,
    values_ptr,
    mask_ptr,
    unit,
    first_row,
    rows,
    groups,
    N: tl.constexpr,
    M: tl.constexpr,
    JOINED: tl.constexpr,
    BITS: tl.constexpr,
    BYTES: tl.constexpr,
    ROWS: tl.constexpr,
    RAGGED: tl.constexpr,
):
    """The sums of rows, with what units add to them. If `RAGGED`, some of their groups are not there."""
    bytes_in_row = (groups * BITS + 7) // 8
    read = tl.minimum(unit, (groups - 1) // JOINED) if RAGGED else unit
    # Rows that are not there read the last, which costs less than not to read.
    stored = ()
    for number in tl.static_range(ROWS):
        row = tl.minimum(first_row + number, rows - 1).to(tl.int64)
        masks = mask_ptr + row * bytes_in_row
        stored = stored + (_mask(masks, read, bytes_in_row, M, JOINED, BITS, BYTES, RAGGED),)
    for joined in tl.static_range(JOINED):
        group = unit * JOINED + joined
        there = group < groups
        if RAGGED:
            group = tl.minimum(group, groups - 1)
        x = ()
        for channel in tl.static_range(M):
            x = x + (tl.load(x_ptr + group * M + channel).to(tl.float32),)
        added = ()
        for number in tl.static_range(ROWS):
            row = tl.minimum(first_row + number, rows - 1).to(tl.int64)
            values = values_ptr + row * (groups * N) + group * N
            left = ()
            for place in tl.static_range(N):
                left = left + (tl.load(values + place).to(tl.float32),)
            total = sums[number]
            for channel in tl.static_range(M):
                kept = _kept(stored[number], joined, channel, N, M, BITS)
                total += tl.where(kept, left[0], 0.0) * x[channel]
                left = _after(left, kept, N)
            added = added + (tl.where(there, total, sums[number]) if RAGGED else total,)
        sums = added
    return sums


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
    JOINED: tl.constexpr,
    BITS: tl.constexpr,
    BYTES: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    BIASED: tl.constexpr,
) -> None:
    first_row = tl.program_id(0) * ROWS
    groups = columns // M
    units = tl.cdiv(groups, JOINED)
    part = tl.cdiv(tl.cdiv(units, UNITS), tl.num_programs(1)) * UNITS
    start = tl.program_id(1) * part
    sums = ()
    for _ in tl.static_range(ROWS):
        sums = sums + (tl.zeros((UNITS,), dtype=tl.float32),)
    whole = tl.minimum(start + part, groups // JOINED // UNITS * UNITS)
    for first in range(start, whole, UNITS):
        sums = _with_units_of_one_token(
            sums,
            x_ptr,
            values_ptr,
            mask_ptr,
            first + tl.arange(0, UNITS),
            first_row,
            rows,
            groups,
            N,
            M,
            JOINED,
            BITS,
            BYTES,
            ROWS,
            False,
        )
    first = tl.maximum(whole, start)
    if first < tl.minimum(start + part, units):
        sums = _with_units_of_one_token(
            sums,
            x_ptr,
            values_ptr,
            mask_ptr,
            first + tl.arange(0, UNITS),
            first_row,
            rows,
            groups,
            N,
            M,
            JOINED,
            BITS,
            BYTES,
            ROWS,
            True,
        )
    for number in tl.static_range(ROWS):
        row = first_row + number
        if row < rows:
            y = tl.sum(sums[number], axis=0)
            if BIASED and start == 0:
                y += tl.load(bias_ptr + row).to(tl.float32)
            tl.store(y_ptr + tl.program_id(1) * rows + row, y.to(y_ptr.dtype.element_ty))


@triton.jit
def _with_units_of_some_tokens(
    sums,
    x_ptr,
    values_ptr,
    mask_ptr,
    unit,
    row,
    tokens,
    columns,
    N: tl.constexpr,
    M: tl.constexpr,
    JOINED: tl.constexpr,
    BITS: tl.constexpr,
    BYTES: tl.constexpr,
    TOKENS: tl.constexpr,
    WIDENED: tl.constexpr,
    RAGGED: tl.constexpr,
):
    """The sums of rows, with what units add to them. If `RAGGED`, some of their groups are not there."""
    groups = columns // M
    bytes_in_row = (groups * BITS + 7) // 8
    token = tl.arange(0, TOKENS)
    read = tl.minimum(unit, (groups - 1) // JOINED) if RAGGED else unit
    stored = _mask(mask_ptr + row * bytes_in_row, read[None, :], bytes_in_row, M, JOINED, BITS, BYTES, RAGGED)
    for joined in tl.static_range(JOINED):
        group = unit * JOINED + joined
        there = group < groups
        if RAGGED:
            group = tl.minimum(group, groups - 1)
        values = values_ptr + row * (groups * N) + (group * N)[None, :]
        left = ()
        for place in tl.static_range(N):
            value = tl.load(values + place)
            left = left + (value.to(tl.float32) if WIDENED else value,)
        for channel in tl.static_range(M):
            kept = _kept(stored, joined, channel, N, M, BITS)
            inputs = x_ptr + token[None, :] * columns + (group * M + channel)[:, None]
            x = tl.load(inputs, mask=(token < tokens)[None, :], other=0.0)
            if RAGGED:
                kept = kept & there[None, :]
                x = tl.where(there[:, None], x, 0.0)
            w = tl.where(kept, left[0], 0.0)
            sums = tl.dot(w, x.to(tl.float32) if WIDENED else x, sums, input_precision="ieee")
            left = _after(left, kept, N)
    return sums


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
    JOINED: tl.constexpr,
    BITS: tl.constexpr,
    BYTES: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    BIASED: tl.constexpr,
    TOKENS: tl.constexpr,
    WIDENED: tl.constexpr,
) -> None:
    """Each channel of all groups is a product of its own, so that nothing is put in order for the tensor cores."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = tl.arange(0, TOKENS)
    groups = columns // M
    units = tl.cdiv(groups, JOINED)
    row_read = tl.minimum(row, rows - 1).to(tl.int64)[:, None]
    part = tl.cdiv(tl.cdiv(units, UNITS), tl.num_programs(1)) * UNITS
    start = tl.program_id(1) * part
    sums = tl.zeros((ROWS, TOKENS), dtype=tl.float32)
    whole = tl.minimum(start + part, groups // JOINED // UNITS * UNITS)
    for first in range(start, whole, UNITS):
        sums = _with_units_of_some_tokens(
            sums,
            x_ptr,
            values_ptr,
            mask_ptr,
            first + tl.arange(0, UNITS),
            row_read,
            tokens,
            columns,
            N,
            M,
            JOINED,
            BITS,
            BYTES,
            TOKENS,
            WIDENED,
            False,
        )
    first = tl.maximum(whole, start)
    if first < tl.minimum(start + part, units):
        sums = _with_units_of_some_tokens(
            sums,
            x_ptr,
            values_ptr,
            mask_ptr,
            first + tl.arange(0, UNITS),
            row_read,
            tokens,
            columns,
            N,
            M,
            JOINED,
            BITS,
            BYTES,
            TOKENS,
            WIDENED,
            True,
        )
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
    parts = max(1, min(_PROGRAMS // programs, triton.cdiv(columns, pattern.m * sizes["JOINED"] * sizes["UNITS"])))
    y = x.new_empty(parts, tokens, rows, dtype=x.dtype if parts == 1 else torch.float32)
    biases = x if bias is None else bias
    kernel[(programs, parts)](x, values, mask, biases, y, tokens, rows, columns, **sizes)
    return y[0] if parts == 1 else y.sum(dim=0).to(x.dtype)


def compiled_for(tokens: int, pattern: NMPattern, biased: bool) -> tuple[triton.JITFunction, dict[str, int]]:
    """The kernel for so many tokens, and what it is compiled for, with how many warps."""
    n, m = pattern.n, pattern.m
    # A lane takes eight channels at a time where groups are shorter, as bytes of the mask hold those of several.
    joined = 8 // m if in_parities(m) else 1
    bits = mask_bits(m, m)
    stored = joined * bits
    # The bytes that so many may lie in.
    spread = 1 if 8 % stored == 0 else stored // 8 if stored % 8 == 0 else (stored + 14) // 8
    sizes = {"N": n, "M": m, "JOINED": joined, "BITS": bits, "BYTES": spread, "BIASED": biased}
    if tokens == 1:
        return _one_token, sizes | {"ROWS": 4, "UNITS": 256, "num_warps": 8}
    more = {"TOKENS": TOKENS, "WIDENED": _INTERPRETED}
    return _some_tokens, sizes | more | {"ROWS": 64, "UNITS": 32, "num_warps": 4}
