"""An image of two things, with all that pictures are drawn of."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from deal_core.structures import ClassList

CLASSES = ClassList(("mug", "drill"), ((255, 0, 0), (0, 0, 255)))
HEIGHT, WIDTH = 24, 32


def scene() -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Return image, mask, depth and scores; the upper two rows have no depth."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[6:16, 4:14] = 1
    mask[10:20, 18:28] = 2
    depth = np.where(mask > 0, 0.6, 1.0).astype(np.float32)
    depth[:2] = 0
    scores = np.stack([mask == 1, mask == 2]).astype(np.float32)
    return image, mask, depth, scores
