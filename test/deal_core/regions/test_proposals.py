"""Regions of analytic scenes: boxes on a table, a shelf before a wall, touching things, a long thing, holes."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.depth_scenes import SIZE, boxes_on_table, put, table
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deal_core.regions.proposals import (
    AREA_BOUNDS,
    MOST,
    SAME,
    overlaps_of,
    propose_regions,
    smaller,
    vote_weights,
)

BOXES = ((30, 20, 24, 20), (50, 70, 30, 24), (25, 120, 20, 18))  # row, column, height, width


def best_overlap(masks: np.ndarray, row: int, column: int, height: int, width: int) -> float:
    truth = np.zeros((1, *SIZE), bool)
    truth[0, row : row + height, column : column + width] = True
    return float(overlaps_of(truth, masks).max(initial=0.0))


def test_each_box_on_a_table_is_a_region_and_the_table_is_none() -> None:
    found = propose_regions(boxes_on_table(BOXES))
    assert [best_overlap(found.masks, *box) > 0.9 for box in BOXES] == [True, True, True]
    assert len(found) == 3


def test_the_area_of_a_region_is_bounded() -> None:
    tiny, huge = (40, 10, 3, 3), (10, 60, 90, 90)
    found = propose_regions(boxes_on_table((tiny, huge)))
    shares = found.masks.mean((1, 2))
    assert best_overlap(found.masks, *tiny) == 0 and best_overlap(found.masks, *huge) < 0.5
    assert ((shares >= AREA_BOUNDS[0]) & (shares <= AREA_BOUNDS[1])).all()


def test_touching_things_are_one_region_and_two() -> None:
    near, far = (40, 40, 30, 20), (40, 60, 30, 20)
    depth = put(put(table(), near, 0.60), far, 0.72)
    found = propose_regions(depth)
    assert best_overlap(found.masks, *near) > 0.9 and best_overlap(found.masks, *far) > 0.9
    assert best_overlap(found.masks, 40, 40, 30, 40) > 0.9


def test_a_small_step_is_cut_by_the_smaller_jump_alone() -> None:
    near, far = (40, 40, 30, 20), (40, 60, 30, 20)
    smallest = put(put(table(), near, 0.60), far, 0.61)
    small = put(put(table(), near, 0.60), far, 0.64)
    assert best_overlap(propose_regions(smallest).masks, *near) < 0.9
    assert best_overlap(propose_regions(small).masks, *near) > 0.9


def test_a_flat_thing_that_is_a_plane_of_its_own_is_a_region() -> None:
    board = (20, 40, 40, 60)  # an eighth of the image, half a metre before a wall
    depth = put(np.full(SIZE, 2.0, np.float32), board, 1.5)
    found = propose_regions(depth)
    assert best_overlap(found.masks, *board) > 0.95


def test_a_stereo_shadow_belongs_to_no_thing() -> None:
    box = (40, 60, 30, 30)
    depth = put(table(), box, 0.6)
    depth[40:70, 52:60] = 0  # beside the box
    found = propose_regions(depth)
    assert best_overlap(found.masks, *box) > 0.9


def test_a_dark_thing_without_depth_is_a_region() -> None:
    box = (40, 60, 24, 24)
    depth = put(table(), box, 0.0)
    assert best_overlap(propose_regions(table()).masks, *box) == 0
    assert best_overlap(propose_regions(depth).masks, *box) > 0.9
    valid = depth > 0
    assert best_overlap(propose_regions(table(), valid).masks, *box) > 0.9


def test_a_thing_on_a_curved_surface_is_a_region() -> None:
    box = (40, 60, 12, 12)
    columns = np.linspace(-1, 1, SIZE[1])[None]
    cushion = np.repeat(1 / (1.0 - 0.2 * columns**2), SIZE[0], axis=0).astype(np.float32)
    assert best_overlap(propose_regions(put(cushion, box, 0.85)).masks, *box) > 0.9


def test_a_long_thing_has_compact_pieces_and_a_compact_one_has_none() -> None:
    long, compact = (50, 20, 16, 96), (20, 60, 20, 20)
    found = propose_regions(boxes_on_table((long,)))
    areas = sorted(found.masks.sum((1, 2)).tolist())
    assert len(found) == 8 and areas[-1] > 1400 and max(areas[:-1]) < 500
    assert (found.masks[1:].sum(0) <= 1).all() and best_overlap(found.masks[1:].any(0)[None], *long) > 0.9
    assert len(propose_regions(boxes_on_table((compact,)))) == 1


def test_no_depth_no_regions() -> None:
    found = propose_regions(np.zeros(SIZE, np.float32))
    assert found.masks.shape == (0, *SIZE) and found.overlaps.shape == (0, 0)
    assert vote_weights(found.overlaps).shape == (0,)


def test_relative_depth_has_the_same_regions() -> None:
    depth = boxes_on_table(BOXES)
    found = propose_regions(3 / depth, kind="inverse")
    assert [best_overlap(found.masks, *box) > 0.85 for box in BOXES] == [True, True, True]


def test_no_two_regions_are_near_duplicates_and_the_result_repeats() -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, SIZE).astype(np.float32)
    depth = boxes_on_table(BOXES) + noise
    one, two = propose_regions(depth), propose_regions(depth)
    assert np.array_equal(one.masks, two.masks) and 3 <= len(one) <= MOST
    np.testing.assert_allclose(one.overlaps, overlaps_of(one.masks, one.masks))
    assert (one.overlaps - np.eye(len(one)) < SAME).all()


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        propose_regions(np.ones((2, 3, 4), np.float32))


masks_4x5 = hnp.arrays(bool, st.tuples(st.integers(0, 4), st.just(4), st.just(5)))


@given(masks_4x5, masks_4x5)
def test_overlaps_are_intersections_over_unions(ours: np.ndarray, theirs: np.ndarray) -> None:
    found = overlaps_of(ours, theirs)
    assert found.shape == (len(ours), len(theirs))
    for i, one in enumerate(ours):
        for j, two in enumerate(theirs):
            union = (one | two).sum()
            assert found[i, j] == pytest.approx((one & two).sum() / union if union else 0.0)


@given(hnp.arrays(bool, st.tuples(st.integers(1, 5), st.just(3), st.just(4))), st.integers(1, 4))
def test_copies_of_a_region_share_one_vote(masks: np.ndarray, copies: int) -> None:
    masks = masks | (np.arange(12).reshape(3, 4) == 0)  # no mask is empty
    once = vote_weights(overlaps_of(masks, masks))
    repeated = np.repeat(masks, copies, axis=0)
    many = vote_weights(overlaps_of(repeated, repeated)).reshape(len(masks), copies)
    np.testing.assert_allclose(many.sum(1), once, rtol=1e-5)
    assert ((once > 0) & (once <= 1)).all()


def test_regions_apart_have_a_vote_each() -> None:
    masks = np.eye(4, dtype=bool).reshape(4, 2, 2)
    assert vote_weights(overlaps_of(masks, masks)).tolist() == [1, 1, 1, 1]


def test_smaller_masks_keep_cells_that_are_half_covered() -> None:
    masks = np.zeros((1, 8, 8), bool)
    masks[0, :4, :5] = True
    assert smaller(masks, 4)[0].astype(int).tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0] * 4, [0] * 4]
    assert smaller(masks, 8) is masks
