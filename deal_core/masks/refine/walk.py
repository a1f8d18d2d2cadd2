"""A random walk that spreads scores within surfaces: over cells of one colour, and not across a step in depth.

The walk follows AffinityNet (Ahn and Kwak 2018). Its affinities come from colour and depth, which need no training;
affinities of a trained network can be used as well, see `feature_affinity`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deal_core.errors import ConfigError
from deal_core.masks.refine.inputs import check_inputs
from deal_core.masks.refine.plane import PlaneUse
from deal_core.structures import BoolArray, DepthKind, Float32Array, UInt8Array, valid_depth

WalkAffinity = Literal["depth", "colour"]
_Index = tuple[Any, slice, slice]  # an ellipsis, rows, columns

_SLOPE_WINDOW = 7
_SAMPLES_A_CELL = 3


@dataclass(frozen=True, kw_only=True)
class SurfaceSettings:
    """What refinements along surfaces have in common.

    Args:
        size: cells on the longer side of the grid; an image with fewer pixels is its own grid.
        depth_scale: metres that depth may differ, beyond the slope of the surface, for an affinity of 1/e.
        inverse_depth_scale: the same for relative inverse depth, as a share of the range it spans in the image.
        colour_scale: mean difference of the colour channels, of 0..1, for an affinity of 1/e.
        plane: "background": nothing that is tagged lies in the largest plane of the image; "keep": it may.
        alpha: the background score is (1 - best)^alpha; made from the threshold when left out.

    Raises:
        ConfigError: a value out of range.
    """

    size: int = 128
    depth_scale: float = 0.015
    inverse_depth_scale: float = 0.03
    colour_scale: float = 0.3
    plane: PlaneUse = "background"
    alpha: float | None = None

    def _check(self, method: str, least: Mapping[str, int]) -> None:
        """Refuse values out of range; `least` of whole numbers by name."""
        for name, lowest in {"size": 2, **least}.items():
            if getattr(self, name) < lowest:
                raise ConfigError(f"{method}: expected {name} of at least {lowest}, found {getattr(self, name)}")
        for name in ("depth_scale", "inverse_depth_scale", "colour_scale"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{method}: expected a positive {name}, found {getattr(self, name)}")
        if self.plane not in get_args(PlaneUse):
            raise ConfigError(
                f"{method}: expected plane to be one of {', '.join(get_args(PlaneUse))}, found '{self.plane}'"
            )
        if self.alpha is not None and not self.alpha > 0:
            raise ConfigError(f"{method}: expected a positive alpha, found {self.alpha}")


@dataclass(frozen=True)
class WalkSettings(SurfaceSettings):
    """The defaults are what helped most on synthetic tabletops; AffinityNet walks 64 or 256 steps of radius 5.

    Args:
        affinity: "depth": of depth and colour; "colour": of colour alone.
        radius: cells nearer than this are neighbours; 2 gives the eight around a cell.
        steps: of the walk.
        restart: share of the first scores that each step brings back, in [0, 1).

    Raises:
        ConfigError: a value out of range, or an unknown affinity.
    """

    affinity: WalkAffinity = "depth"
    radius: int = 2
    steps: int = 200
    restart: float = 0.02

    def __post_init__(self) -> None:
        if self.affinity not in get_args(WalkAffinity):
            raise ConfigError(
                f"walk: expected affinity to be one of {', '.join(get_args(WalkAffinity))}, found '{self.affinity}'"
            )
        self._check("walk", {"radius": 2, "steps": 1})
        if not 0 <= self.restart < 1:
            raise ConfigError(f"walk: expected a restart in [0, 1), found {self.restart}")


@dataclass(frozen=True, eq=False)
class GridAffinity:
    """How much neighbouring cells of a grid belong together.

    Args:
        offsets: (dy, dx) of O neighbours.
        values: (O, h, w) in [0, 1], of a cell and its neighbour at that offset; 0 where that lies outside.
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
    """Return (C, H, W) scores after a walk on a coarse grid, float32, resampled bilinearly.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (C, H, W) not negative, background included.
        settings: of the walk.
        depth: (H, W) of `depth_kind`; used by the affinity "depth". A pixel without
            depth takes the depth of the nearest pixel that has one; in an image without depth, colour alone decides.
        depth_valid: (H, W) bool, where depth was measured; finite and positive depth when left out.
        depth_kind: metres, or relative inverse depth.

    Raises:
        ValueError: shapes or types that do not fit, or depth missing where the affinity needs it.
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
    """Return (rows, columns) of the grid of an image (height, width) with at most `longest` cells on a side."""
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
    """Return how much neighbouring cells belong together, by colour and, where `settings` say so, by depth.

    Args:
        image: (H, W, 3) uint8 RGB.
        grid: (rows, columns).
        settings: affinity, radius and scales of it.
        depth: as of `walk_on_surfaces`.
        depth_valid: the same.
        depth_kind: the same.
        device: where to compute.

    Raises:
        ValueError: depth is missing where the affinity needs it, or of another size.
    """
    height, width = image.shape[:2]
    small = cv2.resize(image, grid[::-1], interpolation=cv2.INTER_AREA)
    colour = torch.from_numpy(small.transpose(2, 0, 1).copy()).to(device).float() / 255.0
    affinity = feature_affinity(colour, radius=settings.radius, scale=settings.colour_scale, power=2.0)
    if settings.affinity == "colour":
        return affinity
    if depth is None:
        raise ValueError("the affinity 'depth' needs depth; without it use 'colour'")
    if depth.shape != (height, width) or (depth_valid is not None and depth_valid.shape != (height, width)):
        raise ValueError(f"expected depth of the image's size {(height, width)}, got {depth.shape}")
    cells = _depth_cells(depth, depth_valid, grid, depth_kind)
    if cells is None:
        return affinity
    scale = settings.depth_scale if depth_kind == "metric" else settings.inverse_depth_scale
    steps = depth_affinity(torch.from_numpy(cells).to(device), radius=settings.radius, scale=scale)
    return GridAffinity(affinity.offsets, affinity.values * steps.values)


def random_walk(scores: Tensor, affinity: GridAffinity, *, steps: int, restart: float = 0.0) -> Tensor:
    """Return scores (C, h, w) after `steps` times s <- (1 - restart) T s + restart s_0.

    T gives each cell the mean of itself (affinity 1) and its neighbours, weighted by affinity: scores stay within
    the range they had, and a cell without any neighbour of its kind keeps its own. AffinityNet squares its
    transition matrix t times, which is 2^t steps without restart.
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
    """Return exp(-(mean_c |f_i - f_j| / scale)^power) of cells nearer than `radius`, from features (C, h, w).

    AffinityNet's affinity to the power of beta equals the affinity of its features at a scale of 1 / beta.
    """

    def affinity(here: Tensor, there: Tensor) -> Tensor:
        return (-((here - there).abs().mean(0) / scale).pow(power)).exp()

    offsets = _offsets(radius)
    return GridAffinity(offsets, torch.stack([_between(features, offset, affinity) for offset in offsets]))


def depth_affinity(depth: Tensor, *, radius: int, scale: float) -> GridAffinity:
    """Return exp(-(e / scale)^2) of cells nearer than `radius`, from depth (h, w).

    e is the difference of the two depths less what the slope of the surface explains, so that a table seen at an
    angle holds together and the edge of a thing on it does not. The slope is the median of the central differences
    over 7x7 cells, and that of a pair the mean of the two cells'.
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
    """Return where a map of this size has a neighbour at the offset, and where these neighbours are."""

    def along(step: int, length: int) -> slice:
        return slice(max(-step, 0), max(length - max(step, 0), 0))

    return (..., along(dy, height), along(dx, width)), (..., along(-dy, height), along(-dx, width))


def _between(maps: Tensor, offset: tuple[int, int], affinity: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return (h, w) the affinity of each cell of `maps` (C, h, w) and its neighbour; 0 where that lies outside."""
    result = maps.new_zeros(maps.shape[-2:])
    here, there = _overlap(*offset, maps.shape[-2], maps.shape[-1])
    result[here] = affinity(maps[here], maps[there])
    return result


def _depth_cells(
    depth: Float32Array, valid: BoolArray | None, grid: tuple[int, int], kind: DepthKind
) -> Float32Array | None:
    """Return the depth of each cell (h, w), relative inverse depth spanning [0, 1]; None if nothing was measured.

    The median of what was measured in a cell: a mean of two depths is the depth of nothing, and would lay a stair
    across each edge. Holes take the depth of the nearest cell that has one.
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
    """Return half the difference of both neighbours along an axis of (h, w); at the border, to the only neighbour."""
    if maps.shape[axis] == 1:
        return torch.zeros_like(maps)
    return torch.gradient(maps, dim=axis)[0]


def _median(maps: Tensor) -> Tensor:
    """Return the median over the window around each cell of (h, w); the border is continued outwards."""
    side = _SLOPE_WINDOW // 2
    padded = np.pad(maps.cpu().numpy(), side, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (_SLOPE_WINDOW, _SLOPE_WINDOW))
    middle = _SLOPE_WINDOW**2 // 2  # a partition takes a fifth of the time that PyTorch's median does
    found = np.partition(windows.reshape(*maps.shape, -1), middle, axis=-1)[..., middle]
    return torch.from_numpy(found).to(maps.device)
