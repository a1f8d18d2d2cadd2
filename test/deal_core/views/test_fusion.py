"""Scores fused over views: what it changes, what it leaves, and bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.tapped_table import CAMERA, Block, camera_at, ray_cast

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.poses import write_poses
from deal_core.dataset.writer import DatasetWriter
from deal_core.errors import DatasetError, UsageError
from deal_core.masks.mask_folder import read_cam, write_cams
from deal_core.masks.score_dataset import CamSettings, ScoredFrame, score_frames
from deal_core.models.model_file import LoadedModel
from deal_core.structures import ClassList, RgbdPair, TagMarker, TagState, metres_to_depth
from deal_core.views import fusion
from deal_core.views.fusion import FusedScores

CLASSES = ClassList(("mug", "drill", "box"))
BLOCKS = (Block(1, -0.24, -0.09, -0.08, 0.06, 0.8), Block(2, 0.3, 0.45, -0.05, 0.12, 0.85))
STEP_NS = 200_000_000
CPU = CamSettings(device="cpu", flip=False)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Dataset]:
    """A dataset of a camera that passes two blocks, with the number of the block as its class."""

    def made(stamps: list[int] | None = None, poses: bool = True, **changed: Any) -> Dataset:
        path = tmp_path / f"data_{len(list(tmp_path.iterdir()))}"
        turn = changed.get("turn", 0.0)
        places = [camera_at(x, turn=turn * (n - 4)) for n, x in enumerate(np.linspace(-0.3, 0.5, 9))]
        stamps = stamps or [STEP_NS * number for number in range(1, 10)]
        with DatasetWriter(path, CLASSES).recording("a") as folder:
            for count, (stamp, pose) in enumerate(zip(stamps, places, strict=True)):
                view, number = ray_cast(pose, BLOCKS if count < 5 else changed.get("later", BLOCKS))
                names = tuple(CLASSES.names[k - 1] for k in np.unique(number) if k)
                tags = TagState(names, marker=TagMarker.COMPLETE)
                folder.write(RgbdPair(stamp, view.image, metres_to_depth(view.depth)), tags, 0)
            folder.write_camera(changed.get("camera", CAMERA))
        if poses:
            write_poses(path, "a", changed.get("given", dict(zip(stamps, places, strict=True))))
        return Dataset.open(path)

    return made


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that gives every pixel of an image the same score for each of its tags."""

    def scores(_model: Any, dataset: Dataset, *_: Any) -> Iterator[ScoredFrame]:
        for number in range(len(dataset)):
            sample = dataset.load(number)
            flat = np.ones((len(CLASSES), *sample.depth.shape), np.float32)
            yield ScoredFrame(sample, flat * (sample.tags == 1)[:, None, None])

    monkeypatch.setattr(fusion, "score_frames", scores)


def fused(dataset: Dataset, views: Any, number: int) -> np.ndarray:
    found = FusedScores(None, dataset, CPU, views).scores(dataset.load(number))  # type: ignore[arg-type]
    assert found is not None
    return found.numpy()


@pytest.mark.parametrize("views", ["near", "recording"])
def test_tags_of_absence_alone_move_a_score_to_its_thing(make: Callable[..., Dataset], blind: None, views: str) -> None:
    dataset = make()
    number = next(i for i, tags in enumerate(dataset.tags) if tags[:2].tolist() == [1, 0])
    mug = fused(dataset, views, number)[0]
    truth = ray_cast(camera_at(float(np.linspace(-0.3, 0.5, 9)[number])), BLOCKS)[1] == 1
    assert mug.max() == 1.0 and mug[truth].mean() > mug[~truth].mean() + 0.15


def test_a_class_that_is_not_tagged_stays_at_zero(make: Callable[..., Dataset], blind: None) -> None:
    dataset = make()
    for number, tags in enumerate(dataset.tags):
        found = fused(dataset, "recording", number)
        assert (found.max(axis=(1, 2)) > 0).tolist() == (tags == 1).tolist()


def test_a_single_view_keeps_its_scores(make: Callable[..., Dataset], model_of: Callable[..., LoadedModel]) -> None:
    dataset = make([10_000_000_000 * number for number in range(1, 10)])  # a pause after each frame
    model = model_of()
    own = {frame.sample.key: frame.scores for frame in score_frames(model, dataset, CPU)}
    views = FusedScores(model, dataset, CPU, "near")
    for frame in score_frames(model, dataset, CPU, views):
        np.testing.assert_allclose(frame.scores, own[frame.sample.key], atol=1e-5)


def test_frames_in_another_order_change_nothing(make: Callable[..., Dataset], blind: None) -> None:
    dataset = make()
    expected = [fused(dataset, "recording", number) for number in range(len(dataset))]
    source, steps = FusedScores(None, dataset, CPU, "recording"), iter(range(100))  # type: ignore[arg-type]
    source.advance = lambda: next(steps)
    for number in (5, 0, 8, 3):
        found = source.scores(dataset.load(number))
        assert found is not None
        np.testing.assert_array_equal(found.numpy(), expected[number])
    assert next(steps) == source.mapping_steps == 2 * len(dataset)  # the map was made once, in two rounds


def test_near_views_of_a_fast_camera_are_scored_once(
    make: Callable[..., Dataset], blind: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make([33_000_000 * number for number in range(1, 10)])
    scores, asked = fusion.score_frames, []

    def counted(model: Any, frames: Dataset, *options: Any) -> Iterator[ScoredFrame]:
        asked.extend(frame.key for frame in frames.frames)
        return scores(model, frames, *options)

    monkeypatch.setattr(fusion, "score_frames", counted)
    source = FusedScores(None, dataset, CPU, "near")  # type: ignore[arg-type]
    assert all(source.scores(dataset.load(number)) is not None for number in range(len(dataset)))
    assert sorted(asked) == sorted(frame.key for frame in dataset.frames)


def test_a_pause_parts_the_views(make: Callable[..., Dataset], blind: None) -> None:
    stamps = [STEP_NS * number + (number > 4) * 60_000_000_000 for number in range(1, 10)]
    dataset = make(stamps)
    alone = FusedScores(None, dataset.subset(predicate=lambda f: f.stamp_ns < 10**10), CPU, "recording")  # type: ignore[arg-type]
    found = alone.scores(dataset.load(2))
    assert found is not None
    np.testing.assert_array_equal(fused(dataset, "recording", 2), found.numpy())


def test_a_wrong_pose_harms_no_other_frame(make: Callable[..., Dataset], blind: None) -> None:
    places = {STEP_NS * (n + 1): camera_at(x) for n, x in enumerate(np.linspace(-0.3, 0.5, 9))}
    wrong = {**places, 4 * STEP_NS: camera_at(0.0, 0.0, 0.5)}
    right = {stamp: pose for stamp, pose in places.items() if stamp != 4 * STEP_NS}
    with_wrong, without = make(given=wrong), make(given=right)
    for views in ("near", "recording"):
        np.testing.assert_array_equal(fused(with_wrong, views, 6), fused(without, views, 6))
    source = FusedScores(None, with_wrong, CPU, "recording")  # type: ignore[arg-type]
    assert source.scores(with_wrong.load(3)) is None and source.counts.left_out == 1


def test_a_thing_that_was_moved_leaves_no_ghost(make: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    moved = (Block(1, 0.0, 0.15, -0.08, 0.06, 0.8),)
    dataset = make(later=moved)
    truths = {
        frame.key: ray_cast(pose, BLOCKS if n < 5 else moved)[1]
        for n, (frame, pose) in enumerate(
            zip(dataset.frames, [camera_at(x) for x in np.linspace(-0.3, 0.5, 9)], strict=True)
        )
    }

    def scores(_model: Any, asked: Dataset, *_: Any) -> Iterator[ScoredFrame]:
        for frame in asked.frames:
            drawn = np.stack([truths[frame.key] == k for k in (1, 2, 3)]).astype(np.float32)
            yield ScoredFrame(asked.load(frame), drawn)

    monkeypatch.setattr(fusion, "score_frames", scores)
    for views in ("near", "recording"):
        for number in (3, 6):
            found, truth = fused(dataset, views, number)[0] > 0.5, truths[dataset.frames[number].key] == 1
            assert (found & truth).sum() / (found | truth).sum() > 0.8, (views, number)


def test_frames_do_not_join_by_wrong_intrinsics(make: Callable[..., Dataset], blind: None) -> None:
    for focal, fits in ((CAMERA.fx, True), (CAMERA.fx / 4, False)):
        dataset = make(camera=replace(CAMERA, fx=focal, fy=focal), turn=0.2)
        source = FusedScores(None, dataset, CPU, "recording")  # type: ignore[arg-type]
        found = [source.scores(dataset.load(number)) for number in range(len(dataset))]
        assert (source.counts.left_out == 0) == fits
        assert sum(one is None for one in found) == source.counts.left_out


def test_frames_without_pose_or_depth_keep_their_own(make: Callable[..., Dataset], blind: None) -> None:
    dataset = make(given={STEP_NS * (n + 1): camera_at(-0.3 + 0.1 * n) for n in range(5)})
    cv2.imwrite(str(dataset.frames[1].depth), np.zeros((CAMERA.height, CAMERA.width), np.uint16))
    for views in ("near", "recording"):
        source = FusedScores(None, dataset, CPU, views)  # type: ignore[arg-type]
        is_own = [source.scores(dataset.load(number)) is None for number in range(len(dataset))]
        assert is_own == [False, True, False, False, False, True, True, True, True]
        assert asdict(source.counts) == {"fused": 4, "without_pose": 4, "without_depth": 1, "left_out": 0}


@pytest.mark.parametrize("views", ["near", "recording"])
def test_the_folder_of_masks_knows_its_views(
    make: Callable[..., Dataset], model_of: Callable[..., LoadedModel], tmp_path: Path, views: Any
) -> None:
    dataset, model = make(), model_of()
    out = tmp_path / "masks"
    source = FusedScores(model, dataset, CPU, views)
    assert list(write_cams(model, dataset, out, CPU, views=source)) == [True] * 9
    assert json.loads((out / "cams.json").read_text())["views"] == source.digest
    read_cam(out / f"{dataset.frames[0].key}.npz", len(CLASSES))
    assert list(write_cams(model, dataset, out, CPU, views=FusedScores(model, dataset, CPU, views))) == [False] * 9
    with pytest.raises(DatasetError, match="other --views, poses or frames"):
        list(write_cams(model, dataset, out, CPU))
    plain = tmp_path / "plain"
    list(write_cams(model, dataset, plain, CPU))
    assert "views" not in json.loads((plain / "cams.json").read_text())


def test_what_is_missing_is_told(make: Callable[..., Dataset]) -> None:
    with pytest.raises(UsageError, match=r"has poses\.json: .*`deal poses`"):
        FusedScores(None, make(poses=False), CPU, "near")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="need given tags"):
        FusedScores(None, make(), CamSettings(tags="predicted"), "near")  # type: ignore[arg-type]
    dataset = make()
    (dataset.path / "recordings" / "a" / "camera.json").unlink()
    with pytest.raises(UsageError, match=r"both poses and camera\.json"):
        FusedScores(None, dataset, CPU, "near")  # type: ignore[arg-type]
    damaged = make()
    (damaged.path / "recordings" / "a" / "poses.json").write_text("{")
    with pytest.raises(DatasetError, match=r"poses\.json"):
        FusedScores(None, damaged, CPU, "near")  # type: ignore[arg-type]
    shutil.rmtree(dataset.path)


@pytest.fixture
def model_of(make_model: Callable[..., LoadedModel]) -> Callable[..., LoadedModel]:
    return lambda: make_model(5, CLASSES)
