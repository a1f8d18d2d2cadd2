"""A model over a dataset: scores in order, figures equal to those counted by hand, CAM files that can be resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deal_core import inference
from deal_core.data.dataset import Dataset
from deal_core.data.sample import ClassList
from deal_core.errors import DatasetError, ModelFileError, UsageError
from deal_core.inference import CamSettings, evaluate_model, read_cam, score_frames, write_cams
from deal_core.modelfile import LoadedModel, ModelInfo, Threshold, load_model, save_model
from deal_core.models.factory import create_model

INPUT_SIZE = (24, 32)
THRESHOLD = 0.45
GIVEN = CamSettings(device="cpu", batch_size=5)


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> Dataset:
    return Dataset.open(tiny_dataset)


@pytest.fixture(scope="module")
def make_model(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LoadedModel]:
    def make(seed: int = 5, classes: ClassList = dataset.classes) -> LoadedModel:
        torch.manual_seed(seed)
        arguments = {"backbone": "test_resnet", "width": 16}
        network = create_model("cam_net", len(classes), **arguments)
        with torch.no_grad():
            network.classifier.weight *= 20
            network.classifier.bias += torch.arange(len(classes)) / 2
        path = tmp_path_factory.mktemp("models") / "model.safetensors"
        info = ModelInfo("cam_net", arguments, classes, INPUT_SIZE, Threshold(THRESHOLD, "otsu"), {"seed": 5, "x": [1]})
        save_model(path, network, info)
        return load_model(path)

    return make


@pytest.fixture(scope="module")
def model(make_model: Callable[..., LoadedModel]) -> LoadedModel:
    return make_model()


def scores_by_hand(model: LoadedModel, dataset: Dataset, index: int, tags: str, flip: bool) -> np.ndarray:
    """Scores of one frame, alone, from the raw output of the network."""
    sample = dataset.load(index)
    small = cv2.resize(sample.image, INPUT_SIZE[::-1], interpolation=cv2.INTER_AREA)
    image = torch.from_numpy(small.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    with torch.no_grad():
        outputs = [model.network(image)] + ([model.network(image.flip(-1))] if flip else [])
    maps = [F.interpolate(o.cams.relu(), INPUT_SIZE, mode="bilinear", align_corners=False)[0] for o in outputs]
    total = maps[0] + maps[1].flip(-1) if flip else maps[0]
    logits = sum(o.tag_logits["cam"][0] for o in outputs) / len(outputs)
    for k in range(len(total)):
        present = sample.tags[k] == 1 if tags == "given" else float(logits[k]) >= 0
        total[k] = total[k] / total[k].max() if present and total[k].max() > 0 else 0
    return F.interpolate(total[None], sample.image.shape[:2], mode="bilinear", align_corners=False)[0].numpy()


@pytest.mark.parametrize(("tags", "flip"), [("given", True), ("given", False), ("predicted", True)])
def test_frames_come_in_order_with_the_scores_made_by_hand(
    model: LoadedModel, dataset: Dataset, tags: inference.TagSource, flip: bool
) -> None:
    frames = list(score_frames(model, dataset, CamSettings(tags=tags, flip=flip, device="cpu", batch_size=5)))
    assert [f.sample.key for f in frames] == [f.key for f in dataset.frames]
    seen = 0
    for index, frame in enumerate(frames):
        assert frame.scores.shape == (3, 48, 64) and frame.scores.dtype == np.float32
        assert frame.scores.min() >= 0 and frame.scores.max() <= 1
        expected = scores_by_hand(model, dataset, index, tags, flip)
        np.testing.assert_allclose(frame.scores, expected, atol=1e-4)
        assert frame.tags.tolist() == [float(s.any()) for s in expected]
        seen += int(frame.tags.sum())
    assert seen > 6, "the comparison must have something to compare"


def test_few_images_are_held_at_a_time(model: LoadedModel, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []
    original = Dataset.load
    monkeypatch.setattr(Dataset, "load", lambda self, frame: loaded.append(1) or original(self, frame))
    frames = score_frames(model, dataset, CamSettings(device="cpu", batch_size=2))
    next(frames)
    assert len(loaded) == 2
    frames.close()


def test_other_classes_are_refused_with_both_lists(
    make_model: Callable[..., LoadedModel], dataset: Dataset, tmp_path: Path
) -> None:
    other = make_model(classes=ClassList(("cup", "fork")))
    for use in (
        lambda: next(score_frames(other, dataset)),
        lambda: evaluate_model(other, dataset, name="x"),
        lambda: next(write_cams(other, dataset, tmp_path / "cams")),
    ):
        with pytest.raises(ModelFileError) as caught:
            use()
        for name in ("cup", "fork", *dataset.classes.names, str(dataset.path)):
            assert name in str(caught.value)
    reordered = make_model(classes=ClassList(dataset.classes.names[::-1]))
    with pytest.raises(ModelFileError):
        next(score_frames(reordered, dataset))
    assert not (tmp_path / "cams").exists()


def test_a_device_that_is_not_there(model: LoadedModel, dataset: Dataset) -> None:
    with pytest.raises(UsageError, match="device 'gpu'"):
        next(score_frames(model, dataset, CamSettings(device="gpu")))


def iou_by_hand(masks: list[np.ndarray], truths: list[np.ndarray], classes: int) -> list[float]:
    """IoU of background and every class over all pixels of all images; nan where a class is in neither."""
    result = []
    for c in range(classes + 1):
        both = either = 0
        for mask, truth in zip(masks, truths, strict=True):
            for ours, theirs in zip(mask.ravel().tolist(), truth.ravel().tolist(), strict=True):
                if theirs != 255:
                    both += ours == c and theirs == c
                    either += ours == c or theirs == c
        result.append(both / either if either else float("nan"))
    return result


def masks_by_hand(all_scores: list[np.ndarray], threshold: float) -> list[np.ndarray]:
    masks = []
    for scores in all_scores:
        best = scores.max(axis=0).astype(np.float64)
        masks.append(np.where(best > threshold, scores.argmax(axis=0) + 1, 0))
    return masks


def test_evaluation_equals_the_figures_counted_by_hand(model: LoadedModel, dataset: Dataset, tmp_path: Path) -> None:
    frames = list(score_frames(model, dataset, GIVEN))
    scores = [f.scores for f in frames]
    truths = [f.sample.mask for f in frames if f.sample.mask is not None]
    assert len(truths) == 12
    done: list[int] = []
    result = evaluate_model(model, dataset, GIVEN, name="tiny", pictures=tmp_path, num_pictures=3, advance=done.append)
    assert done == list(range(1, 25))
    assert result.auto is not None and result.oracle is not None and result.curve is not None

    auto = iou_by_hand(masks_by_hand(scores, THRESHOLD), truths, 3)
    assert [c.iou for c in result.auto.classes] == pytest.approx(auto, nan_ok=True)
    assert result.auto.miou == pytest.approx(np.nanmean(auto))
    assert (result.auto.rule, result.auto.threshold) == ("otsu", THRESHOLD)

    grid = [i / 100 for i in range(101)]
    fast_miou = []
    for threshold in grid:  # the same count, with numpy: 101 passes in loops take long
        masks, truth = np.stack(masks_by_hand(scores, threshold)), np.stack(truths)
        ious = [((masks == c) & (truth == c)).sum() / max(((masks == c) | (truth == c)).sum(), 1) for c in range(4)]
        there = [bool(((masks == c) | (truth == c)).any()) for c in range(4)]
        fast_miou.append(np.mean([iou for iou, t in zip(ious, there, strict=True) if t]))
    assert result.curve.miou.tolist() == pytest.approx(fast_miou)
    best = int(np.argmax(fast_miou))
    assert result.oracle.threshold == grid[best] and result.oracle.miou == pytest.approx(fast_miou[best])
    assert result.oracle.miou > result.auto.miou > 0

    per_frame = {f.key: f.iou for f in result.per_frame}
    for index, frame in enumerate(frames):
        alone = iou_by_hand(masks_by_hand([scores[index]], THRESHOLD), [truths[index]], 3)
        assert per_frame[frame.sample.key] == pytest.approx(np.nanmean(alone))
    assert result.num_frames == 12 and result.name == "tiny" and result.dataset == str(dataset.path)
    assert result.details == {"tags": "given", "model": model.sha256[:12], "seed": 5}
    pictures = json.loads((tmp_path / "pictures" / "pictures.json").read_text())
    shown = [picture["key"] for picture in pictures["pictures"]]
    assert len(shown) == 3 and min(per_frame, key=lambda key: per_frame[key]) in shown


def test_the_frames_of_another_run_are_drawn_in_its_order(model: LoadedModel, dataset: Dataset, tmp_path: Path) -> None:
    wanted = [dataset.frames[7].key, dataset.frames[2].key]
    evaluate_model(model, dataset, GIVEN, name="tiny", pictures=tmp_path, show=[*wanted, "another/1"])
    pictures = json.loads((tmp_path / "pictures" / "pictures.json").read_text())["pictures"]
    assert [picture["key"] for picture in pictures] == wanted


def copy_of(dataset: Dataset, folder: Path) -> Path:
    return Path(shutil.copytree(dataset.path, folder / "copy"))


def rewrite_masks(path: Path, change: Callable[[int, Path], None]) -> None:
    for index, file in enumerate(sorted(path.glob("recordings/*/masks/*.png"))):
        change(index, file)


def test_frames_without_a_mask_are_left_out_and_unlabelled_pixels_too(
    model: LoadedModel, dataset: Dataset, tmp_path: Path
) -> None:
    path = copy_of(dataset, tmp_path)
    lines = (path / "recordings/tiny/frames.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records[4:]:
        del record["mask"]
    (path / "recordings/tiny/frames.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    reduced = Dataset.open(path)
    result = evaluate_model(model, reduced, GIVEN, name="x")
    assert result.num_frames == 4 and [f.key for f in result.per_frame] == [f.key for f in dataset.frames[:4]]

    def half_unlabelled(index: int, file: Path) -> None:
        mask = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        mask[:, :32] = 255
        cv2.imwrite(str(file), mask)

    rewrite_masks(path, half_unlabelled)
    half = evaluate_model(model, Dataset.open(path), GIVEN, name="x")
    frames = list(score_frames(model, reduced.subset(predicate=lambda f: f.mask is not None), GIVEN))
    masks = [m[:, 32:] for m in masks_by_hand([f.scores for f in frames], THRESHOLD)]
    truths = [f.sample.mask[:, 32:] for f in frames if f.sample.mask is not None]
    assert half.auto is not None
    assert [c.iou for c in half.auto.classes] == pytest.approx(iou_by_hand(masks, truths, 3), nan_ok=True)


def test_masks_that_cannot_be_compared_with(model: LoadedModel, dataset: Dataset, tmp_path: Path) -> None:
    path = copy_of(dataset, tmp_path)
    rewrite_masks(path, lambda index, file: cv2.imwrite(str(file), np.full((48, 64), 255, np.uint8)))
    with pytest.raises(DatasetError, match="no labelled pixel"):
        evaluate_model(model, Dataset.open(path), GIVEN, name="x", pictures=tmp_path / "run")
    lines = (path / "recordings/tiny/frames.jsonl").read_text().splitlines()
    bare = [{k: v for k, v in json.loads(line).items() if k != "mask"} for line in lines]
    (path / "recordings/tiny/frames.jsonl").write_text("".join(json.dumps(r) + "\n" for r in bare))
    with pytest.raises(DatasetError, match=f"{path}: no frame has a mask"):
        evaluate_model(model, Dataset.open(path), GIVEN, name="x")
    assert not (tmp_path / "run").exists()


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
    before = files_in(tmp_path)
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
    ):
        with pytest.raises(DatasetError, match=said) as caught:
            next(write_cams(other, dataset, tmp_path, settings))
        assert str(tmp_path) in str(caught.value)
    assert files_in(tmp_path) == before
    assert next(write_cams(model, dataset, tmp_path, CamSettings(device="cpu", batch_size=2))) is False
    (tmp_path / "cams.json").write_text("{")
    with pytest.raises(DatasetError, match=r"cams\.json cannot be read"):
        next(write_cams(model, dataset, tmp_path, GIVEN))


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


@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
