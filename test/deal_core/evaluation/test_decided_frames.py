"""Masks from kept decisions equal those from the scores, at every threshold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from deal_core.errors import EvaluationError
from deal_core.evaluation.decided_frames import DecidedFrames
from deal_core.masks.decide import predict_mask, threshold_grid
from deal_core.structures import Sample

# Scores on thresholds, beside them by one float32, and anywhere.
ON_GRID = st.integers(0, 100).map(lambda n: np.float32(n / 100))
SCORES = st.one_of(ON_GRID, ON_GRID.map(lambda x: np.nextafter(x, np.float32(0))), st.floats(0, 1, width=32))
TRUTH = np.array([[0, 1, 2, 255], [3, 3, 0, 0]], np.uint8)


def sample(key: str = "frame", truth: np.ndarray = TRUTH, tags: np.ndarray | None = None) -> Sample:
    size, given = truth.shape, np.ones(3, np.float32) if tags is None else tags
    return Sample(
        np.zeros((*size, 3), np.uint8), np.zeros(size, np.float32), np.zeros(size, np.bool_), given, key, truth
    )


@given(
    scores=st.lists(npst.arrays(np.float32, (3, 2, 4), elements=SCORES), min_size=1, max_size=3),
    allowed=npst.arrays(np.float32, 3, elements=st.sampled_from([0.0, 1.0])),
    own=st.floats(0, 1),
)
def test_masks_at_every_threshold(scores: list[np.ndarray], allowed: np.ndarray, own: float) -> None:
    thresholds = np.union1d(threshold_grid(), [own])
    decided = DecidedFrames(thresholds)
    keys = [f"frame {number}" for number in range(len(scores))]
    for key, of_frame in zip(keys, scores, strict=True):
        decided.keep(of_frame, allowed, sample(key, tags=allowed))
    for _ in range(2):  # they can be read again
        found = list(decided.frames(keys))
        assert [frame.key for frame in found] == keys
        for frame, of_frame in zip(found, scores, strict=True):
            assert np.array_equal(frame.truth, TRUTH) and np.array_equal(frame.tags, allowed)
            for threshold in (*thresholds[::17], own):
                expected = predict_mask(of_frame, allowed, float(threshold))
                assert np.array_equal(frame.mask(decided.place(float(threshold))), expected)


def test_what_cannot_be_kept() -> None:
    decided = DecidedFrames(threshold_grid())
    with pytest.raises(ValueError, match=r"expected one of the kept thresholds, found 0\.005"):
        decided.place(0.005)
    with pytest.raises(ValueError, match="at most 255 thresholds"):
        DecidedFrames(threshold_grid(255))
    scores = np.zeros((3, 2, 4), np.float32)
    with pytest.raises(ValueError, match=r"expected ids 0\.\.3 or 255 in the mask, found"):
        decided.keep(scores, None, sample(truth=np.full((2, 4), 7, np.uint8)))
    with pytest.raises(ValueError, match="expected the shape of the mask"):
        decided.keep(scores, None, sample(truth=TRUTH[:, :3]))


def test_a_frame_that_changed_is_not_kept(tmp_path: Path) -> None:
    first, path = sample(), tmp_path / "run" / "1.frames"
    decided = DecidedFrames(threshold_grid(), path, "a model")
    sums = (np.arange(5), np.linspace(0, 1, 3))
    decided.keep(np.full((3, 2, 4), 0.4, np.float32), None, first, sums)
    with pytest.raises(EvaluationError, match=r"1\.frames is being written by another evaluation"):
        DecidedFrames(threshold_grid(), path, "a model")
    with pytest.raises(EvaluationError, match="another evaluation"):
        DecidedFrames(threshold_grid(), tmp_path / "run" / "2.frames", "a model", [path])
    decided.close()

    again = DecidedFrames(threshold_grid(), path, "a model")
    assert again.has(first) and again.may_have("frame") and not again.may_have("another")
    (frame,) = again.frames(["frame"])
    for ours, theirs in zip(frame.sums, sums, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    repainted = np.where(TRUTH == 2, np.uint8(0), TRUTH)
    for changed in (
        replace(first, mask=repainted),
        replace(first, image=first.image + 1),
        replace(first, depth=first.depth + 1),
        replace(first, tags=np.array([1, 0, np.nan], np.float32)),
    ):
        assert not again.has(changed)
    again.keep(np.zeros((3, 2, 4), np.float32), None, replace(first, mask=repainted))
    (frame,) = again.frames(["frame"])
    np.testing.assert_array_equal(frame.truth, repainted)
    again.close()

    other = DecidedFrames(threshold_grid(), tmp_path / "2.frames", "another model", [path])
    assert other.foreign == 1 and not other.may_have("frame")
    other.close()
    assert not DecidedFrames(threshold_grid(50), path, "a model").may_have("frame")
