"""Entries of headers: the types that are expected, and messages that name the entry."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.models.header import HeaderError, entry, read_header

VALUES = {"text": "mug", "integer": 3, "number": 0.5, "list": [1], "object": {"a": 1}, "boolean": True, "nothing": None}
KINDS = {"text": str, "integer": int, "number": float, "list": list, "object": dict}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", VALUES)
def test_each_type_takes_its_own_values_alone(kind: str, value: str) -> None:
    header = read_header(json.dumps({"key": VALUES[value]}))
    if value == kind or (kind, value) == ("number", "integer"):
        assert entry(header, "key", KINDS[kind]) == VALUES[value]
        return
    with pytest.raises(HeaderError, match=r"^inside\.key: expected .*, found "):
        entry(header, "key", KINDS[kind], "inside")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(HeaderError, match=r"^key: expected a text, found nothing"):
        entry({}, "key", str)


@pytest.mark.parametrize("text", ["", "mug", "[]", "3", "null", "[" * 100_000, '{"a": ' * 100_000, '{"a": 1} 2'])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(HeaderError):
        read_header(text)


def test_a_number_beyond_all_floats_is_refused() -> None:
    with pytest.raises(HeaderError, match="key: expected a number"):
        entry({"key": 10**400}, "key", float)


@given(st.text(max_size=100))
def test_any_text_gives_an_object_or_a_header_error(text: str) -> None:
    with suppress(HeaderError):
        assert isinstance(read_header(text), dict)
