"""The drawn masks beside a recording, for evaluation only."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from deal_core.structures import UNLABELLED, ClassList, UInt8Array


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
