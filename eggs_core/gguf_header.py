"""What a GGUF file says of itself before its tensors, checked to the byte: its readers trust every count in it.

The form is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, little-endian, versions 2 and 3.
"""

import math
import struct
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from gguf.constants import (
    GGML_QUANT_SIZES,
    GGUF_DEFAULT_ALIGNMENT,
    GGMLQuantizationType,
    GGUFValueType,
)

from eggs_core.errors import BrokenCheckpoint

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# Of keys, values and the table of tensors. The readers take up to forty times as much for it; a vocabulary of
# 260,000 tokens with its merges is 20 MB.
MAX_HEADER_BYTES = 64 << 20
_MAX_DIMENSIONS = 4
_MAX_NAME_BYTES = 1 << 16
_MAX_ALIGNMENT = 1 << 20
_SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}


@dataclass(frozen=True, slots=True)
class Header:
    """Numbers among the metadata, by key; and how many tensors there are, with how many elements together."""

    numbers: dict[str, Any]
    tensors: int
    elements: int


def read_header(file: Path) -> Header:
    """What its readers may then rely on.

    Raises `BrokenCheckpoint` for a file that is not GGUF, or whose counts, lengths, types, shapes or offsets lead
    out of it.
    """
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        if size < len(MAGIC):
            raise _not_gguf(file)
        with mmap(stream.fileno(), 0, access=ACCESS_READ) as data:
            if data[: len(MAGIC)] != MAGIC:
                raise _not_gguf(file)
            try:
                return _Reader(data).header()
            except (_Broken, ValueError, KeyError) as error:  # of types that there are not, and texts not in UTF-8
                why = str(error) if isinstance(error, _Broken) else "it holds what GGUF does not"
                raise BrokenCheckpoint(
                    f"{file.name} is no whole GGUF file: {why}. Download or upload it again."
                ) from error


def _not_gguf(file: Path) -> BrokenCheckpoint:
    return BrokenCheckpoint(f"{file.name} is not a GGUF file. Download or upload it again.")


class _Broken(Exception):
    """Says what is wrong, as part of a sentence."""


class _Reader:
    def __init__(self, data: mmap) -> None:
        self._data = data
        self._size = len(data)
        self._end = min(self._size, MAX_HEADER_BYTES)
        self._at = len(MAGIC)

    def header(self) -> Header:
        (version,) = self._take("I")
        if version not in _VERSIONS:
            raise _Broken(f"its version is {version}, and {_VERSIONS[0]} and {_VERSIONS[1]} are read")
        tensors, keys = self._take("QQ")
        values = self._metadata(keys)
        alignment = values.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment.bit_count() != 1 or alignment > _MAX_ALIGNMENT:
            raise _Broken("its alignment is no power of two")
        table = self._table(tensors)
        room = self._size - -(-self._at // alignment) * alignment
        if any(offset % alignment or offset + length > room for _, offset, length in table):
            raise _Broken("it ends before its tensors do")
        if sum(length for _, _, length in table) > room:
            raise _Broken("its tensors overlap")
        return Header(values, len(table), sum(elements for elements, _, _ in table))

    def _metadata(self, count: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for _ in range(count):
            key = self._name()
            if key in values:
                raise _Broken("it gives a key twice")
            values[key] = self._value(GGUFValueType(*self._take("I")))
        return {key: value for key, value in values.items() if value is not None}

    def _value(self, type: GGUFValueType) -> Any:
        """A number; None for anything else, which is passed over."""
        if type in _SCALARS:
            return self._take(_SCALARS[type])[0]
        if type is GGUFValueType.STRING:
            self._text()
            return None
        element, count = GGUFValueType(*self._take("I")), self._take("Q")[0]
        if element is GGUFValueType.ARRAY:
            raise _Broken("it has arrays of arrays")
        if element is GGUFValueType.STRING:
            for _ in range(count):
                self._text()
        else:
            self._skip(count * struct.calcsize(f"<{_SCALARS[element]}"))
        return None

    def _table(self, count: int) -> list[tuple[int, int, int]]:
        """The elements, offset and length of each tensor."""
        table = []
        names: set[str] = set()
        for _ in range(count):
            name = self._name()
            if name in names:
                raise _Broken("it has two tensors of one name")
            names.add(name)
            (dimensions,) = self._take("I")
            if not 1 <= dimensions <= _MAX_DIMENSIONS:
                raise _Broken(f"a tensor has {dimensions} dimensions")
            shape = self._take(f"{dimensions}Q")
            kind, offset = self._take("IQ")
            block, length = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
            if shape[0] % block:
                raise _Broken("a row of a tensor is no whole number of blocks")
            elements = math.prod(shape)
            table.append((elements, offset, elements // block * length))
        return table

    def _name(self) -> str:
        start = self._at + 8
        self._text()
        if self._at - start > _MAX_NAME_BYTES:
            raise _Broken(f"a name in it has more than {_MAX_NAME_BYTES} bytes")
        return self._data[start : self._at].decode()

    def _text(self) -> None:
        self._skip(self._take("Q")[0])

    def _take(self, form: str) -> tuple[Any, ...]:
        start = self._at
        self._skip(struct.calcsize(f"<{form}"))
        return struct.unpack_from(f"<{form}", self._data, start)

    def _skip(self, length: int) -> None:
        if self._at + length > self._end:
            raise _Broken("it ends within its header" if self._end == self._size else "its header is too large")
        self._at += length
