"""Planes at any slope and focal length, one after the other; curved supports; and no plane where a heap is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deal_core.surfaces.planes import Planes, find_planes


def table(slope: float, roll: float, distance: float) -> np.ndarray:
    """Depth (60, 80) of a plane seen by a pinhole camera: its inverse is linear in row and column."""
    y, x = np.mgrid[:60, :80]
    inverse = (1 + slope * (y / 60 - 0.5) + roll * (x / 80 - 0.5)) / distance
    return (1 / inverse).astype(np.float32)


@settings(deadline=None)
@given(slope=st.floats(-0.8, 0.8), roll=st.floats(-0.3, 0.3), distance=st.floats(0.4, 1.5), seed=st.integers(0, 9))
def test_a_thing_on_a_sloping_noisy_table_stands_out(slope: float, roll: float, distance: float, seed: int) -> None:
    depth = table(slope, roll, distance)
    thing = np.zeros(depth.shape, bool)
    thing[20:40, 30:55] = True
    depth[thing] -= 0.05
    generator = np.random.default_rng(seed)
    depth += generator.normal(0, 0.001, depth.shape).astype(np.float32)
    depth[generator.random(depth.shape) < 0.05] = 0
    planes = find_planes(depth)
    assert planes.supports[0] and planes.labels.dtype == np.uint8
    known, found = depth > 0, planes.labels == 1
    assert not planes.labels[~known].any()
    assert found[known & ~thing].mean() > 0.97 and found[known & thing].mean() < 0.02
    assert np.array_equal(planes.on_support(), found), "the top of the thing supports nothing"
    again = find_planes(depth)
    assert np.array_equal(planes.labels, again.labels) and np.array_equal(planes.coefficients, again.coefficients)
    inverse = 1 / table(slope, roll, distance)
    assert np.abs(planes.inverse_depth(1) / inverse - 1)[found].max() < 0.01


def room(noise: float = 0.002, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Depth (120, 160) of two walls and a floor with a box on it; truth: 1 left, 2 right wall, 3 floor, 0 the box."""
    y, x = np.mgrid[:120, :160]
    dx, dy = (x + 0.5 - 80) / 140, (y + 0.5 - 60) / 140
    left, right, floor = 1 / (0.45 - 0.25 * dx), 1 / (0.45 + 0.5 * dx), 0.55 / np.maximum(dy, 1e-6)
    walls = np.stack([left, right, floor])
    depth, truth = walls.min(0), walls.argmin(0) + 1
    depth[80:105, 60:90], truth[80:105, 60:90] = 1.3, 0
    generator = np.random.default_rng(seed)
    return (depth + noise * depth**2 * generator.standard_normal(depth.shape)).astype(np.float32), truth


@pytest.mark.parametrize("kind", ["metric", "inverse"])
def test_walls_and_floor_one_after_the_other(kind: str) -> None:
    depth, truth = room()
    if kind == "inverse":
        depth = 3 / depth + 1
    planes = find_planes(depth, kind=kind)  # type: ignore[arg-type]
    assert len(planes) == 3 == planes.supports.sum()
    sizes = [int((planes.labels == number).sum()) for number in (1, 2, 3)]
    assert sizes == sorted(sizes, reverse=True)
    for surface in (1, 2, 3):
        inside = truth == surface
        best = max(((planes.labels == number) & inside).sum() for number in (1, 2, 3))
        assert best > 0.9 * inside.sum()
    assert planes.on_support()[truth == 0].mean() < 0.05


def test_the_tolerance_follows_the_noise_and_the_square_of_the_depth() -> None:
    y, _ = np.mgrid[:90, :120]
    depth = 1 / (1.6 - 1.2 * (y + 0.5) / 90)  # from 0.6 to 2.5 m
    generator = np.random.default_rng(3)
    tolerances = []
    for noise in (0.0005, 0.004):
        noisy = depth + noise * depth**2 * generator.standard_normal(depth.shape)
        planes = find_planes(noisy.astype(np.float32))
        assert (planes.labels == 1).mean() > 0.97
        tolerances.append(float(planes.tolerances[0]))
    assert tolerances[0] < tolerances[1]


def test_a_fixed_tolerance() -> None:
    depth = np.ones((60, 80), np.float32)
    depth[20:40, 30:55] -= 0.01
    sharp, blunt = find_planes(depth), find_planes(depth, tolerance=1.0)
    assert blunt.tolerances[0] == 1.0 > sharp.tolerances[0]
    assert (blunt.labels == 1).all()
    assert ((sharp.labels == 1) == (depth == 1)).mean() > 0.995, "noise and the corners of things look alike"


def test_relative_inverse_depth_of_any_scale() -> None:
    inverse = 3 * (1 / table(0.4, 0.1, 1.0)) + 1
    inverse[10:20, 10:30] += 0.8
    planes = find_planes(inverse.astype(np.float32), kind="inverse")
    assert not planes.labels[10:20, 10:30].any() and (planes.labels[30:] == 1).all()
    scaled = find_planes((5 * inverse).astype(np.float32), kind="inverse")
    assert np.array_equal(scaled.labels, planes.labels)


def heap(seed: int, ground: float) -> tuple[np.ndarray, np.ndarray]:
    """Depth (120, 160) of balls that hide most of the ground, and where the ground shows."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:120, :160] / 160
    depth = np.full((120, 160), 9.0)
    for _ in range(60):
        radius = generator.uniform(0.06, 0.14)
        over = radius**2 - (y - 0.75 * generator.random()) ** 2 - (x - generator.random()) ** 2
        ball = generator.uniform(0.75, 1.0) - np.sqrt(np.maximum(over, 0))
        depth = np.where(over > 0, np.minimum(depth, ball), depth)
    depth = np.minimum(depth, ground)
    return (depth + generator.normal(0, 0.001, depth.shape)).astype(np.float32), depth == ground


@pytest.mark.parametrize("seed", range(5))
def test_no_plane_cuts_through_a_heap(seed: int) -> None:
    depth, on_ground = heap(seed, ground=1.0)
    planes = find_planes(depth)
    assert (planes.labels > 0)[~on_ground].mean() < 0.05


@given(seed=st.integers(0, 20))
@settings(max_examples=10, deadline=None)
def test_a_cushion_carries_things_where_no_plane_does(seed: int) -> None:
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:120, :160] / 160
    depth = 0.9 + generator.uniform(0.3, 0.6) * (x - 0.5) ** 2 + generator.uniform(0.3, 0.6) * (y - 0.4) ** 2
    thing = np.zeros(depth.shape, bool)
    thing[40:60, 50:80] = True
    depth[thing] -= 0.06
    planes = find_planes((depth + generator.normal(0, 0.001, depth.shape)).astype(np.float32))
    carried = planes.on_support()
    assert planes.coefficients[:, 3:].any()
    assert carried[~thing].mean() > 0.8 and carried[thing].mean() < 0.05


def test_no_plane_where_there_is_none() -> None:
    noise = np.random.default_rng(1).uniform(0.5, 3.0, (40, 50)).astype(np.float32)
    nothing = np.zeros((40, 50), np.float32)
    for planes in (find_planes(noise), find_planes(nothing), find_planes(nothing + 1, np.zeros((40, 50), bool))):
        assert isinstance(planes, Planes) and len(planes) == 0 and not planes.labels.any()
        assert planes.coefficients.shape == (0, 6) and not planes.on_support().any()


def test_what_does_not_fit() -> None:
    flat = np.ones((4, 5), np.float32)
    with pytest.raises(ValueError, match="same size"):
        find_planes(flat, np.ones((4, 4), bool))
    with pytest.raises(ValueError, match="positive tolerance"):
        find_planes(flat, tolerance=0)
    with pytest.raises(ValueError, match="at least one plane"):
        find_planes(flat, most=0)
    with pytest.raises(ValueError, match=r"share in \(0, 1\]"):
        find_planes(flat, least_share=0)
