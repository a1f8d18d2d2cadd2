"""A random walk that spreads scores within surfaces: over cells of similar colour, and not across steps in depth.

The walk follows AffinityNet (Ahn and Kwak 2018). Its affinities come from colour and depth and need no training;
`feature_affinity` also makes affinities from the features of a trained network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from deal_core.masks.refine.choices import PlaneUse
from deal_core.masks.refine.inputs import RefinementOptions, check_inputs
from deal_core.settings_file import Positive, PositiveWhole
from deal_core.structures import BoolArray, DepthKind, Float32Array, UInt8Array, valid_depth
from deal_core.surfaces.parts import (
    GridAffinity,
    cell_medians,
    depth_affinity,
    feature_affinity,
    image_grid,
    overlapping,
)

WalkAffinity = Literal["depth", "colour"]


@dataclass(frozen=True, kw_only=True)
class SurfaceSettings(RefinementOptions):
    """Common settings of the refinements along surfaces.

    Args:
        size: Cells on the longer side of the grid; at most the pixels of the image.
        depth_scale: Difference in depth beyond the slope of the surface, in metres, at an affinity of 1/e.
        inverse_depth_scale: The same for relative inverse depth, as a share of its range in the image.
        colour_scale: Mean difference of the colour channels, in 0..1, at an affinity of 1/e.
        plane: Use of the supporting planes: "background" excludes tagged objects from them, "keep" allows them.
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
            here, there = overlapping(dy, dx, walked.shape[-2], walked.shape[-1])
            following[here] += weight[here] * walked[there]
        walked = following
    return walked


def _depth_cells(
    depth: Float32Array, valid: BoolArray | None, grid: tuple[int, int], kind: DepthKind
) -> Float32Array | None:
    """Return the depth of each cell (h, w), with relative inverse depth scaled to [0, 1]; None without any depth.

    Holes take the depth of the nearest cell with depth.
    """
    cells = cell_medians(depth, valid_depth(depth, valid), grid)
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
