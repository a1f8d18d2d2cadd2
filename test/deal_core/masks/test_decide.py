"""From scores to a mask: every way against a slow one, and all ways against each other on ties and thresholds."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch.nn.functional as F
from helpers import scores as small
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import from_numpy

from deal_core.masks.decide import (
    decide,
    predict_mask,
    pseudo_mask,
    strongest_channel,
    threshold_bins,
    threshold_grid,
    winning_class,
)
from deal_core.models.output import SegmenterOutput


def slowly(scores: np.ndarray, size: tuple[int, int], threshold: float) -> tuple[np.ndarray, np.ndarray]:
    full = F.interpolate(from_numpy(scores)[None], size, mode="bilinear", align_corners=False)[0].numpy()
    peaks = full.max((1, 2), keepdims=True)
    full = np.divide(full, peaks, out=np.zeros_like(full), where=peaks > 0)
    top = full.max(0)
    mask = np.where(top > threshold, full.argmax(0) + 1, 0)
    return mask, np.where(mask > 0, top, 1 - top)


@given(
    scores=npst.arrays(np.float32, (3, 4, 5), elements=st.floats(0, 1, width=32)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    threshold=st.floats(0.05, 0.95),
)
def test_masks_and_confidences_are_the_slow_ones(scores: np.ndarray, size: tuple[int, int], threshold: float) -> None:
    scores[scores < 1e-3] = 0  # below, two libraries' rounding is a large part of the score
    mask, confidence = decide(scores, size, threshold)
    expected, expected_confidence = slowly(scores, size, threshold)
    assert mask.shape == confidence.shape == size and mask.dtype == np.uint8
    top = np.where(expected > 0, expected_confidence, 1 - expected_confidence)
    clear = np.abs(top - threshold) > 1e-3
    np.testing.assert_allclose(confidence[clear], expected_confidence[clear], atol=1e-3)
    assert ((mask > 0) == (expected > 0))[clear].all()
    full = F.interpolate(from_numpy(scores)[None], size, mode="bilinear", align_corners=False)[0].numpy()
    peaks = full.max((1, 2), keepdims=True)
    ordered = np.sort(np.divide(full, peaks, out=np.zeros_like(full), where=peaks > 0), axis=0)
    alone = clear & (ordered[-1] - ordered[-2] > 1e-3)
    assert (mask == expected)[alone].all()


def test_of_equals_the_first_wins_and_nothing_is_background() -> None:
    same = np.ones((3, 2, 2), np.float32)
    assert (decide(same, (4, 4), 0.5)[0] == 1).all()
    mask, confidence = decide(np.zeros((3, 2, 2), np.float32), (4, 4), 0.5)
    assert not mask.any() and (confidence == 1).all()


# Few values, so that scores often tie with each other and with a threshold, and some that float32 rounds.
tying = st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.57, 0.7, 1.0])
thresholds = st.one_of(tying, st.floats(0, 1))
full_scores = st.sampled_from([np.float32, np.float64]).flatmap(
    lambda kind: npst.arrays(kind, (3, 4, 5), elements=tying.map(lambda value: float(kind(value))))
)
tags = st.one_of(st.none(), npst.arrays(np.float32, 3, elements=st.sampled_from([0.0, 1.0, np.nan])))


def by_definition(scores: np.ndarray, present: np.ndarray | None, threshold: float) -> np.ndarray:
    """Pixel by pixel, the threshold rounded as the scores: background wins a tie with it, then the lowest class."""
    bound = Fraction(float(scores.dtype.type(threshold)))
    mask = np.zeros(scores.shape[1:], np.uint8)
    for place in np.ndindex(mask.shape):
        best, winner = Fraction(-1), 0
        for k in range(len(scores)):
            score = Fraction(float(scores[(k, *place)]))
            if (present is None or present[k] == 1) and score > best:
                best, winner = score, k + 1
        mask[place] = winner if best > bound else 0
    return mask


@given(scores=full_scores, present=tags, threshold=thresholds)
def test_predicted_masks_are_the_definition(scores: np.ndarray, present: np.ndarray | None, threshold: float) -> None:
    np.testing.assert_array_equal(predict_mask(scores, present, threshold), by_definition(scores, present, threshold))


@given(scores=full_scores, threshold=thresholds)
def test_the_robot_decides_as_the_evaluation_does(scores: np.ndarray, threshold: float) -> None:
    scores = scores.astype(np.float32)
    mask, confidence = decide(scores, (4, 5), threshold, relative=False)
    np.testing.assert_array_equal(mask, predict_mask(scores, None, threshold))
    best = winning_class(scores)[0]
    np.testing.assert_array_equal(confidence, np.where(mask > 0, best, 1 - best))
    peaks = scores.max((1, 2), keepdims=True)
    relative = np.divide(scores, peaks, out=np.zeros_like(scores), where=peaks > 0)
    np.testing.assert_array_equal(decide(scores, (4, 5), threshold)[0], predict_mask(relative, None, threshold))


@given(scores=full_scores, present=tags, bounds=st.tuples(thresholds, thresholds))
def test_a_pseudo_mask_is_the_predicted_one_outside_its_band(
    scores: np.ndarray, present: np.ndarray | None, bounds: tuple[float, float]
) -> None:
    low, high = sorted(bounds)
    found = pseudo_mask(scores, present, (low, high))
    above_low, above_high = (predict_mask(scores, present, bound) for bound in (low, high))
    np.testing.assert_array_equal(found, np.where((above_high == 0) & (above_low > 0), 255, above_high))
    np.testing.assert_array_equal(pseudo_mask(scores, present, (high, high)), above_high)


@given(logits=npst.arrays(np.float32, (4, 3, 3), elements=st.integers(-3, 3).map(float)))
def test_the_strongest_channel_is_the_mask_of_the_scores_at_one_half(logits: np.ndarray) -> None:
    output = SegmenterOutput(from_numpy(logits)[None])
    strongest = strongest_channel(output.logits)[0].numpy()
    scores = output.scores[0].numpy()
    np.testing.assert_array_equal(strongest, predict_mask(scores, None, 0.5))
    np.testing.assert_array_equal(strongest, decide(scores, (3, 3), 0.5, relative=False)[0])


@given(scores=full_scores, present=tags, bins=st.sampled_from([10, 100]))
def test_bins_and_masks_agree_at_every_threshold(scores: np.ndarray, present: np.ndarray | None, bins: int) -> None:
    grid = threshold_grid(bins)
    best, ids = winning_class(scores, present)
    found = threshold_bins(best, grid)
    for index, threshold in enumerate(grid):
        mask = predict_mask(scores, present, float(threshold))
        np.testing.assert_array_equal(mask, np.where(found > index, ids, 0))


@given(levels=npst.arrays(np.uint8, (3, 4, 5)), present=tags)
def test_eight_bit_scores_are_decided_as_the_published_evaluations_do(
    levels: np.ndarray, present: np.ndarray | None
) -> None:
    """They put the threshold beside the present classes in one float32 array; the first of the largest entries wins."""
    scores = levels.astype(np.float32) / 255
    for threshold in (*threshold_grid(), *(n / 255 for n in range(256))):
        table = np.zeros((4, 4, 5), np.float32)
        table[0] = threshold
        for k in range(3):
            if present is None or present[k] == 1:
                table[k + 1] = scores[k]
        np.testing.assert_array_equal(predict_mask(scores, present, float(threshold)), table.argmax(0))


def test_scores_are_left_as_they_were() -> None:
    scores = np.random.default_rng(0).random((3, 4, 5), np.float32)
    before = scores.copy()
    decide(scores, (4, 5), 0.5)
    pseudo_mask(scores, None, (0.2, 0.6))
    np.testing.assert_array_equal(scores, before)


@given(small.scores, small.tags, st.sampled_from([0.0, 0.01, 0.29, 0.3, 0.57, 1.0]))
def test_predict_mask_is_the_definition(values: np.ndarray, present: np.ndarray | None, threshold: float) -> None:
    expected = small.slow_prediction(values, present, threshold)
    np.testing.assert_array_equal(predict_mask(values, present, threshold), expected)


@given(npst.arrays(np.float32, 20, elements=st.floats(0, 1, width=32)), st.integers(1, 130))
def test_bins_hold_exactly_the_thresholds_below(values: np.ndarray, bins: int) -> None:
    grid = threshold_grid(bins)
    for value, found in zip(values.tolist(), threshold_bins(values, grid).tolist(), strict=True):
        assert found == sum(value > float(np.float32(t)) for t in grid)
