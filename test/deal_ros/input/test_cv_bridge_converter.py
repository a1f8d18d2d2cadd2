"""Rare encodings through each library that is here, against the formulas of each encoding."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from deal_core.recording.image_encodings import (
    RARE_ENCODINGS,
    ImageFormatError,
    RareConverter,
    RosbagsConverter,
    any_to_rgb,
    decode_image,
)
from deal_ros.input import optional_libraries
from deal_ros.input.cv_bridge_converter import BridgeConverter

FOUND = optional_libraries.cv_bridge()
RANDOM = np.random.default_rng(3)
YUV = RANDOM.integers(16, 236, (4, 6, 3))
YUV[:, 1::2, 1:] = YUV[:, ::2, 1:]  # both pixels of a couple have one colour
RGB16 = RANDOM.integers(0, 65536, (4, 6, 3), np.uint16)
ORDERS = ("rggb", "bggr", "gbrg", "grbg")


NEEDS_BRIDGE = pytest.mark.skipif(not FOUND.is_usable, reason=f"cv_bridge {FOUND.problem}")


@pytest.fixture(params=[RosbagsConverter, pytest.param(BridgeConverter, marks=NEEDS_BRIDGE)])
def way(request: pytest.FixtureRequest) -> RareConverter:
    return request.param()


def convert(
    way: RareConverter, rows: np.ndarray, encoding: str, width: int = 6, height: int = 4, padding: int = 0
) -> np.ndarray:
    """Convert rows of bytes, skipping what the library does not claim to know."""
    if encoding not in way.encodings:
        pytest.skip(f"{type(way).__name__} leaves {encoding} to rosbags-image")
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    pixels = decode_image(height, width, encoding, False, padded.shape[1], padded.tobytes())
    rgb = any_to_rgb(pixels, encoding, [way])
    assert rgb.dtype == np.uint8
    return rgb.astype(int)


def rgb_of_yuv(yuv: np.ndarray) -> np.ndarray:
    """BT.601, limited range, as ITU writes it."""
    y, u, v = ((yuv[..., i] - offset) for i, offset in enumerate((16, 128, 128)))
    rgb = np.stack([1.164 * y + 1.596 * v, 1.164 * y - 0.392 * u - 0.813 * v, 1.164 * y + 2.017 * u], -1)
    return rgb.clip(0, 255).round()


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(
    ("encoding", "order"), [("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv"), ("uyvy", "uyvy"), ("yuv422", "uyvy")]
)
def test_yuv_of_two_pixels_follows_bt_601(way: RareConverter, encoding: str, order: str, padding: int) -> None:
    luminance, chroma = YUV[..., 0], np.where(np.arange(6) % 2, YUV[..., 2], YUV[..., 1])
    pair = (luminance, chroma) if order == "yuyv" else (chroma, luminance)
    rows = np.stack(pair, -1).reshape(4, 12).astype(np.uint8)
    np.testing.assert_allclose(convert(way, rows, encoding, padding=padding), rgb_of_yuv(YUV), atol=2)


@pytest.mark.parametrize(("encoding", "order"), [("nv12", (1, 2)), ("nv21", (2, 1))])
def test_yuv_of_four_pixels_has_its_chroma_below_the_image(
    way: RareConverter, encoding: str, order: tuple[int, int]
) -> None:
    yuv = YUV.copy()
    yuv[1::2, :, 1:] = yuv[::2, :, 1:]
    chroma = yuv[::2, ::2][..., order].reshape(2, 6)
    rows = np.concatenate([yuv[..., 0], chroma]).astype(np.uint8)
    np.testing.assert_allclose(convert(way, rows, encoding, padding=2), rgb_of_yuv(yuv), atol=2)


@pytest.mark.parametrize(("bits", "order"), list(itertools.product((8, 16), ORDERS)))
def test_a_bayer_mosaic_of_one_colour_becomes_this_colour(way: RareConverter, bits: int, order: str) -> None:
    color = {"r": 200, "g": 100, "b": 30}
    tile = np.array([color[letter] for letter in order]).reshape(2, 2)
    mosaic = np.tile(tile, (2, 3)).astype(np.uint8) if bits == 8 else np.tile(tile * 257, (2, 3)).astype("<u2")
    rgb = convert(way, mosaic.view(np.uint8), f"bayer_{order}{bits}", padding=4)
    np.testing.assert_allclose(rgb, np.broadcast_to([200, 100, 30], (4, 6, 3)), atol=1)


@pytest.mark.parametrize("encoding", ["rgb16", "bgr16", "rgba16", "bgra16"])
def test_sixteen_bits_become_eight(way: RareConverter, encoding: str) -> None:
    channels = {"r": RGB16[..., 0], "g": RGB16[..., 1], "b": RGB16[..., 2], "a": np.full((4, 6), 9, np.uint16)}
    pixels = np.stack([channels[letter] for letter in encoding[:-2]], -1).astype("<u2")
    rgb = convert(way, pixels.reshape(4, -1).view(np.uint8), encoding, padding=1)
    np.testing.assert_allclose(rgb, RGB16 / 257, atol=1)


def test_foreign_byte_order_is_turned(way: RareConverter) -> None:
    data = RGB16.astype(">u2").tobytes()
    rgb = any_to_rgb(decode_image(4, 6, "rgb16", True, 36, data), "rgb16", [way])
    np.testing.assert_allclose(rgb.astype(int), RGB16 / 257, atol=1)


def test_what_rosbags_image_refuses_has_a_cause() -> None:
    with pytest.raises(ImageFormatError, match="encoding 'uyvy'") as caught:
        RosbagsConverter().to_rgb(np.zeros((2, 2, 3), np.uint8), "uyvy")
    assert caught.value.cause == "inconvertible"


def test_rosbags_image_has_them_all_and_cv_bridge_no_others() -> None:
    assert set(RosbagsConverter.encodings) == set(RARE_ENCODINGS)
    assert set(BridgeConverter.encodings) == set(RARE_ENCODINGS) - {"nv12", "nv21"}
