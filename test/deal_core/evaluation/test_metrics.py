"""Metrics against slow per-pixel formulations."""

import math
import re

import numpy as np
import pytest
from helpers.scores import IDS, K, masks
from hypothesis import given
from hypothesis import strategies as st

from deal_core.evaluation.metrics import BoundaryScore, ConfusionMatrix, MaskEvaluator, contour
from deal_core.evaluation.sweep import ThresholdSweep
from deal_core.masks.decide import predict_mask


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


@pytest.mark.parametrize("tolerance", [0.008, 0.06, 0.6])
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


def test_a_class_that_is_tagged_and_never_found_counts_as_0() -> None:
    """The mask leaves the object unlabelled, and nothing is predicted."""
    mask, nothing = np.array([[0, 0, 255, 255]]), np.zeros((1, 4), np.int64)
    untagged, tagged = MaskEvaluator(3), MaskEvaluator(3)
    untagged.update(nothing, mask, "a")
    tagged.update(nothing, mask, "a", np.array([1.0, 0.0, np.nan]))
    assert untagged.confusion.miou() == 1.0
    assert tagged.confusion.iou().tolist()[:2] == [1.0, 0.0] and np.isnan(tagged.confusion.iou()[2:]).all()
    assert tagged.confusion.miou() == 0.5 and tagged.frames[0].iou == 1.0
    untagged.merge(tagged)
    assert untagged.confusion.miou() == 0.5
    untagged.update(np.array([[0, 0, 0, 1]]), np.array([[0, 0, 0, 1]]), "b")  # found after all
    assert untagged.confusion.miou() == 1.0
