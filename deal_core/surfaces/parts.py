"""Connected smooth parts of a depth image, at its own size and on a coarser grid of cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from deal_core.structures import BoolArray, DepthKind, Float32Array, Int64Array, valid_depth

_Index = tuple[Any, slice, slice]  # an ellipsis, rows, columns

_SLOPE_WINDOW = 7
_SAMPLES_A_CELL = 3


def connected_parts(
    depth: Float32Array,
    within: BoolArray | None = None,
    *,
    jump: float = 0.04,
    kind: DepthKind = "metric",
) -> Int64Array:
    """Return a label (H, W) for each connected part of a depth image: 0 outside, 1, 2, ... inside.

    Two neighbours above or beside each other belong to one part unless their depth jumps.

    Args:
        depth: (H, W) depth of `kind`, without holes inside `within` (see `fill_depth_image`).
        within: (H, W) mask of the pixels to divide, for example those off every plane; default: valid depth.
        jump: Smallest difference that separates neighbours: a share of the nearer depth, or of the range of relative
            inverse depth within the mask. Infinity divides the mask alone.
        kind: Metres, or relative inverse depth.

    Raises:
        ValueError: shapes do not fit, or the jump is not positive.
    """
    if depth.ndim != 2 or (within is not None and within.shape != depth.shape):
        raise ValueError(f"expected depth (H, W) and a mask of the same size, got {depth.shape}")
    if not jump > 0:
        raise ValueError(f"expected a positive jump, got {jump}")
    inside = valid_depth(depth) if within is None else within & valid_depth(depth)
    values = np.where(inside, depth, 1.0)
    # A ratio of depths is a difference of their logarithms.
    if kind == "metric":
        values, limit = np.log(values), np.log1p(jump)
    else:
        extent = float(np.ptp(values[inside])) if inside.any() else 0.0
        limit = jump * extent if extent else 0.0  # an infinite jump times no extent is not a number
    down = inside[1:] & inside[:-1] & (np.abs(np.diff(values, axis=0)) <= limit)
    right = inside[:, 1:] & inside[:, :-1] & (np.abs(np.diff(values, axis=1)) <= limit)
    return _connected(inside, down, right)


@dataclass(frozen=True, eq=False)
class GridAffinity:
    """Affinities of neighbouring cells of a grid.

    Args:
        offsets: Offsets (dy, dx) of O neighbours.
        values: (O, h, w) affinity in [0, 1] of a cell and its neighbour at that offset; 0 outside the grid.
    """

    offsets: tuple[tuple[int, int], ...]
    values: Tensor


def image_grid(size: tuple[int, ...], longest: int) -> tuple[int, int]:
    """Return (rows, columns) of the grid of an image (height, width), with at most `longest` cells per side."""
    shrink = min(1.0, longest / max(size))
    return max(round(size[0] * shrink), 1), max(round(size[1] * shrink), 1)


def cell_medians(depth: Float32Array, known: BoolArray, grid: tuple[int, int]) -> Float32Array:
    """Return the depth of each cell (h, w), nan without any.

    A cell takes the median of its known depth, since a mean of two depths would create a surface that does not exist.
    """
    values = np.where(known, depth, np.float32("nan")).astype(np.float32)
    height, width = (n * _SAMPLES_A_CELL for n in grid)
    samples = cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    blocks = samples.reshape(grid[0], _SAMPLES_A_CELL, grid[1], _SAMPLES_A_CELL).transpose(0, 2, 1, 3)
    medians: Float32Array = torch.from_numpy(blocks.reshape(*grid, -1)).nanmedian(-1).values.numpy()
    return medians


def feature_affinity(features: Tensor, *, radius: int, scale: float, power: float = 1.0) -> GridAffinity:
    """Return exp(-(mean_c |f_i - f_j| / scale)^power) for cells nearer than `radius`, from features (C, h, w).

    AffinityNet's affinity to the power of beta equals this affinity of its features with scale 1 / beta.
    """

    def affinity(here: Tensor, there: Tensor) -> Tensor:
        return (-((here - there).abs().mean(0) / scale).pow(power)).exp()

    offsets = _offsets(radius)
    return GridAffinity(offsets, torch.stack([_between(features, offset, affinity) for offset in offsets]))


def depth_affinity(depth: Tensor, *, radius: int, scale: float) -> GridAffinity:
    """Return exp(-(e / scale)^2) for cells nearer than `radius`, from depth (h, w).

    e is the difference of the two depths minus the difference that the slope of the surface explains. So a table seen
    at an angle stays connected, and the edge of an object on it does not. The slope of a cell is the median of the
    central differences over 7x7 cells; the slope of a pair is the mean of its two cells.
    """
    slope = [_median(_central_difference(depth, axis)) for axis in (0, 1)]
    maps = torch.stack([depth, *slope])
    offsets = _offsets(radius)

    def of_offset(dy: int, dx: int) -> Tensor:
        def affinity(here: Tensor, there: Tensor) -> Tensor:
            explained = 0.5 * (dy * (here[1] + there[1]) + dx * (here[2] + there[2]))
            return (-((there[0] - here[0] - explained) / scale).square()).exp()

        return _between(maps, (dy, dx), affinity)

    return GridAffinity(offsets, torch.stack([of_offset(*offset) for offset in offsets]))


def between_cells(maps: Tensor, *, radius: int, of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return (O, h, w) a function of a map (h, w) at each cell and at its neighbours nearer than `radius`."""
    return torch.stack([_between(maps, offset, of) for offset in _offsets(radius)])


def connected_cells(affinity: GridAffinity, join: float) -> Int64Array:
    """Return a label (h, w) for each cell: equal for cells connected by steps with an affinity of at least `join`."""
    of_offset = dict(zip(affinity.offsets, affinity.values.cpu().numpy(), strict=True))
    inside = np.ones(affinity.values.shape[-2:], bool)
    return _connected(inside, of_offset[(1, 0)][:-1] >= join, of_offset[(0, 1)][:, :-1] >= join) - 1


def _connected(inside: BoolArray, down: BoolArray, right: BoolArray) -> Int64Array:
    """Return a label (h, w) for each connected part: 0 outside, 1, 2, ... inside.

    In the drawn image, every second row and column holds the cells, and the pixels between them hold the steps.

    Args:
        inside: (h, w) mask of the cells.
        down: (h - 1, w) whether a cell is connected with the one below.
        right: (h, w - 1) whether a cell is connected with the one on its right.
    """
    height, width = inside.shape
    drawn = np.zeros((2 * height - 1, 2 * width - 1), np.uint8)
    drawn[::2, ::2], drawn[1::2, ::2], drawn[::2, 1::2] = inside, down, right
    _, labels = cv2.connectedComponents(drawn, connectivity=4)
    return np.asarray(labels[::2, ::2], np.int64)


def _offsets(radius: int) -> tuple[tuple[int, int], ...]:
    reach = range(1 - radius, radius)
    return tuple((dy, dx) for dy in reach for dx in reach if 0 < dy * dy + dx * dx < radius * radius)


def overlapping(dy: int, dx: int, height: int, width: int) -> tuple[_Index, _Index]:
    """Return the indices of the cells with a neighbour at the offset, and of these neighbours."""

    def along(step: int, length: int) -> slice:
        return slice(max(-step, 0), max(length - max(step, 0), 0))

    return (..., along(dy, height), along(dx, width)), (..., along(-dy, height), along(-dx, width))


def _between(maps: Tensor, offset: tuple[int, int], affinity: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return (h, w) the affinity of each cell of `maps` (..., h, w) and its neighbour; 0 outside the map."""
    result = maps.new_zeros(maps.shape[-2:])
    here, there = overlapping(*offset, maps.shape[-2], maps.shape[-1])
    result[here] = affinity(maps[here], maps[there])
    return result


def _central_difference(maps: Tensor, axis: int) -> Tensor:
    """Return the central difference of (h, w) along an axis; one-sided at the border."""
    if maps.shape[axis] == 1:
        return torch.zeros_like(maps)
    return torch.gradient(maps, dim=axis)[0]


def _median(maps: Tensor) -> Tensor:
    """Return the median over the window around each cell of (h, w), with the border repeated outwards."""
    side = _SLOPE_WINDOW // 2
    padded = np.pad(maps.cpu().numpy(), side, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (_SLOPE_WINDOW, _SLOPE_WINDOW))
    middle = _SLOPE_WINDOW**2 // 2  # np.partition takes a fifth of the time of PyTorch's median
    found = np.partition(windows.reshape(*maps.shape, -1), middle, axis=-1)[..., middle]
    return torch.from_numpy(found).to(maps.device)
