"""The figure of single frames puts spoilt masks before good ones, without drawn masks and in constant memory."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from helpers.judged_scenes import CLASSES, SEGMENTS, Scene, scenes

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.writer import DatasetWriter
from deal_core.errors import DatasetError
from deal_core.masks.mask_folder import new_mask_folder
from deal_core.quality import frame_scores
from deal_core.quality.frame_scores import FrameQuality, score_masks, worst_frames
from deal_core.structures import RgbdPair, TagMarker, TagState

SPOILT = 5


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, dict[str, Scene]]:
    folder = tmp_path_factory.mktemp("judged") / "dataset"
    made: dict[str, Scene] = {}
    with DatasetWriter(folder, CLASSES).recording("kitchen") as recording:
        for place, scene in enumerate(scenes()):
            sample, stamp = scene.sample, 1 + place
            present = tuple(CLASSES.names[k] for k in np.flatnonzero(sample.tags))
            tags = TagState(present, marker=TagMarker.COMPLETE)
            pair = RgbdPair(stamp, sample.image, (sample.depth * 1000).astype(np.uint16))
            recording.write(pair, tags, scene.segment[1], None)
            made[f"kitchen/{stamp}"] = scene
    return Dataset.open(folder), made


def spoilt(truth: np.ndarray, how: int) -> np.ndarray:
    """Nothing, the wrong names, a mask at another place, everything, or half of it missing."""
    ids = np.unique(truth[truth > 0])
    if how == 0:
        return np.zeros_like(truth)
    if how == 1:
        return np.where(truth > 0, truth % 3 + 1, 0).astype(np.uint8)
    if how == 2:
        return np.roll(truth, (truth.shape[0] // 2, truth.shape[1] // 4), (0, 1))
    return np.full_like(truth, ids[0])


def test_spoilt_masks_come_first(frames: tuple[Dataset, dict[str, Scene]], tmp_path: Path) -> None:
    dataset, made = frames
    bad = {key: number % 4 for number, key in enumerate(list(made)[3 :: len(made) // SPOILT][:SPOILT])}
    with new_mask_folder(tmp_path / "masks", CLASSES, {}) as write:
        for key, scene in made.items():
            write(key, spoilt(scene.truth, bad[key]) if key in bad else scene.truth)
    scores = score_masks(tmp_path / "masks", dataset)
    assert [score.key for score in scores] == [frame.key for frame in dataset.frames]
    assert all(0 <= score.score <= 1 for score in scores)
    assert set(worst_frames(scores, SPOILT)) == set(bad)


def test_the_second_opinion_learns_from_few_frames(
    frames: tuple[Dataset, dict[str, Scene]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, made = frames
    chosen = list(made)[: 3 * len(made) // SEGMENTS]
    with new_mask_folder(tmp_path / "masks", CLASSES, {}) as write:
        for key in chosen:
            write(key, made[key].truth)
    learnt: list[int] = []
    usual = frame_scores.Recogniser

    def counted(cells: np.ndarray, shares: np.ndarray, folds: np.ndarray) -> frame_scores.Recogniser:
        learnt.append(len(cells))
        return usual(cells, shares, folds)

    monkeypatch.setattr(frame_scores, "Recogniser", counted)
    monkeypatch.setattr(frame_scores, "MEASURED_FRAMES", 6)
    done: list[int] = []
    scores = score_masks(tmp_path / "masks", dataset, advance=done.append)
    assert len(scores) == len(chosen) == done[-1] and learnt == [6]


def test_frames_of_which_nothing_is_known_come_last(frames: tuple[Dataset, dict[str, Scene]], tmp_path: Path) -> None:
    assert worst_frames([FrameQuality("a", math.nan), FrameQuality("b", 0.9), FrameQuality("c", 0.1)], 3) == [
        "c",
        "b",
        "a",
    ]
    dataset, made = frames
    untagged = dataset.subset()
    untagged.frames = [
        type(frame)(**{**vars(frame), "tags": TagState()}) if number == 0 else frame
        for number, frame in enumerate(dataset.frames)
    ]
    with new_mask_folder(tmp_path / "masks", CLASSES, {}) as write:
        for number, (key, scene) in enumerate(made.items()):
            write(key, scene.truth if number else np.zeros_like(scene.truth))
    first, *others = score_masks(tmp_path / "masks", untagged)
    assert math.isnan(first.score) and not any(math.isnan(score.score) for score in others)


def test_a_folder_without_masks_of_these_frames_is_refused(
    frames: tuple[Dataset, dict[str, Scene]], tmp_path: Path
) -> None:
    with new_mask_folder(tmp_path / "masks", CLASSES, {}) as write:
        write("elsewhere/1", np.zeros((4, 4), np.uint8))
    with pytest.raises(DatasetError, match="lacks the masks"):
        score_masks(tmp_path / "masks", frames[0])
