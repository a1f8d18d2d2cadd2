"""Each figure of masks against a slow formulation, and on masks that are spoilt in one way."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.judged_scenes import (
    CLASSES,
    PER_SEGMENT,
    SEGMENTS,
    SPOILT,
    Scene,
    Spoil,
    half_missing,
    perfect,
    scenes,
    write_masks,
)

from deal_core.dataset.dataset import Dataset
from deal_core.errors import DatasetError
from deal_core.quality.mask_figures import MaskFigures, MaskMeter, measure_masks


def measured(spoil: Spoil, made: list[Scene]) -> MaskFigures:
    meter, rng = MaskMeter(CLASSES), np.random.default_rng(1)
    for scene in made:
        meter.update(scene.sample, spoil(scene, rng), scene.segment)
    return meter.figures()


@pytest.fixture(scope="module")
def made() -> list[Scene]:
    return scenes()


@pytest.fixture(scope="module")
def figures(made: list[Scene]) -> dict[str, MaskFigures]:
    return {name: measured(spoil, made) for name, spoil in {"perfect": perfect, **SPOILT}.items()}


def test_counts_of_tags_frames_and_segments(made: list[Scene], figures: dict[str, MaskFigures]) -> None:
    found = figures["perfect"]
    assert found.frames == SEGMENTS * PER_SEGMENT and [one.name for one in found.classes] == list(CLASSES.names)
    for k, one in enumerate(found.classes):
        tagged = [scene for scene in made if scene.sample.tags[k] == 1]
        assert (one.tagged, one.absent) == (len(tagged), len(made) - len(tagged))
        assert one.segments == len({scene.segment for scene in tagged})


def test_missing_pairs_empty_frames_and_the_named_share(made: list[Scene], figures: dict[str, MaskFigures]) -> None:
    found = figures["half_missing"]
    masks = [half_missing(scene, np.random.default_rng(0)) for scene in made]
    pairs = [(mask == k + 1).any() for mask, s in zip(masks, made, strict=True) for k in range(3) if s.sample.tags[k]]
    assert found.missing == pytest.approx(1 - np.mean(pairs)) and found.empty == 0.5
    assert found.named == pytest.approx(np.mean([(mask > 0).mean() for mask in masks]))
    assert (figures["perfect"].missing, figures["perfect"].empty) == (0, 0)
    assert (figures["empty"].missing, figures["empty"].empty, figures["empty"].named) == (1, 1, 0)


def test_masks_on_the_table_and_off_it(figures: dict[str, MaskFigures]) -> None:
    assert figures["perfect"].on_planes < 0.1 and figures["perfect"].off_planes > 0.9
    assert figures["shifted"].on_planes > 0.8 and figures["shifted"].off_planes < 0.2
    assert figures["everything"].on_planes > 0.7
    assert math.isnan(figures["empty"].on_planes) and figures["empty"].off_planes == 0


def test_outlines_follow_steps_in_depth_or_not(figures: dict[str, MaskFigures]) -> None:
    assert figures["perfect"].outline > 0.85
    assert 0.35 < figures["shifted"].outline < 0.65 and 0.35 < figures["blobs"].outline < 0.65
    assert math.isnan(figures["empty"].outline) and math.isnan(figures["everything"].outline)


def test_outlines_against_a_slow_formulation(made: list[Scene]) -> None:
    scene = made[0]
    found = measured(lambda s, rng: s.truth, [scene])
    depth = scene.sample.depth
    height, width = depth.shape
    steps = np.zeros(depth.shape)
    for row in range(height):
        for column in range(width):
            near = depth[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
            steps[row, column] = (near.max() - near.min()) / depth[row, column]
    for k, one in enumerate(found.classes):
        if not scene.sample.tags[k]:
            continue
        inside = scene.truth == k + 1
        window = np.ones((3, 3), np.uint8)
        edge = cv2.dilate(inside.astype(np.uint8), window) != cv2.erode(inside.astype(np.uint8), window)
        ranks = [((steps < v).sum() + 0.5 * (np.isclose(steps, v)).sum()) / steps.size for v in steps[edge]]
        assert one.outline == pytest.approx(np.mean(ranks), abs=0.01)


def test_names_that_repeat_and_names_by_lot(figures: dict[str, MaskFigures]) -> None:
    right, lot = figures["perfect"], figures["named_by_lot"]
    assert right.agreement > 0.8 and right.agreement > 1.5 * right.agreement_by_lot
    assert lot.agreement < 0.65 and lot.agreement < 1.4 * lot.agreement_by_lot
    assert figures["blobs"].agreement < 0.15 and figures["shifted"].agreement < 0.25
    assert right.contradicted < 0.05 < figures["blobs"].contradicted


def test_unlabelled_pixels_belong_to_no_class(made: list[Scene]) -> None:
    found = measured(lambda scene, rng: np.full_like(scene.truth, 255), made[:6])
    assert found.missing == 1 and found.named == 0 and found.off_planes == 0


def test_without_depth_only_what_needs_no_depth_is_measured(made: list[Scene]) -> None:
    blind = []
    for scene in made[:8]:
        nothing = np.zeros_like(scene.sample.depth)
        sample = dataclasses.replace(scene.sample, depth=nothing, depth_valid=nothing > 0)
        blind.append(dataclasses.replace(scene, sample=sample))
    found = measured(perfect, blind)
    assert all(math.isnan(value) for value in (found.on_planes, found.off_planes, found.outline))
    assert found.missing == 0 and found.agreement > 0.3


def test_unknown_tags_contradict_nothing(made: list[Scene]) -> None:
    unknown = []
    for scene in made:
        tags = np.where(scene.sample.tags == 1, 1, np.nan).astype(np.float32)
        unknown.append(dataclasses.replace(scene, sample=dataclasses.replace(scene.sample, tags=tags)))
    found = measured(perfect, unknown)
    assert found.contradicted == 0 and all(one.absent == 0 for one in found.classes)


def test_a_folder_is_measured_on_the_frames_that_it_holds(tiny_dataset: Path, tmp_path: Path) -> None:
    dataset = Dataset.open(tiny_dataset)
    seen: list[int] = []
    found = measure_masks(write_masks(tmp_path / "five", dataset, 5), dataset, advance=seen.append)
    assert found.frames == 5 and seen == [1, 2, 3, 4, 5] and found.missing < 0.2
    with pytest.raises(DatasetError, match=r"holds no cams\.json"):
        measure_masks(tiny_dataset, dataset)
    with pytest.raises(DatasetError, match="lacks the masks of 12 of 12"):
        measure_masks(write_masks(tmp_path / "none", dataset, 0), dataset)


def test_no_frame_has_no_figures() -> None:
    with pytest.raises(DatasetError, match="at least one frame"):
        MaskMeter(CLASSES).figures()
