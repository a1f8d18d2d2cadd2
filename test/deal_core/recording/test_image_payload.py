"""Image files are known by their bytes, and end where they end, whatever follows or is missing."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from deal_core.recording.image_payload import identify_image, image_end

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
DEPTH = np.random.default_rng(1).integers(0, 65536, (40, 60), np.uint16)


def file(kind: str, pixels: np.ndarray = NOISE, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def with_thumbnail() -> bytes:
    """Return a JPEG whose first segment holds another JPEG with an end of its own."""
    whole, thumbnail = file("JPEG"), file("JPEG", NOISE[:8, :8])
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    return whole[:2] + segment + whole[2:]


FILES = {
    "png": file("PNG"),
    "jpeg": file("JPEG", quality=95),
    "progressive": file("JPEG", progressive=True),
    "restarts": cv2.imencode(".jpg", NOISE, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes(),
    "thumbnail": with_thumbnail(),
    "webp": file("WEBP"),
    "bmp": file("BMP"),
}
TRAILERS = {
    "nothing": b"",
    "one byte": b"\0",
    "a page of zeros": bytes(4096),
    "a video": b"....ftypmp42" + bytes(range(256)) * 40,
    "another image": FILES["jpeg"],
}


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("name", FILES)
def test_what_follows_does_not_belong_to_the_file(name: str, trailer: str) -> None:
    assert image_end(FILES[name] + TRAILERS[trailer]) == len(FILES[name])


@pytest.mark.parametrize("fill", [b"", bytes(4096)])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_cut_has_no_end(name: str, fill: bytes) -> None:
    content = FILES[name]
    for length in range(len(content) // 3, len(content) - 2, 97):
        # A BMP and a WebP state their length; the zeros that follow may stand for their rest.
        if fill and name in ("bmp", "webp"):
            continue
        assert image_end(content[:length] + fill) is None, length


@pytest.mark.parametrize(
    ("content", "kind", "bits", "channels", "is_depth"),
    [
        (FILES["png"], "png", 8, 3, False),
        (FILES["jpeg"], "jpeg", 8, 3, False),
        (FILES["thumbnail"], "jpeg", 8, 3, False),
        (cv2.imencode(".png", DEPTH)[1].tobytes(), "png", 16, 1, True),
        (cv2.imencode(".png", np.dstack([DEPTH] * 3))[1].tobytes(), "png", 16, 3, False),
        (cv2.imencode(".tiff", DEPTH)[1].tobytes(), "tiff", 16, 1, True),
        (cv2.imencode(".tiff", DEPTH.astype(np.float32))[1].tobytes(), "tiff", 32, 1, True),
        (cv2.imencode(".tiff", NOISE)[1].tobytes(), "tiff", 8, 3, False),
    ],
)
def test_size_and_numbers_come_from_the_bytes(
    content: bytes, kind: str, bits: int, channels: int, is_depth: bool
) -> None:
    found = identify_image(content)
    assert found is not None
    assert (found.kind, found.bits, found.channels, found.is_depth) == (kind, bits, channels, is_depth)
    assert (found.width, found.height) == (60, 40)


@pytest.mark.parametrize("content", [b"", b"\x89PN", b"rubbish" * 10, b"GIF89a", bytes(100)])
def test_what_is_no_image_is_nothing(content: bytes) -> None:
    assert identify_image(content) is None and image_end(content) is None


def test_no_beginning_of_a_file_raises_an_error() -> None:
    for content in (*FILES.values(), cv2.imencode(".tiff", DEPTH)[1].tobytes()):
        for length in range(0, min(len(content), 400)):
            identify_image(content[:length])
            image_end(content[:length])
