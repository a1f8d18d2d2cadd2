"""Flicker: changes of the prediction where the scene stays, not where camera or things move."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from deal_core.dataset.dataset import FrameRecord
from deal_core.evaluation.flicker import Flicker
from deal_core.structures import TagState

MS = 1_000_000
SCENE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (160, 240, 3), np.uint8), (0, 0), 3)
THINGS = np.zeros((160, 240), np.uint8)
THINGS[60:100, 80:130] = 1


def record(stamp_ms: int, recording: str = "kitchen", segment: int = 0) -> FrameRecord:
    return FrameRecord(recording, stamp_ms * MS, Path("x.png"), None, None, TagState(), segment)


def window(array: np.ndarray, left: int) -> np.ndarray:
    return np.ascontiguousarray(array[10:150, 10 + left : 200 + left])


def flicker_of(masks: list[np.ndarray], lefts: list[int], frames: list[FrameRecord]) -> float | None:
    flicker = Flicker(frames)
    for mask, left, frame in zip(masks, lefts, frames, strict=True):
        flicker.update(window(SCENE, left), window(mask, left), window(THINGS, left), frame.key)
    return flicker.share()


def test_a_wrong_region_that_moves_with_the_camera_does_not_flicker() -> None:
    wrong = THINGS.copy()
    wrong[20:50, 140:180] = 2
    lefts = [0, 4, 8, 13]
    frames = [record(100 + 33 * number) for number in range(4)]
    share = flicker_of([wrong] * 4, lefts, frames)
    assert share is not None and share < 0.002


def test_a_region_that_comes_and_goes_flickers_by_its_area() -> None:
    wrong = THINGS.copy()
    wrong[30:50, 40:70] = 2
    frames = [record(100 + 33 * number) for number in range(5)]
    share = flicker_of([THINGS, wrong] * 2 + [THINGS], [0] * 5, frames)
    np.testing.assert_allclose(share, 20 * 30 / (140 * 190), rtol=0.05)


def test_only_successive_frames_of_one_scene_count() -> None:
    wrong = np.full_like(THINGS, 2)
    for frames in (
        [record(100), record(100, "hall")],
        [record(100), record(130, segment=1)],
        [record(100), record(1200)],
        [record(0), FrameRecord("kitchen", 5, Path("x.png"), None, None, TagState(), 0)],  # images by number
    ):
        assert flicker_of([THINGS, wrong], [0, 0], frames) is None


def test_where_the_truth_changes_or_is_unlabelled_nothing_counts() -> None:
    frames = [record(100), record(133)]
    flicker = Flicker(frames)
    for frame, value in zip(frames, (1, 2), strict=True):
        truth = np.full((140, 190), value, np.uint8)
        truth[:70] = 255
        flicker.update(window(SCENE, 0), np.full((140, 190), value, np.uint8), truth, frame.key)
    assert flicker.share() is None
