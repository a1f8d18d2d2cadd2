"""The audit of a small dataset of boxes, whose colour is their class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.region_runs import CLASSES, write_boxes

from deal_core.audit.audit import AuditProgress, AuditSettings, audit_dataset
from deal_core.audit.evidence import cut_out
from deal_core.dataset.dataset import Dataset
from deal_core.errors import ConfigError
from deal_core.structures import TagMarker, TagState

SEGMENTS = 30
WRONG = ((4, "red"), (11, "blue"), (17, "green"), (23, "red"))
SETTINGS = AuditSettings({"backbone": "test_resnet", "weights": "none"}, device="cpu")


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.open(write_boxes(tmp_path_factory.mktemp("audit") / "boxes", segments=SEGMENTS))


def with_tags(dataset: Dataset, wrong: Sequence[tuple[int, str]], unknown: Sequence[tuple[int, str]] = ()) -> Dataset:
    """Return the dataset with the contrary of some tags, and with some unknown ones, by segment and class."""

    def changed(segment: int, tags: TagState) -> TagState:
        present = {name for name in CLASSES if (name in tags.present) != ((segment, name) in wrong)}
        known = [name for name in CLASSES if (segment, name) not in unknown]
        absent = tuple(name for name in known if name not in present)
        return TagState(tuple(name for name in known if name in present), absent, TagMarker.PARTIAL)

    frames = [replace(frame, tags=changed(frame.segment, frame.tags)) for frame in dataset.frames]
    return Dataset(dataset.path, dataset.classes, frames)


def test_wrong_tags_are_listed_and_right_ones_are_not(boxes: Dataset, tmp_path: Path) -> None:
    frames, trainings = [], []
    progress = AuditProgress(frames.append, lambda done, total: trainings.append((done, total)))
    settings = replace(SETTINGS, features=tmp_path / "features")
    found = audit_dataset(with_tags(boxes, WRONG), settings, progress)
    listed = {(tag.segment, tag.name) for tag in found.wrong_tags.tags}
    assert len(listed & set(WRONG)) >= 3 and len(listed - set(WRONG)) <= 1
    assert all(len(tag.frames) == 2 and tag.recording == "boxes" for tag in found.wrong_tags.tags)
    assert found.wrong_tags.checked == SEGMENTS * 3 and (found.wrong_tags.precision or 0) >= 0.8
    assert found.visits == SEGMENTS and found.frames == len(boxes) == frames[-1] and trainings[-1] == (4, 4)
    assert all((one.ranking or 0) > 0.8 for one in found.classes) and found.shortcuts == ()
    before = sorted((tmp_path / "features").rglob("*.npz"))
    assert len(before) == len(boxes)
    assert audit_dataset(with_tags(boxes, WRONG), settings) == found
    assert sorted((tmp_path / "features").rglob("*.npz")) == before


def test_frames_with_unknown_tags_are_the_next_ones(boxes: Dataset) -> None:
    few = boxes.subset(predicate=lambda frame: frame.segment < 12)
    unknown = [(segment, "green") for segment in range(6)]
    found = audit_dataset(with_tags(few, (), unknown), replace(SETTINGS, next_frames=3))
    assert found.wrong_tags.checked == 12 * 3 - 6
    assert len(found.next_frames) <= 3 and len({frame.segment for frame in found.next_frames}) == len(found.next_frames)


def test_few_scenes_are_not_checked_and_say_so(boxes: Dataset) -> None:
    few = boxes.subset(predicate=lambda frame: frame.segment < 4)
    found = audit_dataset(few, SETTINGS)
    assert found.wrong_tags.expected is None and found.wrong_tags.tags == () == found.next_frames
    assert all(one.ranking is None and one.place_ranking is None for one in found.classes)
    assert found.notes and any("record" in text for text in found.record_next)


def test_without_depth_windows_stand_for_regions(tmp_path: Path) -> None:
    flat = Dataset.open(write_boxes(tmp_path / "flat", segments=12, frames=1, depth=False))
    found = audit_dataset(flat, SETTINGS)
    assert found.wrong_tags.expected is not None and all(one.place_ranking is None for one in found.classes)


def test_values_out_of_range_are_refused() -> None:
    for change in ({"precision": 0.0}, {"precision": 1.1}, {"next_frames": -1}):
        with pytest.raises(ConfigError, match="expected"):
            replace(SETTINGS, **change)


def test_things_are_painted_over_from_around_them() -> None:
    image = np.full((60, 80, 3), 90, np.uint8)
    image[20:40, 30:50] = (230, 30, 30)
    things = np.zeros((60, 80), bool)
    things[18:42, 28:52] = True
    painted = cut_out(image, things)
    assert np.abs(painted.astype(int) - 90).max() <= 4 and (painted[~things] == image[~things]).all()
