"""Files of strangers: real ones with a few other bytes."""

import struct

from hypothesis import strategies as st

_NUMBERS = [0, 1, 255, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1]


def altered(content: bytes, told: int) -> st.SearchStrategy[bytes]:
    """The file with other bytes, digits or numbers of eight bytes: half of them in its first `told` bytes."""
    places = st.one_of(st.integers(0, told), st.integers(0, len(content) - 9))
    numbers = st.sampled_from(_NUMBERS).map(lambda number: struct.pack("<Q", number))
    digits = st.text("0123456789[]{},:", min_size=1, max_size=3).map(str.encode)
    change = st.one_of(st.binary(min_size=1, max_size=4), numbers, digits)

    def apply(changes: list[tuple[int, bytes]]) -> bytes:
        result = bytearray(content)
        for place, new in changes:
            result[place : place + len(new)] = new
        return bytes(result)

    return st.lists(st.tuples(places, change), min_size=1, max_size=3).map(apply)
