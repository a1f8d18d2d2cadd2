"""Faults of given tags: their rates, and what each does to a frame's tags."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.errors import ConfigError
from deal_core.structures import ClassList, TagMarker, TagState
from deal_core.synthetic.tag_faults import TagFaults, Tagger, parse_tag_faults

CLASSES = ClassList(("mug", "jar", "book", "kettle"))


def give_all(faults: TagFaults, visible: np.ndarray, seed: int = 0) -> list[TagState]:
    tagger = Tagger(faults, CLASSES, np.random.default_rng(seed))
    return [tagger.give(row) for row in visible]


def vectors(faults: TagFaults, visible: np.ndarray, seed: int = 0) -> np.ndarray:
    return np.array([tags.vector(CLASSES) for tags in give_all(faults, visible, seed)])


def random_visible(frames: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((frames, len(CLASSES))) < 0.5


def test_without_faults_tags_are_complete_and_right():
    visible = random_visible(20)
    assert np.array_equal(vectors(TagFaults(), visible), visible.astype(np.float32))
    assert {tags.marker for tags in give_all(TagFaults(), visible)} == {TagMarker.COMPLETE}


@pytest.mark.parametrize("late", [1, 3])
def test_late_tags_follow_after_as_many_frames(late):
    visible = random_visible(12)
    given_tags = vectors(TagFaults(late=late), visible)
    assert np.array_equal(given_tags[late:], visible[:-late].astype(np.float32))
    assert np.array_equal(given_tags[:late], np.repeat(visible[:1], late, axis=0).astype(np.float32))


@pytest.mark.parametrize("wrong", [0.05, 0.15])
def test_wrong_tags_have_their_share(wrong):
    visible = random_visible(6000)
    flipped = vectors(TagFaults(wrong=wrong), visible) != visible
    # A flip lasts about two frames here, so the rate is known to about three deviations of 4 x 3000 draws.
    assert flipped.mean() == pytest.approx(wrong, abs=4 * np.sqrt(wrong * (1 - wrong) / 12_000))


def test_a_wrong_tag_lasts_until_the_class_appears_or_disappears():
    visible = np.repeat(random_visible(40), 5, axis=0)
    flipped = vectors(TagFaults(wrong=0.5), visible) != visible
    for before, after, was, now in zip(visible, visible[1:], flipped, flipped[1:], strict=False):
        assert np.array_equal(was[before == after], now[before == after])


def test_partial_tags_leave_the_same_classes_unknown_in_a_whole_scene():
    shares = []
    for seed in range(400):
        unknown = np.isnan(vectors(TagFaults(partial=0.3), random_visible(3), seed))
        assert (unknown == unknown[0]).all()
        shares.append(unknown[0].mean())
    assert np.mean(shares) == pytest.approx(0.3, abs=0.04)


@given(seed=st.integers(0, 1000))
def test_one_tag_a_frame_is_right_and_says_nothing_of_the_other_present_classes(seed):
    visible = random_visible(10, seed)
    for seen, tags in zip(visible, vectors(TagFaults(one=True), visible, seed), strict=True):
        assert (tags == 1).sum() == min(1, seen.sum())
        assert seen[tags == 1].all()
        assert np.array_equal(tags == 0, ~seen)


def test_one_tag_a_frame_is_never_of_an_unknown_class():
    for seed in range(30):
        visible = random_visible(10, seed)
        partial = np.isnan(vectors(TagFaults(partial=0.5), visible, seed))
        both = vectors(TagFaults(partial=0.5, one=True), visible, seed)
        assert np.isnan(both[partial]).all()
        assert np.array_equal((both == 1).sum(axis=1), np.minimum(1, (visible & ~partial).sum(axis=1)))


def test_a_text_gives_the_faults():
    assert parse_tag_faults("") == TagFaults()
    faults = parse_tag_faults("wrong=0.05, late=3,partial=0.3,one,co-occurring")
    assert faults == TagFaults(wrong=0.05, late=3, partial=0.3, one=True, co_occurring=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wrong", "expected wrong=<share>.*found 'wrong'"),
        ("one=2", "found 'one=2'"),
        ("early=3", "found 'early=3'"),
        ("wrong=1.5", "expected wrong from 0 to 1, found 1.5"),
        ("partial=nan", "expected partial from 0 to 1, found nan"),
        ("late=1.5", "expected late as a whole number, found '1.5'"),
        ("late=-1", "late as a number of frames, 0 to 10000, found -1"),
        ("wrong=x", "expected wrong as a number, found 'x'"),
        ("one,one", "'one' is given twice"),
    ],
)
def test_wrong_faults_are_named(text, said):
    with pytest.raises(ConfigError, match=said):
        parse_tag_faults(text)
