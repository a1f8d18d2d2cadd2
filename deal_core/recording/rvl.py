"""Decode RVL, the lossless depth format of image_transport's compressedDepth beside PNG.

RVL alternates runs of pixels without a measurement and runs of differences between neighbouring depths. Numbers are
written in groups of three bits, lowest first; a fourth bit says that another group follows; eight groups fill a 32-bit
word, from its highest bits down. A. Wilson, "Fast Lossless Depth Image Compression", ISS 2017.
"""

from __future__ import annotations

import numpy as np

from deal_core.structures import Int64Array, UInt16Array

_LONGEST = 11  # groups of a 32-bit number; more are damage
_MOST_FILLING = 64  # bytes, and numbers, beyond those of the pixels: long runs, and filling of the last word


def decode_rvl(data: bytes | memoryview, pixels: int) -> UInt16Array:
    """Return the (pixels,) uint16 depths of an RVL stream, 0 = no measurement.

    Args:
        data: the stream without width and height; whole 32-bit words, little-endian.
        pixels: number of pixels to decode.

    Raises:
        ValueError: the stream ends early, or its runs do not add up to the number of pixels.
    """
    # A pixel has at most three bytes: six groups of a difference, or one of two short runs and their difference.
    numbers = _numbers(data[: 3 * pixels + _MOST_FILLING], 2 * pixels + _MOST_FILLING)
    lookup, length = memoryview(numbers.data), len(numbers)
    heads: list[int] = []  # places in `numbers` of the lengths of runs; all others are differences
    starts: list[int] = []
    counts: list[int] = []
    at = total = 0
    while total < pixels:
        if at >= length:
            raise ValueError(f"the stream ends after {total} of {pixels} pixels")
        total += lookup[at]
        # The last run of zeros may end the stream: an encoder need not write the empty run of depths behind it.
        depths = lookup[at + 1] if at + 1 < length else 0
        if total + depths > pixels or at + 2 + depths > length + (not depths):
            raise ValueError(f"a run of {depths} depths does not fit after {total} of {pixels} pixels")
        heads.append(at)
        starts.append(total)
        counts.append(depths)
        at += 2 + depths
        total += depths
    is_difference = np.ones(min(at, length), np.bool_)
    places = np.array(heads, np.int64)
    is_difference[places] = False
    is_difference[np.minimum(places + 1, length - 1)] = False
    coded = numbers[: len(is_difference)][is_difference]
    # The running depth wraps as the encoder's 16-bit numbers do.
    depth = np.cumsum((coded >> 1) ^ -(coded & 1), dtype=np.int32).astype(np.uint16)
    # +1 where a run of depths begins, -1 where it ends: the running sum is 1 inside. Empty runs would collide.
    begin, run = np.array(starts, np.int64), np.array(counts, np.int64)
    begin, run = begin[run > 0], run[run > 0]
    edges = np.zeros(pixels + 1, np.int8)
    edges[begin] += 1
    edges[begin + run] -= 1
    image = np.zeros(pixels, np.uint16)
    image[np.cumsum(edges[:-1], dtype=np.int8).astype(np.bool_)] = depth
    return image


def _numbers(data: bytes | memoryview, most: int) -> Int64Array:
    """Return all numbers of a stream; the filling at its end may add zeros. More than `most` are damage."""
    words = np.frombuffer(data, ">u4", len(data) // 4)
    # Bytes from the highest of each word down, then the high and the low half of each byte.
    order = words.byteswap().view(np.uint8)
    groups = np.empty(2 * len(order), np.uint8)
    groups[0::2], groups[1::2] = order >> 4, order & 15
    if np.count_nonzero(groups < 8) > most:
        raise ValueError("the stream has more numbers than pixels")
    ends = np.flatnonzero(groups < 8)
    if not len(ends):
        return np.zeros(0, np.int64)
    starts = np.empty_like(ends)
    starts[0], starts[1:] = 0, ends[:-1] + 1
    groups &= 7
    numbers = groups[starts].astype(np.int64)
    place, longer = 0, np.flatnonzero(ends > starts)
    while len(longer):
        place += 1
        if place == _LONGEST:
            raise ValueError("a number is longer than 32 bits")
        numbers[longer] |= groups[starts[longer] + place].astype(np.int64) << (3 * place)
        longer = longer[ends[longer] > starts[longer] + place]
    return numbers
