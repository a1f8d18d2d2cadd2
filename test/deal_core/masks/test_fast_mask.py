"""The fast mask is, pixel by pixel, that of the plain formulation: every class resized, divided and compared."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from deal_core.masks.decide import decide
from deal_core.masks.fast_mask import decide_mask

TYING = [0.0, 0.1, 0.25, 0.3, 0.5, 0.57, 0.7, 1.0]
thresholds = st.one_of(st.sampled_from(TYING), st.floats(0, 1))
sizes = st.tuples(st.integers(1, 70), st.integers(1, 70))
elements = st.one_of(st.sampled_from(TYING), st.floats(0, 1, width=32))


def plainly(scores: np.ndarray, size: tuple[int, int], threshold: float, relative: bool) -> np.ndarray:
    top, mask = np.full(size, -1.0), np.zeros(size, np.uint8)
    for class_id, score in enumerate(scores, 1):
        full = cv2.resize(score, size[::-1], interpolation=cv2.INTER_LINEAR)
        if relative and full.max() > 0:
            full = full / full.max()
        better = full.astype(np.float64) > top
        mask[better], top[better] = class_id, full[better]
    return np.where(top > float(np.float32(threshold)), mask, 0)


@st.composite
def scenes(draw: st.DrawFn) -> np.ndarray:
    """Scores of up to 24 classes, most of which lie in a few rectangles, and some nowhere or everywhere."""
    shape = draw(st.tuples(st.integers(1, 24), st.integers(1, 16), st.integers(1, 16)))
    scores = np.full(shape, draw(st.sampled_from([0.0, 0.0, 0.01, 0.25])), np.float32)
    for _ in range(draw(st.integers(0, 6))):
        class_id, row, column = (draw(st.integers(0, n - 1)) for n in shape)
        height, width = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
        part = scores[class_id, row : row + height, column : column + width]
        part[:] = draw(npst.arrays(np.float32, part.shape, elements=elements))
    return scores


@given(scores=scenes(), size=sizes, threshold=thresholds, relative=st.booleans())
@example(np.zeros((3, 2, 2), np.float32), (5, 5), 0.0, True)
@example(np.full((2, 3, 3), 1e-44, np.float32), (7, 9), 0.0, False)
@example(np.full((2, 3, 3), 0.5, np.float32), (1, 1), 0.5, False)
@example(np.eye(4, dtype=np.float32)[None], (64, 48), 0.3, True)
def test_the_mask_is_the_plain_one(scores: np.ndarray, size: tuple[int, int], threshold: float, relative: bool) -> None:
    before = scores.copy()
    mask = decide_mask(scores, size, threshold, relative=relative)
    assert mask.dtype == np.uint8 and mask.shape == size
    np.testing.assert_array_equal(mask, plainly(scores, size, threshold, relative))
    np.testing.assert_array_equal(mask, decide(scores, size, threshold, relative=relative)[0])
    np.testing.assert_array_equal(scores, before)


@given(
    scores=npst.arrays(
        np.float32, st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9)), elements=elements
    ),
    size=sizes,
    threshold=thresholds,
    relative=st.booleans(),
)
def test_the_mask_of_noise_is_the_plain_one(
    scores: np.ndarray, size: tuple[int, int], threshold: float, relative: bool
) -> None:
    mask = decide_mask(scores, size, threshold, relative=relative)
    np.testing.assert_array_equal(mask, plainly(scores, size, threshold, relative))


@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (479, 641), (30, 40), (90, 70)])
@pytest.mark.parametrize("relative", [True, False])
def test_masks_of_a_camera_s_size_are_the_plain_ones(size: tuple[int, int], relative: bool) -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:60, :80]
    for threshold in (0.3, 0.5):
        scores = rng.uniform(0, 0.05, (20, 60, 80)).astype(np.float32)
        for class_id in rng.choice(20, 6, replace=False):
            for _ in range(rng.integers(1, 12)):
                row, column, spread = rng.uniform(0, 60), rng.uniform(0, 80), rng.uniform(1, 8)
                bump = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * spread**2))
                scores[class_id] = np.maximum(scores[class_id], 0.95 * bump)
        mask = decide_mask(scores, size, threshold, relative=relative)
        assert len(np.unique(mask)) > 3, "the comparison must have something to compare"
        np.testing.assert_array_equal(mask, plainly(scores, size, threshold, relative))
