"""Held-out presence: what heads say about frames of groups that they did not see."""

from __future__ import annotations

import numpy as np
from helpers.region_bags import made_up_bags

from deal_core.audit.evidence import FrameEvidence
from deal_core.audit.held_out import held_out_presence, make_bags
from deal_core.audit.place import roc_area
from deal_core.structures import Float32Array, Int64Array


def made_up() -> tuple[list[FrameEvidence], Float32Array, Int64Array]:
    bags, _ = made_up_bags(frames=90)
    rows = [bags.features[bags.frame == frame].numpy().astype(np.float16) for frame in range(len(bags.tags))]
    background = np.zeros(rows[0].shape[1], np.float16)
    evidence = [FrameEvidence(mine, np.ones(len(mine), np.float32), background) for mine in rows]
    return evidence, bags.tags.numpy(), bags.segments.numpy()


def test_unseen_frames_are_told_apart_although_some_tags_are_wrong() -> None:
    evidence, tags, groups = made_up()
    wrong = np.random.default_rng(0).random(tags.shape) < 0.1
    bags = make_bags(evidence, range(12))
    odds = held_out_presence(bags, np.where(wrong, 1 - tags, tags), groups, repeats=1, seed=0)
    for k in range(3):
        assert roc_area(odds[tags[:, k] == 1, k], odds[tags[:, k] == 0, k])[0] > 0.9


def test_the_tags_of_a_group_do_not_reach_its_own_scores() -> None:
    evidence, tags, groups = made_up()
    bags, changed = make_bags(evidence, range(12)), tags.copy()
    changed[groups == 4] = 1 - changed[groups == 4]
    before, after = (held_out_presence(bags, one, groups, repeats=2, seed=1) for one in (tags, changed))
    assert np.array_equal(before[groups == 4], after[groups == 4])
    assert not np.array_equal(before[groups == 3], after[groups == 3])


def test_the_same_seed_gives_the_same_scores_and_each_repeat_is_counted() -> None:
    evidence, tags, groups = made_up()
    bags, counted = make_bags(evidence, range(6)), []
    one, two = (
        held_out_presence(bags, tags, groups, repeats=2, seed=5, advance=lambda: counted.append(1)) for _ in range(2)
    )
    assert np.array_equal(one, two) and len(counted) == 4
