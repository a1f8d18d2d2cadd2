"""Serialised image messages to RGB and depth, against images made the other way round."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from deal_core.recording.image_encodings import ImageFormatError
from deal_core.recording.image_messages import (
    COMPRESSED,
    IMAGE,
    MessageDecoder,
    content_of,
    header_stamp,
    is_color_encoding,
    is_depth_encoding,
)

STAMP = 12 * 10**9 + 34
RANDOM = np.random.default_rng(5)
RGB = RANDOM.integers(0, 256, (6, 8, 3), np.uint8)
DEPTH = RANDOM.integers(0, 65536, (6, 8), np.uint16)


@pytest.fixture(scope="module")
def decoder() -> MessageDecoder:
    return MessageDecoder()


@pytest.fixture
def bag(new_bag: Callable[[], Any]) -> Any:
    return new_bag()


def only(bag: Any) -> tuple[bytes, str]:
    ((_, kind, _, data),) = bag.messages
    return data, kind


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


@pytest.mark.parametrize(
    ("encoding", "pixels", "expected"),
    [
        ("rgb8", RGB, RGB),
        ("bgr8", RGB[..., ::-1], RGB),
        ("rgba8", np.dstack([RGB, RGB[..., :1]]), RGB),
        ("bgra8", np.dstack([RGB[..., ::-1], RGB[..., :1]]), RGB),
        ("mono8", RGB[..., 0], np.repeat(RGB[..., :1], 3, 2)),
        ("rgb16", RGB.astype(np.uint16) * 257, RGB),
        ("bayer_rggb8", np.full((6, 8), 99, np.uint8), np.full((6, 8, 3), 99)),
    ],
)
def test_colour_encodings(
    bag: Any, decoder: MessageDecoder, encoding: str, pixels: np.ndarray, expected: np.ndarray
) -> None:
    bag.image("/c", STAMP, pixels, encoding)
    color = decoder.color(*only(bag))
    assert (color.stamp_ns, color.frame_id) == (STAMP, "optical") and color.rgb.dtype == np.uint8
    np.testing.assert_array_equal(color.rgb, expected)


@pytest.mark.parametrize("encoding", ["yuv422_yuy2", "yuyv"])
@pytest.mark.parametrize("padding", [0, 6])
def test_rare_encodings_honour_padding(bag: Any, decoder: MessageDecoder, encoding: str, padding: int) -> None:
    rows = np.tile(np.array([90, 128, 90, 128], np.uint8), (6, 4))  # grey in YUYV
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=255)
    bag.image("/c", STAMP, padded, encoding, width=8)
    np.testing.assert_array_equal(np.ptp(decoder.color(*only(bag)).rgb, axis=(0, 1)), [0, 0, 0])


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", ["16UC1", "mono16"])
def test_depth_in_millimetres_of_either_byte_order(bag: Any, decoder: MessageDecoder, encoding: str, big: bool) -> None:
    bag.image("/d", STAMP, DEPTH.astype(">u2" if big else "<u2"), encoding, is_bigendian=int(big))
    np.testing.assert_array_equal(decoder.depth(*only(bag)).depth_mm, DEPTH)


def test_depth_in_metres_becomes_millimetres_and_nan_becomes_zero(bag: Any, decoder: MessageDecoder) -> None:
    metres = np.array([[1.2342, np.nan, np.inf], [-1.0, 0.0, 70.0]], np.float32)
    bag.image("/d", STAMP, metres, "32FC1")
    np.testing.assert_array_equal(decoder.depth(*only(bag)).depth_mm, [[1234, 0, 0], [0, 0, 0]])


def test_padded_rows(bag: Any, decoder: MessageDecoder) -> None:
    padded = np.zeros((6, 8 * 3 + 5), np.uint8)
    padded[:, :24] = RGB.reshape(6, 24)
    bag.image("/c", STAMP, padded, "rgb8", width=8)
    np.testing.assert_array_equal(decoder.color(*only(bag)).rgb, RGB)


@pytest.mark.parametrize("form", ["rgb8; png compressed bgr8", "png", "bgr8; png compressed ", ""])
def test_compressed_colour_png(bag: Any, decoder: MessageDecoder, form: str) -> None:
    bag.compressed("/c", STAMP, form, png(RGB[..., ::-1]))
    np.testing.assert_array_equal(decoder.color(*only(bag)).rgb, RGB)


@pytest.mark.parametrize("form", ["rgb8; jpeg compressed bgr8", "jpeg"])
def test_compressed_colour_jpeg(bag: Any, decoder: MessageDecoder, form: str) -> None:
    smooth = np.dstack(
        [np.tile(np.linspace(0, 200, 64).astype(np.uint8), (48, 1))] * 2 + [np.full((48, 64), 30, np.uint8)]
    )
    bag.compressed("/c", STAMP, form, cv2.imencode(".jpg", smooth[..., ::-1])[1].tobytes())
    difference = decoder.color(*only(bag)).rgb.astype(int) - smooth
    assert np.abs(difference).max() < 12  # channels in the right order


@pytest.mark.parametrize("trailer", [b"", bytes(4096), b"....ftypmp42" + bytes(range(256))])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff", ".bmp"])
def test_colour_files_of_every_kind_are_known_by_their_bytes(
    bag: Any, decoder: MessageDecoder, suffix: str, trailer: bytes
) -> None:
    smooth = np.dstack([np.tile(np.linspace(0, 200, 64).astype(np.uint8), (48, 1))] * 3)
    smooth[..., 0] //= 2
    content = cv2.imencode(suffix, smooth[..., ::-1])[1].tobytes()
    bag.compressed("/c", STAMP, "jpeg", content + trailer)  # whatever it is
    data, kind = only(bag)
    assert content_of(data, kind) == "color"
    assert np.abs(decoder.color(data, kind).rgb.astype(int) - smooth).max() < 16


@pytest.mark.parametrize("encoding", ["rgb8", "16UC1"])
def test_raw_images_in_whole_pages_of_memory(bag: Any, decoder: MessageDecoder, encoding: str) -> None:
    pixels = RGB if encoding == "rgb8" else DEPTH
    buffer = np.zeros(4096, np.uint8)
    buffer[: pixels.nbytes] = pixels.reshape(-1).view(np.uint8)
    bag.image("/c", STAMP, pixels, encoding, data=buffer)
    decoded = decoder.color(*only(bag)).rgb if encoding == "rgb8" else decoder.depth(*only(bag)).depth_mm
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize(
    ("form", "head"),
    [
        ("16UC1; compressedDepth", struct.pack("<iff", 0, 0.0, 0.0)),
        ("16UC1; compressedDepth png", struct.pack("<iff", 1, 0.0, 0.0)),
        ("16UC1; png compressed ", b""),
    ],
)
def test_compressed_depth_of_16_bit_is_exact(bag: Any, decoder: MessageDecoder, form: str, head: bytes) -> None:
    bag.compressed("/d", STAMP, form, head + png(DEPTH))
    np.testing.assert_array_equal(decoder.depth(*only(bag)).depth_mm, DEPTH)


def test_compressed_depth_of_32_bit_follows_its_quantisation(bag: Any, decoder: MessageDecoder) -> None:
    # As image_transport writes it: stored = a / metres + b, finest near the camera.
    quantisation, furthest = 100.0, 10.0
    a = quantisation * (quantisation + 1)
    b = 1 - a / furthest
    metres = np.array([[0.5, 1.0, 2.5], [4.0, 9.0, np.nan]], np.float32)
    stored = np.nan_to_num(a / metres + b, nan=0.0).astype(np.uint16)
    bag.compressed("/d", STAMP, "32FC1; compressedDepth png", struct.pack("<iff", 0, a, b) + png(stored))
    depth = decoder.depth(*only(bag)).depth_mm
    assert depth[1, 2] == 0
    np.testing.assert_allclose(depth.reshape(-1)[:5] / 1000, metres.reshape(-1)[:5], rtol=0.02)


@pytest.mark.parametrize(
    ("form", "payload", "cause"),
    [
        ("16UC1; compressedDepth rvl", bytes(200), "unknown_encoding"),
        ("16UC1; compressedDepth", struct.pack("<iff", 0, 0, 0) + png(RGB), "unknown_encoding"),
        ("16UC1; compressedDepth", struct.pack("<iff", 0, 0, 0) + png(DEPTH)[:-30], "length"),
        ("32FC1; compressedDepth", png(DEPTH), "length"),
        ("jpeg", cv2.imencode(".jpg", RGB)[1].tobytes(), "unknown_encoding"),
        ("16UC1; compressedDepth", b"", "unknown_encoding"),
        ("16UC1; compressedDepth", struct.pack("<iff", 0, 0, 0) + png(DEPTH)[:8] + b"rubbish IEND", "undecodable"),
    ],
)
def test_compressed_depth_that_cannot_be_used(
    bag: Any, decoder: MessageDecoder, form: str, payload: bytes, cause: str
) -> None:
    bag.compressed("/d", STAMP, form, payload)
    with pytest.raises(ImageFormatError) as caught:
        decoder.depth(*only(bag))
    assert caught.value.cause == cause


@pytest.mark.parametrize(
    ("form", "payload", "cause"),
    [
        ("jpeg", b"", "undecodable"),
        ("jpeg", b"rubbish", "undecodable"),
        ("jpeg", cv2.imencode(".jpg", np.tile(RGB, (20, 20, 1)))[1].tobytes()[:-100], "length"),
        ("png", png(RGB)[:-20], "length"),
        ("16UC1; compressedDepth", png(DEPTH), "unknown_encoding"),
    ],
)
def test_compressed_colour_that_cannot_be_used(
    bag: Any, decoder: MessageDecoder, form: str, payload: bytes, cause: str
) -> None:
    bag.compressed("/c", STAMP, form, payload)
    with pytest.raises(ImageFormatError) as caught:
        decoder.color(*only(bag))
    assert caught.value.cause == cause


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"step": 23}, "step"),
        ({"height": 0}, "zero_size"),
        ({"width": 0}, "zero_size"),
        ({"data": np.zeros(10, np.uint8)}, "length"),
    ],
)
def test_raw_images_whose_fields_contradict(
    bag: Any, decoder: MessageDecoder, changed: dict[str, Any], cause: str
) -> None:
    bag.image("/c", STAMP, RGB, "rgb8", **changed)
    with pytest.raises(ImageFormatError) as caught:
        decoder.color(*only(bag))
    assert caught.value.cause == cause


def test_other_encodings_than_the_wanted_kind_are_told(bag: Any, decoder: MessageDecoder) -> None:
    for encoding, decode in (("mystery", decoder.color), ("16UC1", decoder.color), ("rgb8", decoder.depth)):
        bag.messages.clear()
        bag.image("/c", STAMP, DEPTH if encoding == "16UC1" else RGB, encoding)
        with pytest.raises(ImageFormatError, match=encoding) as caught:
            decode(*only(bag))
        assert caught.value.cause == "unknown_encoding"


def test_damaged_bytes_are_an_error_with_a_cause(bag: Any, decoder: MessageDecoder) -> None:
    bag.image("/c", STAMP, RGB, "rgb8")
    data, kind = only(bag)
    for damaged in (b"", data[:3], data[:30], data[:-1], b"\xff" * len(data)):
        for decode in (decoder.color, decoder.depth, decoder.encoding):
            with pytest.raises(ImageFormatError) as caught:
                decode(damaged, kind)
            assert caught.value.cause == "serialization"


@pytest.mark.parametrize("stamp", [0, STAMP, 2**31 * 10**9 - 1])
def test_header_stamp_equals_the_decoded_one(bag: Any, decoder: MessageDecoder, stamp: int) -> None:
    bag.image("/c", stamp, RGB, "rgb8")
    data, kind = only(bag)
    assert header_stamp(data) == decoder.color(data, kind).stamp_ns == stamp
    swapped = b"\x00\x00" + data[2:4] + struct.pack(">iI", *struct.unpack_from("<iI", data, 4)) + data[12:]
    assert header_stamp(swapped) == stamp
    with pytest.raises(ImageFormatError):
        header_stamp(data[:11])


def test_camera_is_read_and_an_uncalibrated_one_is_none(bag: Any, decoder: MessageDecoder) -> None:
    for fx in (500.0, 0.0):
        bag.camera_info("/info", STAMP, fx)
    camera, nothing = (decoder.camera(data) for _, _, _, data in bag.messages)
    assert camera is not None and nothing is None
    assert (camera.width, camera.height, camera.fx, camera.cx, camera.cy) == (8, 6, 500, 4, 3)
    assert camera.distortion == (0.1, 0.2, 0, 0, 0) and camera.frame_id == "optical"


def test_encodings_are_colour_or_depth_or_neither() -> None:
    assert all(is_color_encoding(IMAGE, e) for e in ("rgb8", "bgra8", "mono8", "bayer_rggb8", "yuv422_yuy2"))
    assert not any(is_color_encoding(IMAGE, e) for e in ("16UC1", "32FC1", "mono16", "32SC2", "mystery", ""))
    assert all(is_depth_encoding(IMAGE, e) for e in ("16UC1", "mono16", "32FC1"))
    assert not any(is_depth_encoding(IMAGE, e) for e in ("rgb8", "mono8", "64FC1"))
    assert is_color_encoding(COMPRESSED, "rgb8; jpeg compressed bgr8") and is_color_encoding(COMPRESSED, "png")
    assert is_depth_encoding(COMPRESSED, "16UC1; compressedDepth") and is_depth_encoding(
        COMPRESSED, "16UC1; png compressed "
    )
    # JPEG of depth keeps 8 bits: neither colour nor depth.
    assert not is_color_encoding(COMPRESSED, "16UC1; jpeg compressed ")
    assert not is_depth_encoding(COMPRESSED, "16UC1; jpeg compressed ")
