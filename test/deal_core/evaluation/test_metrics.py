"""Metrics against slow per-pixel and per-threshold formulations."""

import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deal_core.errors import EvaluationError
from deal_core.evaluation.metrics import BoundaryScore, ConfusionMatrix, MaskEvaluator, contour
from deal_core.evaluation.result import EVALUATION_FILE, EvaluationResult
from deal_core.evaluation.seeds import summarise_seeds
from deal_core.evaluation.sweep import SweepCurve, ThresholdSweep
from deal_core.masks.decide import predict_mask, threshold_bins, threshold_grid
from deal_core.structures import ClassList

K = 3
IDS = [0, 1, 2, 3, 255]
masks = hnp.arrays(np.uint8, (4, 5), elements=st.sampled_from(IDS))
# Many scores lie exactly on a threshold, in float32 and float64, which is where bins go wrong.
on_grid = st.integers(0, 100).map(lambda i: i / 100)
scores64 = hnp.arrays(np.float64, (K, 4, 5), elements=st.one_of(on_grid, st.floats(0, 1)))
scores = st.one_of(scores64, scores64.map(lambda s: s.astype(np.float32)), scores64.map(lambda s: s.astype(np.float16)))
tags = st.one_of(st.none(), hnp.arrays(np.float32, K, elements=st.sampled_from([0.0, 1.0, np.nan])))


def slow_counts(prediction, truth):
    counts = np.zeros((K + 1, K + 2), int)
    for p, t in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if t != 255:
            counts[t, K + 1 if p == 255 else p] += 1
    return counts


def slow_miou(pairs):
    """The mean over classes in truth or prediction, by sets of pixels."""
    ious = []
    for c in range(K + 1):
        both = either = 0
        for prediction, truth in pairs:
            known = truth != 255
            p, t = (prediction == c) & known, (truth == c) & known
            both += int((p & t).sum())
            either += int((p | t).sum())
        if either:
            ious.append(both / either)
    return sum(ious) / len(ious) if ious else math.nan


def slow_prediction(values, present, threshold):
    """The definition, pixel by pixel: background wins a tie, then the lowest class."""
    _, height, width = values.shape
    out = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            best, winner = -1.0, 0
            for k in range(K):
                if (present is None or present[k] == 1) and float(values[k, y, x]) > best:
                    best, winner = float(values[k, y, x]), k + 1
            out[y, x] = winner if best > threshold else 0
    return out


@given(masks, masks)
def test_confusion_counts_every_labelled_pixel(prediction, truth):
    matrix = ConfusionMatrix(K)
    matrix.update(prediction, truth)
    np.testing.assert_array_equal(matrix.counts, slow_counts(prediction, truth))


@given(st.lists(st.tuples(masks, masks), min_size=1, max_size=4))
def test_miou_is_the_mean_over_classes_in_truth_or_prediction(pairs):
    matrix = ConfusionMatrix(K)
    for prediction, truth in pairs:
        matrix.update(prediction, truth)
    np.testing.assert_allclose(matrix.miou(), slow_miou(pairs), rtol=1e-12)


def test_a_class_only_predicted_counts_as_zero_and_an_absent_one_not_at_all():
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([1, 2, 0, 0]), np.array([1, 1, 0, 0]))
    np.testing.assert_array_equal(matrix.iou(), [1.0, 0.5, 0.0, np.nan])
    assert matrix.miou() == 0.5
    np.testing.assert_array_equal(matrix.precision(), [1.0, 1.0, 0.0, np.nan])
    np.testing.assert_array_equal(matrix.recall(), [1.0, 0.5, np.nan, np.nan])
    assert matrix.pixel_accuracy() == 0.75


def test_an_undecided_prediction_is_a_miss_but_no_false_alarm():
    matrix = ConfusionMatrix(1)
    matrix.update(np.array([255, 255, 1, 0]), np.array([1, 0, 1, 0]))
    np.testing.assert_array_equal(matrix.iou(), [0.5, 0.5])
    np.testing.assert_array_equal(matrix.precision(), [1.0, 1.0])
    assert matrix.pixel_accuracy() == 0.5


def test_nothing_labelled_gives_nan_not_a_number():
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([0, 1]), np.array([255, 255]))
    assert math.isnan(matrix.miou())
    assert math.isnan(matrix.pixel_accuracy())


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.array([0, 4]), np.array([0, 0]), "ids 0..3 or 255 in the prediction, found [4]"),
        (np.array([0, 0]), np.array([0, 7]), "in the mask, found [7]"),
        (np.array([0, -1]), np.array([0, 0]), "found [-1]"),
        (np.array([0.0, 1.0]), np.array([0, 0]), "integer prediction"),
        (np.array([0, 1]), np.array([[0, 0]]), "shape of the mask (1, 2), found (2,)"),
    ],
)
def test_unusable_masks_are_refused(prediction, truth, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ConfusionMatrix(3).update(prediction, truth)


@given(scores, tags, st.sampled_from([0.0, 0.01, 0.29, 0.3, 0.57, 1.0]))
def test_predict_mask_is_the_definition(values, present, threshold):
    np.testing.assert_array_equal(predict_mask(values, present, threshold), slow_prediction(values, present, threshold))


def confusion_at(sweep, index):
    """The confusion matrix at one threshold, from the histogram of a sweep: bins up to it are background."""
    background, foreground = sweep.counts[:, :, : index + 1].sum((1, 2)), sweep.counts[:, :, index + 1 :].sum(2)
    return np.concatenate([background[:, None], foreground], axis=1)


@settings(max_examples=40)
@given(st.lists(st.tuples(scores, tags, masks), min_size=1, max_size=3))
def test_sweep_equals_one_evaluation_a_threshold(images):
    sweep = ThresholdSweep(K)
    for values, present, truth in images:
        sweep.update(values, present, truth)
    curve = sweep.curve()
    np.testing.assert_array_equal(curve.thresholds, [i / 100 for i in range(101)])
    for index, threshold in enumerate(curve.thresholds):
        slow = ConfusionMatrix(K)
        for values, present, truth in images:
            slow.update(predict_mask(values, present, float(threshold)), truth)
        np.testing.assert_array_equal(confusion_at(sweep, index), slow.counts[:, :-1])
        np.testing.assert_array_equal(curve.miou[index], slow.miou())


@given(hnp.arrays(np.float32, 20, elements=st.floats(0, 1, width=32)), st.integers(1, 130))
def test_bins_hold_exactly_the_thresholds_below(values, bins):
    grid = threshold_grid(bins)
    for value, found in zip(values.tolist(), threshold_bins(values, grid).tolist(), strict=True):
        assert found == sum(value > t for t in grid)


def test_best_is_the_lowest_of_the_best_thresholds():
    sweep = ThresholdSweep(1, bins=10)
    sweep.update(np.array([[[0.15, 0.15, 0.85]]]), None, np.array([[0, 0, 1]]))
    best = sweep.best()
    assert best.threshold == 0.2
    assert best.miou == 1.0
    assert sweep.thresholds[2] == 0.2 and sweep.curve().miou[2] == 1.0


def test_no_present_class_is_background_at_every_threshold():
    sweep = ThresholdSweep(2, bins=4)
    sweep.update(np.ones((2, 1, 2), np.float32), np.array([0.0, np.nan]), np.array([[0, 1]]))
    np.testing.assert_array_equal(sweep.curve().miou, np.full(5, 0.25))
    with pytest.raises(ValueError, match="no labelled pixel"):
        ThresholdSweep(2).best()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((1, 2, 2), np.nan), "in [0, 1]"),
        (np.full((1, 2, 2), 1.5), "found 1.5 to 1.5"),
        (np.full((1, 2, 2), -0.2), "found -0.2"),
        (np.zeros((2, 2)), "shape (K, H, W)"),
        (np.zeros((1, 2, 2), int), "float scores"),
        (np.zeros((2, 2, 2)), "scores of 1 classes, found 2"),
        (np.zeros((1, 3, 2)), "shape of the mask (2, 2)"),
    ],
)
def test_unusable_scores_are_refused(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ThresholdSweep(1).update(values, None, np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_gives_the_same_as_numpy(dtype):
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(K, 6, 7, generator=generator).to(dtype).requires_grad_()
    truth = torch.randint(0, K + 1, (6, 7), generator=generator)
    present = torch.tensor([1.0, 0.0, 1.0])
    ours, theirs = ThresholdSweep(K), ThresholdSweep(K)
    ours.update(values, present, truth)
    theirs.update(values.detach().double().numpy(), present.numpy(), truth.numpy())
    np.testing.assert_array_equal(ours.counts, theirs.counts)


# --- boundary F -----------------------------------------------------------------------------------------------


def slow_boundary(pairs, num_classes, tolerance=0.008):
    """F per class by comparing every contour pixel with every other."""

    def edge(region):
        height, width = region.shape
        found = []
        for y in range(height):
            for x in range(width):
                around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
                inside = [(v, u) for v, u in around if 0 <= v < height and 0 <= u < width]
                if region[y, x] and any(not region[v, u] for v, u in inside):
                    found.append((y, x))
        return found

    def hits(ours, theirs, reach):
        return sum(any(math.hypot(a - c, b - d) <= reach for c, d in theirs) for a, b in ours)

    scores = []
    for k in range(1, num_classes + 1):
        n_pred = n_pred_hit = n_true = n_true_hit = 0
        for prediction, truth in pairs:
            reach = max(1.0, tolerance * math.hypot(*truth.shape))
            p, t = edge(prediction == k), edge(truth == k)
            n_pred, n_true = n_pred + len(p), n_true + len(t)
            n_pred_hit, n_true_hit = n_pred_hit + hits(p, t, reach), n_true_hit + hits(t, p, reach)
        if n_pred + n_true == 0:
            scores.append(math.nan)
        elif n_pred_hit == 0 or n_true_hit == 0:
            scores.append(0.0)
        else:
            precision, recall = n_pred_hit / n_pred, n_true_hit / n_true
            scores.append(2 * precision * recall / (precision + recall))
    return np.array(scores)


def blobs(seed, shape=(24, 30)):
    rng = np.random.default_rng(seed)
    truth = np.zeros(shape, np.uint8)
    for k in (1, 2, 255):
        y, x = rng.integers(0, shape[0] - 8), rng.integers(0, shape[1] - 8)
        truth[y : y + rng.integers(3, 9), x : x + rng.integers(3, 9)] = k
    prediction = np.roll(truth, rng.integers(-3, 4, 2), (0, 1))
    return prediction, truth


@pytest.mark.parametrize("tolerance", [0.008, 0.06])
def test_boundary_score_equals_all_pairs_of_contour_pixels(tolerance):
    pairs = [blobs(seed) for seed in range(8)]
    score = BoundaryScore(3, tolerance=tolerance)
    for prediction, truth in pairs:
        score.update(prediction, truth)
    np.testing.assert_allclose(score.per_class(), slow_boundary(pairs, 3, tolerance), rtol=1e-12)
    assert score.mean() == pytest.approx(np.nanmean(slow_boundary(pairs, 3, tolerance)))


def test_boundary_tolerance_is_a_share_of_the_diagonal():
    truth = np.zeros((480, 640), np.uint8)
    truth[100:300, 100:400] = 1

    def shifted(pixels):
        score = BoundaryScore(1)
        score.update(np.roll(truth, pixels, 1), truth)
        return score.mean()

    assert shifted(0) == shifted(6) == 1.0  # 0.8 % of 800 is 6.4 pixels
    assert shifted(7) < 0.8


def test_boundary_of_a_full_image_mask_does_not_exist():
    full = np.ones((5, 5), np.uint8)
    assert not contour(full == 1).any()
    score = BoundaryScore(1)
    score.update(full, full)
    assert math.isnan(score.mean())


def test_boundary_of_a_false_alarm_counts_as_zero():
    score = BoundaryScore(2)
    prediction, truth = np.zeros((2, 9, 9), np.uint8)
    truth[2:6, 2:6] = 1
    prediction[2:6, 2:6] = 1
    prediction[7:, 7:] = 2
    score.update(prediction, truth)
    np.testing.assert_array_equal(score.per_class(), [1.0, 0.0])


# --- merging, files -------------------------------------------------------------------------------------------


def test_two_ranks_merge_into_one():
    rng = np.random.default_rng(3)
    whole = ThresholdSweep(K), MaskEvaluator(K)
    ranks = [(ThresholdSweep(K), MaskEvaluator(K)) for _ in range(2)]
    for index in range(4):
        values = rng.random((K, 9, 11), np.float32)
        truth = rng.choice(np.array(IDS, np.uint8), (9, 11))
        for sweep, evaluator in (whole, ranks[index // 2]):
            sweep.update(values, None, truth)
            evaluator.update(predict_mask(values, None, 0.6), truth, f"frame/{index}")
    for ours, theirs in zip(*ranks, strict=True):
        ours.merge(theirs)
    np.testing.assert_array_equal(ranks[0][0].counts, whole[0].counts)
    assert ranks[0][1].frames == whole[1].frames
    np.testing.assert_array_equal(ranks[0][1].confusion.counts, whole[1].confusion.counts)
    np.testing.assert_array_equal(ranks[0][1].boundary.counts, whole[1].boundary.counts)
    with pytest.raises(ValueError, match="same classes and bins"):
        ThresholdSweep(2).merge(ThresholdSweep(2, bins=50))


def example_result():
    rng = np.random.default_rng(0)
    classes = ClassList(("mug", "drill", "unseen"))
    sweep, evaluator = ThresholdSweep(3), MaskEvaluator(3)
    for index in range(3):
        values, truth = rng.random((3, 12, 16)), rng.integers(0, 3, (12, 16))
        values[2] = 0
        sweep.update(values, None, truth)
        evaluator.update(predict_mask(values, None, 0.5), truth, f"kitchen/{index}")
    return EvaluationResult(
        name="DEAL",
        dataset="kitchen",
        classes=classes,
        num_frames=3,
        oracle=evaluator.score(classes, rule="oracle", threshold=sweep.best().threshold),
        auto=evaluator.score(classes, rule="otsu", threshold=0.5),
        curve=sweep.curve(),
        per_frame=tuple(evaluator.frames),
        details={"seed": 11, "backbone": "mobilenetv2_100"},
    )


def test_evaluation_survives_the_disk(tmp_path):
    result = example_result()
    path = result.write(tmp_path / "run")
    assert path.name == EVALUATION_FILE
    assert list(path.parent.iterdir()) == [path]
    again = EvaluationResult.read(tmp_path / "run")
    assert json.loads(path.read_text()) == again.to_json() == result.to_json()
    assert again.classes == result.classes
    assert again.per_frame == result.per_frame
    assert math.isnan(again.oracle.classes[3].iou)
    assert again.oracle.classes[1] == result.oracle.classes[1]
    np.testing.assert_array_equal(again.curve.miou, result.curve.miou)


def test_evaluation_without_thresholds_survives_the_disk(tmp_path):
    result = EvaluationResult("student", "kitchen", ClassList(("mug",)), 0)
    result.write(tmp_path)
    again = EvaluationResult.read(tmp_path)
    assert again.oracle is None
    assert again.curve is None
    assert again.per_frame == ()


def test_nan_never_reaches_the_file(tmp_path):
    curve = SweepCurve(np.array([0.0, 1.0]), np.array([np.nan, 0.5]))
    result = EvaluationResult("x", "y", ClassList(("mug",)), 1, curve=curve)
    text = result.write(tmp_path).read_text()
    assert "NaN" not in text
    np.testing.assert_array_equal(EvaluationResult.read(tmp_path).curve.miou, [np.nan, 0.5])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1"),
        ("[]", "not a readable evaluation"),
        ("3", "not a readable evaluation: expected a JSON object, found 3"),
        ('{"format": "other"}', "'format': expected 'deal-evaluation', found 'other'"),
        ('{"format": "deal-evaluation", "version": 99}', "'version': expected 1, found 99"),
        ('{"format": "deal-evaluation", "version": 1}', "'name' is missing"),
    ],
)
def test_a_file_that_is_no_evaluation_is_named(tmp_path, content, message):
    (tmp_path / EVALUATION_FILE).write_text(content)
    with pytest.raises(EvaluationError, match=re.escape(message)) as error:
        EvaluationResult.read(tmp_path)
    assert str(tmp_path / EVALUATION_FILE) in str(error.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((("auto", "miou"), value) for value in ("nan", "0.5", True, [])),
        *((("auto", "threshold"), value) for value in ("0.5", float("nan"), float("inf"), [])),
        *((("num_frames",), value) for value in ("3", 3.5, None, True)),
        *((("curve", "miou"), value) for value in (None, 0.5, ["nan"])),
        *((("per_frame", 0, "key"), value) for value in (None, 3)),
        *((("oracle", "per_class", 1, "iou"), value) for value in ("nan", {})),
        *((("classes",), value) for value in ([], [{"color": [1, 2, 3]}], "mug", [{"name": 3}])),
        *((("details", "seed"), value) for value in (None, [11])),
    ],
)
def test_a_wrong_value_in_an_evaluation_is_named(tmp_path, place, value):
    content = example_result().to_json()
    inside = content
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    (tmp_path / EVALUATION_FILE).write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match="not a readable evaluation: ") as error:
        EvaluationResult.read(tmp_path)
    assert str(tmp_path / EVALUATION_FILE) in str(error.value)
    assert str(place[-1]) in str(error.value) or place == ("classes",)


def test_a_folder_without_evaluation_says_which_command_writes_it(tmp_path):
    with pytest.raises(EvaluationError, match="deal evaluate"):
        EvaluationResult.read(tmp_path)
    with pytest.raises(EvaluationError, match="found no folder"):
        EvaluationResult.read(tmp_path / "nowhere")


def test_seeds_are_summarised_with_the_sample_deviation():
    summary = summarise_seeds([0.62, 0.64, 0.66, 0.64])
    assert summary.mean == pytest.approx(0.64)
    assert summary.std == pytest.approx(math.sqrt(0.0008 / 3))
    assert summary.percent() == "64.0 ± 1.6"
    assert summarise_seeds([0.5]).percent() == "50.0"
    with pytest.raises(ValueError, match="at least one seed"):
        summarise_seeds([])
