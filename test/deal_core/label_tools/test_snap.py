"""Masks end where regions of depth end; flat things stay."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from helpers.judged_scenes import Scene, scenes

from deal_core.label_tools.snap import snap_mask

SCENES = scenes()[:12]


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return float(((mask == truth) & (truth > 0)).sum() / ((mask > 0) | (truth > 0)).sum())


def wide(scene: Scene) -> np.ndarray:
    """The true mask with outlines that are three pixels too wide."""
    return cv2.dilate(scene.truth, np.ones((7, 7), np.uint8))


def test_wide_outlines_become_those_of_the_things() -> None:
    before = [iou(wide(scene), scene.truth) for scene in SCENES]
    after = [iou(snap_mask(scene.sample, wide(scene)), scene.truth) for scene in SCENES]
    assert np.mean(before) < 0.6 and np.mean(after) > np.mean(before) + 0.15
    assert all(a >= b - 0.02 for a, b in zip(after, before, strict=True))


def test_true_masks_and_empty_ones_hardly_change() -> None:
    for scene in SCENES:
        assert iou(snap_mask(scene.sample, scene.truth), scene.truth) > 0.8
        assert not snap_mask(scene.sample, np.zeros_like(scene.truth)).any()


def test_a_flat_thing_on_a_plane_stays_and_nothing_moves_without_depth() -> None:
    scene = SCENES[0]
    rows, columns = np.nonzero(scene.truth == 0)
    flat = np.zeros_like(scene.truth)
    flat[rows[:: len(rows) // 7], columns[:: len(rows) // 7]] = 2  # specks anywhere on the table
    assert (snap_mask(scene.sample, flat) == 2).sum() >= 6
    blind = replace(
        scene.sample, depth=np.zeros_like(scene.sample.depth), depth_valid=np.zeros_like(scene.sample.depth_valid)
    )
    np.testing.assert_array_equal(snap_mask(blind, wide(scene)), wide(scene))
