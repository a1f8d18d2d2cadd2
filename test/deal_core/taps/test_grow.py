"""Masks grown from taps and boxes, against a slow flood fill and against the truth of drawn scenes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.tapped_table import Block, camera_at, ray_cast, sample_of

from deal_core.dataset.taps import Box, Tap
from deal_core.errors import DatasetError
from deal_core.structures import BoolArray, ClassList, Sample
from deal_core.taps.grow import grow_things

CLASSES = ClassList(("mug", "jar"))


def scene(tags: tuple[float, float] = (1, 1)) -> tuple[Sample, np.ndarray]:
    view, number = ray_cast(camera_at(0))
    return sample_of(view, tags), number


def iou(one: BoolArray, two: BoolArray) -> float:
    return float((one & two).sum() / (one | two).sum())


def flooded(sample: Sample, place: tuple[int, int], wall: float) -> BoolArray:
    """What a tap means by depth: all pixels before the wall that steps without a jump of 1 % reach."""
    found = np.zeros(sample.depth.shape, bool)
    waiting = [(place[1], place[0])]
    while waiting:
        y, x = waiting.pop()
        if found[y, x] or abs(float(sample.depth[y, x]) - wall) < 0.02:
            continue
        found[y, x] = True
        for row, column in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= row < found.shape[0] and 0 <= column < found.shape[1]:
                nearer = min(sample.depth[y, x], sample.depth[row, column])
                if abs(sample.depth[y, x] - sample.depth[row, column]) <= 0.01 * nearer:
                    waiting.append((row, column))
    return found


@pytest.mark.parametrize(("name", "number", "place"), [("mug", 1, (32, 34)), ("jar", 2, (65, 40))])
def test_a_tap_takes_what_a_flood_of_depth_takes(name: str, number: int, place: tuple[int, int]) -> None:
    sample, truth = scene()
    (thing,) = grow_things(sample, [Tap(name, *place)], CLASSES)
    assert thing.label == CLASSES.id_of(name) - 1
    assert iou(thing.mask, flooded(sample, place, 1.2)) > 0.95
    assert iou(thing.mask, truth == number) > 0.95


def test_a_flat_thing_is_found_by_its_colour() -> None:
    view, truth = ray_cast(camera_at(0), (Block(3, -0.15, 0.15, -0.12, 0.12, 1.1999),))
    (thing,) = grow_things(sample_of(view, (1, 0)), [Tap("mug", 48, 36)], CLASSES)
    assert iou(thing.mask, truth == 3) > 0.9


@pytest.mark.parametrize("valid", [True, False])
def test_without_depth_colour_decides(valid: bool) -> None:
    sample, truth = scene()
    blind = replace(sample, depth=np.zeros_like(sample.depth), depth_valid=np.zeros_like(sample.depth_valid))
    (thing,) = grow_things(sample if valid else blind, [Tap("mug", 32, 34)], CLASSES)
    assert iou(thing.mask, truth == 1) > 0.8


def test_taps_on_other_things_and_negative_taps_divide_what_depth_joins() -> None:
    view, truth = ray_cast(
        camera_at(0), (Block(1, -0.15, 0.0, -0.08, 0.08, 0.8), Block(2, 0.0, 0.15, -0.08, 0.08, 0.8))
    )
    sample = sample_of(view, (1, 1))
    one, two = Tap("mug", 38, 36), Tap("jar", 57, 36)
    both = grow_things(sample, [one, two], CLASSES)
    assert [iou(thing.mask, truth == thing.label + 1) > 0.9 for thing in both] == [True, True]
    (thing,) = grow_things(sample, [one, Tap("mug", 57, 36, False)], CLASSES)
    assert iou(thing.mask, truth == 1) > 0.9 and not thing.mask[36, 57]


@pytest.mark.parametrize("name", ["mug", "jar"])
def test_a_box_takes_the_thing_that_fills_it(name: str) -> None:
    sample, truth = scene()
    number = CLASSES.id_of(name)
    rows, columns = np.nonzero(truth == number)
    box = Box(name, int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    (thing,) = grow_things(sample, [box], CLASSES)
    assert iou(thing.mask, truth == number) > 0.9


def test_a_box_is_never_left_and_never_empty() -> None:
    sample, _ = scene()
    for box in (Box("mug", 0, 0, 1, 1), Box("mug", 0, 0, 96, 72), Box("mug", 90, 5, 96, 20)):
        (thing,) = grow_things(sample, [box], CLASSES)
        inside = np.zeros_like(thing.mask)
        inside[box.top : box.bottom, box.left : box.right] = True
        assert thing.mask.any() and not (thing.mask & ~inside).any()


@pytest.mark.parametrize("place", [(0, 0), (95, 71), (50, 3)])
def test_a_tap_anywhere_gives_a_mask_with_its_pixel(place: tuple[int, int]) -> None:
    sample, _ = scene()
    (thing,) = grow_things(sample, [Tap("mug", *place)], CLASSES)
    assert thing.mask[place[1], place[0]]


def test_marks_of_absent_classes_and_taps_inside_a_thing_add_nothing() -> None:
    sample, _ = scene((1, 0))
    marks = [
        Tap("mug", 32, 34),
        Tap("mug", 33, 35),
        Tap("jar", 65, 40),
        Box("jar", 1, 1, 9, 9),
        Tap("mug", 1, 1, False),
    ]
    assert [thing.label for thing in grow_things(sample, marks, CLASSES)] == [0]
    unknown, _ = scene((float("nan"), 0))  # a tap says more than an unknown tag
    assert [thing.label for thing in grow_things(unknown, marks, CLASSES)] == [0]


def test_equal_images_give_equal_masks() -> None:
    sample, _ = scene()
    marks = [Tap("mug", 32, 34), Box("jar", 50, 20, 80, 60)]
    one, two = (grow_things(sample, marks, CLASSES) for _ in range(2))
    assert all((a.mask == b.mask).all() for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("mark", [Tap("mug", 96, 0), Tap("mug", 0, 72), Box("mug", 90, 0, 97, 5)])
def test_a_mark_outside_the_image_is_refused(mark: Tap | Box) -> None:
    sample, _ = scene()
    with pytest.raises(DatasetError, match=r"a/0: the (tap|box) .* mug lies outside the image of 96 x 72 pixels"):
        grow_things(sample, [mark], CLASSES)
