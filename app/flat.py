"""Nested documents as pairs of a path and a value."""

from collections.abc import Iterator, Mapping
from typing import Any


def flat(document: Mapping[str, Any], separator: str = ".", above: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a document that are none themselves, each by the names that lead to it."""
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from flat(value, separator, f"{above}{name}{separator}")
        else:
            yield above + name, value
