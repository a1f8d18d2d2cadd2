"""Regions grown in depth: all cells of a smooth surface get one score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from deal_core.masks.refine.inputs import check_inputs
from deal_core.masks.refine.walk import SurfaceSettings, WalkSettings, grid_affinity
from deal_core.settings_file import PositiveWhole
from deal_core.structures import BoolArray, DepthKind, Float32Array, UInt8Array
from deal_core.surfaces.parts import GridAffinity, connected_cells, feature_affinity, image_grid


@dataclass(frozen=True)
class RegionSettings(SurfaceSettings):
    """Settings of the regions: neighbouring cells with an affinity of at least `join` belong to one region.

    Args:
        join: Smallest affinity of two neighbours in one region, in (0, 1).
        least: Number of cells of the smallest region; cells of smaller regions keep their own scores.
    """

    method = "regions"

    join: Annotated[float, Field(gt=0, lt=1)] = 0.5
    least: PositiveWhole = 6


def average_over_regions(
    image: UInt8Array,
    scores: Tensor,
    settings: RegionSettings | None = None,
    *,
    depth: Float32Array | None = None,
    depth_valid: BoolArray | None = None,
    depth_kind: DepthKind = "metric",
    on_plane: BoolArray | None = None,
) -> Tensor:
    """Return (C, H, W) scores, float32, in which each region grown in depth and colour has the mean of its cells.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (C, H, W) non-negative scores, background included.
        settings: Settings of the regions.
        depth: Depth, as in `walk_on_surfaces`.
        depth_valid: Mask of measured depth, as in `walk_on_surfaces`.
        depth_kind: Kind of depth, as in `walk_on_surfaces`.
        on_plane: (H, W) mask of the supporting planes; no region crosses its border.

    Raises:
        ValueError: shapes or types do not fit, or there is no depth.
    """
    settings = settings or RegionSettings()
    check_inputs(image, scores)
    height, width = image.shape[:2]
    grid = image_grid((height, width), settings.size)
    steps = WalkSettings(
        depth_scale=settings.depth_scale,
        inverse_depth_scale=settings.inverse_depth_scale,
        colour_scale=settings.colour_scale,
    )
    affinity = grid_affinity(image, grid, steps, depth, depth_valid, depth_kind, device=scores.device)
    if on_plane is not None:
        cells = cv2.resize(on_plane.astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA) > 0.5
        sides = feature_affinity(torch.from_numpy(cells[None]).float(), radius=2, scale=0.1)
        affinity = GridAffinity(affinity.offsets, affinity.values * sides.values.to(scores.device))
    labels = torch.from_numpy(connected_cells(affinity, settings.join)).flatten().to(scores.device)
    start = F.interpolate(scores.float()[None], grid, mode="area")[0].flatten(1)
    count = torch.bincount(labels)
    total = start.new_zeros(len(start), len(count)).index_add_(1, labels, start)
    mean = (total / count.clamp(min=1))[:, labels]
    found = torch.where(count[labels] >= settings.least, mean, start).reshape(-1, *grid)
    return F.interpolate(found[None], (height, width), mode="bilinear", align_corners=False)[0]
