"""Raw image fields to numpy, against a decoder written with `struct`, pixel by pixel."""

import array
import doctest
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.recording import image_encodings
from deal_core.recording.image_encodings import ImageFormatError, decode_image, to_depth_m, to_depth_mm, to_rgb

FORMATS = {
    "rgb8": ("B", 3),
    "bgr8": ("B", 3),
    "rgba8": ("B", 4),
    "bgra8": ("B", 4),
    "mono8": ("B", 1),
    "8UC1": ("B", 1),
    "16UC1": ("H", 1),
    "mono16": ("H", 1),
    "32FC1": ("f", 1),
    "8UC3": ("B", 3),
    "8UC4": ("B", 4),
    "bayer_rggb8": ("B", 1),
    "bayer_gbrg16": ("H", 1),
    "rgb16": ("H", 3),
    "bgra16": ("H", 4),
}


def decode_slowly(height, width, encoding, big, step, data):
    letter, channels = FORMATS[encoding]
    form = f"{'>' if big else '<'}{channels}{letter}"
    size = struct.calcsize(form)
    rows = [[struct.unpack_from(form, data, y * step + x * size) for x in range(width)] for y in range(height)]
    pixels = np.array(rows, {"B": np.uint8, "H": np.uint16, "f": np.float32}[letter])
    return pixels[..., 0] if channels == 1 else pixels


@given(
    encoding=st.sampled_from(sorted(FORMATS)),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    padding=st.integers(0, 7),
    big=st.booleans(),
    seed=st.integers(0, 999),
)
def test_decodes_every_encoding_step_and_byte_order(encoding, height, width, padding, big, seed):
    letter, channels = FORMATS[encoding]
    step = width * channels * struct.calcsize(letter) + padding
    data = np.random.default_rng(seed).integers(0, 256, height * step, np.uint8).tobytes()
    expected = decode_slowly(height, width, encoding, big, step, data)
    for source in (data, array.array("B", data), np.frombuffer(data, np.uint8), bytearray(data)):
        pixels = decode_image(height, width, encoding, big, step, source)
        assert pixels.dtype == expected.dtype and pixels.dtype.isnative
        np.testing.assert_array_equal(pixels, expected)
        assert all(stride % pixels.itemsize == 0 for stride in pixels.strides)


@pytest.mark.parametrize("encoding", ["rgb8", "bgra8", "mono8", "16UC1", "32FC1"])
def test_native_data_is_not_copied(encoding):
    letter, channels = FORMATS[encoding]
    data = array.array("B", bytes(4 * (3 * channels * struct.calcsize(letter) + 4)))
    pixels = decode_image(4, 3, encoding, False, len(data) // 4, data)
    assert np.shares_memory(pixels, np.frombuffer(data, np.uint8)) and pixels.flags.writeable


@pytest.mark.parametrize(
    ("fields", "cause", "said"),
    [
        ((2, 2, "16SC1", 0, 4, bytes(8)), "unknown_encoding", "rgb8.*16UC1.*yuv422_yuy2.*; found '16SC1'"),
        ((2, 3, "yuv422_yuy2", 0, 6, bytes(12)), "odd_size", "3x2"),
        ((3, 2, "nv12", 0, 2, bytes(9)), "odd_size", "2x3"),
        ((2, 2, "nv12", 0, 2, bytes(4)), "length", "expected 6 bytes of data .3 rows"),
        ((0, 2, "rgb8", 0, 6, b""), "zero_size", "2x0"),
        ((2, 0, "rgb8", 0, 0, b""), "zero_size", "0x2"),
        ((2, 2, "rgb8", 0, 5, bytes(10)), "step", "at least 6 bytes"),
        ((2, 2, "rgb8", 0, 6, bytes(11)), "length", "found 11"),
        ((2, 2, "16UC1", 0, 4, bytes(9)), "length", "expected 8 bytes"),
    ],
)
def test_contradictions_name_cause_expected_and_found(fields, cause, said):
    with pytest.raises(ImageFormatError, match=said) as caught:
        decode_image(*fields)
    assert caught.value.cause == cause


def test_every_colour_encoding_becomes_the_same_rgb():
    rgb = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    alpha = np.full((3, 5, 1), 7, np.uint8)
    forms = {
        "rgb8": rgb,
        "bgr8": rgb[..., ::-1],
        "rgba8": np.concatenate([rgb, alpha], 2),
        "bgra8": np.concatenate([rgb[..., ::-1], alpha], 2),
        "8UC3": rgb[..., ::-1],
        "8UC4": np.concatenate([rgb[..., ::-1], alpha], 2),
    }
    for encoding, pixels in forms.items():
        padded = np.pad(pixels.reshape(3, -1), ((0, 0), (0, 3)))
        decoded = decode_image(3, 5, encoding, False, padded.shape[1], padded.tobytes())
        np.testing.assert_array_equal(to_rgb(decoded, encoding), rgb)
    grey = to_rgb(rgb[..., 0], "mono8")
    assert all(np.array_equal(grey[..., c], rgb[..., 0]) for c in range(3))


def test_depth_unit_and_validity_follow_the_encoding():
    millimetres = np.array([[0, 1, 1500, 65535]], np.uint16)
    metres = np.array([[np.nan, 0.001, 1.5, 65.535]], np.float32)
    for pixels, encoding in ((millimetres, "16UC1"), (millimetres, "mono16"), (metres, "32FC1")):
        depth, valid = to_depth_m(pixels, encoding)
        np.testing.assert_allclose(depth, [[0, 0.001, 1.5, 65.535]], rtol=1e-6)
        np.testing.assert_array_equal(valid, [[False, True, True, True]])
        assert depth.dtype == np.float32
        np.testing.assert_array_equal(to_depth_mm(pixels, encoding), millimetres)
    assert to_depth_mm(millimetres, "16UC1") is millimetres


def test_float_depth_without_a_measurement_is_invalid():
    depth, valid = to_depth_m(np.array([[np.nan, np.inf, -np.inf, -1.0, 0.0]], np.float32), "32FC1")
    assert not valid.any() and not depth.any()


def test_colour_is_not_depth_and_depth_is_not_colour():
    with pytest.raises(ImageFormatError, match="expected a depth encoding of 16UC1"):
        to_depth_mm(np.zeros((1, 1, 3), np.uint8), "rgb8")
    with pytest.raises(ImageFormatError, match="expected a colour encoding of rgb8"):
        to_rgb(np.zeros((1, 1), np.uint16), "16UC1")


def test_example_in_the_docstring():
    assert doctest.testmod(image_encodings).failed == 0
