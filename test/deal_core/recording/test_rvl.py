"""RVL against an encoder and a decoder of its own, which work number by number, and against damage."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import pytest
from helpers.rvl import encode
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from deal_core.recording.rvl import decode_rvl


def decode_slowly(data: bytes, pixels: int) -> list[int]:
    """Read one group after the other, as image_transport's decoder does."""

    def groups() -> Iterator[int]:
        for (word,) in struct.iter_unpack("<I", data):
            yield from ((word >> shift) & 15 for shift in range(28, -1, -4))

    stream = groups()

    def number() -> int:
        value = place = 0
        while True:
            group = next(stream)
            value |= (group & 7) << place
            place += 3
            if group < 8:
                return value

    found: list[int] = []
    depth = 0
    while len(found) < pixels:
        found += [0] * number()
        for _ in range(number()):
            coded = number()
            depth = (depth + ((coded >> 1) ^ -(coded & 1))) % 65536
            found.append(depth)
    return found


images = hn.arrays(np.uint16, st.tuples(st.integers(1, 7), st.integers(1, 9)), elements=st.integers(0, 65535))
masks = st.floats(0, 1)


@given(images, masks, st.integers(0, 2**32 - 1))
def test_every_image_comes_back_to_the_bit(depth: np.ndarray, share: float, seed: int) -> None:
    depth = np.where(np.random.default_rng(seed).random(depth.shape) < share, 0, depth).astype(np.uint16)
    data = encode(depth)
    decoded = decode_rvl(data, depth.size)
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded.reshape(depth.shape), depth)
    np.testing.assert_array_equal(decoded, decode_slowly(data, depth.size))


def test_a_large_smooth_image() -> None:
    rows, columns = np.mgrid[:120, :160]
    depth = (800 + 3 * rows + columns).astype(np.uint16)
    depth[30:50, 40:90] = 0
    np.testing.assert_array_equal(decode_rvl(encode(depth), depth.size).reshape(depth.shape), depth)


@given(images, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4), st.integers(0, 400))
def test_damage_is_an_error_or_an_image_of_the_right_size(
    depth: np.ndarray, changes: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(encode(depth))
    for at, value in changes:
        if at < len(data):
            data[at] = value
    try:
        decoded = decode_rvl(bytes(data[:length]), depth.size)
    except ValueError:
        return
    assert decoded.shape == (depth.size,) and decoded.dtype == np.uint16


@pytest.mark.parametrize("data", [b"", b"\xff" * 64, b"\x00" * 64, struct.pack("<I", 0xFFFFFFF7)])
def test_what_is_no_stream_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"stream|run|number|pixels"):
        decode_rvl(data, 100)
