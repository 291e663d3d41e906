"""The packed form of an N:M matrix: the kept values, and a mask that says where they belong.

Shapes: W (C_out, C_in), any float dtype of 16 or 32 bits; values (C_out, C_in / M * N), of the same dtype, those
of a row from left to right; mask (C_out, `mask_bytes` of C_in) uint8, whose bit b is bit b % 8 of byte b // 8. It
is 1 where input channel b is kept; where M is 2, 4 or 8, each group has M - 1 bits instead, the parities of how
many channels are kept from its first to each but its last. docs/packed-format.md specifies both.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from eggs_core.errors import BrokenPack
from eggs_core.packing_config import in_parities, mask_bits, mask_bytes
from eggs_core.pattern import NMPattern

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_CHECKED_WEIGHTS = 1 << 20
_BIT_PATTERNS = {2: torch.int16, 4: torch.int32}


def packed_shapes(shape: tuple[int, int], pattern: NMPattern) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes of the values and of the mask of a matrix of `shape`."""
    rows, columns = shape
    return (rows, columns // pattern.m * pattern.n), (rows, mask_bytes(columns, pattern.m))


def pack(W: Tensor, pattern: NMPattern) -> tuple[Tensor, Tensor]:
    """The values and the mask of W. `unpack` gives W back bit for bit.

    Kept is whatever is not +0, -0 included, and of groups with fewer than N of those the leftmost zeros besides.
    Raises `BrokenPack` where a group of M has more than N, M does not divide C_in, or the dtype is another.
    """
    rows, columns = W.shape
    if W.dtype not in DTYPES or columns % pattern.m:
        raise BrokenPack(f"A {W.dtype} matrix of {columns} input channels has no packed form at {pattern}.")
    bits = _bits(W)
    taken = bits.view(rows, columns // pattern.m, pattern.m) != 0
    most = int(taken.sum(dim=2).max()) if taken.numel() else 0
    if most > pattern.n:
        raise BrokenPack(f"A group of {pattern.m} input channels has {most} weights, more than {pattern} keeps.")
    order = taken.byte().argsort(dim=2, descending=True, stable=True)[..., : pattern.n]
    kept = torch.zeros_like(taken).scatter_(2, order, True).view(rows, columns)
    values, _ = packed_shapes((rows, columns), pattern)
    return bits[kept].view(values).view(W.dtype), _stored(kept, pattern)


def unpack(values: Tensor, mask: Tensor, pattern: NMPattern) -> Tensor:
    """The dense matrix (C_out, C_in). Raises `BrokenPack` where `check` does."""
    kept = where_kept(values, mask, pattern)
    W = torch.zeros(kept.shape, dtype=values.dtype, device=values.device)
    _bits(W)[kept] = _bits(values).flatten()
    return W


def check(values: Tensor, mask: Tensor, pattern: NMPattern) -> None:
    """Raises `BrokenPack` where `check_form` does, and unless every group of M has exactly N bits."""
    for _ in _kept_rows(values, mask, pattern):
        pass


def where_kept(values: Tensor, mask: Tensor, pattern: NMPattern) -> Tensor:
    """Where weights are kept, (C_out, C_in) bool. Raises `BrokenPack` where `check` does."""
    return torch.cat(list(_kept_rows(values, mask, pattern)))


def _kept_rows(values: Tensor, mask: Tensor, pattern: NMPattern) -> Iterator[Tensor]:
    """As `where_kept`, some rows at a time, as they are found to be right: what is made on the way takes several
    times the memory of the mask."""
    columns = check_form(values, mask, pattern)
    count = mask_bits(columns, pattern.m)
    places = torch.arange(8, dtype=torch.uint8, device=mask.device)
    for rows in mask.split(max(1, _CHECKED_WEIGHTS // max(1, columns))):
        bits = (rows[..., None] >> places & 1).bool().view(len(rows), 8 * mask.shape[1])
        kept, beyond = bits[:, :count], bits[:, count:]
        if in_parities(pattern.m):
            # From before the first channel of a group to its last.
            parities = nn.functional.pad(kept.reshape(len(rows), columns // pattern.m, pattern.m - 1), (1, 1))
            parities[..., -1] = pattern.n % 2
            kept = (parities[..., 1:] ^ parities[..., :-1]).view(len(rows), columns)
        kept_of_groups = kept.reshape(-1, pattern.m).sum(dim=1, dtype=torch.uint8)
        if bool(beyond.any()) or bool((kept_of_groups != pattern.n).any()):
            raise BrokenPack(f"A mask of packed weights does not keep {pattern.n} of every {pattern.m}.")
        yield kept


def check_form(values: Tensor, mask: Tensor, pattern: NMPattern) -> int:
    """C_in, told without the content.

    Raises `BrokenPack` unless shapes and dtypes are those of a packed matrix.
    """
    if values.dtype not in DTYPES or mask.dtype != torch.uint8:
        raise BrokenPack(f"Packed weights are {values.dtype} with a mask of {mask.dtype}, which no version has.")
    shapes = tuple(values.shape), tuple(mask.shape)
    columns = values.shape[1] // pattern.n * pattern.m if values.ndim == 2 else 0
    if values.ndim != 2 or shapes != packed_shapes((values.shape[0], columns), pattern):
        raise BrokenPack(f"Packed weights have the shapes {shapes[0]} and {shapes[1]}, not any of {pattern}.")
    return columns


def _bits(W: Tensor) -> Tensor:
    """W as integers, in place where it is contiguous: moving floats may change the bits of a NaN."""
    return W.contiguous().view(_BIT_PATTERNS[W.element_size()])


def _stored(kept: Tensor, pattern: NMPattern) -> Tensor:
    """The mask of what is kept, (C_out, C_in) bool."""
    rows, columns = kept.shape
    bits = kept
    if in_parities(pattern.m):
        groups = kept.view(rows, columns // pattern.m, pattern.m)[..., :-1]
        bits = (groups.cumsum(dim=2, dtype=torch.uint8) & 1).view(rows, mask_bits(columns, pattern.m))
    padded = torch.zeros(rows, mask_bytes(columns, pattern.m), 8, dtype=torch.uint8, device=kept.device)
    padded.view(rows, 8 * padded.shape[1])[:, : bits.shape[1]] = bits
    return (padded << torch.arange(8, dtype=torch.uint8, device=kept.device)).sum(dim=2, dtype=torch.uint8)
