"""Classes that the background predicts: named where the shortcut was put in, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from deal_core.audit.evidence import FrameEvidence
from deal_core.audit.place import FEWEST_VISITS, place_figures, roc_area
from deal_core.structures import Float32Array, Int64Array

VISITS, FRAMES = 40, 3


def made_up(seed: int = 0) -> tuple[list[FrameEvidence], Float32Array, Int64Array]:
    """Return frames of visits to two places; the first class is tagged in the second place, the others anywhere."""
    rng = np.random.default_rng(seed)
    visits = np.repeat(np.arange(VISITS), FRAMES)
    place = rng.permutation(VISITS) % 2
    directions = rng.normal(size=(2, 30))
    own = rng.normal(size=(VISITS, 30))  # each visit has a look of its own
    background = directions[place][visits] + own[visits] + 0.2 * rng.normal(size=(len(visits), 30))
    tags = (rng.random((VISITS, 3)) < 0.5).astype(np.float32)
    tags[:, 0] = place
    nothing, votes = np.zeros((1, 30), np.float16), np.ones(1, np.float32)
    evidence = [FrameEvidence(nothing, votes, row.astype(np.float16)) for row in background]
    return evidence, tags[visits], visits


@pytest.mark.parametrize("seed", range(4))
def test_the_shortcut_is_named_and_no_other(seed: int) -> None:
    evidence, tags, visits = made_up(seed)
    found = place_figures(evidence, tags, visits, seed=0)
    assert [one.predicts for one in found] == [True, False, False]
    assert (found[0].ranking or 0) > 0.9


def test_the_named_frames_have_the_class_and_are_of_different_visits() -> None:
    evidence, tags, visits = made_up()
    frames = list(place_figures(evidence, tags, visits, seed=0, most_frames=4)[0].frames)
    assert len(frames) == 4 == len(set(visits[frames])) and (tags[frames, 0] == 1).all()


def test_a_class_that_changes_within_visits_is_not_predicted() -> None:
    evidence, tags, visits = made_up()
    tags[:, 0] = np.arange(len(tags)) % 2
    assert not place_figures(evidence, tags, visits, seed=0)[0].predicts


def test_few_visits_and_frames_without_background_tell_nothing() -> None:
    evidence, tags, visits = made_up()
    tags[:, 1] = visits < FEWEST_VISITS - 1
    assert place_figures(evidence, tags, visits, seed=0)[1].ranking is None
    blind = [FrameEvidence(one.regions, one.votes, np.full(30, np.nan, np.float16)) for one in evidence]
    assert [one.ranking for one in place_figures(blind, tags, visits, seed=0)] == [None] * 3


def test_the_area_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    present, absent = rng.integers(0, 5, 7).astype(float), rng.integers(0, 5, 9).astype(float)
    pairs = [(p > a) + 0.5 * (p == a) for p in present for a in absent]
    area, error = roc_area(present, absent)
    assert area == pytest.approx(np.mean(pairs)) and 0 < error < 0.3
    assert roc_area(np.ones(3), np.zeros(3)) == (1.0, 0.0)
