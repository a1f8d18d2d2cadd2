"""Supports: their heights and slopes against a slow sum, and the meshes against the supports."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("trimesh", reason="trimesh (extra 'train') makes the meshes")

from deal_core.synthetic.furniture import FLAT_FURNITURE, UNEVEN_FURNITURE, Furniture, Support, build_station
from deal_core.synthetic.room_style import ROOM_STYLES, Split
from deal_core.synthetic.scene import Material, Pattern, SceneBuilder

GREY = Material(Pattern.SOLID, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def build(furniture: Furniture, seed: int = 0):
    builder = SceneBuilder(GREY)
    station = build_station(furniture, 1.0, ROOM_STYLES[Split.DEV], builder, np.random.default_rng(seed))
    return station, builder.arrays()


def test_a_bumpy_support_is_the_sum_of_its_bumps():
    bumps = np.array([[0.0, 0.1, 0.2, 0.3], [0.4, -0.2, -0.05, 0.1]])
    support = Support((0.0, 0.0), (1.0, 1.0), 0.5, bumps)
    for x, y in ((0.0, 0.0), (0.3, -0.2), (-0.8, 0.9)):
        slow = 0.5
        for center_x, center_y, tall, wide in bumps:
            slow += tall * math.exp(-(math.hypot(x - center_x, y - center_y) ** 2) / (2 * wide**2))
        assert float(support.height_at(x, y)) == pytest.approx(slow)
    assert support.is_curved
    assert support.normal_at(0.0, 0.1)[2] > support.normal_at(0.3, 0.1)[2]


def test_a_plane_is_level_and_ends():
    support = Support((1.0, 0.0), (0.5, 0.3), 0.7, np.empty((0, 4)))
    assert not support.is_curved
    assert np.array_equal(support.height_at(np.zeros((2, 3)), 0.0), np.full((2, 3), 0.7))
    assert np.allclose(support.normal_at(1.0, 0.0), [0, 0, 1])
    assert support.contains(1.4, 0.0, 0.1)
    assert not support.contains(1.41, 0.0, 0.1)
    assert not support.contains(1.0, -0.25, 0.1)


@pytest.mark.parametrize("furniture", list(Furniture))
def test_the_furniture_carries_its_support(furniture):
    """Below each point of the support there is a surface of the furniture, or the ground, at its height."""
    station, arrays = build(furniture)
    support, vertices = station.support, arrays["vertices"].astype(np.float64)
    assert (arrays["face_object"] == 0).all()
    assert vertices[:, 2].min() >= -1e-6
    if support.is_curved:
        inside = [support.contains(x, y, 0.0) for x, y, _ in vertices]
        assert np.abs(vertices[inside, 2] - support.height_at(*vertices[inside, :2].T)).max() < 1e-4
    elif support.level > 0:
        assert np.isclose(vertices[:, 2], support.level, atol=1e-6).any()
    assert station.focus[2] == pytest.approx(support.height_at(*station.focus[:2]), abs=0.1)


@pytest.mark.parametrize("furniture", UNEVEN_FURNITURE)
def test_uneven_furniture_differs_from_flat_furniture(furniture):
    assert furniture not in FLAT_FURNITURE
    station, _ = build(furniture)
    assert station.support.is_curved == (furniture is not Furniture.PACKED_SHELF)
