"""Masks from kept decisions equal those from the scores, at every threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from deal_core.errors import EvaluationError
from deal_core.evaluation import decided_frames
from deal_core.evaluation.decided_frames import DecidedFrames
from deal_core.masks.decide import predict_mask, threshold_grid

# Scores on thresholds, beside them by one float32, and anywhere.
ON_GRID = st.integers(0, 100).map(lambda n: np.float32(n / 100))
SCORES = st.one_of(ON_GRID, ON_GRID.map(lambda x: np.nextafter(x, np.float32(0))), st.floats(0, 1, width=32))


@given(
    scores=st.lists(npst.arrays(np.float32, (3, 2, 4), elements=SCORES), min_size=1, max_size=3),
    allowed=npst.arrays(np.float32, 3, elements=st.sampled_from([0.0, 1.0])),
    own=st.floats(0, 1),
)
def test_masks_at_every_threshold(scores: list[np.ndarray], allowed: np.ndarray, own: float) -> None:
    thresholds = np.union1d(threshold_grid(), [own])
    decided = DecidedFrames(thresholds)
    truth = np.array([[0, 1, 2, 255], [3, 3, 0, 0]], np.uint8)
    for number, of_frame in enumerate(scores):
        decided.keep(of_frame, allowed, f"frame {number}", truth, allowed)
    for _ in range(2):  # they can be read again
        found = list(decided.frames())
        assert [frame.key for frame in found] == [f"frame {number}" for number in range(len(scores))]
        for frame, of_frame in zip(found, scores, strict=True):
            assert np.array_equal(frame.truth, truth) and frame.tags is allowed
            for threshold in (*thresholds[::17], own):
                expected = predict_mask(of_frame, allowed, float(threshold))
                assert np.array_equal(frame.mask(decided.place(float(threshold))), expected)


def test_what_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    decided = DecidedFrames(threshold_grid())
    with pytest.raises(ValueError, match=r"expected one of the kept thresholds, found 0\.005"):
        decided.place(0.005)
    with pytest.raises(ValueError, match="at most 255 thresholds"):
        DecidedFrames(threshold_grid(255))

    class Full:
        def write(self, data: Any) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(decided_frames.tempfile, "TemporaryFile", Full)
    full, mask = DecidedFrames(threshold_grid()), np.zeros((2, 2), np.uint8)
    with pytest.raises(EvaluationError, match=r"No space left on device.*TMPDIR"):
        full.keep(np.zeros((1, 2, 2), np.float32), None, "frame", mask, np.ones(1, np.float32))
