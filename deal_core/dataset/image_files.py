"""Read and check image files; errors name the file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.errors import DatasetError
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


def read_image(file: Path, what: str, advice: str, flags: int = cv2.IMREAD_UNCHANGED) -> npt.NDArray[Any]:
    """Return the pixels of a PNG or JPEG, channels in OpenCV's order.

    Args:
        file: image file.
        what: kind of image for the message, as in "depth image".
        advice: advice for the message if the file cannot be read.
        flags: flags of `cv2.imdecode`; the stored pixels by default.

    Raises:
        DatasetError: the file is missing, truncated, or not an image.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DatasetError(f"the {what} {file} cannot be read ({error.strerror}): {advice}") from None
    pixels = None
    # OpenCV fills the missing rows of a truncated file, so the end marker is checked.
    if b"IEND" in data[-64:] or b"\xff\xd9" in data[-64:]:
        with suppress(cv2.error):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise DatasetError(f"the {what} {file} is damaged ({len(data)} bytes): {advice}")
    return np.asarray(pixels)


def read_color(file: Path, what: str, advice: str) -> UInt8Array:
    """Return (H, W, 3) uint8 RGB of a PNG or JPEG; grey is repeated, an orientation tag is ignored.

    Raises:
        DatasetError: the file is missing, truncated, or not an image.
    """
    pixels = read_image(file, what, advice, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def check_image(file: Path, what: str, image: npt.NDArray[Any], dtype: type[np.generic], size: tuple[int, ...]) -> None:
    """Raise `DatasetError` if an image has another type, or another size than the colour image."""
    if image.dtype != dtype or image.shape != size:
        raise DatasetError(
            f"{what} of {file}: expected {np.dtype(dtype).name} of the colour image's size {size}, "
            f"found {image.dtype} {image.shape}"
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
        DatasetError: the name is not a string, is empty or absolute, or leaves the folder.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if not parts or parts[0] == "/" or ".." in parts or "\\" in name or "\0" in name:
        raise DatasetError(f"expected a file inside {folder}, found {name!r}")
    return folder.joinpath(*parts)


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
    """Drawn masks in a folder, `<stamp_ns>.png` with uint8 class ids; unusable masks are left out.

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
        self.used = 0
        self.problems: list[str] = []

    def read(self, stamp_ns: int, size: tuple[int, ...]) -> UInt8Array | None:
        """Return the (H, W) mask of a frame of this size, or None."""
        file = self._folder / f"{stamp_ns}.png"
        if not file.is_file():
            return None
        try:
            mask = read_image(file, "mask", "draw it again")
            check_image(file, "mask", mask, np.uint8, size)
            check_ids(file, mask, self._classes)
        except DatasetError as error:
            self.problems.append(f"mask {file.name} is left out: {error}")
            return None
        self.used += 1
        return mask

    def notes(self) -> list[str]:
        """Return remarks for a person; call it after the last frame."""
        rest = len(list(self._folder.glob("*.png"))) - self.used - len(self.problems)
        return [f"{rest} drawn masks have no frame"] if rest > 0 else []
