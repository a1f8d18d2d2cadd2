"""Entries of the JSON headers of model files, read with a check of their types.

The nodes read headers at the start, so this module does not need PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from deal_core.errors import short
from deal_core.text_formats import FormatError, parse_json

T = TypeVar("T")

_WORDS = {str: "a text", int: "an integer", float: "a number", list: "a list", dict: "an object"}
_LONGEST = 60


class HeaderError(ValueError):
    """A header that is no JSON, lacks an entry, or has an entry of another type; the message names the entry."""


def read_header(text: str) -> dict[str, Any]:
    """Return the JSON object in a text.

    Raises:
        HeaderError: the text is no JSON, or another value than an object.
    """
    try:
        header = parse_json(text)
    except FormatError as error:
        raise HeaderError(str(error)) from None
    if not isinstance(header, dict):
        raise HeaderError(f"expected an object, found {short(header, _LONGEST)}")
    return header


def entry(header: Mapping[str, Any], key: str, kind: type[T], inside: str = "") -> T:
    """Return an entry of a header; an integer passes for a number, and true or false for neither.

    Args:
        header: Object that holds the entry.
        key: Name of the entry.
        kind: Expected type: str, int, float, list or dict.
        inside: Name of the object within the header, for the message.

    Raises:
        HeaderError: the entry is missing or of another type.

    >>> entry({"value": 1}, "value", float)
    1.0
    """
    name = f"{inside}.{key}" if inside else key
    if key not in header:
        raise HeaderError(f"{name}: expected {_WORDS[kind]}, found nothing")
    value = header[key]
    if kind is float and type(value) is int:
        value = _as_float(name, value)
    if type(value) is not kind:
        raise HeaderError(f"{name}: expected {_WORDS[kind]}, found {short(value, _LONGEST)}")
    return value


def _as_float(name: str, value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise HeaderError(f"{name}: expected a number, found {short(value, _LONGEST)}") from None
