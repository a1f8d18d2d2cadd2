"""Regions of depth that classes name: a region is a class if its evidence is above a threshold, or background.

Three decisions follow each other. First the strongest class names every cell, and no background competes. Then a region
keeps the classes whose evidence it holds: touching things, which depth joins, may keep a name each. At last the mean
evidence of the named cells decides whether they are a class or background.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from deal_core.masks.refine.background import bounded
from deal_core.masks.refine.choices import PlaneUse
from deal_core.masks.refine.inputs import RefinementOptions, check_inputs
from deal_core.masks.refine.par import pixel_adaptive_refinement
from deal_core.masks.refine.walk import WalkSettings, grid_affinity, random_walk
from deal_core.settings_file import Positive, PositiveWhole
from deal_core.structures import BoolArray, DepthKind, Float32Array, Int64Array, UInt8Array, valid_depth
from deal_core.surfaces.filling import fill_depth_image
from deal_core.surfaces.parts import GridAffinity, connected_cells, feature_affinity, image_grid
from deal_core.surfaces.planes import find_planes

_SURE = 0.6
"""Confidence of depth from which a cell is part of a region; all others join a region by colour."""
_SURE_OF_PLANES = 0.3
_OPEN_SHARE = 0.3
"""A region with more of the image is no thing, but what depth could not divide: its pixels are decided one by one."""
_SEATED = 0.8
"""A class keeps cells in a region where its score reaches this share of its highest score in all regions."""
_CLAIM = 0.15
"""Share of a region's cells that such a class must win."""
_WEAKEST, _STRONGEST = 0.2, 0.4
"""Bounds of the evidence that a region needs, as shares of that of the best region of its class."""
_STEPS, _RESTART = 30, 0.02
_BELOW = 0.99
"""Largest share of the score of a cell's class that another class has there."""


@dataclass(frozen=True, kw_only=True)
class RegionSettings(RefinementOptions):
    """Settings of the regions: neighbouring cells with an affinity of at least `join` belong to one region.

    Args:
        size: Cells on the longer side of the grid; at most the pixels of the image.
        depth_scale: Difference in depth beyond the slope of the surface, in metres, at an affinity of 1/e.
        inverse_depth_scale: The same for relative inverse depth, as a share of its range in the image.
        colour_scale: Mean difference of the colour channels, in 0..1, at an affinity of 1/e.
        plane: Use of the supporting planes: "background" excludes tagged objects from them, "keep" allows them.
        join: Smallest affinity of two neighbours in one region, in (0, 1).
        least: Number of cells of the smallest region; smaller ones are absorbed by the regions around them.
    """

    method = "regions"

    size: Annotated[int, Field(ge=2)] = 160
    depth_scale: Positive = 0.015
    inverse_depth_scale: Positive = 0.03
    colour_scale: Positive = 0.3
    plane: PlaneUse = "background"
    join: Annotated[float, Field(gt=0, lt=1)] = 0.5
    least: PositiveWhole = 12


@dataclass(frozen=True, kw_only=True)
class AutoSettings(RegionSettings):
    """Settings of the regions, for images with and without depth; without depth, colour refines the scores."""

    method = "auto"


@dataclass(frozen=True, eq=False)
class Regions:
    """The regions of an image on a grid.

    Args:
        labels: (h, w) ids 0 to R - 1.
        is_support: (R,) whether a region lies on a plane that supports things.
        affinity: Affinities of neighbouring cells.
    """

    labels: Int64Array
    is_support: BoolArray
    affinity: GridAffinity

    def mean(self, values: Float32Array) -> Float32Array:
        """Return (R,) the mean of (h, w) values in each region."""
        count = np.bincount(self.labels.ravel(), minlength=len(self.is_support))
        total = np.bincount(self.labels.ravel(), values.ravel(), len(self.is_support))
        return (total / count).astype(np.float32)

    def highest(self, values: Float32Array) -> Float32Array:
        """Return (R,) the largest of (h, w) values in each region."""
        found = np.zeros(len(self.is_support), np.float32)
        np.maximum.at(found, self.labels.ravel(), values.ravel())
        return found


def name_regions(
    image: UInt8Array,
    scores: Tensor,
    settings: RegionSettings | None = None,
    *,
    threshold: float,
    relative: bool = True,
    depth: Float32Array | None = None,
    depth_valid: BoolArray | None = None,
    depth_kind: DepthKind = "metric",
) -> Tensor:
    """Return class scores (K, H, W) in [0, 1], float32, whose threshold is 1/2.

    The score of a pixel's class is e / (e + bar), with e the mean evidence of this class in the region. The bar is the
    threshold, but for relative scores at least a fifth and at most two fifths of the evidence of the best region of the
    class. So a threshold at an end of its range neither names everything nor empties the mask. Regions on supporting
    planes are background. In regions of more than 30 % of the image, and without any depth, e and bar are the score of
    the pixel after pixel-adaptive refinement and the threshold.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (K, H, W) scores in [0, 1] of present classes.
        settings: Settings of the regions.
        threshold: Threshold of the scores.
        relative: Whether scores are relative to the maximum of their map, as for CAMs; a common factor of relative
            scores does not matter.
        depth: Depth, as in `walk_on_surfaces`; it may be missing with `AutoSettings`.
        depth_valid: Mask of measured depth, as in `walk_on_surfaces`.
        depth_kind: Kind of depth, as in `walk_on_surfaces`.

    Raises:
        ValueError: shapes or types do not fit, or there is no depth.
    """
    settings = settings or RegionSettings()
    check_inputs(image, scores)
    if depth is None and not isinstance(settings, AutoSettings):
        raise ValueError("the refinement 'regions' needs depth; without depth, use the refinement 'auto'")
    device, scores = scores.device, scores.float().cpu()
    if relative:
        scores = scores / scores.amax().clamp(min=1e-12)
    measured = np.zeros(image.shape[:2], bool) if depth is None else valid_depth(depth, depth_valid)
    if depth is None or not measured.any():
        return _one_by_one(image, scores, threshold).to(device)
    regions = find_regions(image, depth, measured, depth_kind, settings)
    found = _named(regions, scores, threshold, relative)
    is_open = (_shares(regions) > _OPEN_SHARE) & ~regions.is_support
    if is_open.any():
        pixels = _on_grid(_one_by_one(image, scores, threshold), regions.labels.shape)
        found = np.where(is_open[regions.labels], pixels, found)
    full = F.interpolate(torch.from_numpy(found)[None], image.shape[:2], mode="bilinear", align_corners=False)
    return full[0].to(device)


def find_regions(
    image: UInt8Array, depth: Float32Array, measured: BoolArray, kind: DepthKind, settings: RegionSettings
) -> Regions:
    """Return the regions of an image: connected cells of similar depth and colour, none across a plane's border.

    Cells whose depth is unknown or uncertain, and specks, join a region around them by colour.

    Args:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) depth of `kind`.
        measured: (H, W) mask of measured depth.
        kind: Kind of depth.
        settings: Settings of the regions.

    Raises:
        ValueError: shapes do not fit.
    """
    grid = image_grid(image.shape[:2], settings.size)
    steps = WalkSettings(
        depth_scale=settings.depth_scale,
        inverse_depth_scale=settings.inverse_depth_scale,
        colour_scale=settings.colour_scale,
    )
    filled, confidence = fill_depth_image(depth, measured, kind)
    affinity = grid_affinity(image, grid, steps, filled, None, kind, confidence=confidence)
    on_plane = np.zeros(grid, bool)
    if settings.plane == "background":
        support = find_planes(filled, confidence > _SURE_OF_PLANES, kind).on_support()
        on_plane = _resized(support, grid) > 0.5
        sides = feature_affinity(torch.from_numpy(on_plane[None]).float(), radius=2, scale=0.1)
        affinity = GridAffinity(affinity.offsets, affinity.values * sides.values)
    sure = _resized(confidence, grid) >= _SURE
    labels = np.where(sure, connected_cells(affinity, settings.join), -1)
    labels = _absorb(labels, cv2.resize(image, grid[::-1], interpolation=cv2.INTER_AREA), settings.least)
    sure_cells = np.bincount(labels.ravel(), sure.ravel())
    supported = np.bincount(labels.ravel(), (sure & on_plane).ravel())
    return Regions(labels, supported > 0.5 * np.maximum(sure_cells, 1), affinity)


def _absorb(labels: Int64Array, image: UInt8Array, least: int) -> Int64Array:
    """Return labels 0, 1, ... (h, w) in which cells of label -1 and of small regions joined one around them by colour.

    The larger regions grow over these cells in the order of the colour difference (a watershed).
    """
    numbered = np.unique(labels, return_inverse=True)[1].reshape(labels.shape) + int(labels.min() >= 0)
    keeps = np.bincount(numbered.ravel()) >= least
    keeps[0] = False
    if not keeps.any():
        return np.zeros(labels.shape, np.int64)
    seeds = np.where(keeps[numbered], numbered, 0).astype(np.int32)
    # The watershed marks the border of its image, and the lines between regions, with -1.
    grown = np.pad(seeds, 1, mode="edge")
    cv2.watershed(np.ascontiguousarray(np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")), grown)
    grown = np.where(seeds > 0, seeds, grown[1:-1, 1:-1])
    lines = grown <= 0
    if lines.any():
        _, nearest = cv2.distanceTransformWithLabels(
            lines.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_3, labelType=cv2.DIST_LABEL_PIXEL
        )
        by_label = np.zeros(int(nearest.max()) + 1, np.int64)
        by_label[nearest[~lines]] = grown[~lines]
        grown = by_label[nearest]
    return np.unique(grown, return_inverse=True)[1].reshape(labels.shape).astype(np.int64)


def _named(regions: Regions, scores: Tensor, threshold: float, relative: bool) -> Float32Array:
    """Return class scores (K, h, w) on the grid, from `scores` (K, H, W) and the evidence of regions."""
    start = torch.from_numpy(_on_grid(scores, regions.labels.shape))
    spread = random_walk(start, regions.affinity, steps=_STEPS, restart=_RESTART).numpy()
    allowed = _seated(regions, spread)
    candidates = np.where(allowed[:, regions.labels], spread, -1.0)
    names = candidates.argmax(0)
    is_named = names == np.arange(len(spread))[:, None, None]
    share = np.stack([regions.mean(mask.astype(np.float32)) for mask in is_named])
    evidence = np.stack([regions.mean(mask * values) for mask, values in zip(is_named, spread, strict=True)])
    evidence = np.divide(evidence, share, out=np.zeros_like(evidence), where=share > 0)
    evidence[:, regions.is_support] = 0.0
    best = evidence.max(1, keepdims=True)
    bar = np.clip(threshold, _WEAKEST * best, _STRONGEST * best) if relative else np.full_like(best, bounded(threshold))
    strength = evidence / np.maximum(evidence + bar, 1e-12)
    foreground = strength[:, regions.labels].max(0, where=is_named, initial=0.0)
    # The other classes keep their ratios to each other, below the class that named the cell.
    ratios = spread / np.maximum(spread.max(0), 1e-12) * _BELOW
    named: Float32Array = (np.where(is_named, 1.0, ratios) * foreground).astype(np.float32)
    return named


def _seated(regions: Regions, spread: Float32Array) -> BoolArray:
    """Return (K, R) whether a class may keep cells of a region: the strongest there, and those with evidence there."""
    winners = spread.argmax(0)
    wins = np.stack([regions.mean((winners == k).astype(np.float32)) for k in range(len(spread))])
    highest = np.stack([regions.highest(values) for values in spread])
    things = highest[:, ~regions.is_support] if not regions.is_support.all() else highest
    seated: BoolArray = (highest >= _SEATED * things.max(1, keepdims=True)) & (wins >= _CLAIM)
    means = np.stack([regions.mean(values) for values in spread])
    seated[means.argmax(0), np.arange(means.shape[1])] = True
    return seated


def _one_by_one(image: UInt8Array, scores: Tensor, threshold: float) -> Tensor:
    """Return class scores (K, H, W) of pixels after pixel-adaptive refinement, with the threshold moved to 1/2."""
    refined = pixel_adaptive_refinement(image, scores)
    best = refined.amax(0, keepdim=True)
    return refined / (best + bounded(threshold))


def _shares(regions: Regions) -> Float32Array:
    """Return (R,) the share of the image of each region."""
    return (np.bincount(regions.labels.ravel()) / regions.labels.size).astype(np.float32)


def _on_grid(maps: Tensor, grid: tuple[int, ...]) -> Float32Array:
    resized: Float32Array = F.interpolate(maps[None], grid, mode="area")[0].numpy()
    return resized


def _resized(maps: Float32Array | BoolArray, grid: tuple[int, int]) -> Float32Array:
    return np.asarray(cv2.resize(maps.astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA))
