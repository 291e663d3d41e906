"""A window of a mask as a picture, from its bits (docs/packed-format.md). In plain Python: the API has no numpy.

A pixel stands for `scale` rows and as many input channels. It is as bright as the share of its rows that a channel
keeps, the one of its channels that keeps fewest. Their mean would be N/M everywhere; the least tells a channel
that is cut off among thousands. At scale 1 a pixel is a weight: white where it is kept, black where it is not.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eggs_core.packing_config import in_parities, mask_bytes
from eggs_core.pattern import NMPattern
from eggs_core.safetensors_header import Read

# So much of a mask is in memory at a time, if a row of pixels needs no more.
_CHUNK_BYTES = 1 << 20
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_WHITE = 255
# Input channels whose bits are whole bytes of a row, whatever the pattern.
_WHOLE = 64


@dataclass(frozen=True, slots=True)
class Window:
    """What of a mask is drawn: `height` × `width` pixels from the weight in (`row`, `column`)."""

    row: int
    column: int
    height: int
    width: int
    scale: int

    def within(self, shape: tuple[int, int]) -> "Window":
        """The part of it that lies in a mask of this shape, (C_out, C_in); its last pixels may stand for less."""
        rows, columns = shape
        return Window(
            self.row,
            self.column,
            min(self.height, -(-(rows - self.row) // self.scale)),
            min(self.width, -(-(columns - self.column) // self.scale)),
            self.scale,
        )


def draw(read: Read, shape: tuple[int, int], pattern: NMPattern, window: Window) -> bytes:
    """A window that lies in the mask of this shape, (C_out, C_in), as a PNG of 8 bits of grey.

    `read` gives the mask's bytes, row after row.
    """
    last = min(window.column + window.width * window.scale, shape[1])
    bands = _bands(read, shape, pattern, window)
    pixels = [_pixels(band, pattern, window.column, last, window.scale) for band in bands]
    return png(window.width, pixels)


def _bands(read: Read, shape: tuple[int, int], pattern: NMPattern, window: Window) -> Iterator[Sequence[bytes]]:
    """The rows that each row of pixels stands for."""
    bytes_of_row = mask_bytes(shape[1], pattern.m)
    end = min(window.row + window.height * window.scale, shape[0])
    step = max(1, _CHUNK_BYTES // (bytes_of_row * window.scale)) * window.scale
    for first in range(window.row, end, step):
        count = min(step, end - first)
        chunk = read(first * bytes_of_row, count * bytes_of_row)
        rows = [chunk[at : at + bytes_of_row] for at in range(0, len(chunk), bytes_of_row)]
        for at in range(0, count, window.scale):
            yield rows[at : at + window.scale]


def _pixels(rows: Sequence[bytes], pattern: NMPattern, first: int, last: int, scale: int) -> bytes:
    """A row of pixels: these rows from channel `first` to before `last`."""
    begin = first // _WHOLE * _WHOLE
    of_row = slice(mask_bytes(begin, pattern.m), mask_bytes(-(-last // _WHOLE) * _WHOLE, pattern.m))
    kept = _kept([row[of_row] for row in rows], pattern)[first - begin : last - begin]
    shares = kept.translate(bytes(_WHITE * min(count, len(rows)) // len(rows) for count in range(256)))
    if scale == 1:
        return shares
    whole = shares.ljust(-(-len(shares) // scale) * scale, bytes([_WHITE]))
    return bytes(map(min, *(whole[offset::scale] for offset in range(scale))))


def _kept(rows: Sequence[bytes], pattern: NMPattern) -> bytes:
    """For each input channel, from one on that rows of whole bytes begin with, in how many rows it is kept."""
    width, m = len(rows[0]), pattern.m
    stored = [int.from_bytes(row, "little") for row in rows]
    if not in_parities(m):
        return _ones(stored, width)
    groups = 8 * width // (m - 1)
    firsts = ((1 << (m - 1) * groups) - 1) // ((1 << m - 1) - 1)
    # A bit is the parity there and the one before; after the last that is stored it is N's.
    kept = bytearray(groups * m)
    others = _ones([bits ^ (bits << 1 & ~firsts) for bits in stored], width)
    for channel in range(m - 1):
        kept[channel::m] = others[channel : groups * (m - 1) : m - 1]
    last = bytes(_ones(stored, width)[m - 2 : groups * (m - 1) : m - 1])
    kept[m - 1 :: m] = bytes(len(rows) - count for count in last) if pattern.n % 2 else last
    return bytes(kept)


def _ones(rows: Sequence[int], width: int) -> bytes:
    """In how many of these rows of `width` bytes, at most 255, each bit is 1.

    Sums a bit of every byte at a time, for all bytes at once: each byte of a number is a counter.
    """
    mask = int.from_bytes(b"\1" * width)
    sums = [0] * 8
    for row in rows:
        for bit in range(8):
            sums[bit] += row >> bit & mask
    ones = bytearray(8 * width)
    for bit, total in enumerate(sums):
        ones[bit::8] = total.to_bytes(width, "little")
    return bytes(ones)


def png(width: int, rows: Sequence[bytes]) -> bytes:
    """Rows of grey pixels, a byte each, as a PNG (https://www.w3.org/TR/png/)."""
    head = struct.pack(">IIBBBBB", width, len(rows), 8, 0, 0, 0, 0)
    unfiltered = b"".join(b"\0" + row for row in rows)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(unfiltered, 1)), (b"IEND", b""))
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
