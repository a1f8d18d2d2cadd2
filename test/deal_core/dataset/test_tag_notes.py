"""Notes on tags: faults that are built in are named, and tags without them give no note."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.dataset.dataset import Dataset, FrameRecord
from deal_core.dataset.tag_notes import tag_notes
from deal_core.structures import ClassList, TagState

CLASSES = ClassList(("mug", "drill", "box"))


def dataset(scenes: Sequence[tuple[str, Sequence[float]]], frames: int = 3) -> Dataset:
    """Return frames of scenes; a scene has the name of its recording and its tags: 1, 0 or nan."""
    records = []
    for segment, (recording, tags) in enumerate(scenes):
        names = [[n for n, tag in zip(CLASSES.names, tags, strict=True) if tag == value] for value in (1, 0)]
        state = TagState(tuple(names[0]), tuple(names[1]), "complete" if all(t == t for t in tags) else "partial")
        for number in range(frames):
            stamp = 1000 * segment + number
            records.append(FrameRecord(recording, stamp, Path("c.jpg"), None, None, state, segment))
    return Dataset(Path("kitchen"), CLASSES, records)


def balanced(seed: int, recordings: int = 2, scenes: int = 40) -> list[tuple[str, list[float]]]:
    """Return scenes whose classes come and go alone."""
    rng = np.random.default_rng(seed)
    return [(f"r{n % recordings}", [float(value) for value in rng.random(3) < 0.5]) for n in range(scenes)]


@given(st.integers(0, 10_000))
def test_classes_that_come_and_go_alone_give_no_note(seed: int) -> None:
    assert tag_notes(dataset(balanced(seed))) == []


@pytest.mark.parametrize(("apart", "is_named"), [(0, True), (1, True), (8, False)])
def test_classes_that_come_together_are_named(apart: int, is_named: bool) -> None:
    scenes = [(recording, [tags[0], tags[0], tags[2]]) for recording, tags in balanced(1)]
    for _, tags in scenes[:apart]:
        tags[1] = 1 - tags[1]
    together = [note for note in tag_notes(dataset(scenes)) if "come together" in note]
    assert len(together) == is_named
    assert not is_named or together[0].startswith("mug and drill come together in ")
    assert not is_named or f"and apart in {apart}: " in together[0]


@given(st.integers(0, 1000), st.integers(0, 2))
def test_a_class_that_follows_the_recording_is_named_and_no_other(seed: int, index: int) -> None:
    scenes = balanced(seed, recordings=5)
    for recording, tags in scenes:
        tags[index] = float(recording in ("r1", "r3"))
    notes = tag_notes(dataset(scenes))
    expected = f"{CLASSES.names[index]} is in every segment of r1, r3 and in none of r0, r2, r4: the place can stand"
    assert len(notes) == 1 and notes[0].startswith(expected)


def test_images_that_are_each_a_recording_say_nothing_of_places() -> None:
    scenes = [(f"image_{number}", tags) for number, (_, tags) in enumerate(balanced(3))]
    assert tag_notes(dataset(scenes, frames=1)) == []


def test_one_sided_classes_are_counted_by_scenes_not_by_frames() -> None:
    scenes = balanced(5)
    for number, (_, tags) in enumerate(scenes):
        tags[:] = [float(number < 2), float(number >= 3), tags[2]]
    notes = tag_notes(dataset(scenes, frames=50))
    assert notes[:2] == [
        "classes in fewer than 4 segments; record them in more scenes: mug",
        "classes absent in fewer than 4 segments; record the same places without them: drill",
    ]


def test_unknown_tags_count_for_neither_side() -> None:
    nan = float("nan")
    scenes = [(recording, [tags[0], 1.0 if tags[0] else nan, nan]) for recording, tags in balanced(7)]
    assert tag_notes(dataset(scenes)) == [
        "classes that are never tagged present, and so cannot be learnt: box",
        "classes that are never tagged absent, and so cannot be told from the background: drill",
    ]


def test_no_frames_give_no_note() -> None:
    assert tag_notes(dataset([])) == []
