import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from eggs_core.errors import InvalidPattern
from eggs_core.pattern import NMPattern


@given(st.integers(-2, 40), st.integers(-2, 40))
def test_only_what_can_be_kept_is_a_pattern(n: int, m: int) -> None:
    if 0 < n <= m <= 32:
        pattern = NMPattern.parse(f"{n}:{m}")
        assert (pattern.n, pattern.m, str(pattern)) == (n, m, f"{n}:{m}")
        assert pattern.density == n / m
    else:
        with pytest.raises(InvalidPattern, match="is not an N:M pattern"):
            NMPattern.parse(f"{n}:{m}")


@pytest.mark.parametrize(
    "text", ["", "2", "2:", ":4", "2/4", "2:4:8", "a:b", "2.0:4", "٢:٤", "0:4", "5:4", "2:33"]
)
def test_anything_else_is_refused_with_advice(text: str) -> None:
    with pytest.raises(InvalidPattern, match=r"such as 2:4|2:4 keeps 2 of 4"):
        NMPattern.parse(text)


def test_as_a_field_it_is_a_string() -> None:
    adapter = TypeAdapter(NMPattern)
    assert adapter.validate_json('"4:8"') == NMPattern(4, 8)
    assert adapter.dump_json(NMPattern(4, 8)) == b'"4:8"'
    assert adapter.json_schema()["type"] == "string"
    with pytest.raises(ValidationError, match="Write it as a string"):
        adapter.validate_json("24")
