"""The choice between sources of masks."""

from __future__ import annotations

import math

import pytest

from deal_core.quality.choice import choose_source
from deal_core.quality.verdict import Grade, Verdict


def verdict(grade: Grade, score: float) -> Verdict:
    return Verdict(grade, score, (), ())


def test_the_best_score_wins_and_the_first_one_among_equals() -> None:
    assert choose_source({"cam": verdict("doubtful", 0.3), "regions": verdict("doubtful", 0.5)}) == "regions"
    assert choose_source({"cam": verdict("doubtful", 0.5), "regions": verdict("good", 0.51)}) == "cam"
    assert choose_source({"regions": verdict("good", 0.51), "cam": verdict("doubtful", 0.5)}) == "regions"


def test_bad_masks_lose_even_with_a_higher_score() -> None:
    assert choose_source({"cam": verdict("bad", 0.9), "regions": verdict("doubtful", 0.1)}) == "regions"
    assert choose_source({"cam": verdict("bad", 0.1), "regions": verdict("bad", 0.3)}) == "regions"


def test_a_source_without_a_score_is_the_last_choice() -> None:
    assert choose_source({"cam": verdict("good", math.nan), "regions": verdict("good", 0.1)}) == "regions"
    assert choose_source({"cam": verdict("good", math.nan)}) == "cam"
    with pytest.raises(ValueError, match="at least one source"):
        choose_source({})
