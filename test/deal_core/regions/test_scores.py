"""Scores of regions as those of a CAM: painted, gated by tags, and used by masks and thresholds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.region_runs import CLASSES, SIZE, tiny_settings, write_boxes
from hypothesis import given
from hypothesis import strategies as st

from deal_core.dataset.dataset import Dataset
from deal_core.errors import UsageError
from deal_core.evaluation.evaluate import evaluate_model
from deal_core.masks.mask_folder import read_mask, write_cams
from deal_core.masks.score_dataset import CamSettings, score_frames
from deal_core.models.model_file import LoadedModel, load_model
from deal_core.regions.scores import named_regions, paint_scores
from deal_core.regions.training import RegionResult, train_regions

PRESENT = np.array([True, True])


def two_regions() -> np.ndarray:
    """A region of four pixels, and one of the last two of these."""
    masks = np.zeros((2, 1, 6), bool)
    masks[0, 0, :4] = masks[1, 0, 2:4] = True
    return masks


def test_the_larger_probability_covers_the_smaller() -> None:
    scores = paint_scores(two_regions(), np.array([[0.7, 0.1], [0.0, 0.9]], np.float32), PRESENT)
    assert scores[0, 0] == pytest.approx([0.7, 0.7, 0.7, 0.7, 0, 0])
    assert scores[1, 0] == pytest.approx([0, 0, 0.9, 0.9, 0, 0])


def test_an_absent_class_has_no_score() -> None:
    scores = paint_scores(two_regions(), np.array([[0.7, 0.1], [0.0, 0.9]], np.float32), np.array([True, False]))
    assert not scores[1].any() and scores[0, 0, 0] == pytest.approx(0.7)


def test_a_present_class_keeps_its_best_free_region() -> None:
    named = named_regions(np.array([[0.9, 0.4], [0.1, 0.2]], np.float32), PRESENT)
    assert named[0] == pytest.approx([0.9, 0]) and named[1, 1] > 0.5
    only = named_regions(np.array([[0.9, 0.4]], np.float32), PRESENT)
    assert only[0, 1] > 0.5  # the stronger class still wins the pixels
    assert only[0, 0] > only[0, 1]


@given(st.integers(1, 5), st.integers(0, 2**16))
def test_every_present_class_has_a_region_and_the_order_of_classes_does_not_matter(regions: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(4), regions)[:, 1:].astype(np.float32)
    everything = np.ones(3, bool)
    named = named_regions(probabilities, everything)
    assert (named.max(0) > 0.5).all() and (named <= 1).all()
    assert ((named > 0).sum() <= regions + 3) and (named.argmax(1) == probabilities.argmax(1))[
        named.max(1) > 0.52
    ].all()


def test_no_regions_and_no_classes_have_no_scores() -> None:
    empty = paint_scores(np.zeros((0, 2, 3), bool), np.zeros((0, 2), np.float32), PRESENT)
    assert empty.shape == (2, 2, 3) and not empty.any()
    assert not paint_scores(two_regions(), np.ones((2, 2), np.float32), np.zeros(2, bool)).any()


# --- as scores of a model


@pytest.fixture(scope="module")
def model(trained: RegionResult) -> LoadedModel:
    return load_model(trained.model)


@pytest.mark.parametrize("tags", ["given", "predicted"])
def test_masks_from_tags_are_close_to_the_drawn_ones(boxes: Path, model: LoadedModel, tags: str) -> None:
    dataset = Dataset.open(boxes)
    settings = CamSettings(tags=tags, device="cpu")  # type: ignore[arg-type]
    for frame in score_frames(model, dataset, settings):
        assert frame.scores.shape == (3, *SIZE) and frame.scores.dtype == np.float32
        assert frame.scores.min() >= 0 and frame.scores.max() <= 1
    assert evaluate_model(model, dataset, settings, name="regions").auto.miou > 0.8


def test_cams_write_the_same_masks(boxes: Path, model: LoadedModel, tmp_path: Path) -> None:
    dataset = Dataset.open(boxes)
    settings = CamSettings(device="cpu")
    assert sum(write_cams(model, dataset, tmp_path / "masks", settings)) == len(dataset)
    for frame in score_frames(model, dataset, settings):
        mask = read_mask(tmp_path / "masks", frame.sample.key, SIZE, 3)
        best = frame.scores.max(0)
        assert np.array_equal(mask, np.where(best > 0.5, frame.scores.argmax(0) + 1, 0))
        assert set(np.flatnonzero(frame.sample.tags == 1) + 1) == set(np.unique(mask)) - {0}


def test_a_dataset_without_depth_is_refused(boxes: Path, model: LoadedModel) -> None:
    dataset = Dataset.open(boxes)
    flat = Dataset(boxes, dataset.classes, [replace(frame, depth=None) for frame in dataset.frames])
    with pytest.raises(UsageError, match=r"a region model needs depth.*deal depth"):
        list(score_frames(model, flat, CamSettings(device="cpu")))


def test_the_order_of_the_class_list_does_not_matter(boxes: Path, model: LoadedModel, tmp_path: Path) -> None:
    order = ("blue", "red", "green")
    path = write_boxes(tmp_path / "permuted", classes=order)
    permuted = load_model(train_regions(tiny_settings(path, tmp_path / "run")).model)
    settings = CamSettings(device="cpu")
    agree = []
    for one, two in zip(
        score_frames(model, Dataset.open(boxes), settings),
        score_frames(permuted, Dataset.open(path), settings),
        strict=True,
    ):
        theirs = two.scores[[order.index(name) for name in CLASSES]]
        agree.append(np.mean(_mask(one.scores) == _mask(theirs)))
    assert np.mean(agree) > 0.97


def _mask(scores: np.ndarray) -> np.ndarray:
    return np.where(scores.max(0) > 0.5, scores.argmax(0) + 1, 0)
