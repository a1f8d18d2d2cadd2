"""Pictures: what their pixels say."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.pictures import CLASSES, HEIGHT, WIDTH, scene
from hypothesis import given
from hypothesis import strategies as st

from deal_core.drawing import (
    color_overlay,
    confidence_image,
    depth_edge_picture,
    depth_picture,
    heat_overlay,
    mask_overlay,
)
from deal_core.structures import ClassList

PALETTE = ClassList(("mug", "drill"), ((255, 0, 0), (0, 200, 100))).palette()


def test_mask_overlay_outlines_in_the_class_colour_and_greys_the_rest():
    image, mask, _, _ = scene()
    picture = mask_overlay(image, mask, CLASSES)
    assert picture[6, 4].tolist() == [255, 0, 0]
    assert picture[10, 18].tolist() == [0, 0, 255]
    inside = picture[10, 8].astype(int)
    assert inside[0] > inside[1] + 100
    outside = picture[0, 0]
    assert outside[0] == outside[1] == outside[2]


def test_unlabelled_pixels_are_hatched_and_not_a_class():
    image, mask, _, _ = scene()
    mask[:] = 255
    picture = mask_overlay(image, mask, CLASSES)
    assert (picture == 225).all(axis=2).any()
    assert not (picture == 225).all()


def test_missing_depth_is_black_and_near_is_brighter_than_far():
    _, mask, depth, _ = scene()
    picture = depth_picture(depth)
    assert not picture[:2].any()
    assert picture[mask > 0].sum(axis=1).mean() > picture[(mask == 0) & (depth > 0)].sum(axis=1).mean() + 100
    assert not depth_picture(np.zeros((4, 4), np.float32)).any()


def test_depth_edges_are_bright_at_the_step_and_blue_where_nothing_is_known():
    _, _, depth, _ = scene()
    picture = depth_edge_picture(depth).astype(int)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture[10, 3:6].max() > 100
    assert picture[22, 2].max() < 10
    assert picture[0, 0, 2] > picture[0, 0, 0]


def test_heat_is_bright_where_the_cam_is_high():
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    _, _, _, scores = scene()
    picture = heat_overlay(image, scores.max(0)).astype(int).sum(2)
    assert picture[8, 8] > picture[0, 0] + 100


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
