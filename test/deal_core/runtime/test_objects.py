"""Objects in space: against a flood fill over pixels, and against scenes whose objects are known."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deal_core.runtime.objects import (
    OBJECTS_PER_CLASS,
    PixelBox,
    SceneObject,
    find_objects,
    object_id,
    object_mask,
)
from deal_core.runtime.segmenter import Segmentation
from deal_core.structures import CameraIntrinsics, depth_to_metres

CAMERA = CameraIntrinsics(160, 120, 150.0, 150.0, 79.5, 59.5)


class Scene:
    """A wall at 2 m, 120 x 160, and rectangles in front of it."""

    def __init__(self) -> None:
        self.mask = np.zeros((120, 160), np.uint8)
        self.depth = np.full((120, 160), 2.0, np.float32)
        self.confidence = np.full((120, 160), 0.5, np.float32)

    def add(self, label: int, left: int, top: int, width: int, height: int, depth: float) -> Scene:
        place = np.s_[top : top + height, left : left + width]
        self.mask[place], self.depth[place] = label, depth
        return self

    def objects(self, **options: float) -> tuple[SceneObject, ...]:
        return find_objects(Segmentation(self.mask, self.confidence), self.depth, CAMERA, **options)


def test_a_rectangle_has_its_place_size_and_confidence() -> None:
    scene = Scene().add(3, 40, 30, 50, 20, 1.0)
    scene.confidence[30:50, 40:65] = 0.9
    (found,) = scene.objects()
    assert (found.label, found.points, found.box) == (3, 1000, PixelBox(40, 30, 50, 20))
    assert found.center == pytest.approx(((64.5 - 79.5) / 150, (39.5 - 59.5) / 150, 1.0), abs=2e-3)
    assert found.size == pytest.approx((0.98 * 49 / 150, 0.98 * 19 / 150, 0.0), rel=0.025)
    assert found.confidence == pytest.approx(0.7)


def test_one_behind_the_other_are_two_although_their_mask_is_one() -> None:
    near, far = Scene().add(1, 40, 30, 40, 40, 1.0).add(1, 60, 50, 20, 20, 0.9).objects()
    assert (near.center[2], far.center[2]) == pytest.approx((1.0, 0.9))
    assert near.points > far.points > 300
    (one,) = Scene().add(1, 40, 30, 40, 40, 1.0).add(1, 60, 50, 20, 20, 0.99).objects()
    assert one.points == 1600


def test_points_between_front_and_back_join_nothing() -> None:
    scene = Scene().add(1, 30, 30, 30, 40, 0.8).add(1, 63, 30, 30, 40, 1.1)
    scene.mask[30:70, 60:63] = 1
    scene.depth[30:70, 60:63] = [0.875, 0.95, 1.025]
    front, back = scene.objects()
    assert (front.center[2], front.size[2]) == pytest.approx((0.8, 0.0), abs=1e-3)
    assert (back.center[2], back.size[2]) == pytest.approx((1.1, 0.0), abs=1e-3)


def test_touching_classes_are_apart_and_in_order() -> None:
    scene = Scene().add(2, 10, 10, 20, 20, 1.0).add(1, 30, 10, 20, 20, 1.0).add(2, 60, 60, 30, 30, 1.0)
    assert [(o.label, o.points) for o in scene.objects()] == [(1, 400), (2, 900), (2, 400)]


def test_background_and_unlabelled_are_no_objects() -> None:
    assert Scene().add(255, 10, 10, 50, 50, 1.0).objects() == ()


def test_a_mask_that_spills_over_an_edge_adds_nothing() -> None:
    scene = Scene().add(1, 40, 30, 40, 30, 1.0)
    scene.mask[24:66, 34:86] = 1  # six pixels of the wall on every side
    (found,) = scene.objects()
    assert (found.center[2], found.size[2]) == pytest.approx((1.0, 0.0), abs=1e-3)


@pytest.mark.parametrize("unknown", [0.0, np.nan])
def test_holes_in_depth_neither_cut_nor_count(unknown: float) -> None:
    scene = Scene().add(1, 40, 30, 40, 30, 1.0)
    scene.depth[:, 58:62] = unknown
    (found,) = scene.objects()
    assert found.points == 36 * 30 and found.box == PixelBox(40, 30, 40, 30)
    scene.depth[:, 62:] += np.float32(0.3)
    assert len(scene.objects()) == 2


def test_noise_does_not_cut_and_bounds_bear_outliers() -> None:
    rng = np.random.default_rng(0)
    scene = Scene().add(1, 20, 20, 100, 80, 1.5)
    scene.depth += rng.normal(0, 0.004, scene.depth.shape).astype(np.float32)
    scene.confidence[:] = rng.random(scene.confidence.shape)
    (found,) = scene.objects()
    assert found.points == 8000
    assert found.size[2] == pytest.approx(0.004 * 2 * 2.05, rel=0.15)  # 2nd to 98th percentile of a normal
    scene.depth[50, 50] = 4.0
    (dented,) = scene.objects()
    assert dented.points >= 7970
    assert dented.size == pytest.approx(found.size, rel=0.05)


def test_a_slanted_surface_is_one_object() -> None:
    scene = Scene().add(1, 0, 40, 160, 80, 1.0)
    scene.depth[40:] = (300 / (np.arange(40, 120) - 30.0))[:, None]  # a floor, from 30 m to 3.3 m
    (found,) = scene.objects()
    assert found.points == 80 * 160
    (clipped,) = scene.objects(near_m=4.0, far_m=8.0)
    assert (clipped.center[2], clipped.size[2]) == pytest.approx((6.0, 4.0), abs=0.5)


def test_too_few_points_are_no_object() -> None:
    scene = Scene().add(1, 10, 10, 10, 5, 1.0)
    assert len(scene.objects(min_points=50)) == 1
    assert scene.objects(min_points=51) == ()


def test_nothing_measured_or_nothing_found_gives_nothing() -> None:
    scene = Scene()
    assert scene.objects(min_points=1) == ()
    scene.add(1, 10, 10, 50, 50, 0.0)
    assert scene.objects(min_points=1) == ()


@given(st.floats(0.5, 0.999))
def test_nearer_is_smaller(factor: float) -> None:
    scene = Scene().add(1, 40, 30, 50, 20, 1.9)
    (far,) = scene.objects()
    scene.depth *= np.float32(factor)
    (near,) = scene.objects()
    assert near.center == pytest.approx([factor * c for c in far.center], rel=1e-4)
    assert near.size == pytest.approx([factor * s for s in far.size], rel=1e-4, abs=1e-6)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_pieces_are_those_of_a_flood_fill(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = Scene()
    for _ in range(12):
        left, top = rng.integers(0, 35, 2)
        width, height = rng.integers(4, 20, 2)
        scene.add(int(rng.integers(0, 3)), left, top, width, height, float(rng.choice([0.8, 0.82, 1.0, 1.3])))
    scene.mask[45:], scene.mask[:, 45:] = 0, 0
    found = sorted(
        (o.label, o.points, o.box.left, o.box.top, o.box.width, o.box.height) for o in scene.objects(min_points=9)
    )
    assert found == sorted(piece for piece in flood(scene.mask[:46, :46], scene.depth[:46, :46]) if piece[1] >= 9)


def flood(mask: np.ndarray, depth: np.ndarray) -> list[tuple[int, ...]]:
    """Return id, pixels and box of the pieces of a mask whose every pixel has depth."""

    def around(row: int, column: int) -> list[tuple[int, int]]:
        rows = range(max(row - 2, 0), min(row + 3, mask.shape[0]))
        return [(r, c) for r in rows for c in range(max(column - 2, 0), min(column + 3, mask.shape[1]))]

    def is_smooth(row: int, column: int) -> bool:
        near = [float(depth[p]) for p in around(row, column) if mask[p] == mask[row, column]]
        return max(near) - min(near) <= 0.05 + 0.02 * min(near) ** 2

    places = [(int(r), int(c)) for r, c in zip(*np.nonzero(mask), strict=True)]
    smooth = {p for p in places if is_smooth(*p)}
    same = {p: {q for q in around(*p) if mask[q] == mask[p]} & smooth for p in places}
    cores = {p for p in smooth if len(same[p]) == 25}
    left = {q for p in cores for q in same[p]}
    pieces = []
    while left:
        open_, piece = [left.pop()], []
        while open_:
            row, column = open_.pop()
            piece.append((row, column))
            for place in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if place in left and mask[place] == mask[row, column]:
                    left.remove(place)
                    open_.append(place)
        rows, columns = [p[0] for p in piece], [p[1] for p in piece]
        box = (min(columns), min(rows), max(columns) - min(columns) + 1, max(rows) - min(rows) + 1)
        pieces.append((int(mask[piece[0]]), len(piece), *box))
    return pieces


def test_real_objects_are_found_once_also_with_masks_that_spill(real_frames: Any) -> None:
    camera = real_frames.camera
    for pair, drawn in zip(real_frames.pairs, real_frames.masks, strict=True):
        depth, known = depth_to_metres(pair.depth_mm)
        # Of a thing that is hardly in view, nothing but its rim may be left.
        labels = [k for k in np.unique(drawn) if k and np.count_nonzero((drawn == k) & known) >= 2000]
        spilt = cv2.dilate(drawn, np.ones((7, 7), np.uint8))
        for mask, min_points in ((drawn, 50), (spilt, 300)):
            result = Segmentation(mask, np.ones(mask.shape, np.float32))
            found = find_objects(result, depth, camera, min_points=min_points)
            assert [o.label for o in found if o.label in labels] == labels
            for thing in (o for o in found if o.label in labels):
                near, far = np.percentile(depth[(drawn == thing.label) & known], (2, 98))
                _, _, columns, rows = cv2.boundingRect((drawn == thing.label).astype(np.uint8))
                seen = max(columns / camera.fx, rows / camera.fy) * thing.center[2]
                assert near - 0.01 < thing.center[2] < far + 0.01
                assert 0.7 * seen < max(thing.size) < 1.1 * seen + far - near


def test_only_wanted_classes_give_objects() -> None:
    scene = Scene().add(1, 10, 10, 30, 30, 1.0).add(2, 60, 10, 30, 30, 1.0).add(3, 110, 10, 30, 30, 1.0)
    every = scene.objects()
    assert scene.objects(ids={1, 3}) == (every[0], every[2])
    assert scene.objects(ids=set()) == ()


def test_the_variance_covers_the_unseen_side() -> None:
    """A flat front may belong to a box as deep as it is wide; its centre must not read as certain."""
    (found,) = Scene().add(1, 40, 30, 60, 30, 1.0).objects()
    assert found.size[2] == pytest.approx(0.0, abs=1e-6)
    width, height, _ = found.size
    x, y, z = found.center_variance
    assert (x, y, z) == pytest.approx((width**2 / 12 + 1e-4, height**2 / 12 + 1e-4, width**2 / 12 + 1e-4))
    (far,) = Scene().add(1, 40, 30, 60, 30, 1.9).objects()
    assert min(far.center_variance) > min(found.center_variance)


def numbered(scene: Scene, **options: Any) -> np.ndarray:
    return object_mask(scene.mask, scene.depth, **options)


def test_an_object_mask_numbers_the_objects_of_each_class() -> None:
    scene = Scene().add(1, 10, 10, 20, 20, 1.0).add(1, 60, 10, 30, 30, 1.2).add(2, 110, 60, 30, 30, 1.0)
    scene.mask[100:, :20] = 255
    ids = numbered(scene)
    assert ids.dtype == np.int16
    assert set(np.unique(ids).tolist()) == {0, object_id(1, 1), object_id(1, 2), object_id(2, 1)}
    for found, number in zip(scene.objects(), (1, 2, 1), strict=True):
        box = found.box
        inside = ids[box.top : box.top + box.height, box.left : box.left + box.width]
        assert (inside == object_id(found.label, number)).all()
    np.testing.assert_array_equal(ids > 0, (scene.mask > 0) & (scene.mask < 255))


def test_an_object_in_front_of_another_of_its_class_is_another_object() -> None:
    scene = Scene().add(1, 40, 30, 60, 60, 1.5).add(1, 60, 50, 20, 20, 1.0)
    ids = numbered(scene)
    assert ids[35, 45] == object_id(1, 1) and ids[60, 70] == object_id(1, 2)
    assert (ids[scene.mask == 1] > 0).all(), "the rim along the jump belongs to one of the two"
    flat = object_mask(scene.mask)
    assert set(np.unique(flat).tolist()) == {0, object_id(1, 1)}, "without depth, they are one piece"


def test_without_depth_pieces_of_the_image_are_objects() -> None:
    scene = Scene().add(1, 10, 10, 20, 20, 0.0).add(1, 60, 10, 30, 30, 0.0).add(1, 100, 100, 6, 6, 0.0)
    ids = object_mask(scene.mask)
    assert (ids[10:30, 10:30] == object_id(1, 2)).all() and (ids[10:40, 60:90] == object_id(1, 1)).all()
    assert (ids[95:] == 0).all(), "36 pixels are no object"
    assert set(np.unique(object_mask(scene.mask, min_points=36)).tolist()) == {0, *(object_id(1, n) for n in (1, 2, 3))}


def test_small_pieces_and_far_pixels_are_no_objects() -> None:
    scene = Scene().add(1, 10, 10, 30, 30, 1.0).add(1, 100, 100, 4, 4, 1.0)
    ids = numbered(scene)
    assert (ids[10:40, 10:40] == object_id(1, 1)).all() and np.count_nonzero(ids) == 900


def test_ids_fit_sixteen_bits_and_objects_beyond_the_last_number_have_none() -> None:
    assert object_id(254, OBJECTS_PER_CLASS) <= np.iinfo(np.int16).max
    mask = np.zeros((120, 160), np.uint8)
    for row in range(12):
        for column in range(16):
            mask[row * 10 : row * 10 + 6, column * 10 : column * 10 + 6] = 254
    ids = object_mask(mask, min_points=1)
    assert set(np.unique(ids).tolist()) == {0, *(object_id(254, n) for n in range(1, OBJECTS_PER_CLASS + 1))}


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_every_id_is_one_object_of_its_class(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = Scene()
    for _ in range(8):
        scene.add(
            int(rng.integers(1, 4)), int(rng.integers(0, 120)), int(rng.integers(0, 80)), int(rng.integers(5, 40)),
            int(rng.integers(5, 40)), float(rng.uniform(0.5, 1.9)),
        )  # fmt: skip
    scene.depth[rng.random(scene.depth.shape) < 0.1] = 0
    ids, objects = numbered(scene), scene.objects()
    assert (ids[ids > 0] // (OBJECTS_PER_CLASS + 1) == scene.mask[ids > 0]).all()
    counts: dict[int, int] = {}
    expected = set()
    for found in objects:
        counts[found.label] = counts.get(found.label, 0) + 1
        expected.add(object_id(found.label, counts[found.label]))
    assert set(np.unique(ids).tolist()) - {0} == expected
