"""The stereo camera's error against formulas worked out apart from the code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deal_core.errors import ConfigError
from deal_core.synthetic.depth_noise import MatchFailures, StereoCamera, find_match_failures, measure_depth

SHAPE = (160, 200)


def measure_wall(depth, camera: StereoCamera, seed: int = 0, cosine: float = 1.0) -> np.ndarray:
    exact = np.broadcast_to(np.asarray(depth, np.float32), SHAPE).copy()
    facing = np.full(SHAPE, cosine, np.float32)
    return measure_depth(exact, np.ones(SHAPE, bool), facing, camera, np.random.default_rng(seed))


@settings(max_examples=25)
@given(
    # Below, the error is hardly larger than the steps, and the uniform rounding error assumed here is not one.
    depth=st.floats(1.5, 3.5),
    noise=st.floats(0.1, 0.2),
    baseline=st.sampled_from([0.05, 0.095, -0.05]),
    seed=st.integers(0, 2**16),
)
def test_noise_grows_with_the_square_of_the_distance(depth, noise, baseline, seed):
    camera = StereoCamera(baseline_m=baseline, disparity_noise_px=noise, hole_fraction=0, correlation_px=0.6)
    measured = measure_wall(depth, camera, seed).astype(np.float64) / 1000
    metres_per_pixel = depth**2 / (camera.focal_px * abs(baseline))
    # A uniform rounding error of step s has the variance s^2 / 12; depth is then rounded to millimetres.
    expected = np.sqrt(metres_per_pixel**2 * (noise**2 + camera.disparity_step_px**2 / 12) + 1e-6 / 12)
    assert measured.std() == pytest.approx(expected, rel=0.08)
    assert measured.mean() == pytest.approx(depth, abs=expected)


@given(depth=st.floats(0.3, 4.0))
@settings(max_examples=20)
def test_disparities_are_multiples_of_the_step(depth):
    camera = StereoCamera(hole_fraction=0, disparity_noise_px=0.3)
    measured = np.unique(measure_wall(depth, camera))
    steps = camera.focal_px * camera.baseline_m / (np.arange(1, 4000) * camera.disparity_step_px) * 1000
    nearest = np.abs(measured[:, None] - steps[None, :]).min(axis=1)
    assert nearest.max() <= 0.5 + 1e-3  # rounding to millimetres


def test_neighbours_err_alike_within_the_matching_window():
    errors = {s: measure_wall(2.0, StereoCamera(hole_fraction=0, correlation_px=s)).astype(float) for s in (0.0, 2.0)}
    correlation = {s: np.corrcoef(e[:, 1:].ravel(), e[:, :-1].ravel())[0, 1] for s, e in errors.items()}
    assert abs(correlation[0.0]) < 0.05
    assert correlation[2.0] > 0.8
    assert errors[0.0].std() == pytest.approx(errors[2.0].std(), rel=0.15)


def test_without_error_only_rounding_is_left():
    camera = StereoCamera(disparity_noise_px=0, disparity_step_px=1e-5, hole_fraction=0, edge_jitter_px=0)
    exact = np.linspace(0.3, 3.0, SHAPE[0] * SHAPE[1]).reshape(SHAPE)
    assert np.abs(measure_wall(exact, camera) - exact * 1000).max() <= 1.0


@pytest.mark.parametrize("depth", [0.0, 0.1, 9.0, np.inf])
def test_nothing_is_measured_out_of_range(depth):
    assert not measure_wall(depth, StereoCamera()).any()


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.1])
def test_holes_cover_their_share_in_patches(fraction):
    holes = measure_wall(1.0, StereoCamera(hole_fraction=fraction)) == 0
    assert holes.mean() == pytest.approx(fraction, abs=0.25 * fraction + 1e-9)
    if fraction:
        beside = holes[:, 1:] & holes[:, :-1]
        assert beside.sum() > 0.5 * holes.sum()


def test_surfaces_at_a_grazing_angle_drop_out():
    camera = StereoCamera(hole_fraction=0, grazing_cosine=0.25)
    lost = [float((measure_wall(1.0, camera, cosine=c) == 0).mean()) for c in (1.0, 0.25, 0.125, 0.0)]
    assert lost[:2] == [0.0, 0.0]
    assert lost[2] == pytest.approx(0.5, abs=0.02)
    assert lost[3] == 1.0


def test_what_the_second_imager_does_not_see_is_a_hole():
    seen = np.ones(SHAPE, bool)
    seen[40:80, 50:90] = False
    depth, facing = np.full(SHAPE, 1.0, np.float32), np.ones(SHAPE, np.float32)
    measured = measure_depth(depth, seen, facing, StereoCamera(hole_fraction=0), np.random.default_rng(1))
    assert np.array_equal(measured == 0, ~seen)


def test_edges_are_ragged_and_slopes_are_not():
    camera = StereoCamera(disparity_noise_px=0, disparity_step_px=1e-5, hole_fraction=0, edge_jitter_px=1.0)
    slope = np.broadcast_to(np.linspace(0.6, 1.2, SHAPE[0])[:, None], SHAPE).astype(np.float32)
    assert np.abs(measure_wall(slope, camera) - slope * 1000).max() <= 1.0
    step = np.where(np.arange(SHAPE[1]) < 100, 0.7, 1.0)[None, :].repeat(SHAPE[0], 0)
    edge_column = (measure_wall(step, camera) > 850).argmax(axis=1)
    assert 0.3 < edge_column.std() < 3.0
    assert set(np.unique(measure_wall(step, camera))) == {700, 1000}  # no values in between


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"baseline_m": 0.0}, "baseline_m"),
        ({"focal_px": -1.0}, "focal_px"),
        ({"disparity_noise_px": -0.1}, "disparity_noise_px"),
        ({"disparity_noise_px": float("nan")}, "disparity_noise_px"),
        ({"disparity_step_px": 0.0}, "disparity_step_px"),
        ({"hole_fraction": 1.0}, "hole_fraction"),
        ({"min_depth_m": 7.0}, "min_depth_m"),
    ],
)
def test_impossible_cameras_are_refused(change, named):
    with pytest.raises(ConfigError, match=named):
        StereoCamera(**change)


# --- where no match is found ----------------------------------------------------------------------------------------

NO_LOSS = np.zeros(SHAPE, np.float32)


def test_a_ring_on_the_far_side_of_an_edge_loses_its_share():
    step = np.where(np.arange(SHAPE[1]) < 100, 0.7, 1.0)[None, :].repeat(SHAPE[0], 0).astype(np.float32)
    failures = MatchFailures(window_px=8.0, ring_loss=0.7, ragged_px=0.5)
    lost = np.mean([find_match_failures(step, NO_LOSS, failures, np.random.default_rng(n)) for n in range(6)], axis=0)
    per_column = lost.mean(axis=0)
    reach = round(8.0 * SHAPE[1] / 320)
    assert not per_column[:100].any()  # near things keep their depth
    assert np.abs(per_column[100 : 100 + reach] - 0.7).max() < 0.15
    assert not per_column[100 + reach + 3 :].any()


def test_a_slope_has_no_ring():
    slope = np.broadcast_to(np.linspace(0.5, 2.0, SHAPE[0])[:, None], SHAPE).astype(np.float32)
    assert not find_match_failures(slope, NO_LOSS, MatchFailures(), np.random.default_rng(0)).any()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.85, 1.0])
def test_surfaces_lose_their_share_in_patches(share):
    flat, loss = np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    loss[:, :100] = share
    lost = np.array(
        [find_match_failures(flat, loss, MatchFailures(patch_px=2.0), np.random.default_rng(n)) for n in range(8)]
    )
    assert not lost[:, :, 100:].any()
    assert lost[:, :, :100].mean() == pytest.approx(share, abs=0.05)
    if 0 < share < 1:
        half = lost[:, :, :100]
        assert (half[:, :, 1:] != half[:, :, :-1]).mean() < share * (1 - share)
