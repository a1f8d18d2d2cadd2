"""The plane that carries things: found at any slope and focal length, beside noise, holes and things on it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.masks.refine.plane import dominant_plane


def table(slope: float, roll: float, distance: float) -> np.ndarray:
    """Depth (60, 80) of a plane seen by a pinhole camera: its inverse is linear in row and column."""
    y, x = np.mgrid[:60, :80]
    inverse = (1 + slope * (y / 60 - 0.5) + roll * (x / 80 - 0.5)) / distance
    return (1 / inverse).astype(np.float32)


@given(slope=st.floats(-0.8, 0.8), roll=st.floats(-0.3, 0.3), distance=st.floats(0.4, 1.5), seed=st.integers(0, 9))
def test_a_thing_on_a_sloping_noisy_table_stands_out(slope: float, roll: float, distance: float, seed: int) -> None:
    depth = table(slope, roll, distance)
    thing = np.zeros(depth.shape, bool)
    thing[20:40, 30:55] = True
    depth[thing] -= 0.05
    generator = np.random.default_rng(seed)
    depth += generator.normal(0, 0.001, depth.shape).astype(np.float32)
    depth[generator.random(depth.shape) < 0.05] = 0
    found = dominant_plane(depth)
    assert found is not None
    known = depth > 0
    assert not found[~known].any()
    assert found[known & ~thing].mean() > 0.97 and found[known & thing].mean() < 0.02
    assert np.array_equal(found, dominant_plane(depth)), "the same image gives the same plane"


def test_relative_inverse_depth() -> None:
    inverse = 3 * (1 / table(0.4, 0.1, 1.0)) + 1
    inverse[10:20, 10:30] += 0.8
    found = dominant_plane(inverse.astype(np.float32), depth_kind="inverse")
    assert found is not None and not found[10:20, 10:30].any() and found[30:].all()


def test_no_plane_where_there_is_none() -> None:
    noise = np.random.default_rng(1).uniform(0.5, 3.0, (40, 50)).astype(np.float32)
    assert dominant_plane(noise) is None
    assert dominant_plane(np.zeros((40, 50), np.float32)) is None
    flat = np.ones((4, 5), np.float32)
    assert dominant_plane(flat, np.zeros((4, 5), bool)) is None, "nothing was measured"


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="same size"):
        dominant_plane(np.ones((4, 5), np.float32), np.ones((4, 4), bool))
    with pytest.raises(ValueError, match="positive tolerance"):
        dominant_plane(np.ones((4, 5), np.float32), tolerance=0)
