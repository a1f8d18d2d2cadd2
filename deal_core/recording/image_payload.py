"""Recognise a compressed image by its bytes, whatever its message or name calls it, and find where it ends."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Literal

FileKind = Literal["png", "jpeg", "webp", "tiff", "bmp"]

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
# In the compressed part of a JPEG, 0xff is followed by 0, by a restart marker, or by another 0xff that fills.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_SIZES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_TIFF_TYPES = {1: "B", 3: "H", 4: "I"}


@dataclass(frozen=True)
class ImageFile:
    """What the first bytes of an image file say.

    Attributes:
        kind: file format.
        width, height: size, pixels; 0 if it was not found.
        bits: bits of each number; 0 if unknown.
        channels: numbers of each pixel, after a palette is applied; 0 if unknown.
        is_float: whether the numbers are floating-point.
    """

    kind: FileKind
    width: int = 0
    height: int = 0
    bits: int = 8
    channels: int = 3
    is_float: bool = False

    @property
    def is_depth(self) -> bool:
        """Whether the image has one channel of more than 8 bits."""
        return self.channels == 1 and self.bits > 8


def identify_image(data: bytes | memoryview) -> ImageFile | None:
    """Return the format of an image file from its first bytes; None if they are no known format.

    Args:
        data: the file, or its beginning; 64 KiB are enough to find the size of nearly every JPEG.
    """
    head = bytes(data[:65536])
    if head.startswith(_PNG):
        return _png(head)
    if head.startswith(_JPEG):
        return _jpeg(head)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ImageFile("webp", channels=0)
    if head[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(bytes(data), "<" if head[:2] == b"II" else ">")
    if head[:2] == b"BM" and len(head) >= 26:
        width, height = struct.unpack_from("<ii", head, 18)
        return ImageFile("bmp", abs(width), abs(height))
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


def _jpeg(head: bytes) -> ImageFile:
    at = 2
    while at + 10 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker in _JPEG_SIZES:
            bits, height, width, channels = struct.unpack_from(">BHHB", head, at + 4)
            return ImageFile("jpeg", width, height, bits, channels)
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return ImageFile("jpeg")


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


def _tiff(content: bytes, order: str) -> ImageFile:
    """Read the first directory of a TIFF: its tags name size, bits, samples and number format."""
    tags: dict[int, int] = {}
    try:
        (at,) = struct.unpack_from(f"{order}I", content, 4)
        (entries,) = struct.unpack_from(f"{order}H", content, at)
        for entry in range(entries):
            tag, kind, count = struct.unpack_from(f"{order}HHI", content, at + 2 + 12 * entry)
            if tag in (256, 257, 258, 277, 339) and kind in _TIFF_TYPES:
                form = order + _TIFF_TYPES[kind]
                place = at + 10 + 12 * entry
                if count * struct.calcsize(form) > 4:
                    (place,) = struct.unpack_from(f"{order}I", content, place)
                (tags[tag],) = struct.unpack_from(form, content, place)
    except struct.error:
        return ImageFile("tiff", bits=0, channels=0)
    width, height, bits = tags.get(256, 0), tags.get(257, 0), tags.get(258, 1)
    return ImageFile("tiff", width, height, bits, tags.get(277, 1), tags.get(339, 1) == 3)
