"""CAM files that can be resumed, pseudo masks, and figures of a folder of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.masks_by_hand import copy_of, masks_by_hand
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.depth_maps import DepthMaps, DepthMapsWriter
from deal_core.errors import DatasetError, UsageError
from deal_core.masks.decide import pseudo_mask
from deal_core.masks.mask_folder import check_masks, read_cam, recorded_threshold, write_cams
from deal_core.masks.refine.crf import CrfSettings
from deal_core.masks.refine.walk import WalkSettings
from deal_core.masks.score_dataset import CamSettings, score_frames
from deal_core.models.model_file import LoadedModel, Threshold

INPUT_SIZE, THRESHOLD = (24, 32), 0.45  # of the fixture `model`
GIVEN = CamSettings(device="cpu", batch_size=5)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_cams_hold_scores_and_masks(model: LoadedModel, dataset: Dataset, tmp_path: Path) -> None:
    assert list(write_cams(model, dataset, tmp_path, GIVEN)) == [True] * 12
    names = {str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()}
    assert names == {"cams.json"} | {f"{f.key}.{kind}" for f in dataset.frames for kind in ("npz", "png")}
    for frame in score_frames(model, dataset, GIVEN):
        mask = cv2.imread(str(tmp_path / f"{frame.sample.key}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, masks_by_hand([frame.scores], THRESHOLD)[0])
        scores = read_cam(tmp_path / f"{frame.sample.key}.npz", 3)
        assert scores.shape == (3, *INPUT_SIZE) and scores.dtype == np.float32
        small = np.stack([cv2.resize(s, INPUT_SIZE[::-1], interpolation=cv2.INTER_LINEAR) for s in frame.scores])
        np.testing.assert_allclose(scores, small, atol=0.5 / 255 + 1e-6)
        with np.load(tmp_path / f"{frame.sample.key}.npz") as file:
            assert file["classes"].tolist() == [k + 1 for k in range(3) if frame.scores[k].any()]
    about = json.loads((tmp_path / "cams.json").read_text())
    assert about["model"] == model.sha256 and about["classes"] == list(dataset.classes.names)
    assert (about["threshold"], about["threshold_rule"], about["refine"]) == (THRESHOLD, "otsu", {"method": "none"})


def test_refined_cams_of_images_at_their_own_size(model: LoadedModel, dataset: Dataset, tmp_path: Path) -> None:
    settings = CamSettings(device="cpu", size="image", refine=CrfSettings(iterations=2))
    assert all(write_cams(model, dataset, tmp_path, settings, ignore_band=(0.3, 0.7)))
    ignored = 0
    for frame in score_frames(model, dataset, settings):
        mask = cv2.imread(str(tmp_path / f"{frame.sample.key}.png"), cv2.IMREAD_UNCHANGED)
        best = frame.scores.max(axis=0)
        expected = np.where(best > 0.7, frame.scores.argmax(axis=0) + 1, np.where(best > 0.3, 255, 0))
        np.testing.assert_array_equal(mask, expected)
        ignored += int((mask == 255).sum())
        quarter = frame.scores.reshape(3, 12, 4, 16, 4).mean(axis=(2, 4))
        np.testing.assert_allclose(read_cam(tmp_path / f"{frame.sample.key}.npz", 3), quarter, atol=0.5 / 255 + 1e-6)
    assert ignored > 0
    about = json.loads((tmp_path / "cams.json").read_text())
    assert about["refine"]["method"] == "crf" and about["refine"]["iterations"] == 2
    assert about["ignore_band"] == [0.3, 0.7] and about["size"] == "image"
    assert not any(write_cams(model, dataset, tmp_path, settings, ignore_band=(0.3, 0.7)))


def test_bands_and_thresholds(model: LoadedModel, dataset: Dataset, tmp_path: Path) -> None:
    scores = np.array([[[0.0, 0.25, 0.5, 0.875]], [[0.125, 0.375, 0.625, 0.25]]], np.float32)
    assert pseudo_mask(scores, None, (0.25, 0.75)).tolist() == [[0, 255, 255, 1]]
    assert pseudo_mask(scores, None, (0.375, 0.625)).tolist() == [[0, 0, 255, 1]], "what a bound touches is below it"
    assert pseudo_mask(scores, None, (0.4, 0.4)).tolist() == [[0, 0, 2, 1]]
    assert pseudo_mask(scores, np.array([1.0, 0.0], np.float32), (0.25, 0.75)).tolist() == [[0, 0, 255, 1]]
    for band in ((0.6, 0.4), (-0.1, 0.5), (0.5, 1.5)):
        with pytest.raises(UsageError, match="ignore band"):
            next(write_cams(model, dataset, tmp_path / "cams", GIVEN, ignore_band=band))
    assert recorded_threshold(tmp_path, "otsu") is None
    next(write_cams(model, dataset, tmp_path, GIVEN, threshold=Threshold(0.3, "depth_relief")))
    assert recorded_threshold(tmp_path, "depth_relief") == Threshold(0.3, "depth_relief")
    assert recorded_threshold(tmp_path, "otsu") is None
    mask = cv2.imread(str(tmp_path / f"{dataset.frames[0].key}.png"), cv2.IMREAD_UNCHANGED)
    first = next(iter(score_frames(model, dataset, GIVEN)))
    np.testing.assert_array_equal(mask, masks_by_hand([first.scores], 0.3)[0])


@pytest.mark.parametrize("frames_before", [0, 1, 5, 11])
def test_interrupted_cams_go_on_and_end_in_the_same_files(
    model: LoadedModel, dataset: Dataset, tmp_path: Path, frames_before: int
) -> None:
    assert all(write_cams(model, dataset, tmp_path / "whole", GIVEN))
    first = write_cams(model, dataset, tmp_path / "parts", GIVEN)
    for _ in range(frames_before):
        assert next(first)
    first.close()
    half = tmp_path / "parts" / f"{dataset.frames[0].key}.png"
    half.unlink(missing_ok=True)  # as after a power cut between the two files of a frame
    made = list(write_cams(model, dataset, tmp_path / "parts", GIVEN))
    assert sum(made) == 12 - max(frames_before - 1, 0) and len(made) == 12
    assert files_in(tmp_path / "parts") == files_in(tmp_path / "whole")
    assert not any(write_cams(model, dataset, tmp_path / "parts", GIVEN))


def test_an_interrupt_while_writing_leaves_nothing_half_written(
    model: LoadedModel, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.write_bytes

    def interrupted(self: Path, data: bytes) -> int:
        original(self, data[: len(data) // 2])
        raise KeyboardInterrupt

    steps = write_cams(model, dataset, tmp_path, GIVEN)
    assert next(steps)
    before = {name: data for name, data in files_in(tmp_path).items() if name != ".owner"}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(steps)
    assert files_in(tmp_path) == before
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="cannot be written"):
        next(write_cams(model, dataset, tmp_path / "file" / "cams", GIVEN))


def test_a_folder_with_cams_of_another_model_or_settings_is_refused(
    make_model: Callable[..., LoadedModel], model: LoadedModel, dataset: Dataset, tmp_path: Path
) -> None:
    next(write_cams(model, dataset, tmp_path, GIVEN))
    before = files_in(tmp_path)
    for other, settings, said in (
        (make_model(seed=6), GIVEN, "another model"),
        (model, CamSettings(device="cpu", flip=False), "another flip"),
        (model, CamSettings(device="cpu", scales=(0.5, 1.0), tags="predicted"), "another tags, scales"),
        (model, CamSettings(device="cpu", size="image", normalise="min_max"), "another size, normalise"),
        (model, CamSettings(device="cpu", refine=WalkSettings("colour")), "another threshold, threshold_rule, refine"),
    ):
        with pytest.raises(DatasetError, match=said) as caught:
            next(write_cams(other, dataset, tmp_path, settings))
        assert str(tmp_path) in str(caught.value)
    assert files_in(tmp_path) == before
    assert next(write_cams(model, dataset, tmp_path, CamSettings(device="cpu", batch_size=2))) is False
    (tmp_path / "cams.json").write_text("{")
    with pytest.raises(DatasetError, match=r"cams\.json cannot be read"):
        next(write_cams(model, dataset, tmp_path, GIVEN))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("threshold", value) for value in ("nan", "0.3", 2, -0.1, float("nan"), [], True)),
        *(("classes", value) for value in ("mug", [1], {}, [None])),
        *(("model", 7), ("threshold_rule", 0.3), ("scales", 1), ("refine", "crf"), ("ignore_band", ["a"])),
    ],
)
def test_a_description_with_a_wrong_value_names_its_file_and_key(
    dataset: Dataset, tmp_path: Path, key: str, value: object
) -> None:
    content = {"model": "0", "classes": list(dataset.classes.names), "threshold": 0.3, "threshold_rule": "otsu"}
    file = tmp_path / "cams.json"
    file.write_text(json.dumps(content))
    assert recorded_threshold(tmp_path, "otsu") == Threshold(0.3, "otsu")
    file.write_text(json.dumps({**content, key: value}))
    for read in (lambda: recorded_threshold(tmp_path, "otsu"), lambda: check_masks(tmp_path, dataset)):
        with pytest.raises(DatasetError, match=f"{file} cannot be read.*{key}.*found"):
            read()


@pytest.mark.parametrize("content", ["[]", "3", "null", '"cams"', "", "\xff"])
def test_a_description_that_is_no_object_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "cams.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DatasetError, match=r"cams\.json cannot be read"):
        recorded_threshold(tmp_path, "otsu")


def test_frames_without_any_class(model: LoadedModel, dataset: Dataset, tmp_path: Path) -> None:
    """Tagged with nothing: an empty CAM, and a mask of background."""
    path = copy_of(dataset, tmp_path)
    lines = (path / "recordings/tiny/frames.jsonl").read_text().splitlines()
    record = json.loads(lines[0])
    record["tags"] = {"present": [], "absent": [], "marker": "complete"}
    (path / "recordings/tiny/frames.jsonl").write_text(json.dumps(record) + "\n")
    assert list(write_cams(model, Dataset.open(path), tmp_path / "cams", GIVEN)) == [True]
    key = dataset.frames[0].key
    assert not read_cam(tmp_path / "cams" / f"{key}.npz", 3).any()
    assert not cv2.imread(str(tmp_path / "cams" / f"{key}.png"), cv2.IMREAD_UNCHANGED).any()


def save_npz(path: Path, **arrays: np.ndarray) -> Path:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return path


def test_wrong_cam_files_are_told(tmp_path: Path) -> None:
    scores, ids = np.zeros((2, 4, 5), np.uint8), np.array([1, 3], np.uint8)
    path = tmp_path / "1.npz"
    assert read_cam(save_npz(path, scores=scores, classes=ids), 3).shape == (3, 4, 5)
    bad: list[dict[str, np.ndarray]] = [
        {"scores": scores},
        {"classes": ids},
        {"scores": scores, "classes": np.array([0, 1], np.uint8)},
        {"scores": scores, "classes": np.array([1, 4], np.uint8)},
        {"scores": scores, "classes": np.array([1], np.uint8)},
        {"scores": scores[0], "classes": ids},
        {"scores": scores.astype(np.float32), "classes": ids},
        {"scores": scores, "classes": np.array(["a", "b"])},
        {"scores": np.array([{}, {}]), "classes": ids},
    ]
    for arrays in bad:
        with pytest.raises(DatasetError, match=f"{path}: not a CAM file for 3 classes"):
            read_cam(save_npz(path, **arrays), 3)
    np.save(tmp_path / "plain.npy", scores)
    for other in (tmp_path / "no.npz", tmp_path, tmp_path / "plain.npy"):
        with pytest.raises(DatasetError, match="not a CAM file"):
            read_cam(other, 3)


@hypothesis_settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_cam_files_never_end_in_another_error(tmp_path: Path, data: st.DataObject) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 256, (2, 6, 8), np.uint8)
    path = save_npz(tmp_path / "1.npz", scores=scores, classes=np.array([1, 3], np.uint8))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        found = read_cam(path, 3)
    except DatasetError as error:
        assert str(path) in str(error)
    else:
        assert found.shape[0] == 3


def test_masks_never_land_on_the_depth_maps_that_are_read(model: LoadedModel, dataset: Dataset, tmp_path: Path) -> None:
    maps = tmp_path / "depth"
    for frame in dataset.frames:
        DepthMapsWriter(maps, "inverse", "m").write(frame.key, np.ones((48, 64)))
    before = files_in(maps)
    with pytest.raises(UsageError, match="would replace what is read"):
        next(write_cams(model, dataset.with_depth(DepthMaps.open(maps)), maps))
    with pytest.raises(UsageError, match="lies among the recordings"):
        next(write_cams(model, dataset, dataset.path / "recordings" / "masks"))
    assert files_in(maps) == before
