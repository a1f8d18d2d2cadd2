"""From scores to a mask, against PyTorch pixel by pixel."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import from_numpy

from deal_core.masks.decide import decide


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
