"""Scores warped through depth, against a slow loop over pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from helpers.tapped_table import Block, camera_at, ray_cast
from hypothesis import given, settings
from hypothesis import strategies as st

from deal_core.taps.carry import View
from deal_core.views.warp import agreement, warp_scores

RNG = np.random.default_rng(4)
BLOCK = Block(1, -0.1, 0.1, -0.08, 0.06, 0.8)


def slowly(scores: np.ndarray, source: View, target: View) -> tuple[np.ndarray, np.ndarray]:
    """`warp_scores`, pixel by pixel."""
    warped, weights = np.zeros_like(scores), np.zeros(target.depth.shape)
    camera, back = target.camera, np.linalg.inv(source.pose)
    for row in range(camera.height):
        for column in range(camera.width):
            z = float(target.depth[row, column])
            point = np.array([(column - camera.cx) / camera.fx * z, (row - camera.cy) / camera.fy * z, z, 1.0])
            x, y, distance, _ = back @ target.pose @ point
            if not target.known[row, column] or distance <= 0:
                continue
            u = round(x / distance * source.camera.fx + source.camera.cx)
            v = round(y / distance * source.camera.fy + source.camera.cy)
            if not (0 <= u < camera.width and 0 <= v < camera.height and source.known[v, u]):
                continue
            off = abs(float(source.depth[v, u]) - distance) / (0.02 + 0.015 * distance**2)
            if off <= 2:
                weights[row, column], warped[:, row, column] = np.exp(-(off**2) / 2), scores[:, v, u]
    return warped, weights


@settings(max_examples=3, deadline=None)
@given(st.floats(-0.2, 0.2), st.floats(-0.1, 0.1), st.floats(-0.1, 0.2), st.floats(-0.2, 0.2))
def test_every_pixel_takes_what_a_slow_loop_finds(x: float, y: float, z: float, turn: float) -> None:
    (source, _), (target, _) = ray_cast(camera_at(0)), ray_cast(camera_at(x, y, z, turn))
    source = replace(source, known=RNG.random(source.depth.shape) > 0.2)
    target = replace(target, known=RNG.random(target.depth.shape) > 0.2)
    scores = RNG.random((2, *source.depth.shape)).astype(np.float32)
    warped, weights = warp_scores(scores, source, target)
    expected, sure = slowly(scores, source, target)
    # A pixel that falls between two others may go to either of them.
    assert np.mean(np.abs(weights - sure) > 1e-3) < 0.002 and np.mean(np.abs(warped - expected) > 1e-6) < 0.002


def test_the_same_pose_changes_nothing() -> None:
    view, _ = ray_cast(camera_at(0.1, 0, 0, 0.1))
    scores = RNG.random((3, *view.depth.shape)).astype(np.float32)
    warped, weights = warp_scores(scores, view, view)
    np.testing.assert_array_equal(warped, scores)
    np.testing.assert_allclose(weights, 1, atol=1e-6)


def test_what_is_hidden_has_no_weight() -> None:
    (source, _), (target, number) = ray_cast(camera_at(0), (BLOCK,)), ray_cast(camera_at(0.3, 0, 0), (BLOCK,))
    before = source.depth < 1.0
    warped, weights = warp_scores(before[None].astype(np.float32), source, target)
    # The wall that the block hid from the source shows nothing of the block.
    assert warped[0][(number == 0) & (weights > 0)].max() == 0 and warped[0][number == 1].mean() > 0.9
    assert (weights[number == 0] == 0).sum() > 100


def test_right_poses_agree_and_wrong_poses_or_intrinsics_do_not() -> None:
    (source, _), (target, _) = ray_cast(camera_at(0)), ray_cast(camera_at(0.1, 0.05, 0.1, 0.1))
    assert agreement(source, target).agreeing > 0.9 and not agreement(source, target).is_wrong
    moved = replace(target, pose=camera_at(0.1, 0.05, 0.4, 0.1))
    assert agreement(source, moved).is_wrong
    wide = replace(target, camera=replace(target.camera, fx=20.0, fy=20.0))
    turned = replace(wide, pose=camera_at(0.1, 0.05, 0.1, 0.5))
    assert agreement(source, turned).is_wrong


def test_views_without_anything_in_common_are_not_judged() -> None:
    (source, _), (target, _) = ray_cast(camera_at(0)), ray_cast(camera_at(9.0))
    found = agreement(source, target)
    assert found.compared == 0 and not found.is_wrong
