"""A random walk that spreads scores within surfaces: over cells of similar colour, and not across steps in depth.

The walk follows AffinityNet (Ahn and Kwak 2018). Its affinities come from colour and depth and need no training;
`feature_affinity` also makes affinities from the features of a trained network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from deal_core.masks.refine.inputs import RefinementOptions, check_inputs
from deal_core.masks.refine.plane import PlaneUse
from deal_core.settings_file import Positive, PositiveWhole
from deal_core.structures import BoolArray, DepthKind, Float32Array, UInt8Array, valid_depth

WalkAffinity = Literal["depth", "colour"]
_Index = tuple[Any, slice, slice]  # an ellipsis, rows, columns

_SLOPE_WINDOW = 7
_SAMPLES_A_CELL = 3


@dataclass(frozen=True, kw_only=True)
class SurfaceSettings(RefinementOptions):
    """Common settings of the refinements along surfaces.

    Args:
        size: Cells on the longer side of the grid; at most the pixels of the image.
        depth_scale: Difference in depth beyond the slope of the surface, in metres, at an affinity of 1/e.
        inverse_depth_scale: The same for relative inverse depth, as a share of its range in the image.
        colour_scale: Mean difference of the colour channels, in 0..1, at an affinity of 1/e.
        plane: Use of the dominant plane: "background" excludes tagged objects from it, "keep" allows them.
        alpha: Exponent of the background score (1 - best)^alpha; default: computed from the threshold.
    """

    size: Annotated[int, Field(ge=2)] = 128
    depth_scale: Positive = 0.015
    inverse_depth_scale: Positive = 0.03
    colour_scale: Positive = 0.3
    plane: PlaneUse = "background"
    alpha: Positive | None = None


@dataclass(frozen=True)
class WalkSettings(SurfaceSettings):
    """Settings of the walk; the defaults gave the best results on synthetic tabletops.

    AffinityNet walks 64 or 256 steps of radius 5.

    Args:
        affinity: "depth" uses depth and colour, "colour" uses only colour.
        radius: Cells at a smaller distance are neighbours; 2 gives the eight cells around a cell.
        steps: Number of steps.
        restart: Share of the initial scores that each step adds again, in [0, 1).
    """

    method = "walk"

    affinity: WalkAffinity = "depth"
    radius: Annotated[int, Field(ge=2)] = 2
    steps: PositiveWhole = 200
    restart: Annotated[float, Field(ge=0, lt=1)] = 0.02


@dataclass(frozen=True, eq=False)
class GridAffinity:
    """Affinities of neighbouring cells of a grid.

    Args:
        offsets: Offsets (dy, dx) of O neighbours.
        values: (O, h, w) affinity in [0, 1] of a cell and its neighbour at that offset; 0 outside the grid.
    """

    offsets: tuple[tuple[int, int], ...]
    values: Tensor


def walk_on_surfaces(
    image: UInt8Array,
    scores: Tensor,
    settings: WalkSettings | None = None,
    *,
    depth: Float32Array | None = None,
    depth_valid: BoolArray | None = None,
    depth_kind: DepthKind = "metric",
) -> Tensor:
    """Return (C, H, W) scores, float32, after a walk on a coarse grid and bilinear resampling.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (C, H, W) non-negative scores, background included.
        settings: Settings of the walk.
        depth: (H, W) depth of `depth_kind`, for the affinity "depth". Missing depth is filled from the nearest cell; in
            an image without depth, only colour counts.
        depth_valid: (H, W) bool mask of measured depth; default: finite and positive depth.
        depth_kind: Metres, or relative inverse depth.

    Raises:
        ValueError: shapes or types do not fit, or the affinity needs depth and gets none.
    """
    settings = settings or WalkSettings()
    check_inputs(image, scores)
    height, width = image.shape[:2]
    grid = image_grid((height, width), settings.size)
    affinity = grid_affinity(image, grid, settings, depth, depth_valid, depth_kind, device=scores.device)
    start = F.interpolate(scores.float()[None], grid, mode="area")[0]
    spread = random_walk(start, affinity, steps=settings.steps, restart=settings.restart)
    return F.interpolate(spread[None], (height, width), mode="bilinear", align_corners=False)[0]


def image_grid(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return (rows, columns) of the grid of an image (height, width), with at most `longest` cells per side."""
    shrink = min(1.0, longest / max(size))
    return max(round(size[0] * shrink), 1), max(round(size[1] * shrink), 1)


def grid_affinity(
    image: UInt8Array,
    grid: tuple[int, int],
    settings: WalkSettings,
    depth: Float32Array | None = None,
    depth_valid: BoolArray | None = None,
    depth_kind: DepthKind = "metric",
    device: torch.device | str = "cpu",
) -> GridAffinity:
    """Return the affinities of neighbouring cells by colour and, if `settings` ask for it, by depth.

    Args:
        image: (H, W, 3) uint8 RGB.
        grid: (rows, columns) of the grid.
        settings: Kind, radius and scales of the affinity.
        depth: Depth, as in `walk_on_surfaces`.
        depth_valid: Mask of measured depth, as in `walk_on_surfaces`.
        depth_kind: Kind of depth, as in `walk_on_surfaces`.
        device: Device of the computation.

    Raises:
        ValueError: depth is missing or of another size.
    """
    height, width = image.shape[:2]
    small = cv2.resize(image, grid[::-1], interpolation=cv2.INTER_AREA)
    colour = torch.from_numpy(small.transpose(2, 0, 1).copy()).to(device).float() / 255.0
    affinity = feature_affinity(colour, radius=settings.radius, scale=settings.colour_scale, power=2.0)
    if settings.affinity == "colour":
        return affinity
    if depth is None:
        raise ValueError("the affinity 'depth' needs depth; without depth, use the affinity 'colour'")
    if depth.shape != (height, width) or (depth_valid is not None and depth_valid.shape != (height, width)):
        raise ValueError(f"expected depth of the image's size {(height, width)}, got {depth.shape}")
    cells = _depth_cells(depth, depth_valid, grid, depth_kind)
    if cells is None:
        return affinity
    scale = settings.depth_scale if depth_kind == "metric" else settings.inverse_depth_scale
    steps = depth_affinity(torch.from_numpy(cells).to(device), radius=settings.radius, scale=scale)
    return GridAffinity(affinity.offsets, affinity.values * steps.values)


def random_walk(scores: Tensor, affinity: GridAffinity, *, steps: int, restart: float = 0.0) -> Tensor:
    """Return scores (C, h, w) after `steps` steps s <- (1 - restart) T s + restart s_0.

    T takes the mean of each cell (affinity 1) and its neighbours, weighted by affinity: scores stay within their range,
    and a cell without similar neighbours keeps its score. AffinityNet squares its transition matrix t times, which
    equals 2^t steps without restart.
    """
    share = (1.0 - restart) / (1.0 + affinity.values.sum(0))
    weights = affinity.values * share
    walked, brought_back = scores, restart * scores
    for _ in range(steps):
        following = brought_back + share * walked
        for (dy, dx), weight in zip(affinity.offsets, weights, strict=True):
            here, there = _overlap(dy, dx, walked.shape[-2], walked.shape[-1])
            following[here] += weight[here] * walked[there]
        walked = following
    return walked


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


def _offsets(radius: int) -> tuple[tuple[int, int], ...]:
    reach = range(1 - radius, radius)
    return tuple((dy, dx) for dy in reach for dx in reach if 0 < dy * dy + dx * dx < radius * radius)


def _overlap(dy: int, dx: int, height: int, width: int) -> tuple[_Index, _Index]:
    """Return the indices of the cells with a neighbour at the offset, and of these neighbours."""

    def along(step: int, length: int) -> slice:
        return slice(max(-step, 0), max(length - max(step, 0), 0))

    return (..., along(dy, height), along(dx, width)), (..., along(-dy, height), along(-dx, width))


def _between(maps: Tensor, offset: tuple[int, int], affinity: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return (h, w) the affinity of each cell of `maps` (C, h, w) and its neighbour; 0 outside the map."""
    result = maps.new_zeros(maps.shape[-2:])
    here, there = _overlap(*offset, maps.shape[-2], maps.shape[-1])
    result[here] = affinity(maps[here], maps[there])
    return result


def _depth_cells(
    depth: Float32Array, valid: BoolArray | None, grid: tuple[int, int], kind: DepthKind
) -> Float32Array | None:
    """Return the depth of each cell (h, w), with relative inverse depth scaled to [0, 1]; None without any depth.

    A cell takes the median of its measured depth, since a mean of two depths would create a surface that does not
    exist. Holes take the depth of the nearest cell with depth.
    """
    known = np.where(valid_depth(depth, valid), depth, np.nan)
    height, width = (n * _SAMPLES_A_CELL for n in grid)
    samples = cv2.resize(known, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    blocks = samples.reshape(grid[0], _SAMPLES_A_CELL, grid[1], _SAMPLES_A_CELL).transpose(0, 2, 1, 3)
    cells = torch.from_numpy(blocks.reshape(*grid, -1)).nanmedian(-1).values.numpy()
    holes = np.isnan(cells)
    if holes.all():
        return None
    _, nearest = cv2.distanceTransformWithLabels(
        holes.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_label = np.zeros(int(nearest.max()) + 1, np.float32)
    by_label[nearest[~holes]] = cells[~holes]
    filled = by_label[nearest]
    if kind == "inverse":
        spread = float(filled.max() - filled.min())
        filled = (filled - filled.min()) / (spread or 1.0)
    return filled


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
