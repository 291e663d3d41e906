"""What an answer has of its text, where it ends at a stop."""

from collections.abc import Sequence

import pytest

from eggs_core.answers import Cut


@pytest.mark.parametrize(
    ("parts", "stops", "expected"),
    [
        (["one ", "two"], [], ["one ", "two", ""]),
        (["one E", "N", "D two"], ["END"], ["one ", "", "", ""]),
        (["one E", "N", "one"], ["END"], ["one ", "", "ENone", ""]),
        (["one EN"], ["END"], ["one ", "EN"]),
        (["aab", "ab"], ["aabab"], ["", "", ""]),
        (["aaa", "b"], ["aab"], ["a", "", ""]),
        (["a b c"], ["c", "b"], ["a ", ""]),
    ],
)
def test_cut(parts: Sequence[str], stops: Sequence[str], expected: Sequence[str]) -> None:
    cut = Cut(stops)
    assert [*map(cut.feed, parts), cut.rest()] == expected
