"""Masks carried by depth and poses, against a slow loop over pixels and against the truth of drawn scenes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.tapped_table import BLOCKS, Block, camera_at, ray_cast, sample_of
from hypothesis import given, settings
from hypothesis import strategies as st

from deal_core.structures import BoolArray
from deal_core.taps.carry import View, carry_mask, gone_share, same_points


def slowly(mask: BoolArray, source: View, target: View) -> tuple[BoolArray, BoolArray]:
    """`same_points`, pixel by pixel."""
    seen, inside = np.zeros(target.depth.shape, bool), np.zeros(target.depth.shape, bool)
    camera, back = target.camera, np.linalg.inv(source.pose)
    for row in range(camera.height):
        for column in range(camera.width):
            z = float(target.depth[row, column])
            if not target.known[row, column]:
                continue
            point = np.array([(column - camera.cx) / camera.fx * z, (row - camera.cy) / camera.fy * z, z, 1.0])
            x, y, distance, _ = back @ target.pose @ point
            if distance <= 0:
                continue
            u = int(np.rint(x / distance * source.camera.fx + source.camera.cx))
            v = int(np.rint(y / distance * source.camera.fy + source.camera.cy))
            if 0 <= u < camera.width and 0 <= v < camera.height and source.known[v, u]:
                same = abs(float(source.depth[v, u]) - distance) <= 0.04 + 0.03 * distance**2
                seen[row, column], inside[row, column] = same, same and mask[v, u]
    return seen, inside


@settings(max_examples=3, deadline=None)
@given(
    *(st.floats(-0.3, 0.3), st.floats(-0.2, 0.2), st.floats(-0.2, 0.3), st.floats(-0.3, 0.3)),
    st.integers(0, 2**32 - 1),
)
def test_every_pixel_asks_the_source_as_a_slow_loop_does(x: float, y: float, z: float, turn: float, seed: int) -> None:
    source, number = ray_cast(camera_at(0))
    target, _ = ray_cast(camera_at(x, y, z, turn))
    holes = np.random.default_rng(seed)
    source = replace(source, known=holes.random(number.shape) > 0.2)
    target = replace(target, known=holes.random(number.shape) > 0.2)
    found, expected = same_points(number == 1, source, target), slowly(number == 1, source, target)
    # A pixel that falls between two others may go to either of them.
    assert np.mean(found[0] != expected[0]) < 0.002 and np.mean(found[1] != expected[1]) < 0.002


@pytest.mark.parametrize("pose", [(0.1, 0.0, 0.0, 0.0), (-0.1, 0.05, -0.1, 0.05), (0.0, 0.0, 0.15, -0.05)])
@pytest.mark.parametrize("number", [1, 2])
def test_a_mask_arrives_where_the_thing_is(pose: tuple[float, float, float, float], number: int) -> None:
    (source, before), (target, after) = ray_cast(camera_at(0)), ray_cast(camera_at(*pose))
    mask = carry_mask(before == number, source, target)
    truth = after == number
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9


@pytest.mark.parametrize("of", ["source", "target", "both"])
def test_a_thing_with_little_depth_arrives_too(of: str) -> None:
    (source, before), (target, after) = ray_cast(camera_at(0)), ray_cast(camera_at(0.05))
    views = []
    for view, number, which in ((source, before, "source"), (target, after, "target")):
        has_depth = (number != 1) | (np.random.default_rng(3).random(number.shape) > 0.85)
        valid = has_depth if of in (which, "both") else view.measured
        sample = sample_of(replace(view, depth=view.depth * valid, measured=valid), (1, 1))
        views.append(View.of(sample, view.camera, view.pose))
    mask = carry_mask(before == 1, *views)
    truth = after == 1
    assert (mask & truth).sum() / (mask | truth).sum() > 0.85


def test_what_is_hidden_is_not_seen_through() -> None:
    (source, before), (target, after) = (
        ray_cast(camera_at(0)),
        ray_cast(camera_at(0), (*BLOCKS, Block(3, -0.2, -0.1, -0.3, 0.3, 0.5))),
    )
    mask = carry_mask(before == 1, source, target)
    assert mask.any() and not (mask & (after == 3)).any()


def test_a_thing_that_was_moved_is_not_carried() -> None:
    (source, before), (target, _) = ray_cast(camera_at(0)), ray_cast(camera_at(0), BLOCKS[1:])
    assert gone_share(before == 1, source, target) == 1.0
    assert not carry_mask(before == 1, source, target).any()
    assert carry_mask(before == 2, source, target).any()
    assert gone_share(before == 2, source, target) == 0.0


def test_a_camera_that_looks_elsewhere_gets_nothing() -> None:
    (source, before), (target, _) = ray_cast(camera_at(0)), ray_cast(camera_at(30.0))
    assert gone_share(before == 1, source, target) == 0.0
    assert not carry_mask(before == 1, source, target).any()
