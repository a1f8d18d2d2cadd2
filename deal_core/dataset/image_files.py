"""Images in files, read whole or refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.errors import DatasetError
from deal_core.structures import UNLABELLED, ClassList, UInt8Array

# On real colour and depth, run-length matching is both faster and smaller than zlib's default at level 1, and
# the one filter is as good as a choice among all five at two thirds of the time. An older OpenCV has no choice.
PNG_FLAGS = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE) + (
    (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG) if hasattr(cv2, "IMWRITE_PNG_FILTER") else ()
)


def read_image(file: Path, what: str, advice: str) -> npt.NDArray[Any]:
    """Return the pixels of a PNG or JPEG as they are stored, channels in OpenCV's order.

    Args:
        file: to read.
        what: it is, as "depth image", for the message.
        advice: what a person can do where it cannot be read, for the message.

    Raises:
        DatasetError: the file is missing, cut short, or no image.
    """
    return _decode(file, what, advice, cv2.IMREAD_UNCHANGED)


def read_color(file: Path, what: str, advice: str) -> UInt8Array:
    """Return (H, W, 3) uint8 RGB of a PNG or JPEG; grey is repeated, an orientation tag is not followed.

    Raises:
        DatasetError: the file is missing, cut short, or no image.
    """
    pixels = _decode(file, what, advice, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def check_image(file: Path, what: str, image: npt.NDArray[Any], dtype: type[np.generic], size: tuple[int, ...]) -> None:
    """Refuse an image of another type or size than the colour image's.

    Raises:
        DatasetError: type or size differ.
    """
    if image.dtype != dtype or image.shape != size:
        raise DatasetError(
            f"{what} of {file}: expected {np.dtype(dtype).name} of the colour image's size {size}, "
            f"found {image.dtype} {image.shape}"
        )


def check_ids(file: Path, mask: UInt8Array, classes: ClassList) -> None:
    """Refuse a mask with an id that is no class.

    Raises:
        DatasetError: the id, and those that were expected.
    """
    # A lookup of 256 entries: ids are checked on every load.
    used = np.bincount(mask.reshape(-1), minlength=256).astype(bool)
    used[: len(classes) + 1] = used[UNLABELLED] = False
    if used.any():
        found = int(np.flatnonzero(used)[0])
        raise DatasetError(
            f"mask {file} holds id {found}, expected 0 to {len(classes)} ({', '.join(classes.names)}) or {UNLABELLED}"
        )


def inside(folder: Path, name: Any) -> Path:
    """Return the file of a name that was read from a file; it must stay in the folder.

    Raises:
        DatasetError: the name is no string, empty, absolute, or climbs out.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if not parts or parts[0] == "/" or ".." in parts or "\\" in name or "\0" in name:
        raise DatasetError(f"expected a file inside {folder}, found {name!r}")
    return folder.joinpath(*parts)


def require_files(files: Sequence[Path], root: Path, what: str, advice: str) -> None:
    """Refuse a dataset that lacks files.

    Args:
        files: that are expected, below `root`.
        root: of the dataset.
        what: they are, as "depth images", for the message.
        advice: what a person can do, for the message.

    Raises:
        DatasetError: files are missing; the message counts them and names the first.
    """
    # One listing of each folder instead of a question for each of 80,000 files.
    folders = {file.parent for file in files}
    present = {folder: {file.name for file in folder.iterdir()} if folder.is_dir() else set() for folder in folders}
    missing = [str(file.relative_to(root)) for file in files if file.name not in present[file.parent]]
    if missing:
        raise DatasetError(f"{root} lacks {len(missing)} of {len(files)} {what}: {first_few(missing)}; {advice}")


def first_few(names: Sequence[str]) -> str:
    """Return at most three of the names for a message, and say that there are more."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


class GroundTruth:
    """Masks in a folder as `<stamp_ns>.png`, uint8 class ids; a mask that cannot be used is left out.

    Args:
        folder: need not exist.
        classes: of the ids.

    Attributes:
        used: masks returned so far.
        problems: one sentence for each mask left out.
    """

    def __init__(self, folder: Path, classes: ClassList) -> None:
        self._folder = folder
        self._classes = classes
        self.used = 0
        self.problems: list[str] = []

    def read(self, stamp_ns: int, size: tuple[int, ...]) -> UInt8Array | None:
        """Return the (H, W) mask of a frame with that size, or None."""
        file = self._folder / f"{stamp_ns}.png"
        if not file.is_file():
            return None
        mask = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if mask is None or mask.dtype != np.uint8 or mask.shape != size:
            found = "no readable image" if mask is None else f"{mask.dtype} {mask.shape}"
            self.problems.append(f"mask {file.name} is left out: expected uint8 {size}, found {found}")
            return None
        if ((mask > len(self._classes)) & (mask != UNLABELLED)).any():
            known = f"0 to {len(self._classes)} or {UNLABELLED}"
            self.problems.append(f"mask {file.name} is left out: expected ids {known}, found {int(mask.max())}")
            return None
        self.used += 1
        return np.asarray(mask, np.uint8)

    def notes(self) -> list[str]:
        """Return, after the last frame, what a person should know."""
        rest = len(list(self._folder.glob("*.png"))) - self.used - len(self.problems)
        return [f"{rest} drawn masks belong to no frame"] if rest > 0 else []


def _decode(file: Path, what: str, advice: str, flags: int) -> npt.NDArray[Any]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DatasetError(f"the {what} {file} cannot be read ({error.strerror}): {advice}") from None
    pixels = None
    # OpenCV fills the missing rows of a file that was cut, so look for the end that a complete one has.
    if b"IEND" in data[-64:] or b"\xff\xd9" in data[-64:]:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            pixels = None
    if pixels is None:
        raise DatasetError(f"the {what} {file} is damaged ({len(data)} bytes): {advice}")
    return np.asarray(pixels)
