"""Regions grown in depth: what is joined by a smooth surface gets one score."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deal_core.errors import ConfigError
from deal_core.masks.refine.inputs import check_inputs
from deal_core.masks.refine.walk import (
    GridAffinity,
    SurfaceSettings,
    WalkSettings,
    feature_affinity,
    grid_affinity,
    image_grid,
)
from deal_core.structures import BoolArray, DepthKind, Float32Array, Int64Array, UInt8Array


@dataclass(frozen=True)
class RegionSettings(SurfaceSettings):
    """Neighbouring cells belong to one region where their affinity, as in the walk, is at least `join`.

    Args:
        join: least affinity of two neighbours in one region, in (0, 1).
        least: cells of the smallest region; the cells of smaller ones keep scores of their own.

    Raises:
        ConfigError: a value out of range.
    """

    join: float = 0.5
    least: int = 6

    def __post_init__(self) -> None:
        self._check("regions", {"least": 1})
        if not 0 < self.join < 1:
            raise ConfigError(f"regions: expected join in (0, 1), found {self.join}")


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
    """Return (C, H, W) scores in which each region grown in depth and colour has the mean of its cells, float32.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (C, H, W) not negative, background included.
        settings: of the regions.
        depth: as of `walk_on_surfaces`.
        depth_valid: the same.
        depth_kind: the same.
        on_plane: (H, W), the plane that carries things: no region reaches across its border.

    Raises:
        ValueError: shapes or types that do not fit, or there is no depth.
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


def connected_cells(affinity: GridAffinity, join: float) -> Int64Array:
    """Return a label (h, w) for each cell: equal for those joined by steps down, right, up or left of affinity `join`.

    Cells stand on every second row and column of an image, and a step between two of them on the pixel between.
    """
    of_offset = dict(zip(affinity.offsets, affinity.values.cpu().numpy(), strict=True))
    height, width = affinity.values.shape[-2:]
    drawn = np.zeros((2 * height - 1, 2 * width - 1), np.uint8)
    drawn[::2, ::2] = 1
    drawn[1::2, ::2] = of_offset[(1, 0)][:-1] >= join
    drawn[::2, 1::2] = of_offset[(0, 1)][:, :-1] >= join
    _, labels = cv2.connectedComponents(drawn, connectivity=4)
    return np.asarray(labels[::2, ::2], np.int64)
