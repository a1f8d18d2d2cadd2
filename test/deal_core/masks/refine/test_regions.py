"""Regions of depth that classes name: whole and touching things, clutter, holes, ties, and what never matters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deal_core.masks.refine.par import pixel_adaptive_refinement
from deal_core.masks.refine.refinement import refine_scores
from deal_core.masks.refine.regions import AutoSettings, RegionSettings, find_regions, name_regions
from deal_core.structures import Float32Array, UInt8Array

SHAPE = (60, 80)


@dataclass(frozen=True, eq=False)
class Scene:
    """Boxes on a sloping table, with the class of each; class 0 is untagged."""

    image: UInt8Array
    depth: Float32Array
    truth: UInt8Array


def scene(*boxes: tuple[int, int, int, int, int], seed: int = 0) -> Scene:
    """Return a table with boxes (class, top, left, bottom, right), each of its own colour."""
    generator = np.random.default_rng(seed)
    y, _ = np.mgrid[: SHAPE[0], : SHAPE[1]]
    depth = 1 / (1 + 0.5 * (y / SHAPE[0] - 0.5))
    truth, image = np.zeros(SHAPE, np.uint8), np.full((*SHAPE, 3), 120, np.uint8)
    for number, (kind, top, left, bottom, right) in enumerate(boxes):
        inside = slice(top, bottom), slice(left, right)
        depth[inside] -= 0.06
        truth[inside] = kind
        image[inside] = ((200, 80, 30), (40, 90, 210), (60, 180, 60))[number % 3]
    depth += generator.normal(0, 0.001, SHAPE)
    return Scene(image, depth.astype(np.float32), truth)


def blobs(*places: tuple[float, float, float], strength: float = 1.0) -> torch.Tensor:
    """Return one map for each (row, column, width)."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    maps = [np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2)) for row, column, width in places]
    return torch.from_numpy((strength * np.stack(maps)).astype(np.float32))


def mask_of(scores: torch.Tensor) -> np.ndarray:
    return np.where(scores.amax(0) > 0.5, scores.argmax(0) + 1, 0)


def iou(mask: np.ndarray, truth: np.ndarray, kind: int) -> float:
    return float(((mask == kind) & (truth == kind)).sum() / ((mask == kind) | (truth == kind)).sum())


APART = scene((1, 10, 10, 30, 30), (2, 30, 45, 50, 70))


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_a_thing_seen_in_a_corner_is_whole_at_any_threshold(threshold: float) -> None:
    scores = blobs((16, 16, 5), (40, 55, 5))
    found = refine_scores(APART.image, scores, RegionSettings(), threshold=threshold, depth=APART.depth)
    assert min(iou(mask_of(found), APART.truth, kind) for kind in (1, 2)) > 0.9


def test_two_broad_cams_are_told_apart() -> None:
    scores = blobs((20, 20, 30), (40, 57, 30))
    found = refine_scores(APART.image, scores, RegionSettings(), threshold=0.3, depth=APART.depth)
    assert min(iou(mask_of(found), APART.truth, kind) for kind in (1, 2)) > 0.9


def test_touching_things_keep_a_name_each() -> None:
    touching = scene((1, 20, 15, 40, 38), (2, 20, 38, 40, 62))
    found = refine_scores(
        touching.image, blobs((30, 25, 9), (30, 51, 9)), RegionSettings(), threshold=0.3, depth=touching.depth
    )
    assert min(iou(mask_of(found), touching.truth, kind) for kind in (1, 2)) > 0.8


def test_an_untagged_thing_beside_is_background_and_not_the_nearest_tag() -> None:
    clutter = scene((1, 12, 10, 32, 30), (0, 30, 48, 50, 72))
    found = refine_scores(clutter.image, blobs((22, 20, 15)), RegionSettings(), threshold=0.05, depth=clutter.depth)
    assert iou(mask_of(found), clutter.truth, 1) > 0.9


def test_holes_and_specks_join_what_is_around_them() -> None:
    generator = np.random.default_rng(4)
    depth = APART.depth.copy()
    for _ in range(40):
        row, column = generator.integers(60), generator.integers(80)
        depth[row : row + 7, column : column + 9] = 0
    depth[generator.random(SHAPE) < 0.02] = 0.3
    regions = find_regions(APART.image, depth, depth > 0, "metric", RegionSettings())
    assert np.bincount(regions.labels.ravel()).min() >= RegionSettings().least
    assert len(regions.is_support) == regions.labels.max() + 1
    scores = blobs((20, 20, 12), (40, 57, 12))
    found = refine_scores(APART.image, scores, RegionSettings(), threshold=0.3, depth=depth)
    assert min(iou(mask_of(found), APART.truth, kind) for kind in (1, 2)) > 0.8


def test_a_class_that_lies_in_the_plane_needs_it_kept() -> None:
    table = torch.from_numpy((APART.truth == 0)[None].astype(np.float32))
    kept, removed = (
        refine_scores(APART.image, table, RegionSettings(plane=use), threshold=0.3, depth=APART.depth)[0].numpy() > 0.5
        for use in ("keep", "background")
    )
    assert kept[APART.truth == 0].mean() > 0.9 and removed[APART.truth == 0].mean() < 0.05


coarse = st.integers(0, 10_000).map(
    lambda seed: torch.rand(3, 1, 6, 8, generator=torch.Generator().manual_seed(seed)).pow(2)
)


def upsampled(maps: torch.Tensor) -> torch.Tensor:
    """Scores as a network makes them: coarse maps resized bilinearly, each relative to its maximum."""
    full = torch.nn.functional.interpolate(maps, SHAPE, mode="bilinear", align_corners=False)[:, 0]
    return full / full.amax((1, 2), keepdim=True)


@pytest.mark.parametrize("name", ["regions", "walk", "crf"])
@settings(max_examples=8, deadline=None)
@given(maps=coarse, threshold=st.floats(0, 1))
def test_hardly_any_pixel_is_a_tie(name: str, maps: torch.Tensor, threshold: float) -> None:
    from deal_core.masks.refine.refinement import refinement_settings

    found = refine_scores(
        APART.image, upsampled(maps), refinement_settings(name), threshold=threshold, depth=APART.depth
    )
    first, second = found.topk(2, dim=0).values
    tagged = first > 0.5
    assert int((tagged & (first == second)).sum()) <= 0.01 * int(tagged.sum())


@settings(max_examples=15, deadline=None)
@given(maps=coarse, threshold=st.floats(0, 1), order=st.permutations(range(3)), factor=st.floats(0.05, 1))
def test_the_order_of_classes_and_a_common_factor_never_matter(
    maps: torch.Tensor, threshold: float, order: list[int], factor: float
) -> None:
    scores, chosen = upsampled(maps), RegionSettings()
    found = refine_scores(APART.image, scores, chosen, threshold=threshold, depth=APART.depth)
    permuted = refine_scores(APART.image, scores[order], chosen, threshold=threshold, depth=APART.depth)
    assert torch.equal(permuted, found[order])
    scaled = refine_scores(APART.image, factor * scores, chosen, threshold=threshold, depth=APART.depth)
    torch.testing.assert_close(scaled, found, atol=1e-3, rtol=0)


def test_scores_that_are_probabilities_keep_their_level() -> None:
    scores = 0.3 * blobs((16, 16, 30))
    of_cam, of_segmenter = (
        refine_scores(APART.image, scores, RegionSettings(), threshold=0.5, relative=relative, depth=APART.depth)
        for relative in (True, False)
    )
    assert mask_of(of_cam).any() and not mask_of(of_segmenter).any()


def test_without_depth_auto_refines_by_colour_and_regions_say_so() -> None:
    scores = blobs((20, 20, 8), (40, 57, 8))
    with pytest.raises(ValueError, match="needs depth"):
        name_regions(APART.image, scores, threshold=0.3)
    found = name_regions(APART.image, scores, AutoSettings(), threshold=0.3)
    nowhere = name_regions(APART.image, scores, threshold=0.3, depth=np.zeros(SHAPE, np.float32))
    assert torch.equal(found, nowhere)
    by_colour = pixel_adaptive_refinement(APART.image, scores / scores.max())
    expected = np.where(by_colour.amax(0) > 0.3, by_colour.argmax(0) + 1, 0)
    assert np.array_equal(mask_of(found), expected)
    with_depth = name_regions(APART.image, scores, AutoSettings(), threshold=0.3, depth=APART.depth)
    assert torch.equal(with_depth, name_regions(APART.image, scores, threshold=0.3, depth=APART.depth))


def test_where_depth_divides_nothing_pixels_are_decided_one_by_one() -> None:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    wavy = (1.0 + 0.03 * np.sin(x / 7) * np.cos(y / 6)).astype(np.float32)
    scores = blobs((20, 20, 8))
    plain = np.full((*SHAPE, 3), 90, np.uint8)
    found = name_regions(plain, scores, threshold=0.3, depth=wavy)
    alone = name_regions(plain, scores, AutoSettings(), threshold=0.3)
    assert (mask_of(found) == mask_of(alone)).mean() > 0.97
