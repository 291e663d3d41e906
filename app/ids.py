"""Identifiers such as `job_01jv3k0s9e6x7q2m4n8p5r1t0w`: a type prefix, then text that sorts by creation."""

import re
import secrets
import time
from datetime import datetime

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o or u
TIME_DIGITS = 11  # 55 bits of microseconds, enough for eleven centuries
RANDOM_DIGITS = 15


def id_pattern(prefix: str) -> str:
    """Regular expression of the ids with this prefix."""
    return f"^{prefix}_[{ALPHABET}]{{{TIME_DIGITS + RANDOM_DIGITS}}}$"


def new_id(prefix: str, moment: datetime | None = None) -> str:
    """A new id; one made later sorts later, down to the microsecond: at `moment`, or now by this host's clock."""
    microseconds = time.time_ns() // 1000 if moment is None else _microseconds(moment)
    return _id(prefix, microseconds, secrets.randbits(5 * RANDOM_DIGITS))


def first_id(prefix: str, moment: datetime) -> str:
    """What the ids made before this moment sort before, and later ones after."""
    return _id(prefix, _microseconds(moment), 0)


def is_id(prefix: str, text: str) -> bool:
    """Whether `text` has the form of an id with this prefix."""
    return re.fullmatch(id_pattern(prefix), text) is not None


def _microseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


def _id(prefix: str, microseconds: int, rest: int) -> str:
    number = microseconds << 5 * RANDOM_DIGITS | rest
    digits = [ALPHABET[number >> 5 * place & 31] for place in reversed(range(TIME_DIGITS + RANDOM_DIGITS))]
    return f"{prefix}_{''.join(digits)}"
