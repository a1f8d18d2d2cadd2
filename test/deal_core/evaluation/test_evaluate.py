"""Masks against true ones: figures equal to those counted by hand, frames drawn, and what cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.masks_by_hand import copy_of, iou_by_hand, masks_by_hand

from deal_core.dataset.dataset import Dataset
from deal_core.errors import DatasetError, EvaluationError
from deal_core.evaluation.decisions import DECISIONS_FOLDER, forget_decisions
from deal_core.evaluation.evaluate import add_up, count_mask, evaluate_masks, evaluate_model, evaluate_shard
from deal_core.evaluation.metrics import MaskEvaluator
from deal_core.evaluation.picture_folder import read_pictures
from deal_core.evaluation.result import EvaluationResult
from deal_core.evaluation.shards import Shard
from deal_core.experiments.table import Figures, Row
from deal_core.masks.mask_folder import write_cams
from deal_core.masks.score_dataset import CamSettings, score_frames
from deal_core.masks.threshold_rules import OtsuRule
from deal_core.models.model_file import LoadedModel
from deal_core.structures import ClassList

THRESHOLD = 0.45  # of the fixture `model`
GIVEN = CamSettings(device="cpu", batch_size=5)


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
    how = {
        "tags": "given",
        "scales": "1",
        "flip": "yes",
        "size": "model",
        "normalise": "max",
        "refine": "none",
    }
    assert result.details == {**how, "model": model.sha256[:12], "seed": 5}
    pictures = json.loads((tmp_path / "pictures" / "pictures.json").read_text())
    shown = [picture["key"] for picture in pictures["pictures"]]
    assert len(shown) == 3 and min(per_frame, key=lambda key: per_frame[key]) in shown


def test_a_rule_that_finds_no_threshold_leaves_the_swept_one(
    model: LoadedModel, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finds(OtsuRule):
        def threshold(self) -> float:
            raise EvaluationError("no agreement of outlines and depth")

    monkeypatch.setattr("deal_core.evaluation.decisions.create_rule", lambda rule, kind: Finds())
    options = {"name": "tiny", "threshold_rule": "otsu"}
    found = evaluate_model(model, dataset, GIVEN, **options, pictures=tmp_path, num_pictures=2)
    plain = evaluate_model(model, dataset, GIVEN, name="tiny")
    assert found.auto is None and found.oracle is not None and plain.oracle is not None
    assert (found.oracle.miou, found.oracle.threshold) == (plain.oracle.miou, plain.oracle.threshold)
    assert found.details["auto"] == "no threshold: no agreement of outlines and depth"
    assert len(found.per_frame) == 12 and len(read_pictures(tmp_path)) == 2
    found.write(tmp_path)
    figures = Figures.of(EvaluationResult.read(tmp_path))
    assert figures.oracle == plain.oracle.miou and np.isnan(figures.auto)
    assert "–" in Row("seam", "deal", "val", (11,), (figures,)).cells()


def test_the_frames_of_another_run_are_drawn_in_its_order(model: LoadedModel, dataset: Dataset, tmp_path: Path) -> None:
    wanted = [dataset.frames[7].key, dataset.frames[2].key]
    evaluate_model(model, dataset, GIVEN, name="tiny", pictures=tmp_path, show=[*wanted, "another/1"])
    pictures = json.loads((tmp_path / "pictures" / "pictures.json").read_text())["pictures"]
    assert [picture["key"] for picture in pictures] == wanted


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


def test_masks_in_a_folder_are_as_good_as_the_model_that_made_them(
    model: LoadedModel, dataset: Dataset, tmp_path: Path
) -> None:
    assert all(write_cams(model, dataset, tmp_path, GIVEN))
    done: list[int] = []
    of_masks = evaluate_masks(tmp_path, dataset, name="masks", advance=done.append)
    of_model = evaluate_model(model, dataset, GIVEN, name="model")
    assert of_masks.to_json()["auto"] == of_model.to_json()["auto"]
    assert of_masks.oracle is None and of_masks.num_frames == 12
    assert of_masks.per_frame == of_model.per_frame and done == list(range(1, 13))
    everything_ignored = tmp_path / f"{dataset.frames[0].key}.png"
    cv2.imwrite(str(everything_ignored), np.full((48, 64), 255, np.uint8))
    assert evaluate_masks(tmp_path, dataset, name="x").per_frame[0].iou == 0, "nobody's pixels are wrong"


def test_the_worst_masks_of_a_folder_are_drawn_or_those_of_another_run(
    model: LoadedModel, dataset: Dataset, tmp_path: Path
) -> None:
    assert all(write_cams(model, dataset, tmp_path / "masks", GIVEN))
    result = evaluate_masks(tmp_path / "masks", dataset, name="x", pictures=tmp_path, num_pictures=3)
    pictures = read_pictures(tmp_path)
    assert len(pictures) == 3 and pictures[0].iou == min(frame.iou for frame in result.per_frame)
    assert set(pictures[0].files) == {"image", "depth", "edges", "prediction", "truth"}
    wanted = [dataset.frames[7].key, dataset.frames[2].key]
    evaluate_masks(tmp_path / "masks", dataset, name="x", pictures=tmp_path, show=[*wanted, "another/1"])
    assert {picture.key for picture in read_pictures(tmp_path)} == set(wanted)


def test_a_folder_of_masks_that_cannot_be_compared(model: LoadedModel, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no cams\.json"):
        evaluate_masks(tmp_path, dataset, name="x")
    assert all(write_cams(model, dataset, tmp_path, GIVEN))
    other = Dataset(dataset.path, ClassList(("a", "b", "c")), dataset.frames)
    with pytest.raises(DatasetError, match="is for the classes"):
        evaluate_masks(tmp_path, other, name="x")
    file = tmp_path / f"{dataset.frames[3].key}.png"
    for content, said in (
        (np.full((48, 64), 4, np.uint8), "ids up to 3"),
        (np.zeros((48, 63), np.uint8), "expected a mask"),
        (None, f"lacks the masks of 1 of 12 frames.*{dataset.frames[3].key}.png"),
    ):
        file.unlink()
        if content is not None:
            cv2.imwrite(str(file), content)
        with pytest.raises(DatasetError, match=said) as caught:
            evaluate_masks(tmp_path, dataset, name="x")
        assert str(tmp_path) in str(caught.value) and f"{dataset.frames[3].key}.png" in str(caught.value)


def test_counts_add_up_frame_by_frame_and_over_processes() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.integers(0, 4, (2, 9, 11)).astype(np.uint8) for _ in range(5)]
    counts = [(count_mask(found, truth, str(i), 3),) for i, (found, truth) in enumerate(masks)]
    done: list[int] = []
    (whole,) = add_up((MaskEvaluator(3),), counts, done.append)
    assert done == [1, 2, 3, 4, 5]
    shares = [add_up((MaskEvaluator(3),), share) for share in (counts[:2], counts[2:4], counts[4:])]
    (of_processes,) = add_up((MaskEvaluator(3),), shares)
    by_hand = MaskEvaluator(3)
    for i, (found, truth) in enumerate(masks):
        by_hand.update(found, truth, str(i))
    for total in (whole, of_processes):
        assert total.frames == by_hand.frames
        np.testing.assert_array_equal(total.confusion.counts, by_hand.confusion.counts)
        np.testing.assert_array_equal(total.boundary.counts, by_hand.boundary.counts)
    empty = count_mask(masks[0][0], None, "0", 3)
    assert not empty.frames and not empty.confusion.counts.any()


def test_masks_of_0_and_255_are_asked_about(model: LoadedModel, dataset: Dataset, tmp_path: Path) -> None:
    path = copy_of(dataset, tmp_path)

    def double(index: int, file: Path) -> None:
        mask = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(file), np.where(mask > 0, 255, 0).astype(np.uint8))

    rewrite_masks(path, double)
    with pytest.raises(DatasetError, match=r"no mask of a tagged frame contains a class, only 0 .* and 255"):
        evaluate_model(model, Dataset.open(path), GIVEN, name="x")


RULE = {"threshold_rule": "depth_relief"}  # the sums of its rule are no whole numbers


def test_an_interrupted_evaluation_continues_and_is_the_same(
    model: LoadedModel, dataset: Dataset, tmp_path: Path
) -> None:
    expected = evaluate_model(model, dataset, GIVEN, name="x", **RULE).to_json()

    def end(done: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_model(model, dataset, GIVEN, name="x", kept=tmp_path, advance=end, **RULE)
    done: list[int] = []
    again = evaluate_model(model, dataset, GIVEN, name="x", kept=tmp_path, advance=done.append, **RULE)
    # Batches of 5 frames: the second one had lost 2, and is made again as a whole.
    assert done == [5, *range(6, 25)] and again.to_json() == expected
    done.clear()
    assert evaluate_model(model, dataset, GIVEN, name="x", kept=tmp_path, advance=done.append, **RULE).to_json() == (
        expected
    )
    assert done == [12, *range(13, 25)], "no frame is made again"
    evaluate_model(model, dataset, GIVEN, name="x", kept=tmp_path, threshold_rule="otsu", advance=done.append)
    assert done[13:] == list(range(1, 25)), "other options: all of them are"
    forget_decisions(tmp_path)
    assert not (tmp_path / DECISIONS_FOLDER).exists()


def test_a_mask_that_was_repainted_meanwhile_counts(model: LoadedModel, dataset: Dataset, tmp_path: Path) -> None:
    path, run = copy_of(dataset, tmp_path), tmp_path / "run"
    evaluate_model(model, Dataset.open(path), GIVEN, name="x", kept=run)

    def repaint(index: int, file: Path) -> None:
        if index == 6:
            cv2.imwrite(str(file), np.full((48, 64), 2, np.uint8))

    rewrite_masks(path, repaint)
    done: list[int] = []
    again = evaluate_model(model, Dataset.open(path), GIVEN, name="x", kept=run, advance=done.append)
    assert again.to_json() == evaluate_model(model, Dataset.open(path), GIVEN, name="x").to_json()
    assert done[:6] == [7, 8, 9, 10, 11, 12], "the batch of this frame is made again"


@pytest.mark.parametrize("count", [2, 3, 5])
def test_shards_merge_exactly(model: LoadedModel, dataset: Dataset, tmp_path: Path, count: int) -> None:
    expected = evaluate_model(model, dataset, GIVEN, name="x", **RULE).to_json()
    made = [evaluate_shard(model, dataset, GIVEN, Shard(n, count), tmp_path, **RULE) for n in range(2, count + 1)]
    done: list[int] = []
    whole = evaluate_model(model, dataset, GIVEN, name="x", kept=tmp_path, advance=done.append, **RULE)
    assert whole.to_json() == expected
    assert done[0] == sum(made) if made[0] else done[0] == 1, "the first shard is missing, and is made now"


def test_shards_of_other_options_are_left_out(
    model: LoadedModel, dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate_shard(model, dataset, CamSettings(device="cpu", flip=False), Shard(1, 1), tmp_path)
    (tmp_path / DECISIONS_FOLDER / "1-of-1.frames").rename(tmp_path / DECISIONS_FOLDER / "1-of-2.frames")
    found = evaluate_model(model, dataset, GIVEN, name="x", kept=tmp_path)
    assert found.to_json() == evaluate_model(model, dataset, GIVEN, name="x").to_json()
    assert "1 of 1 shards were evaluated with another model or other options" in caplog.text
