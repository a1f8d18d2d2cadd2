"""Filled depth against a loop over pixels, and what each kind of hole must become."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deal_core.surfaces.filling import fill_depth, fill_depth_image

# --- an independent formulation: one pixel at a time ---------------------------------------------------------------


def slow_side(line: np.ndarray, at: int, step: int) -> tuple[float, int] | None:
    """Return the nearest positive value of a line from `at` in a direction, and the distance to it."""
    place = at
    while 0 <= place < len(line):
        if line[place] > 0:
            return line[place], abs(place - at)
        place += step
    return None


def slow_axis(line: np.ndarray, at: int) -> tuple[float, float, float, float, bool] | None:
    """Return interpolated value, jump, relative jump, gap and whether both sides exist; None without any side."""
    before, after = slow_side(line, at, -1), slow_side(line, at, 1)
    if before is None and after is None:
        return None
    if before is None or after is None:
        value, distance = before or after  # type: ignore[misc]
        return value, 0.0, 0.0, 2.0 * distance, False
    (a, n), (b, m) = before, after
    return (a * m + b * n) / (n + m), abs(a - b), abs(a - b) / max(a, b), n + m - 1.0, True


def slow_pixel(inverse: np.ndarray, i: int, j: int, scale: float) -> tuple[float, float] | None:
    """Return inverse depth and confidence of one hole pixel; None if its row and column have no measured pixel."""
    width = inverse.shape[1]
    row, column = slow_axis(inverse[i], j), slow_axis(inverse[:, j], i)
    if row is None and column is None:
        return None
    sides = [slow_side(inverse[i], j, s) for s in (-1, 1)] + [slow_side(inverse[:, j], i, s) for s in (-1, 1)]
    distance = min(side[1] for side in sides if side)
    if row and row[4] and row[3] <= 3.0 * 0.05 * 0.75 * width * scale * row[1]:
        values = [side[0] for side in sides[:2] if side]
        return min(values), math.exp(-(row[3] + distance) / (4 * 0.05 * width))
    found = [axis for axis in (row, column) if axis]
    weights = [1.0 / (axis[3] ** 2 * (1.0 + (axis[2] / 0.02) ** 2)) for axis in found]
    value = sum(w * axis[0] for w, axis in zip(weights, found, strict=True)) / sum(weights)
    gap = min(axis[3] for axis in found)
    return value, math.exp(-(gap + distance) / (0.05 * width))


def slow_fill(depth: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Fill the pixels that lie in the row or column of a measured one; others stay 0."""
    inverse = np.array([[0.0 if not d > 0 else (1 / d if kind == "metric" else d) for d in row] for row in depth])
    measured = np.sort(inverse[inverse > 0])
    scale = 1.0 if kind == "metric" else 1.0 / measured[(len(measured) - 1) // 2]
    filled, confidence = np.array(depth, float), (inverse > 0).astype(float)
    for i, j in zip(*np.nonzero(inverse == 0), strict=True):
        found = slow_pixel(inverse, i, j, scale)
        if found:
            filled[i, j] = 1 / found[0] if kind == "metric" else found[0]
            confidence[i, j] = found[1]
    return filled, confidence


def scene(seed: int, height: int = 9, width: int = 24, holes: float = 0.4) -> np.ndarray:
    """Return a noisy slope with a near box and holes as pixels and as a block."""
    rng = np.random.default_rng(seed)
    depth = 1.0 + 0.05 * np.arange(height)[:, None] + rng.normal(0, 0.002, (height, width))
    top, left = rng.integers(0, height - 4), rng.integers(0, width - 8)
    depth[top : top + 4, left : left + 6] = rng.uniform(0.4, 0.9)
    depth[rng.random(depth.shape) < holes] = 0
    column = rng.integers(0, width - 5)
    depth[:, column : column + 4] = 0
    return depth


def tensor(depth: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(depth, dtype=torch.float64)[None, None]


# --- against the loop -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["metric", "inverse"])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_it_equals_a_loop_over_pixels(kind, seed):
    depth = scene(seed)
    expected, confidence = slow_fill(depth, kind)
    got = fill_depth(tensor(depth), kind=kind)
    reached = expected > 0
    np.testing.assert_allclose(got.depth[0, 0].numpy()[reached], expected[reached], rtol=1e-9)
    np.testing.assert_allclose(got.confidence[0, 0].numpy(), confidence, rtol=1e-9, atol=1e-12)


# --- properties -------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), holes=st.floats(0, 0.97), kind=st.sampled_from(["metric", "inverse"]))
@settings(max_examples=60, deadline=None)
def test_measured_pixels_stay_and_every_other_gets_a_number_between_the_extremes(seed, holes, kind):
    depth = tensor(scene(seed, holes=holes))
    measured = depth > 0
    filled = fill_depth(depth, kind=kind)
    assert torch.equal(filled.depth[measured], depth[measured])
    assert (filled.confidence[measured] == 1).all()
    assert ((filled.confidence >= 0) & (filled.confidence <= 1)).all()
    assert (filled.confidence[~measured] < 1).all()
    if measured.any():
        known = depth[measured]
        assert (filled.depth >= known.min() * (1 - 1e-12)).all()
        assert (filled.depth <= known.max() * (1 + 1e-12)).all()


@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["metric", "inverse"]))
@settings(max_examples=40, deadline=None)
def test_a_mirrored_image_is_filled_as_the_mirror_image(seed, kind):
    depth = tensor(scene(seed))
    plain, mirrored = fill_depth(depth, kind=kind), fill_depth(depth.flip(-1), kind=kind)
    torch.testing.assert_close(mirrored.depth.flip(-1), plain.depth, rtol=1e-12, atol=0)
    torch.testing.assert_close(mirrored.confidence.flip(-1), plain.confidence, rtol=1e-12, atol=1e-15)


@given(seed=st.integers(0, 10_000), value=st.floats(0.2, 8), kind=st.sampled_from(["metric", "inverse"]))
@settings(max_examples=40, deadline=None)
def test_a_constant_surface_is_continued(seed, value, kind):
    depth = tensor(np.where(scene(seed, holes=0.6) > 0, value, 0.0))
    torch.testing.assert_close(fill_depth(depth, kind=kind).depth, torch.full_like(depth, value), rtol=1e-12, atol=0)


def test_a_plane_is_continued_through_a_hole():
    rows, columns = np.mgrid[0:40, 0:60]
    plane = 1.0 / (0.5 + 0.01 * rows + 0.004 * columns)
    depth = plane.copy()
    depth[12:22, 20:31] = 0
    np.testing.assert_allclose(fill_depth(tensor(depth)).depth[0, 0], plane, rtol=1e-9)


def test_an_image_of_a_batch_does_not_depend_on_the_others():
    first, second = tensor(scene(1)), 100 * tensor(scene(2))
    for kind in ("metric", "inverse"):
        both = fill_depth(torch.cat([first, second]), kind=kind)
        for i, one in enumerate((first, second)):
            alone = fill_depth(one, kind=kind)
            assert torch.equal(both.depth[i], alone.depth[0])
            assert torch.equal(both.confidence[i], alone.confidence[0])


# --- what the holes mean ----------------------------------------------------------------------------------------------


def near_box(width: int = 160) -> np.ndarray:
    """Return a wall at 1.5 m with a box at 0.5 m; at this size a shadow is at most 24 pixels wide."""
    depth = np.full((60, width), 1.5)
    depth[15:45, 60:100] = 0.5
    return depth


@pytest.mark.parametrize("columns", [(52, 60), (100, 108)], ids=["left", "right"])
@pytest.mark.parametrize("kind", ["metric", "inverse"])
def test_a_shadow_on_either_side_becomes_the_far_surface(columns, kind):
    truth = near_box() if kind == "metric" else 1.0 / near_box()
    depth = truth.copy()
    depth[15:45, columns[0] : columns[1]] = 0
    filled = fill_depth(tensor(depth), kind=kind)
    np.testing.assert_allclose(filled.depth[0, 0], truth, rtol=1e-12)
    assert filled.confidence[0, 0, 30, columns[0] : columns[1]].min() > 0.6


def test_a_dark_patch_inside_a_thing_does_not_become_the_background():
    truth = near_box()
    depth = truth.copy()
    depth[20:40, 66:94] = 0  # a wide hole whose sides are near
    np.testing.assert_allclose(fill_depth(tensor(depth)).depth[0, 0], truth, rtol=1e-12)


def test_a_dark_patch_that_reaches_the_outline_is_filled_from_both_sides():
    depth = near_box()
    depth[20:40, 64:100] = 0
    depth[20:40, 100:104] = 0
    filled = fill_depth(tensor(depth)).depth[0, 0]
    assert (filled[20:40, 64:80] < 1.0).all(), "the part beside the thing belongs to it"
    assert (filled[20:40, 64:104] > 0.4).all()


def test_the_confidence_falls_with_the_width_of_the_hole_and_with_the_distance_from_its_sides():
    def confidence(width: int) -> np.ndarray:
        depth = np.full((60, 160), 1.0)
        depth[:, 40 : 40 + width] = 0
        return fill_depth(tensor(depth)).confidence[0, 0, 30].numpy()

    narrow, wide = confidence(4), confidence(40)
    assert narrow[40] > wide[40]
    assert all(wide[40 + i] > wide[41 + i] for i in range(18))
    assert wide[60] < 0.05


def test_a_shadow_is_trusted_more_than_a_dropout_of_its_width():
    depth = near_box()
    depth[15:45, 52:60] = 0
    depth[15:45, 72:80] = 0
    confidence = fill_depth(tensor(depth)).confidence[0, 0, 30]
    assert confidence[56] > 2 * confidence[76]


def test_nothing_is_known_where_neither_row_nor_column_was_measured():
    depth = np.zeros((6, 8))
    depth[2:4, 3:5] = 1.25
    filled = fill_depth(tensor(depth))
    assert (filled.depth == 1.25).all()
    assert filled.confidence[0, 0, 0, 0] == 0
    assert filled.confidence[0, 0, 2, 0] > 0


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), -1.0])
def test_an_image_without_a_measurement_is_zero_and_unknown(value):
    filled = fill_depth(torch.full((2, 1, 5, 7), value))
    assert (filled.depth == 0).all()
    assert (filled.confidence == 0).all()


def test_given_validity_makes_holes_too():
    depth = torch.full((1, 1, 4, 6), 2.0)
    depth[..., 3] = 0.5
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[..., 3] = False
    assert (fill_depth(depth, valid).depth == 2.0).all()


def test_the_numpy_face_gives_the_same_in_float32():
    depth = scene(3).astype(np.float32)
    filled, confidence = fill_depth_image(depth, depth > 0, "metric")
    expected = fill_depth(torch.from_numpy(depth)[None, None])
    assert filled.dtype == confidence.dtype == np.float32
    np.testing.assert_array_equal(filled, expected.depth[0, 0].numpy())
    np.testing.assert_array_equal(confidence, expected.confidence[0, 0].numpy())


@pytest.mark.parametrize(
    ("depth", "valid", "kind", "message"),
    [
        (torch.ones(4, 6), None, "metric", r"expected depth of shape \(B, 1, H, W\), got \(4, 6\)"),
        (torch.ones(1, 2, 4, 6), None, "metric", r"expected depth of shape \(B, 1, H, W\), got \(1, 2, 4, 6\)"),
        (torch.ones(1, 1, 4, 6), torch.ones(1, 1, 4, 6), "metric", "expected valid as bool"),
        (torch.ones(1, 1, 4, 6), None, "disparity", "expected kind to be one of metric, inverse, got 'disparity'"),
    ],
)
def test_wrong_input_is_refused(depth, valid, kind, message):
    with pytest.raises(ValueError, match=message):
        fill_depth(depth, valid, kind)
