"""The sweep over thresholds against one evaluation a threshold."""

import re

import numpy as np
import pytest
import torch
from helpers.scores import K, masks, scores, tags
from hypothesis import given, settings
from hypothesis import strategies as st

from deal_core.evaluation.metrics import ConfusionMatrix
from deal_core.evaluation.sweep import ThresholdSweep
from deal_core.masks.decide import predict_mask


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


def test_a_tagged_class_counts_as_0_where_it_is_not_found() -> None:
    sweep, other = ThresholdSweep(2), ThresholdSweep(2)
    sweep.update(np.array([[[0.1, 0.5]], [[0.0, 0.0]]]), None, np.array([[0, 1]]))
    assert sweep.curve().miou[30] == 1.0
    other.add_tags(np.array([np.nan, 1.0]))
    sweep.merge(other)
    assert sweep.curve().miou[30] == pytest.approx(2 / 3)
