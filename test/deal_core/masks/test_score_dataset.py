"""A model over a dataset: scores in order, thresholds, and figures equal to those counted by hand."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.masks_by_hand import copy_of, iou_by_hand, masks_by_hand
from PIL import Image

from deal_core.dataset.dataset import Dataset, evenly_spread
from deal_core.errors import ConfigError, ModelFileError, UsageError
from deal_core.evaluation.evaluate import evaluate_model
from deal_core.masks import score_dataset
from deal_core.masks.mask_folder import write_cams
from deal_core.masks.refine.crf import CrfSettings
from deal_core.masks.refine.par import ParSettings
from deal_core.masks.refine.refinement import RefineSettings, refine_scores
from deal_core.masks.refine.walk import WalkSettings
from deal_core.masks.score_dataset import CamSettings, choose_threshold, score_frames
from deal_core.masks.threshold_rules import create_rule
from deal_core.models.model_file import LoadedModel, Threshold
from deal_core.structures import ClassList

INPUT_SIZE, THRESHOLD = (24, 32), 0.45  # of the fixture `model`
GIVEN = CamSettings(device="cpu", batch_size=5)


def scores_by_hand(model: LoadedModel, dataset: Dataset, index: int, tags: str, flip: bool) -> np.ndarray:
    """Scores of one frame, alone, from the raw output of the network."""
    sample = dataset.load(index)
    small = cv2.resize(sample.image, INPUT_SIZE[::-1], interpolation=cv2.INTER_AREA)
    image = torch.from_numpy(small.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    with torch.no_grad():
        outputs = [model.network(image)] + ([model.network(image.flip(-1))] if flip else [])
    maps = [F.interpolate(o.activation, INPUT_SIZE, mode="bilinear", align_corners=False)[0] for o in outputs]
    total = maps[0] + maps[1].flip(-1) if flip else maps[0]
    logits = sum(o.tag_logits["cam"][0] for o in outputs) / len(outputs)
    for k in range(len(total)):
        present = sample.tags[k] == 1 if tags == "given" else float(logits[k]) >= 0
        total[k] = total[k] / total[k].max() if present and total[k].max() > 0 else 0
    return F.interpolate(total[None], sample.image.shape[:2], mode="bilinear", align_corners=False)[0].numpy()


@pytest.mark.parametrize(("tags", "flip"), [("given", True), ("given", False), ("predicted", True)])
def test_frames_come_in_order_with_the_scores_made_by_hand(
    model: LoadedModel, dataset: Dataset, tags: score_dataset.TagSource, flip: bool
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


def test_scores_in_bfloat16_are_nearly_those_in_float32(model: LoadedModel, dataset: Dataset) -> None:
    exact = [frame.scores for frame in score_frames(model, dataset, CamSettings(device="cpu"))]
    fast = [frame.scores for frame in score_frames(model, dataset, CamSettings(device="cpu", precision="bf16"))]
    again = [frame.scores for frame in score_frames(model, dataset, CamSettings(device="cpu"))]
    errors = [float(np.abs(one - other).max()) for one, other in zip(exact, fast, strict=True)]
    assert 0 < max(errors) < 0.1 and all(scores.dtype == np.float32 for scores in fast)
    for one, other in zip(exact, again, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_device_that_is_not_there(model: LoadedModel, dataset: Dataset) -> None:
    with pytest.raises(UsageError, match="device 'gpu'"):
        next(score_frames(model, dataset, CamSettings(device="gpu")))


def test_two_iterators_that_take_turns_leave_torch_as_it_was(model: LoadedModel, dataset: Dataset) -> None:
    for _ in zip(score_frames(model, dataset, GIVEN), score_frames(model, dataset, GIVEN), strict=True):
        assert not torch.is_inference_mode_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.fixture(scope="module")
def mixed(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The dataset with every other frame cut to another size."""
    path = copy_of(dataset, tmp_path_factory.mktemp("mixed"))
    for folder in ("color", "depth", "masks"):
        for file in sorted((path / "recordings/tiny" / folder).glob("*.png"))[::2]:
            cv2.imwrite(str(file), cv2.imread(str(file), cv2.IMREAD_UNCHANGED)[:45, 3:])
    return Dataset.open(path)


def test_images_at_their_own_size_equal_the_passes_made_by_hand(model: LoadedModel, mixed: Dataset) -> None:
    settings = CamSettings(device="cpu", scales=(1.0, 1.5), size="image", normalise="min_max")
    sizes = set()
    for index, frame in enumerate(score_frames(model, mixed, settings)):
        sample = mixed.load(index)
        size = sample.image.shape[:2]
        image = torch.from_numpy(sample.image.transpose(2, 0, 1)[None].astype(np.float32) / 255)
        columns_first = (round(size[1] * 1.5), round(size[0] * 1.5))
        resized = np.asarray(Image.fromarray(sample.image).resize(columns_first, Image.Resampling.BICUBIC))
        larger = torch.from_numpy(resized.transpose(2, 0, 1)[None].astype(np.float32) / 255)
        total = np.zeros((3, *size))
        with torch.no_grad():
            for picture in (image, larger):
                for mirrored in (False, True):
                    cams = model.network(picture.flip(-1) if mirrored else picture).activation
                    full = F.interpolate(cams, size, mode="bilinear", align_corners=False)[0].double().numpy()
                    total += full[..., ::-1] if mirrored else full
        for k in range(3):
            span = total[k].max() - total[k].min()
            expected = (total[k] - total[k].min()) / span if sample.tags[k] == 1 and span else 0 * total[k]
            np.testing.assert_allclose(frame.scores[k], expected, atol=2e-3)
        assert frame.sample.key == mixed.frames[index].key
        sizes.add(size)
    assert sizes == {(48, 64), (45, 61)}


@pytest.mark.parametrize("refine", [ParSettings(iterations=2), CrfSettings(iterations=2), WalkSettings(steps=20)])
def test_scores_are_refined_at_the_size_of_the_image(
    model: LoadedModel, dataset: Dataset, refine: RefineSettings
) -> None:
    few = dataset.subset(predicate=lambda frame: frame.key in [f.key for f in dataset.frames[:4]])
    refined = list(score_frames(model, few, dataclasses.replace(GIVEN, refine=refine)))
    for plain, found in zip(score_frames(model, few, GIVEN), refined, strict=True):
        sample = plain.sample
        expected = refine_scores(
            *(sample.image, torch.from_numpy(plain.scores), refine),
            **{"threshold": THRESHOLD, "depth": sample.depth, "depth_valid": sample.depth_valid},
        )
        np.testing.assert_allclose(found.scores, expected.numpy(), atol=1e-5)
        assert np.abs(found.scores - plain.scores).max() > 0.02
    result = evaluate_model(model, few, dataclasses.replace(GIVEN, refine=refine), name="x")
    assert result.auto is not None and result.details["refine"] in ("par", "crf", "walk")
    value = THRESHOLD if isinstance(refine, ParSettings) else 0.5
    assert (result.auto.rule, result.auto.threshold) == ("otsu" if value == THRESHOLD else "argmax", value)
    truths = [f.sample.mask for f in refined if f.sample.mask is not None]
    by_hand = iou_by_hand(masks_by_hand([f.scores for f in refined], value), truths, 3)
    assert [c.iou for c in result.auto.classes] == pytest.approx(by_hand, nan_ok=True)


def without_depth(dataset: Dataset) -> Dataset:
    bare = [dataclasses.replace(frame, depth=None) for frame in dataset.frames]
    return Dataset(dataset.path, dataset.classes, bare)


def test_what_needs_depth_says_so_before_any_work(model: LoadedModel, dataset: Dataset, tmp_path: Path) -> None:
    bare = without_depth(dataset)
    walk = CamSettings(device="cpu", refine=WalkSettings(steps=2))
    for use in (
        lambda: next(score_frames(model, bare, walk)),
        lambda: evaluate_model(model, bare, walk, name="x"),
        lambda: next(write_cams(model, bare, tmp_path / "cams", walk)),
        lambda: choose_threshold(model, bare, GIVEN, "depth_relief"),
        lambda: evaluate_model(model, bare, GIVEN, name="x", threshold_rule="depth_edges"),
    ):
        with pytest.raises(UsageError, match="has none"):
            use()
    assert not (tmp_path / "cams").exists()
    colour = CamSettings(device="cpu", refine=WalkSettings("colour", steps=2))
    assert next(score_frames(model, bare, colour)).scores.any()


@pytest.mark.parametrize("tags", ["given", "predicted"])
def test_a_network_that_answers_nan_is_told(
    model: LoadedModel, dataset: Dataset, tags: score_dataset.TagSource
) -> None:
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    diverged = dataclasses.replace(model, network=network)
    with pytest.raises(ModelFileError, match=f"{dataset.frames[0].key}.*not finite"):
        list(score_frames(diverged, dataset, CamSettings(tags=tags, device="cpu")))


@pytest.mark.parametrize("rule", ["otsu", "depth_relief", "fixed:0.3"])
def test_a_threshold_chosen_anew(model: LoadedModel, dataset: Dataset, rule: str) -> None:
    settings = dataclasses.replace(GIVEN, refine=WalkSettings(steps=20))
    by_hand = create_rule(rule)
    for frame in score_frames(model, dataset, settings):
        by_hand.update(frame.scores, frame.sample.depth, frame.sample.depth_valid, frame.tags)
    done: list[int] = []
    assert choose_threshold(model, dataset, settings, rule, advance=done.append) == Threshold(by_hand.threshold(), rule)
    assert done == list(range(1, 13))
    result = evaluate_model(model, dataset, settings, name="x", threshold_rule=rule)
    assert result.auto is not None and (result.auto.rule, result.auto.threshold) == (rule, by_hand.threshold())
    with pytest.raises(ConfigError, match="Did you mean 'otsu'"):
        evaluate_model(model, dataset, settings, name="x", threshold_rule="ostu")


def test_frames_evenly_spread(dataset: Dataset) -> None:
    for count in (1, 5, 11, 12, 40):
        found = [dataset.frames.index(frame) for frame in evenly_spread(dataset, count).frames]
        assert len(found) == min(count, 12)
        gaps = {b - a for a, b in itertools.pairwise(found)}
        assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.gpu
@pytest.mark.parametrize("refine", [None, ParSettings(iterations=2), CrfSettings(), WalkSettings(steps=2)])
def test_on_the_gpu_scores_are_nearly_those_of_the_cpu(
    model: LoadedModel, dataset: Dataset, refine: RefineSettings | None
) -> None:
    on_cpu, on_gpu = (
        list(score_frames(model, dataset, CamSettings(device=device, refine=refine))) for device in ("cpu", "cuda")
    )
    for one, two in zip(on_cpu, on_gpu, strict=True):
        assert (np.abs(one.scores - two.scores) < 0.02).mean() > 0.99, one.sample.key
