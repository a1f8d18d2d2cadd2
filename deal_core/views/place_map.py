"""What many views say about the places of a room: a map of cubes of space with bounded memory.

Each view adds, to the cubes of the surfaces that it sees, the mean of its class scores there, and which classes it is
tagged to have. All sums are whole numbers, so their order does not matter: the same views give the same map, bit for
bit. Where the map would grow beyond its bound, its cubes grow to twice the side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from deal_core.structures import BoolArray, Float32Array, Float64Array, Int64Array

SIDE_M = 0.05
"""Side of a cube in the beginning, metres: wide enough that the views of a place meet in it (docs/how_to/views.md)."""
MAP_BYTES = 256 * 2**20
"""Memory of a map."""
POWER = 3
"""Power of the share of the views that see a place in which a class is tagged; see `fused_scores`."""

_LEVELS = 255
_BITS = 21
"""Bits of each coordinate of a cube in its key: two million cubes of 5 cm are 100 km."""
_HALF, _MASK = 2 ** (_BITS - 1), 2**_BITS - 1
_FIRST_ROWS = 4096


class PlaceMap:
    """Cubes of space with the class scores and tags of the views that see them.

    Args:
        num_classes: Number of classes K.
        side_m: Side of a cube in the beginning, metres.
        max_bytes: Memory of the map, bytes.

    >>> places = PlaceMap(1)
    >>> point = np.zeros((1, 3))
    >>> places.add(point, np.ones((1, 1), np.float32), np.ones(1, np.float32))
    >>> places.add(point, np.zeros((1, 1), np.float32), np.zeros(1, np.float32))
    >>> places.look_up(point)[0].tolist()  # seen twice, tagged once
    [[0.125]]
    """

    def __init__(self, num_classes: int, *, side_m: float = SIDE_M, max_bytes: int = MAP_BYTES) -> None:
        self._side_m, self._level = side_m, 0
        self._max_cubes = max(max_bytes // (num_classes * (4 + 2 * 4) + 16), 1)
        self._keys: Int64Array = np.zeros(0, np.int64)
        """Sorted; the cubes' rows in the sums are in `_rows`."""
        self._rows: Int64Array = np.zeros(0, np.int64)
        self._sums = np.zeros((0, num_classes), np.uint32)
        self._tagged = np.zeros((0, num_classes), np.uint32)
        self._known = np.zeros((0, num_classes), np.uint32)

    def __len__(self) -> int:
        """Return the number of cubes."""
        return len(self._keys)

    def add(self, points: Float64Array, scores: Float32Array, tags: Float32Array) -> None:
        """Add a view.

        Args:
            points: (N, 3) places in the world that the view sees, metres.
            scores: (N, K) class scores in [0, 1] there.
            tags: (K,) tags of the view: 1 present, 0 absent, nan unknown.
        """
        cubes, cube_of_point = np.unique(self._keys_of(points), return_inverse=True)
        counts = np.bincount(cube_of_point, minlength=len(cubes))
        means = np.zeros((len(cubes), scores.shape[1]), np.uint32)
        for k in np.flatnonzero(tags == 1):
            levels = np.rint(scores[:, k] * _LEVELS)
            means[:, k] = np.rint(np.bincount(cube_of_point, levels, minlength=len(cubes)) / counts)
        keys, joined = np.unique(_coarser(cubes, self._level), return_inverse=True)
        rows = self._rows_for(keys)[joined]
        np.add.at(self._sums, rows, means)
        np.add.at(self._tagged, rows, (tags == 1).astype(np.uint32))
        np.add.at(self._known, rows, np.isfinite(tags).astype(np.uint32))
        while len(self._keys) > self._max_cubes:
            self._join_cubes()

    def look_up(self, points: Float64Array) -> tuple[Float32Array, BoolArray]:
        """Return (N, K) fused scores in [0, 1] at places, see `fused_scores`, and (N,) whether any view saw them.

        Args:
            points: (N, 3) places in the world, metres.
        """
        scores = np.zeros((len(points), self._sums.shape[1]), np.float32)
        keys = _coarser(self._keys_of(points), self._level)
        at = np.searchsorted(self._keys, keys)
        found = at < len(self._keys)
        found[found] = self._keys[at[found]] == keys[found]
        rows = self._rows[at[found]]
        sums = self._sums[rows].astype(np.float32) / np.float32(_LEVELS)
        scores[found] = fused_scores(sums, self._tagged[rows].astype(np.float32), self._known[rows].astype(np.float32))
        return scores, found

    @property
    def side_m(self) -> float:
        """Side of a cube now, metres."""
        return self._side_m * 2**self._level

    def _keys_of(self, points: Float64Array) -> Int64Array:
        cells = np.floor(points / self._side_m).astype(np.int64).clip(-_HALF, _HALF - 1) + _HALF
        return np.asarray((cells[:, 0] << 2 * _BITS) | (cells[:, 1] << _BITS) | cells[:, 2])

    def _rows_for(self, keys: Int64Array) -> Int64Array:
        """Return the row of each of some sorted keys; new ones get a row."""
        at = np.searchsorted(self._keys, keys)
        known = at < len(self._keys)
        known[known] = self._keys[at[known]] == keys[known]
        new = keys[~known]
        if len(new):
            rows = np.arange(len(self._keys), len(self._keys) + len(new))
            self._reserve(len(self._keys) + len(new))
            self._keys = np.insert(self._keys, at[~known], new)
            self._rows = np.insert(self._rows, at[~known], rows)
        return self._rows[np.searchsorted(self._keys, keys)]

    def _reserve(self, rows: int) -> None:
        if rows > len(self._sums):
            more = max(rows, 2 * len(self._sums), _FIRST_ROWS) - len(self._sums)
            self._sums, self._tagged, self._known = (
                np.concatenate([values, np.zeros((more, values.shape[1]), np.uint32)])
                for values in (self._sums, self._tagged, self._known)
            )

    def _join_cubes(self) -> None:
        """Join each 2 x 2 x 2 cubes."""
        self._level += 1
        keys, cube = np.unique(_coarser(self._keys, 1), return_inverse=True)
        for name in ("_sums", "_tagged", "_known"):
            values = np.zeros((len(keys), self._sums.shape[1]), np.uint32)
            np.add.at(values, cube, getattr(self, name)[self._rows])
            setattr(self, name, values)
        self._keys, self._rows = keys, np.arange(len(keys))


def fused_scores(
    sums: npt.NDArray[np.floating[Any]], tagged: npt.NDArray[np.floating[Any]], known: npt.NDArray[np.floating[Any]]
) -> Float32Array:
    """Return fused class scores in [0, 1], of one shape with the arguments.

    The score of a class at a place is its mean over the views that see the place and are tagged with the class, times
    the share of these among all views that see it and know of the class, to the power of `POWER`. Tags of absence do
    most of the work: what stands beside a mug is seen without the mug, too.

    Args:
        sums: Sum of the scores of the views that are tagged with the class.
        tagged: Number of these views.
        known: Number of the views whose tags know of the class, present or absent; at least `tagged`.
    """
    mean = sums / np.maximum(tagged, 1e-9)
    share = tagged / np.maximum(known, 1e-9)
    return np.asarray(np.where(tagged > 0, mean * share**POWER, 0), np.float32)


def _coarser(keys: Int64Array, level: int) -> Int64Array:
    """Return the keys of the cubes of 2**level times the side that contain some cubes."""
    cells = (((keys >> shift & _MASK) - _HALF >> level) + _HALF for shift in (2 * _BITS, _BITS, 0))
    x, y, z = cells
    return (x << 2 * _BITS) | (y << _BITS) | z
