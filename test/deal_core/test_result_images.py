"""Images of an answer, pixel by pixel."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core import drawing
from deal_core.drawing import color_overlay, confidence_image
from deal_core.structures import ClassList

PALETTE = ClassList(("mug", "drill"), ((255, 0, 0), (0, 200, 100))).palette()


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_each_pixel_is_a_mixture_and_background_is_untouched(seed: int, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 9, 2)
    rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
    mask = rng.choice(np.array([0, 1, 2, 255], np.uint8), (height, width))
    before = rgb.copy()
    found = color_overlay(rgb, mask, PALETTE, alpha)
    np.testing.assert_array_equal(rgb, before)
    for place in np.ndindex(height, width):
        color = {0: rgb[place], 1: (255, 0, 0), 2: (0, 200, 100), 255: (128, 128, 128)}[int(mask[place])]
        expected = [(1 - alpha) * float(a) + alpha * float(b) for a, b in zip(rgb[place], color, strict=True)]
        assert found[place].tolist() == pytest.approx(expected, abs=0.51)
    np.testing.assert_array_equal(found[mask == 0], rgb[mask == 0])


def test_rows_of_an_image_may_lie_apart() -> None:
    wide = np.random.default_rng(0).integers(0, 256, (4, 9, 3), np.uint8)
    mask = np.random.default_rng(1).integers(0, 3, (4, 6)).astype(np.uint8)
    expected = color_overlay(wide[:, :6].copy(), mask, PALETTE, 0.4)
    np.testing.assert_array_equal(color_overlay(wide[:, :6], mask, PALETTE, 0.4), expected)


def test_confidence_fills_a_byte() -> None:
    confidence = np.array([[0, 0.25, 1], [0.5, 0.999, 0.001]], np.float32)
    assert confidence_image(confidence).tolist() == [[0, 64, 255], [128, 255, 0]]


def test_example() -> None:
    assert doctest.testmod(drawing).failed == 0
