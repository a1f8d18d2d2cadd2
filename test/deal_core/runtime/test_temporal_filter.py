"""The temporal filter against a slow formulation point by point, and what it must not keep."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.errors import UsageError
from deal_core.runtime.temporal_filter import TemporalFilter, View
from deal_core.structures import CameraIntrinsics

CAMERA = CameraIntrinsics(64, 48, 60.0, 62.0, 31.0, 24.5)
SIZE = (48, 64)
FRAME_NS = 33_000_000


def pose(x: float = 0.0, y: float = 0.0, z: float = 0.0, turn: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    found = np.eye(4)
    found[:3, :3] = cv2.Rodrigues(np.array(turn, np.float64))[0]
    found[:3, 3] = x, y, z
    return found


def view(depth: float | np.ndarray = 2.0, at: np.ndarray | None = None, frame: int = 0) -> View:
    depth = np.full(SIZE, depth, np.float32) if np.isscalar(depth) else depth
    return View(depth, CAMERA, np.eye(4) if at is None else at, frame * FRAME_NS)


def noise(seed: int, shape: tuple[int, int, int] = (2, 12, 16)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def slowly(now: np.ndarray, here: View, past: np.ndarray, there: View, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the filtered scores, and which points lie so near a border of pixels that rounding may decide."""
    mixed, unsure = now.copy(), np.zeros(now.shape[1:], bool)
    height, width = now.shape[1:]
    for row, column in np.ndindex(height, width):
        v, u = (row + 0.5) * SIZE[0] / height - 0.5, (column + 0.5) * SIZE[1] / width - 0.5
        i, j = round(v), round(u)
        depth = float(here.depth[i, j])
        if not depth > 0:
            continue
        point = depth * np.array([(j - CAMERA.cx) / CAMERA.fx, (i - CAMERA.cy) / CAMERA.fy, 1.0])
        in_world = here.pose @ [*point, 1.0]
        x, y, z, _ = np.linalg.inv(there.pose) @ in_world
        if z <= 0:
            continue
        u2, v2 = CAMERA.fx * x / z + CAMERA.cx, CAMERA.fy * y / z + CAMERA.cy
        unsure[row, column] = min(abs(u2 % 1 - 0.5), abs(v2 % 1 - 0.5)) < 1e-3
        if not (0 <= round(u2) < SIZE[1] and 0 <= round(v2) < SIZE[0]):
            continue
        error = abs(float(there.depth[round(v2), round(u2)]) - z) / z
        unsure[row, column] |= abs(error - 0.05) < 1e-3
        if not error <= 0.05:  # also nan
            continue
        r = np.clip((v2 + v - i + 0.5) * height / SIZE[0] - 0.5, 0, height - 1)
        c = np.clip((u2 + u - j + 0.5) * width / SIZE[1] - 0.5, 0, width - 1)
        top, left = int(r), int(c)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        moved = (
            past[:, top, left] * (1 - (r - top)) * (1 - (c - left))
            + past[:, top, right] * (1 - (r - top)) * (c - left)
            + past[:, bottom, left] * (r - top) * (1 - (c - left))
            + past[:, bottom, right] * (r - top) * (c - left)
        )
        change = moved - now[:, row, column]
        mixed[:, row, column] += weight * (1 - 0.5 * np.abs(change).max()) * change
    return mixed, unsure


@given(
    seed=st.integers(0, 1000),
    move=st.tuples(*[st.floats(-0.3, 0.3)] * 3),
    turn=st.tuples(*[st.floats(-0.1, 0.1)] * 3),
    weight=st.floats(0, 0.95),
)
def test_scores_are_those_of_the_slow_formulation(
    seed: int, move: tuple[float, float, float], turn: tuple[float, float, float], weight: float
) -> None:
    rng = np.random.default_rng(seed)
    depth = rng.choice(np.array([0.0, np.nan, 1.9, 2.0, 2.05, 3.0], np.float32), SIZE, p=[0.1, 0.1, 0.2, 0.3, 0.2, 0.1])
    past, now = noise(seed), noise(seed + 1)
    there, here = view(depth, pose(0.1, 0, 0)), view(np.roll(depth, 3, 1), pose(*move, turn), 1)
    filter_ = TemporalFilter(weight)
    np.testing.assert_array_equal(filter_(past, there), past)
    expected, unsure = slowly(now, here, past, there, weight)
    # OpenCV moves maps in steps of 1/32 of a score.
    np.testing.assert_allclose(filter_(now, here)[:, ~unsure], expected[:, ~unsure], atol=2 / 32)


def test_a_camera_that_stands_still_mixes_each_score_with_itself() -> None:
    past, now = noise(1), noise(2)
    filter_ = TemporalFilter(0.8)
    filter_(past, view())
    change = past - now
    expected = now + 0.8 * (1 - 0.5 * np.abs(change).max(0)) * change
    np.testing.assert_allclose(filter_(now, view(frame=1)), expected, atol=1e-5)


def test_scores_move_with_the_surface_they_belong_to() -> None:
    past = np.zeros((1, 12, 16), np.float32)
    past[0, 4:8, 6:9] = 1
    filter_ = TemporalFilter(0.8)
    filter_(past, view())
    # At 2 m, a step of 2 m * 4 px / 60 px to the right moves the scene by 4 pixels, one score, to the left.
    same = np.roll(past, -1, axis=2)
    np.testing.assert_allclose(filter_(same, view(at=pose(x=2 * 4 / 60), frame=1)), same, atol=1e-5)


@pytest.mark.parametrize(
    "here",
    [
        view(1.0, frame=1),  # another surface is in front
        view(0.0, frame=1),
        view(np.full(SIZE, np.nan, np.float32), frame=1),
        view(at=pose(x=10.0), frame=1),  # outside the last image
        view(at=pose(turn=(0, np.pi, 0)), frame=1),  # behind the camera
        view(frame=-1),
        view(frame=31),  # a second later
        replace(view(frame=1), camera=replace(CAMERA, fx=61.0)),
    ],
)
def test_what_the_last_image_does_not_show_keeps_its_scores(here: View) -> None:
    filter_ = TemporalFilter(0.8)
    filter_(np.zeros((2, 12, 16), np.float32), view())
    now = noise(3)
    np.testing.assert_array_equal(filter_(now, here), now)


def test_scores_of_another_model_and_of_before_a_reset_are_not_used() -> None:
    filter_, now = TemporalFilter(0.8), noise(3)
    filter_(np.zeros((3, 12, 16), np.float32), view())
    np.testing.assert_array_equal(filter_(now, view(frame=1)), now)
    filter_.reset()
    later = noise(4)
    np.testing.assert_array_equal(filter_(later, view(frame=2)), later)


@pytest.mark.parametrize("score", [0.8, 0.9, 1.0])
def test_a_class_that_appears_without_a_change_of_depth_is_at_most_one_image_late(score: float) -> None:
    for before, after in ((0.0, score), (score, 1 - score)):
        filter_ = TemporalFilter(0.85)
        for frame in range(20):
            filter_(np.full((1, 12, 16), before, np.float32), view(frame=frame))
        found = [filter_(np.full((1, 12, 16), after, np.float32), view(frame=20 + late)) for late in range(2)]
        assert ((found[1] > 0.5) == (after > 0.5)).all()


def test_noise_flickers_half_as_much() -> None:
    rng = np.random.default_rng(0)
    filter_, changes, last = TemporalFilter(0.85), np.zeros(2), None
    for frame in range(40):
        scores = rng.normal(0.45, 0.15, (1, 12, 16)).clip(0, 1).astype(np.float32)
        masks = [found > 0.5 for found in (scores, filter_(scores, view(frame=frame)))]
        if last is not None and frame > 5:
            changes += [np.mean(one != other) for one, other in zip(masks, last, strict=True)]
        last = masks
    assert changes[1] < 0.5 * changes[0]


@pytest.mark.parametrize("weight", [-0.1, 1.0, float("nan")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(UsageError, match="weight of the last scores"):
        TemporalFilter(weight)
