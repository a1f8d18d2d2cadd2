"""Masks of a dataset from its taps: which frames they reach, and what they leave alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.tapped_table import CAMERA, camera_at, ray_cast

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.poses import write_poses
from deal_core.dataset.taps import Mark, Tap
from deal_core.dataset.writer import DatasetWriter
from deal_core.structures import ClassList, RgbdPair, TagMarker, TagState, metres_to_depth
from deal_core.taps.masks import TapMasks

CLASSES = ClassList(("mug", "jar"))
BOTH = TagState(("mug", "jar"), marker=TagMarker.COMPLETE)
MUG, JAR = Tap("mug", 32, 34), Tap("jar", 62, 39)
Tapped = Callable[..., Dataset]


@pytest.fixture
def tapped(tmp_path: Path) -> Tapped:
    """Write frames at seconds, seen by a camera that moves 1 cm a second; return them with marks by their number."""

    def write(
        seconds: list[float], marks: dict[int, list[Mark]], tags: dict[int, TagState] | None = None, poses: bool = True
    ) -> Dataset:
        with DatasetWriter(tmp_path, CLASSES).recording("a") as folder:
            for number, second in enumerate(seconds):
                view, _ = ray_cast(camera_at(0.01 * second))
                pair = RgbdPair(round(second * 1e9), view.image, metres_to_depth(view.depth))
                folder.write(pair, (tags or {}).get(number, BOTH), 0)
            folder.write_camera(CAMERA)
        if poses:
            write_poses(tmp_path, "a", {round(second * 1e9): camera_at(0.01 * second) for second in seconds})
        opened = Dataset.open(tmp_path)
        frames = [replace(f, marks=tuple(marks.get(n, ()))) for n, f in enumerate(opened.frames)]
        return Dataset(tmp_path, CLASSES, frames)

    return write


def reached(dataset: Dataset, **options: float) -> list[list[bool]]:
    """Which classes the taps reach in each frame."""
    masks = TapMasks(dataset, **options)
    found = [masks.of(frame.key) for frame in dataset.frames]
    return [[False, False] if one is None else one.reached.tolist() for one in found]


def test_a_tap_reaches_frames_near_in_time_with_the_truth_of_their_place(tapped: Tapped) -> None:
    dataset = tapped([0, 1.5, 3, 4.5, 6, 7.5], {0: [MUG], 1: [JAR]})
    assert reached(dataset) == [[True, True]] * 5 + [[False, True]]
    assert reached(dataset, reach_s=2) == [[True, True]] * 2 + [[False, True]] + [[False, False]] * 3
    found = TapMasks(dataset).of("a/3000000000")
    _, truth = ray_cast(camera_at(0.03))
    assert found is not None
    for number in (1, 2):
        mask = found.mask == number
        assert (mask & (truth == number)).sum() / (mask | (truth == number)).sum() > 0.9


def test_a_pause_ends_what_is_carried(tapped: Tapped) -> None:
    assert reached(tapped([0, 1, 4], {0: [MUG]})) == [[True, False], [True, False], [False, False]]


def test_without_poses_a_tap_counts_in_its_own_frame(tapped: Tapped) -> None:
    dataset = tapped([0, 1], {0: [MUG]}, poses=False)
    assert reached(dataset) == [[True, False], [False, False]]
    assert not TapMasks(dataset).can_carry


def test_a_frame_that_is_tagged_to_be_without_a_class_refuses_it(tapped: Tapped) -> None:
    no_mug = TagState(("jar",), marker=TagMarker.COMPLETE)
    assert reached(tapped([0, 1], {0: [MUG, JAR]}, {1: no_mug})) == [[True, True], [False, True]]


def test_one_thing_marked_twice_is_one_and_two_things_are_two(tapped: Tapped) -> None:
    dataset = tapped([0, 1], {0: [MUG, Tap("mug", 62, 39)], 1: [Tap("mug", 33, 34)]})
    found = TapMasks(dataset).of("a/1000000000")
    assert found is not None and len(found.things) == 2
    # The thing of the frame's own tap is that of the frame; the other one was carried.
    assert [bool(thing.mask[34, 33]) for thing in found.things] == [True, False]


def test_only_frames_that_taps_reach_are_loaded_and_nothing_is_said_of_the_others(tapped: Tapped) -> None:
    dataset = tapped([0, 1], {})
    for file in (dataset.path / "recordings" / "a" / "color").iterdir():
        file.unlink()
    assert reached(dataset) == [[False, False]] * 2 and len(TapMasks(dataset)) == 0
    only_negative = [replace(frame, marks=(Tap("mug", 1, 1, False),)) for frame in dataset.frames]
    assert reached(Dataset(dataset.path, CLASSES, only_negative)) == [[False, False]] * 2


def test_the_digest_follows_marks_poses_and_reach(tapped: Tapped) -> None:
    dataset = tapped([0, 1], {0: [MUG]})
    digests = [TapMasks(dataset).digest, TapMasks(dataset, reach_s=1).digest]
    write_poses(dataset.path, "a", {0: camera_at(0.5)})
    digests.append(TapMasks(dataset).digest)
    frames = [replace(frame, marks=(JAR,)) for frame in dataset.frames]
    digests.append(TapMasks(Dataset(dataset.path, CLASSES, frames)).digest)
    assert len(set(digests)) == 4
    assert TapMasks(Dataset(dataset.path, CLASSES, frames)).digest == digests[-1]
