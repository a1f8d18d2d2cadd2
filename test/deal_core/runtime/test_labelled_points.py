"""Clouds: against a loop over pixels, and against scenes whose points are known."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.runtime.labelled_points import POINT, labelled_points
from deal_core.runtime.sampling import sample_indices
from deal_core.runtime.segmenter import Segmentation
from deal_core.structures import CameraIntrinsics

CAMERA = CameraIntrinsics(14, 10, 12.0, 13.0, 6.25, 4.5)
seeds = st.integers(0, 2**32 - 1)


def view(seed: int) -> tuple[np.ndarray, np.ndarray, Segmentation]:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (10, 14, 3), np.uint8)
    depth = rng.choice(np.array([0, np.nan, np.inf, 0.2, 0.5, 1.25, 3, 9], np.float32), (10, 14))
    mask = rng.choice(np.array([0, 1, 7, 255], np.uint8), (10, 14))
    return rgb, depth, Segmentation(mask, rng.random((10, 14), np.float32))


@given(seeds, st.integers(1, 15))
def test_points_are_those_of_a_loop_over_pixels(seed: int, stride: int) -> None:
    rgb, depth, result = view(seed)
    points = iter(labelled_points(rgb, depth, result, CAMERA, stride=stride, near_m=0.3, far_m=3.0))
    for row in range(0, 10, stride):
        for column in range(0, 14, stride):
            z = float(depth[row, column])
            if z not in (0.5, 1.25, 3.0):
                continue
            point = next(points)
            x, y = (column - 6.25) / 12 * z, (row - 4.5) / 13 * z
            assert (point["x"], point["y"], point["z"]) == pytest.approx((x, y, z), abs=1e-6)
            blue, green, red, zero = struct.pack("<f", point["rgb"])
            assert [red, green, blue, zero] == [*rgb[row, column].tolist(), 0]
            assert point["label"] == result.mask[row, column]
            assert point["conf"] == result.confidence[row, column]
    assert next(points, None) is None


@given(seeds, st.floats(1.0, 6.0), st.sets(st.sampled_from([0, 1, 7, 255])))
def test_an_organized_cloud_has_the_same_points_at_their_pixels(seed: int, stride: float, ids: set[int]) -> None:
    rgb, depth, result = view(seed)
    options = {"stride": stride, "near_m": 0.3, "far_m": 3.0, "ids": ids}
    cloud = labelled_points(rgb, depth, result, CAMERA, **options, organized=True)
    rows, columns = sample_indices(10, stride), sample_indices(14, stride)
    assert cloud.shape == (len(rows), len(columns))
    for found, row in zip(cloud, rows, strict=True):
        for point, column in zip(found, columns, strict=True):
            z = float(depth[row, column])
            if z in (0.5, 1.25, 3.0) and result.mask[row, column] in ids:
                place = (column - 6.25) / 12 * z, (row - 4.5) / 13 * z, z
                assert (point["x"], point["y"], point["z"]) == pytest.approx(place, abs=1e-6)
            else:
                assert np.isnan([point["x"], point["y"], point["z"]]).all()
            assert (point["label"], point["conf"]) == (result.mask[row, column], result.confidence[row, column])
    points = labelled_points(rgb, depth, result, CAMERA, **options)
    np.testing.assert_array_equal(points, cloud[np.isfinite(cloud["z"])])


@given(seeds, st.sets(st.sampled_from([0, 1, 7, 255])))
def test_only_wanted_ids_become_points(seed: int, ids: set[int]) -> None:
    rgb, depth, result = view(seed)
    every = labelled_points(rgb, depth, result, CAMERA)
    np.testing.assert_array_equal(
        labelled_points(rgb, depth, result, CAMERA, ids=ids), every[np.isin(every["label"], list(ids))]
    )


@given(seeds, st.floats(-0.6, 0.6), st.floats(-0.6, 0.6), st.floats(0.3, 4.0))
def test_a_plane_gives_back_its_points(seed: int, a: float, b: float, distance: float) -> None:
    """Every point of what a pinhole sees of z = a x + b y + distance lies on it, and is seen at its pixel."""
    columns, rows = np.meshgrid(np.arange(14), np.arange(10))
    depth = distance / (1 - a * (columns - CAMERA.cx) / CAMERA.fx - b * (rows - CAMERA.cy) / CAMERA.fy)
    rgb, _, result = view(seed)
    points = labelled_points(rgb, depth.astype(np.float32), result, CAMERA)
    x, y, z = (points[axis].astype(np.float64) for axis in "xyz")
    np.testing.assert_allclose(z, a * x + b * y + distance, rtol=1e-4)
    np.testing.assert_allclose(CAMERA.fx * x / z + CAMERA.cx, columns.ravel(), atol=1e-3)
    np.testing.assert_allclose(CAMERA.fy * y / z + CAMERA.cy, rows.ravel(), atol=1e-3)


@given(seeds, st.floats(0.1, 10.0))
def test_twice_the_depth_is_twice_as_far(seed: int, factor: float) -> None:
    rgb, depth, result = view(seed)
    near = labelled_points(rgb, depth, result, CAMERA)
    far = labelled_points(rgb, depth * np.float32(factor), result, CAMERA)
    for axis in "xyz":
        np.testing.assert_allclose(far[axis], near[axis] * factor, rtol=1e-4)
    np.testing.assert_array_equal(far["label"], near["label"])


def test_no_measurement_is_no_point() -> None:
    rgb, depth, result = view(0)
    assert labelled_points(rgb, np.zeros_like(depth), result, CAMERA).shape == (0,)
    assert labelled_points(rgb, np.full_like(depth, np.nan), result, CAMERA).dtype == POINT


def test_a_lens_is_undone() -> None:
    rgb, _, result = view(0)
    bent = replace(CAMERA, distortion=(0.2, 0.0, 0.0, 0.0, 0.0))
    points = labelled_points(rgb, np.ones((10, 14), np.float32), result, bent)
    corner, straight = float(points["x"][0]), -6.25 / 12
    assert 0.95 * straight < corner < 0.9 * straight


def test_the_layout_has_the_offsets_of_the_message() -> None:
    assert POINT.itemsize == 24
    assert {name: POINT.fields[name][1] for name in POINT.names} == {
        "x": 0, "y": 4, "z": 8, "rgb": 12, "label": 16, "conf": 20
    }  # fmt: skip
