"""Analytic depth images: a sloping table, and boxes in front of it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from deal_core.structures import Float32Array

SIZE = (100, 160)


def table() -> Float32Array:
    """A plane from 1.25 m at the top to 0.8 m at the bottom: its inverse depth is linear."""
    rows = np.linspace(0.8, 1.25, SIZE[0])[:, None]
    return np.repeat(1 / rows, SIZE[1], axis=1).astype(np.float32)


def put(depth: Float32Array, box: tuple[int, int, int, int], distance: float) -> Float32Array:
    """Return the depth with a box (row, column, height, width) whose front is at a distance in metres."""
    row, column, height, width = box
    found = depth.copy()
    found[row : row + height, column : column + width] = distance
    return found


def boxes_on_table(boxes: Iterable[tuple[int, int, int, int]]) -> Float32Array:
    """Return the depth of boxes in front of the table, all at 0.65 m."""
    depth = table()
    for box in boxes:
        depth = put(depth, box, 0.65)
    return depth
