"""What a safetensors file holds, from its header alone: https://github.com/huggingface/safetensors#format.

Needs no torch, and reads no tensor.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eggs_core.errors import BrokenCheckpoint
from eggs_core.model_folder import MAX_HEADER_BYTES

LENGTH_BYTES = 8

# Bytes of an element; of dtypes that are not here nothing is known.
_ITEMSIZES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}

Read = Callable[[int, int], bytes]
"""The bytes of a file from a position, as many as are asked for, or fewer at its end."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as the header names it: `dtype` such as "BF16", and where in the file its bytes are."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


def header_length(first: bytes, name: str, most: int = MAX_HEADER_BYTES) -> int:
    """The bytes of the header after its length, of the file `name` that begins with `first`.

    Raises `BrokenCheckpoint` where that is more than `most`, and would take too much memory to parse.
    """
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    if length > most:
        raise BrokenCheckpoint(
            f"The header of {name} claims {length} bytes, and {most} are the most. Save or "
            "upload it again; a large model in several files."
        )
    return length


def read_header(read: Read, name: str, most: int = MAX_HEADER_BYTES) -> dict[str, StoredTensor]:
    """The tensors of the file `name`, by name.

    Raises `BrokenCheckpoint` for a header that is none, or that has more than `most` bytes.
    """
    length = header_length(read(0, LENGTH_BYTES), name, most)
    try:
        entries = json.loads(read(LENGTH_BYTES, length))
        return {
            tensor: _stored(entry, LENGTH_BYTES + length)
            for tensor, entry in entries.items()
            if tensor != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BrokenCheckpoint(f"{name} is not a readable safetensors file. Save or upload it again.") from error


def _stored(entry: dict[str, Any], data: int) -> StoredTensor:
    begin, end = map(int, entry["data_offsets"])
    stored = StoredTensor(str(entry["dtype"]), tuple(map(int, entry["shape"])), data + begin, end - begin)
    itemsize = _ITEMSIZES.get(stored.dtype)
    if min(stored.shape, default=0) < 0 or (itemsize and math.prod(stored.shape) * itemsize != stored.nbytes):
        raise ValueError("a shape that its bytes do not fill")
    return stored
