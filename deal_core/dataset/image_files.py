"""Read and check image files; errors name the file."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from deal_core.errors import DatasetError, short
from deal_core.limits import limit, read_bytes, require_file
from deal_core.recording.image_payload import ImageFile, identify_image, image_end, why_not_decode
from deal_core.structures import UNLABELLED, ClassList, UInt8Array

# On real colour, run-length matching is faster and smaller than zlib's default at level 1, and this filter compresses
# as well as the best of all five in two thirds of the time. Older versions of OpenCV have no such flag.
_PNG_FAST = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
PNG_FLAGS = _PNG_FAST + (
    (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG) if hasattr(cv2, "IMWRITE_PNG_FILTER") else ()
)
# On real depth, this filter takes as long as the one above, and its files are 42 % smaller.
DEPTH_PNG_FLAGS = _PNG_FAST + (
    (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH) if hasattr(cv2, "IMWRITE_PNG_FILTER") else ()
)

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff")
"""Suffixes of image files, in small letters."""
_FORMATS = "PNG, JPEG, WebP, BMP or TIFF"
_ORIENTATION = 0x0112
_LONGEST_PATH, _LONGEST_NAME = 1024, 255
_OTHER_FORMATS = {
    b"GIF8": "GIF",
    b"\0\0\0\x0cjP": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"\0\x05\x16\x07": "AppleDouble data, which macOS writes beside a file",
    b"version https://git-lfs": "a pointer of Git LFS (fetch the file with `git lfs pull`)",
    b"<": "a web page or XML",
}


def read_image(file: Path, what: str, advice: str) -> npt.NDArray[Any]:
    """Return the pixels of an image file in their own bit depth, channels in OpenCV's order.

    Every image of a data set goes through the same steps, also in `read_color` and `read_ids`: the bytes say which
    format it is, whatever its name; PNG, JPEG, WebP, BMP and TIFF are read; bytes behind the end of the image are
    ignored, and an image that ends too early is refused; the image is turned as its orientation tag says, as every
    viewer does. An alpha channel is dropped.

    Args:
        file: image file.
        what: kind of image for the message, as in "depth image".
        advice: advice for the message if the file cannot be read.

    Raises:
        DatasetError: the file is missing, truncated, damaged, or of another format.
    """
    data, _ = _read_whole(file, what, advice)
    return _decoded(file, what, advice, data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)


def read_color(file: Path, what: str, advice: str) -> UInt8Array:
    """Return (H, W, 3) uint8 RGB of an image file, see `read_image`.

    Grey is repeated, a palette is applied, CMYK is converted, 1 bit becomes 0 and 255, and 16 bit are divided by 256.

    Raises:
        DatasetError: `read_image` raises it, or the pixels are floating-point numbers.
    """
    data, found = _read_whole(file, what, advice)
    if found.is_float:
        raise DatasetError(f"the {what} {file} contains floating-point numbers, expected 8 or 16 bit: {advice}")
    if found.kind == "tiff":
        # OpenCV would multiply the colours of a TIFF by its alpha.
        with suppress(Exception), Image.open(io.BytesIO(data)) as image:  # each format raises others
            if image.mode in ("RGBA", "RGBX"):
                return np.asarray(image.convert("RGB"))
    pixels = _decoded(file, what, advice, data, cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def read_ids(file: Path, advice: str) -> UInt8Array:
    """Return the (H, W) uint8 ids of a mask, see `read_image`: the values of a grey image, the indices of a palette.

    The values of a 1-bit image are 0 and 1. Ids that are repeated in three equal channels are read, too.

    Raises:
        DatasetError: `read_image` raises it, or the mask is a JPEG, contains colours, or has more than 8 bit.
    """
    data, found = _read_whole(file, "mask image", advice)
    if found.kind == "jpeg":
        raise DatasetError(f"mask {file} is a JPEG, which changes ids near outlines: save the ids as PNG")
    if found.kind == "png" and found.bits == 8 and found.channels == 1:
        return np.asarray(_decoded(file, "mask image", advice, data, cv2.IMREAD_GRAYSCALE), np.uint8)
    try:
        with Image.open(io.BytesIO(data)) as image:
            # numpy takes the indices of a palette as they are; OpenCV would look up their colours.
            mode, ids = image.mode, np.asarray(ImageOps.exif_transpose(image))
    except Exception as error:  # each format raises others
        raise DatasetError(f"the mask image {file} is damaged ({error}): {advice}") from None
    colors = ids[..., : 1 if mode in ("LA", "PA") else 3] if ids.ndim == 3 else ids[..., None]
    if ids.dtype not in (np.bool_, np.uint8):
        raise DatasetError(f"mask of {file}: expected uint8, or a palette, found {ids.dtype}: save the ids in 8 bit")
    if mode == "CMYK" or (colors != colors[..., :1]).any():
        raise DatasetError(
            f"mask {file} contains {mode} pixels, expected class ids as a palette or grey PNG: if its colour map was "
            "applied before saving, save the ids instead, or unpack the masks again"
        )
    return colors[..., 0].astype(np.uint8)


def orientation_of(file: Path) -> int:
    """Return the orientation tag (1 to 8) of a JPEG, PNG or WebP; 1 without one. TIFF is read in its orientation."""
    # Each format raises other errors, and a pipe would be waited for.
    with suppress(Exception), Image.open(io.BytesIO(read_bytes(file, "message_bytes"))) as image:
        found = image.getexif().get(_ORIENTATION, 1) if image.format != "TIFF" else 1
        return found if found in range(1, 9) else 1
    return 1


def turned(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Return stored pixels (H, W) as a viewer shows them by an orientation tag, 1 to 8."""
    if orientation >= 5:
        pixels = pixels.T
    flip_rows, flip_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


class ImageFinder:
    """Finds images by their path without a suffix; lists each folder once. Hidden files are no images."""

    def __init__(self) -> None:
        self._images: dict[Path, dict[str, list[Path]]] = {}

    def find(self, path: Path, suffix: str) -> Path:
        """Return the image `<path>.*` with any suffix of an image, in small or capital letters.

        Args:
            path: folder and name of the image.
            suffix: suffix of the returned path if there is no such image.

        Raises:
            DatasetError: there are two images of this name.
        """
        if path.parent not in self._images:
            found = self._images[path.parent] = {}
            for file in sorted(path.parent.iterdir()) if path.parent.is_dir() else ():
                if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
                    found.setdefault(file.stem, []).append(file)
        images = self._images[path.parent].get(path.name, [path.with_name(f"{path.name}{suffix}")])
        if len(images) > 1:
            raise DatasetError(f"{path.parent} contains two images of one name: {images[0].name}, {images[1].name}")
        return images[0]


def is_image(file: Path) -> bool:
    """Return whether a file is an image that `read_image` should read, by its first bytes or else its suffix."""
    try:
        require_file(file)
        with file.open("rb") as opened:
            head = opened.read(64)
    except (OSError, ValueError):
        return file.suffix.lower() in SUFFIXES
    return identify_image(head) is not None or file.suffix.lower() in SUFFIXES


def check_image(file: Path, what: str, image: npt.NDArray[Any], dtype: type[np.generic], size: tuple[int, ...]) -> None:
    """Raise `DatasetError` if an image has another type, or another size than the colour image."""
    if image.dtype != dtype or image.shape != size:
        is_turned = image.shape == size[::-1] != size
        raise DatasetError(
            f"{what} of {file}: expected {np.dtype(dtype).name} of the colour image's size {size}, "
            f"found {image.dtype} {image.shape}"
            + (": one of the two is turned, as by the EXIF tag of a photo" if is_turned else "")
        )


def check_ids(file: Path, mask: UInt8Array, classes: ClassList) -> None:
    """Raise `DatasetError` if a mask contains an id that is not a class; the message names it."""
    # A table of 256 entries is fast: ids are checked on every load.
    used = np.bincount(mask.reshape(-1), minlength=256).astype(bool)
    used[: len(classes) + 1] = used[UNLABELLED] = False
    if used.any():
        found = int(np.flatnonzero(used)[0])
        raise DatasetError(
            f"mask {file} contains id {found}, expected 0 to {len(classes)} ({', '.join(classes.names)}) "
            f"or {UNLABELLED}"
        )


def inside(folder: Path, name: Any) -> Path:
    """Return the path of a file in a folder, from an untrusted name.

    Raises:
        DatasetError: the name is not a string, is empty, absolute or longer than file systems allow, or leaves the
            folder.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if not parts or parts[0] == "/" or ".." in parts or "\\" in name or "\0" in name:
        raise DatasetError(f"expected a file inside {folder}, found {short(name)}")
    if len(name) > _LONGEST_PATH or any(len(os.fsencode(part)) > _LONGEST_NAME for part in parts):
        raise DatasetError(f"expected a file inside {folder}, found a name of {len(name)} characters: {short(name)}")
    return folder.joinpath(*parts)


def refuse_outside(root: Path, *files: Path) -> None:
    """Raise `DatasetError` if a file or folder of a dataset is a link, or lies behind one, that leaves the dataset.

    Args:
        root: folder of the dataset, which may be a link itself.
        files: files or folders in it; they need not exist.
    """
    if limit("outside_links"):
        return
    top = root.resolve()
    for file in files:
        try:
            is_inside = file.resolve().is_relative_to(top)
        except (OSError, RuntimeError) as error:  # a circle of links
            raise DatasetError(f"{file} cannot be read ({error})") from None
        if not is_inside:
            raise DatasetError(
                f"{file} is, or lies behind, a link to a place outside {root}: put the file itself there, or follow "
                "such links with `deal --limit outside_links=1 …`"
            )


def require_files(files: Sequence[Path], root: Path, what: str, advice: str) -> None:
    """Raise an error if a dataset lacks files.

    Args:
        files: expected files below `root`.
        root: folder of the dataset.
        what: kind of files for the message, as in "depth images".
        advice: advice for the message.

    Raises:
        DatasetError: files are missing; the message counts them and names the first.
    """
    # Listing each folder once is faster than a test for each of 80,000 files.
    folders = {file.parent for file in files}
    present = {folder: {file.name for file in folder.iterdir()} if folder.is_dir() else set() for folder in folders}
    missing = [str(file.relative_to(root)) for file in files if file.name not in present[file.parent]]
    if missing:
        raise DatasetError(f"{root} lacks {len(missing)} of {len(files)} {what}: {first_few(missing)}; {advice}")


def first_few(names: Sequence[str]) -> str:
    """Return at most three of the names for a message, with an ellipsis if there are more."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


class GroundTruth:
    """Drawn masks in a folder, `<stamp_ns>.png` (or another image) with uint8 class ids; unusable masks are left out.

    Args:
        folder: folder of the masks; may be missing.
        classes: classes of the ids.

    Attributes:
        used: number of masks returned so far.
        problems: a sentence for each mask that was left out.
    """

    def __init__(self, folder: Path, classes: ClassList) -> None:
        self._folder = folder
        self._classes = classes
        self._finder = ImageFinder()
        self.used = 0
        self.problems: list[str] = []

    def read(self, stamp_ns: int, size: tuple[int, ...]) -> UInt8Array | None:
        """Return the (H, W) mask of a frame of this size, or None."""
        file = self._folder / str(stamp_ns)
        try:
            file = self._finder.find(file, ".png")
            if not file.is_file():
                return None
            mask = read_ids(file, "draw it again")
            check_image(file, "mask", mask, np.uint8, size)
            check_ids(file, mask, self._classes)
        except DatasetError as error:
            self.problems.append(f"mask {file.name} is left out: {error}")
            return None
        self.used += 1
        return mask

    def notes(self) -> list[str]:
        """Return remarks for a person; call it after the last frame."""
        images = [f for f in self._folder.glob("*.*") if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")]
        rest = len(images) - self.used - len(self.problems)
        return [f"{rest} drawn masks have no frame"] if rest > 0 else []


def _read_whole(file: Path, what: str, advice: str) -> tuple[bytes, ImageFile]:
    """Return the bytes of an image file and its format; raise `DatasetError` if it is no image or truncated."""
    try:
        data = read_bytes(file, "message_bytes")
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise DatasetError(f"the {what} {file} cannot be read ({_reason(error)}): {advice}") from None
    found = identify_image(data)
    if found is None and (other := _other_format(data)):
        raise DatasetError(f"the {what} {file} cannot be read: expected {_FORMATS}, found {other}: {advice}")
    if found is None:
        zeros = " of 0" if data and not data.strip(b"\0") else ""
        raise DatasetError(f"the {what} {file} is damaged ({len(data)} bytes{zeros}): {advice}")
    if image_end(data) is None:
        raise DatasetError(f"the {what} {file} is damaged (truncated after {len(data)} bytes): {advice}")
    if problem := why_not_decode(data):
        raise DatasetError(f"the {what} {file} is not decoded: {problem}: {advice}")
    return data, found


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _decoded(file: Path, what: str, advice: str, data: bytes, flags: int) -> npt.NDArray[Any]:
    pixels = None
    with suppress(cv2.error):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise DatasetError(f"the {what} {file} is damaged ({len(data)} bytes): {advice}")
    return np.asarray(pixels)


def _other_format(data: bytes) -> str | None:
    """Return the name of a known format that is not read."""
    if data[4:8] == b"ftyp":
        return "AVIF" if data[8:12] == b"avif" else "HEIC, or a video"
    return next((name for begin, name in _OTHER_FORMATS.items() if data.startswith(begin)), None)
