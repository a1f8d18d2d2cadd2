"""Things in rooms: where they are placed, seen from their meshes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("trimesh", reason="trimesh (extra 'train') makes the meshes")

from deal_core.synthetic.bodies import CATALOGUE
from deal_core.synthetic.flat_things import FLAT_CATALOGUE
from deal_core.synthetic.furniture import Support
from deal_core.synthetic.room_style import ROOM_STYLES, Split
from deal_core.synthetic.scene import Material, Pattern, SceneBuilder
from deal_core.synthetic.things import Arrangement, Role, Thing, make_clutter, make_look_alike, make_thing

GREY = Material(Pattern.SOLID, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
STYLE = ROOM_STYLES[Split.DEV]
TABLE = Support((0.0, 0.0), (0.6, 0.4), 0.7, np.empty((0, 4)))
BUMPS = np.array([[0.0, 0.0, 0.2, 0.25], [0.3, 0.2, -0.1, 0.15], [-0.3, 0.1, 0.1, 0.12]])


class Scene:
    """An arrangement with the meshes of its objects."""

    def __init__(self, seed: int) -> None:
        self.builder = SceneBuilder(GREY)
        self.rng = np.random.default_rng(seed)
        self.arrangement = Arrangement(self.builder, self.rng)

    def points(self, index: int) -> np.ndarray:
        """Return the vertices of object `index`, counted from 1."""
        arrays = self.builder.arrays()
        faces = arrays["faces"][arrays["face_object"][:-1] == index]
        return arrays["vertices"][np.unique(faces)].astype(np.float64)


def mug(rng: np.random.Generator) -> Thing:
    return make_thing(CATALOGUE[0], 1, STYLE, rng)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the distance of the outlines of two sets of points from above; at most 0 if they overlap.

    The distance of convex sets is the largest gap between them along any direction; here 1440 directions are tried.
    """
    angles = np.linspace(0, 2 * math.pi, 1440, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)])
    return float(((second[:, :2] @ directions).min(axis=0) - (first[:, :2] @ directions).max(axis=0)).max())


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_things_stand_on_a_table_and_apart(seed):
    scene = Scene(seed)
    placed = sum(scene.arrangement.put(mug(scene.rng), TABLE, clearance=0.03) for _ in range(4))
    points = [scene.points(n + 1) for n in range(placed)]
    for each in points:
        assert each[:, 2].min() == pytest.approx(0.7, abs=1e-5)
    for n, each in enumerate(points):
        assert all(distance(each, other) > 0.029 for other in points[:n])


def test_a_full_support_takes_no_more():
    scene = Scene(0)
    small = Support((0.0, 0.0), (0.15, 0.12), 0.0, np.empty((0, 4)))
    answers = [scene.arrangement.put(mug(scene.rng), small, clearance=0.03) for _ in range(12)]
    assert answers[0]
    assert not answers[-1]
    assert len(scene.arrangement.objects) == sum(answers)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_thing_beside_another_is_a_millimetre_away(seed):
    scene = Scene(seed)
    assert scene.arrangement.put(mug(scene.rng), TABLE, clearance=0.03)
    if not scene.arrangement.put_beside(mug(scene.rng), TABLE, 1):
        return
    assert scene.arrangement.objects[1].touches == 1
    assert 0 < distance(scene.points(1), scene.points(2)) < 0.002


def test_a_thing_on_another_stands_on_its_top():
    scene = Scene(1)
    book = make_thing(FLAT_CATALOGUE[0], 3, STYLE, scene.rng)
    assert scene.arrangement.put(book, TABLE, clearance=0.03)
    assert scene.arrangement.free_tops() == [1]
    assert scene.arrangement.put_on(mug(scene.rng), 1)
    assert scene.arrangement.objects[1].carrier == 1
    body_top = 0.7 + book.top[0]
    assert scene.points(2)[:, 2].min() == pytest.approx(body_top, abs=1e-5)
    assert not scene.arrangement.put_on(mug(scene.rng), 1)  # something is there
    assert 1 not in scene.arrangement.free_tops()


def test_things_with_a_part_on_top_carry_nothing():
    scene = Scene(1)
    assert scene.arrangement.put(make_thing(CATALOGUE[1], 2, STYLE, scene.rng), TABLE, clearance=0.03)
    assert scene.arrangement.free_tops() == []
    assert not scene.arrangement.put_on(mug(scene.rng), 1)


@pytest.mark.parametrize("seed", range(6))
def test_things_lie_on_soft_supports_and_neither_float_nor_drown(seed):
    scene = Scene(seed)
    cloth = Support((0.0, 0.0), (0.6, 0.4), 0.4, BUMPS)
    assert scene.arrangement.put(mug(scene.rng), cloth, clearance=0.03)
    points = scene.points(1)
    over = points[:, 2] - cloth.height_at(points[:, 0], points[:, 1])
    assert -0.03 < over.min() < 0.004
    assert np.mean(over > 0) > 0.6


@pytest.mark.parametrize("kind", [*CATALOGUE, *FLAT_CATALOGUE])
def test_each_class_has_a_body_and_a_part_on_the_ground(kind):
    thing = make_thing(kind, 1, STYLE, np.random.default_rng(3))
    assert thing.role is Role.THING
    assert [is_part for _, _, is_part in thing.solids] == [False, True]
    assert thing.points[:, 2].min() == pytest.approx(0.0, abs=1e-6)
    assert (thing.points[:, 2].max() < 0.045) == kind.is_flat


def test_what_has_no_class_has_no_part():
    rng = np.random.default_rng(0)
    for _ in range(20):
        for thing, role in ((make_look_alike(STYLE, rng), Role.LOOK_ALIKE), (make_clutter(STYLE, rng), Role.CLUTTER)):
            assert thing.class_id == 0
            assert thing.role is role
            assert not any(is_part for _, _, is_part in thing.solids)
            assert thing.points[:, 2].min() == pytest.approx(0.0, abs=1e-6)
            assert 0.005 < thing.points[:, 2].max() < 0.3
