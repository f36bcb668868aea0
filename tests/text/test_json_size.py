"""The number of values in a JSON text, counted without parsing it."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.text.json_size import has_more_values

TEXTS = st.text(alphabet='a,[{}]"\\\n中', max_size=8)
VALUES = st.recursive(
    st.none() | st.integers(0, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=40,
)


def number_of_values(value: Any) -> int:
    """An empty list or object counts twice."""
    match value:
        case dict():
            return 1 + sum(map(number_of_values, value.values())) + (not value)
        case list():
            return 1 + sum(map(number_of_values, value)) + (not value)
        case _:
            return 1


@given(VALUES, st.integers(1, 50))
def test_values_are_counted_and_what_is_in_strings_is_not(value: Any, most: int) -> None:
    # Padded, because a text that is too short for so many values is not looked at.
    data = orjson.dumps(value) + b" " * 200
    assert has_more_values(data, most) == (number_of_values(value) > most)


@pytest.mark.parametrize(
    ("data", "more"),
    [
        (b"[" * (5 << 20), True),
        (b"[" + b"1," * 100_000, True),
        (b'["' + b",[{" * 1_000_000 + b'"]', False),
        (b'["' + b'\\",' * 1_000_000 + b'"]', False),
        (b'["' + b"," * 2_000_000, False),
        (b'{"a":"' + b"x" * (3 << 20) + b'"' + b",1" * 100_001, True),
    ],
    ids=["brackets", "not complete", "in a string", "escapes", "a string without an end", "behind a long string"],
)
def test_megabytes_are_counted(data: bytes, more: bool) -> None:
    assert has_more_values(data, 100_000) == more
