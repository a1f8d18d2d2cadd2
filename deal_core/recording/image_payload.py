"""Recognise a compressed image by its bytes, whatever its message or name calls it; find its size and its end."""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass
from typing import Literal

from deal_core.limits import over

FileKind = Literal["png", "jpeg", "webp", "tiff", "bmp"]

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
# In the compressed part of a JPEG, 0xff is followed by 0, by a restart marker, or by another 0xff that fills.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_SIZES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
# Markers without a length: restarts, and one for temporary use.
_JPEG_ALONE = {0x01, *range(0xD0, 0xD8)}
_TIFF_TYPES = {1: "B", 3: "H", 4: "I"}
_TIFF_TAGS = (256, 257, 258, 277, 278, 322, 323, 339)


@dataclass(frozen=True)
class ImageFile:
    """What the first bytes of an image file say.

    Attributes:
        kind: file format.
        width, height: size, pixels; 0 if it was not found.
        bits: bits of each number; 0 if unknown.
        channels: numbers of each pixel, after a palette is applied; 0 if unknown.
        is_float: whether the numbers are floating-point.
        part_pixels: pixels of a strip or tile that a decoder unpacks at once; 0 for other formats than TIFF.
    """

    kind: FileKind
    width: int = 0
    height: int = 0
    bits: int = 8
    channels: int = 3
    is_float: bool = False
    part_pixels: int = 0

    @property
    def is_depth(self) -> bool:
        """Whether the image has one channel of more than 8 bits."""
        return self.channels == 1 and self.bits > 8


def identify_image(data: bytes | memoryview) -> ImageFile | None:
    """Return the format of an image file from its first bytes; None if they are no known format.

    Args:
        data: the file, or its beginning; 64 KiB are enough to find the size of nearly every JPEG.
    """
    head = bytes(data[:64])
    if head.startswith(_PNG):
        return _png(head)
    if head.startswith(_JPEG):
        return _jpeg(memoryview(data))
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _webp(head)
    if head[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(memoryview(data), "<" if head[:2] == b"II" else ">")
    if head[:2] == b"BM" and len(head) >= 26:
        return _bmp(head)
    return None


def why_not_decode(data: bytes | memoryview) -> str | None:
    """Return why an image file should not be decoded, None if it may: its size exceeds a limit, or is not to be found.

    A decoder makes room for all pixels that the first bytes promise, before it looks for the first of them.

    Args:
        data: the whole file, of any format that OpenCV reads.
    """
    found = identify_image(data)
    width, height = (found.width, found.height) if found else _size_by_pillow(data)
    if not width or not height:
        return "its size is not to be found"
    pixels = max(width * height, found.part_pixels if found else 0)
    if problem := over("image_pixels", pixels, f"pixels ({width}x{height})"):
        return problem
    if found and found.kind == "jpeg":
        return over("jpeg_scans", bytes(data).count(b"\xff\xda"), "scans")
    return None


def image_end(data: bytes | memoryview) -> int | None:
    """Return the length of the PNG, JPEG, WebP or BMP that the bytes begin with; None if it is truncated.

    What follows, such as the padding of a camera's buffer or the video of a phone's picture, does not belong to it. A
    TIFF may lie anywhere in its file, so all of the bytes belong to it. OpenCV decodes a truncated file and fills the
    missing rows with grey.
    """
    content = bytes(data)
    found = identify_image(content)
    if found is None:
        return None
    if found.kind == "png":
        return _png_end(content)
    if found.kind == "jpeg":
        return _jpeg_end(content)
    if found.kind == "tiff":
        return len(content)
    at, extra = (4, 8) if found.kind == "webp" else (2, 0)
    length = int.from_bytes(content[at : at + 4], "little") + extra
    return length if length <= len(content) else None


def _png(head: bytes) -> ImageFile:
    if len(head) < 26 or head[12:16] != b"IHDR":
        return ImageFile("png", bits=0, channels=0)
    width, height, bits, color = struct.unpack_from(">IIBB", head, 16)
    return ImageFile("png", width, height, bits, _PNG_CHANNELS.get(color, 0))


def _png_end(content: bytes) -> int | None:
    at = len(_PNG)
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        at += 12 + length
        if kind == b"IEND":
            return at if at <= len(content) else None
    return None


def _jpeg(data: memoryview) -> ImageFile:
    """Read the segments as libjpeg does, so that both find the same size."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
        elif marker in _JPEG_ALONE:
            at += 2
        elif marker in _JPEG_SIZES:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            return ImageFile("jpeg", width, height, bits, channels)
        elif marker in (0x00, 0xD8, 0xD9, 0xDA):  # the image begins or ends before its size is told
            break
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return ImageFile("jpeg")


def _webp(head: bytes) -> ImageFile:
    kind, width, height = head[12:16], 0, 0
    if kind == b"VP8X" and len(head) >= 30:
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L" and len(head) >= 25:
        bits = int.from_bytes(head[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and len(head) >= 30:
        width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return ImageFile("webp", width, height, channels=0)


def _bmp(head: bytes) -> ImageFile:
    is_old = int.from_bytes(head[14:18], "little") == 12
    width, height = struct.unpack_from("<HH" if is_old else "<ii", head, 18)
    return ImageFile("bmp", abs(width), abs(height))


def _size_by_pillow(data: bytes | memoryview) -> tuple[int, int]:
    """Return the size of an image in a rare format, which is not decoded; (0, 0) if Pillow does not know it, either."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except Exception:  # each format raises others, and a size that Pillow finds too large is one, too
        return 0, 0


def _jpeg_end(content: bytes) -> int | None:
    """Walk over the segments: a thumbnail inside one of them has an end marker of its own."""
    at = 2
    while at + 4 <= len(content):
        found = _JPEG_MARKER.search(content, at)
        if found is None:
            return None
        marker = content[found.start() + 1]
        if marker == 0xD9:
            return found.end()
        at = found.end() + (int.from_bytes(content[found.end() : found.end() + 2], "big"))
    # The marker of the end may be the last two bytes.
    return len(content) if at == len(content) - 2 and content[at:] == b"\xff\xd9" else None


def _tiff(content: memoryview, order: str) -> ImageFile:
    """Read the first directory of a TIFF: its tags name size, bits, samples and number format."""
    tags: dict[int, int] = {}
    try:
        (at,) = struct.unpack_from(f"{order}I", content, 4)
        (entries,) = struct.unpack_from(f"{order}H", content, at)
        for entry in range(entries):
            tag, kind, count = struct.unpack_from(f"{order}HHI", content, at + 2 + 12 * entry)
            if tag in _TIFF_TAGS and kind in _TIFF_TYPES:
                form = order + _TIFF_TYPES[kind]
                place = at + 10 + 12 * entry
                if count * struct.calcsize(form) > 4:
                    (place,) = struct.unpack_from(f"{order}I", content, place)
                (value,) = struct.unpack_from(form, content, place)
                tags.setdefault(tag, value)  # libtiff takes the first of two
    except struct.error:
        return ImageFile("tiff", bits=0, channels=0)
    width, height, bits = tags.get(256, 0), tags.get(257, 0), tags.get(258, 1)
    strip = min(tags.get(278, height), height) * width
    part = tags.get(322, 0) * tags.get(323, 0) or strip
    return ImageFile("tiff", width, height, bits, tags.get(277, 1), tags.get(339, 1) == 3, part)
