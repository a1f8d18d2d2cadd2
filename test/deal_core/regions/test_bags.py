"""What taps say about regions, and where it is joined and forgotten."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from helpers.region_bags import made_up_bags
from hypothesis import given
from hypothesis import strategies as st

from deal_core.regions.bags import join_bags, region_names
from deal_core.structures import BoolArray

SHAPE = (24, 32)


@dataclass(frozen=True)
class Shown:
    """A thing that a person showed."""

    label: int
    mask: BoolArray


@dataclass(frozen=True)
class Known:
    """What a person showed in an image."""

    things: tuple[Shown, ...]
    reached: BoolArray


def box(left: int, top: int, right: int, bottom: int, scale: int = 1) -> BoolArray:
    mask = np.zeros((SHAPE[0] * scale, SHAPE[1] * scale), bool)
    mask[top * scale : bottom * scale, left * scale : right * scale] = True
    return mask


def known(*things: Shown, classes: int = 3) -> Known:
    reached = np.zeros(classes, bool)
    reached[[thing.label for thing in things]] = True
    return Known(things, reached)


def test_the_region_of_a_thing_has_its_name_and_no_other() -> None:
    regions = np.stack([box(2, 2, 10, 10), box(16, 2, 24, 10), box(2, 2, 7, 10), box(0, 0, 16, 12)])
    names = region_names(regions, known(Shown(1, box(2, 2, 10, 9))), 3)
    nan = np.nan
    expected = [
        [0, 1, 0],  # the thing
        [nan, 0, nan],  # elsewhere: not of the class whose things are all shown
        [0, 1, 0],  # more than half of the thing
        [nan, nan, nan],  # holds the thing and more
    ]
    np.testing.assert_array_equal(names, expected)


def test_a_small_part_of_a_thing_stays_unknown() -> None:
    names = region_names(box(2, 2, 4, 10)[None], known(Shown(1, box(2, 2, 10, 10))), 3)
    assert np.isnan(names).all()


def test_a_class_that_is_not_reached_has_no_negatives() -> None:
    """A thing is shown, but others of its class may be elsewhere."""
    shown = replace(known(Shown(1, box(2, 2, 10, 10))), reached=np.zeros(3, bool))
    names = region_names(np.stack([box(2, 2, 10, 10), box(16, 2, 24, 10)]), shown, 3)
    np.testing.assert_array_equal(names[0], [0, 1, 0])
    assert np.isnan(names[1]).all()


@pytest.mark.parametrize("shown", [None, known()])
def test_nothing_shown_says_nothing(shown: Known | None) -> None:
    assert np.isnan(region_names(box(2, 2, 10, 10)[None], shown, 3)).all()
    assert region_names(np.zeros((0, *SHAPE), bool), known(Shown(0, box(2, 2, 4, 4))), 3).shape == (0, 3)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20), st.integers(0, 14)), max_size=4), st.integers(1, 4))
def test_names_do_not_depend_on_the_size_of_the_masks(things: list[tuple[int, int, int]], scale: int) -> None:
    regions = np.stack([box(x, y, x + 8, y + 8) for x in range(0, 24, 4) for y in range(0, 16, 4)])
    shown = [known(*(Shown(label, box(x, y, x + 9, y + 7, size)) for label, x, y in things)) for size in (1, scale)]
    one, other = (region_names(regions, each, 3) for each in shown)
    np.testing.assert_array_equal(one, other)
    # A region has one name at most, and where it has one, all others are excluded.
    assert ((one == 1).sum(1) <= 1).all() and not np.isnan(one[(one == 1).any(1)]).any()


def test_names_are_joined_and_forgotten_with_their_frames() -> None:
    bags, truth = made_up_bags(frames=12)
    names = torch.stack([(truth == k).float() for k in (1, 2, 3)], 1)
    named = replace(bags, names=names)
    joined = join_bags(named, bags)
    assert joined.names is not None and torch.equal(joined.names[: len(names)], names)
    assert torch.isnan(joined.names[len(names) :]).all() and join_bags(bags, bags).names is None
    some = named.of_segments(torch.tensor([1])).names
    assert some is not None
    mine = bags.segments[bags.frame] == 1
    assert torch.equal(some[mine], names[mine]) and torch.isnan(some[~mine]).all()
