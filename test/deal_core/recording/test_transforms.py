"""Transforms over time, against a search through all of them."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.recording.transforms import LONGEST_GAP_NS, PoseSamples, TransformTree, pose_between, pose_of
from deal_core.structures import Float64Array, pose_matrix

S = 1_000_000_000
NUMBERS = st.floats(-2, 2)
QUATERNIONS = st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS).filter(lambda q: np.linalg.norm(q) > 0.1)
POSES = st.builds(lambda place, turn: pose_matrix(place, turn), st.tuples(NUMBERS, NUMBERS, NUMBERS), QUATERNIONS)


def slerp(before: tuple, after: tuple, share: float) -> np.ndarray:
    """The textbook's formula, on quaternions."""
    one, two = np.array(before) / np.linalg.norm(before), np.array(after) / np.linalg.norm(after)
    cosine = float(one @ two)
    if cosine < 0:
        two, cosine = -two, -cosine
    angle = math.acos(min(cosine, 1.0))
    if angle < 1e-6:
        return one
    return (math.sin((1 - share) * angle) * one + math.sin(share * angle) * two) / math.sin(angle)


@given(QUATERNIONS, QUATERNIONS, st.floats(0, 1))
def test_a_pose_between_two_is_on_the_line_and_turns_by_slerp(before: tuple, after: tuple, share: float) -> None:
    one, two = np.array(before) / np.linalg.norm(before), np.array(after) / np.linalg.norm(after)
    if abs(one @ two) < 0.02:  # half a turn has two ways
        return
    found = pose_between(pose_matrix((0, 0, 2), before), pose_matrix((4, 0, 0), after), share)
    np.testing.assert_allclose(
        found, pose_matrix((4 * share, 0, 2 - 2 * share), slerp(before, after, share)), atol=1e-6
    )


@pytest.mark.parametrize("turn", [(0, 0, 0, 0), (math.nan, 0, 0, 1), (math.inf, 0, 0, 1), (1e200, 0, 0, 0)])
def test_what_is_no_pose_is_none(turn: tuple) -> None:
    quaternion = SimpleNamespace(**dict(zip("xyzw", turn, strict=True)))
    assert pose_of(SimpleNamespace(x=0.0, y=0.0, z=0.0), quaternion) is None


def slow_lookup(samples: dict[int, Float64Array], stamp: int) -> Float64Array | None:
    """Search all samples for the two around a stamp."""
    before = max((s for s in samples if s <= stamp), default=None)
    after = min((s for s in samples if s >= stamp), default=None)
    if before is None or after is None or after - before > LONGEST_GAP_NS:
        return None
    return (
        samples[stamp]
        if before == after
        else pose_between(samples[before], samples[after], (stamp - before) / (after - before))
    )


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1000)), max_size=40),
)
def test_dropped_samples_change_no_answer(wanted: list[int], added: list[tuple[int, int]]) -> None:
    tenths = S // 10
    samples, every = PoseSamples(sorted(stamp * tenths for stamp in wanted)), {}
    for stamp, number in added:
        pose = pose_matrix((number, 0, 0), (0, 0, math.sin(number), math.cos(number)))
        samples.add(stamp * tenths, "odom", pose)
        every[stamp * tenths] = pose
    for stamp in wanted:
        found, expected = samples.at(stamp * tenths), slow_lookup(every, stamp * tenths)
        assert (found is None) == (expected is None)
        if found is not None:
            np.testing.assert_allclose(found[1], expected, atol=1e-9)


def test_memory_grows_with_the_stamps_that_are_asked_for_alone() -> None:
    samples = PoseSamples([5 * S, 9 * S])
    for millisecond in range(10_000):
        samples.add(millisecond * S // 1000, "odom", np.eye(4))
    assert len(samples) <= 2 * 3


@given(POSES, POSES, POSES)
def test_a_chain_is_the_product_of_its_links_in_both_directions(
    world: Float64Array, base: Float64Array, eye: Float64Array
) -> None:
    tree = TransformTree([S])
    tree.add("map", "odom", S, world)
    tree.add("/odom", "base", S, base)
    tree.add("base", "camera", 0, eye, is_static=True)
    tree.add("base", "laser", 0, world, is_static=True)
    np.testing.assert_allclose(tree.at("map", "camera", S), world @ base @ eye, atol=1e-9)
    np.testing.assert_allclose(tree.at("camera", "map", S), np.linalg.inv(world @ base @ eye), atol=1e-6)
    np.testing.assert_allclose(tree.at("laser", "/camera", S), np.linalg.inv(world) @ eye, atol=1e-6)
    assert tree.above("camera", S) == {"base": False, "odom": True, "map": True}


def test_what_is_not_known_is_none() -> None:
    tree = TransformTree([S, 2 * S, 3 * S])
    tree.add("odom", "base", S, np.eye(4))
    tree.add("odom", "base", 2 * S + LONGEST_GAP_NS, np.eye(4))
    assert tree.at("odom", "base", S) is not None
    assert tree.at("odom", "base", 2 * S) is None  # too long a gap
    assert tree.at("odom", "base", 4 * S) is None  # after the last
    assert tree.at("odom", "arm", S) is None  # another tree
    tree.add("a", "b", 0, np.eye(4), is_static=True)
    tree.add("b", "a", 0, np.eye(4), is_static=True)
    assert tree.at("c", "a", S) is None  # a circle ends


def test_a_frame_that_changes_its_parent_has_no_pose_in_between() -> None:
    samples = PoseSamples([3, 5, 8])
    for stamp, parent in ((2, "left"), (4, "left"), (6, "right"), (9, "right")):
        samples.add(stamp, parent, np.eye(4))
    assert samples.at(3)[0] == "left" and samples.at(5) is None and samples.at(8)[0] == "right"
