"""Protocol Buffers as they are stored: the fields of a message by their numbers, without the types of a schema.

An .onnx file is one. The nodes read a few of its fields, for which the package onnx would be a large dependency.
Source of the format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _EIGHT_BYTES, _SIZED, _FOUR_BYTES = 0, 1, 2, 5
_VARINT_BYTES = 10
_LARGEST_NUMBER = 2**29 - 1


class ProtobufError(ValueError):
    """Bytes that are no message: truncated, damaged, or of another format."""


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    r"""Yield the number and value of each field of a message, in their order.

    A value is an integer for numbers, without sign, and a view of the bytes for texts, messages and arrays.

    Raises:
        ProtobufError: the bytes are no message.

    >>> [(number, bytes(value)) for number, value in fields(memoryview(b"\x0a\x03mug"))]
    [(1, b'mug')]
    """
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        if not 1 <= number <= _LARGEST_NUMBER:
            raise ProtobufError(f"field number {number}")
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if kind == _SIZED:
            size, position = _varint(message, position)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if kind == _EIGHT_BYTES else 4
        else:
            raise ProtobufError(f"field {number} is of the unknown kind {kind}")
        if size > end - position:
            raise ProtobufError(f"field {number} has {size} bytes, but {end - position} are left")
        contents = message[position : position + size]
        position += size
        yield number, contents if kind == _SIZED else int.from_bytes(contents, "little")


def field_values(message: memoryview, number: int) -> list[int | memoryview]:
    """Return all values of one field; raise `ProtobufError` as `fields` does."""
    return [value for found, value in fields(message) if found == number]


def messages(message: memoryview, number: int) -> list[memoryview]:
    """Return all values of one field, which are messages; raise `ProtobufError` if the field holds a number."""
    return [_sized(value, number) for value in field_values(message, number)]


def text(message: memoryview, number: int) -> str:
    """Return the text of a field, "" without it; raise `ProtobufError` if the field holds something else."""
    found = field_values(message, number)
    try:
        return str(_sized(found[-1], number), "utf-8") if found else ""
    except UnicodeDecodeError as error:
        raise ProtobufError(f"field {number} is no text ({error})") from None


def integer(message: memoryview, number: int) -> int:
    """Return the number of a field, 0 without it; raise `ProtobufError` if the field holds something else."""
    value = (field_values(message, number) or [0])[-1]
    if not isinstance(value, int):
        raise ProtobufError(f"field {number} is no number")
    return value


def _sized(value: int | memoryview, number: int) -> memoryview:
    if isinstance(value, int):
        raise ProtobufError(f"field {number} is a number")
    return value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return the integer that begins at a position, and the position behind it."""
    value = 0
    for index, byte in enumerate(message[position : position + _VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value & (2**64 - 1), position + index + 1
    raise ProtobufError(f"no end of the integer at byte {position}")
