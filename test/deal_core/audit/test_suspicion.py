"""The probability that a tag is wrong: rates that were put in, honest probabilities, lists that keep a precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.audit.suspicion import list_worst, suspect


def tagged(missed: float, invented: float, apart: float = 3.0, count: int = 3000) -> tuple[np.ndarray, ...]:
    """Return odds, given tags and which are wrong, (count, 2): two normal distributions that are `apart`."""
    rng = np.random.default_rng(0)
    true = rng.random((count, 2)) < 0.4
    centres = np.where(true, apart / 2, -apart / 2) + np.array([0.0, 0.8])
    odds = rng.normal(centres, 1.0).astype(np.float32)
    wrong = rng.random(true.shape) < np.where(true, missed, invented)
    return odds, (true ^ wrong).astype(np.float32), wrong


@pytest.mark.parametrize(("missed", "invented"), [(0.2, 0.05), (0.05, 0.15), (0.1, 0.1)])
def test_the_rates_of_wrong_tags_are_found(missed: float, invented: float) -> None:
    odds, tags, _ = tagged(missed, invented)
    found = suspect(odds, tags)
    assert found.missed == pytest.approx(missed, abs=0.03) and found.invented == pytest.approx(invented, abs=0.03)


def test_of_the_tags_with_a_probability_that_share_is_wrong() -> None:
    odds, tags, wrong = tagged(0.15, 0.1)
    found = suspect(odds, tags).wrong
    for low, high in ((0.0, 0.1), (0.2, 0.6), (0.6, 0.9), (0.9, 1.0)):
        chosen = (found > low) & (found <= high)
        assert wrong[chosen].mean() == pytest.approx(found[chosen].mean(), abs=0.07)


def test_a_list_of_clear_scores_keeps_precision_and_recall() -> None:
    odds, tags, wrong = tagged(0.1, 0.1, apart=5.0)
    chosen = list_worst(suspect(odds, tags).wrong, 0.8)
    assert wrong[chosen].mean() > 0.75 and chosen[wrong].mean() > 0.8


def test_scores_that_tell_nothing_list_nothing() -> None:
    rng = np.random.default_rng(0)
    odds, tags = rng.normal(size=(400, 3)).astype(np.float32), (rng.random((400, 3)) < 0.3).astype(np.float32)
    assert not list_worst(suspect(odds, tags).wrong, 0.8).any()


def test_right_tags_of_clear_scores_list_next_to_nothing() -> None:
    odds, tags, _ = tagged(0.0, 0.0, apart=5.0)
    assert list_worst(suspect(odds, tags).wrong, 0.8).mean() < 0.02


def test_unknown_tags_are_neither_judged_nor_learnt_from() -> None:
    odds, tags, _ = tagged(0.1, 0.1, count=500)
    tags[::3, 0] = np.nan
    first = suspect(odds, tags)
    odds[::3, 0] = 0.0
    again = suspect(odds, tags)
    assert np.isnan(first.wrong[::3, 0]).all() and np.isfinite(first.wrong[1::3]).all()
    assert np.allclose(first.wrong[1::3], again.wrong[1::3], atol=0.02)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.05, 1))
def test_the_list_is_the_longest_with_the_precision(values: list[float], precision: float) -> None:
    wrong = np.array(values)[:, None]
    chosen = list_worst(wrong, precision)
    ordered = sorted(values, reverse=True)
    fitting = [n for n in range(1, len(values) + 1) if np.cumsum(ordered)[n - 1] / n >= precision]
    assert chosen.sum() == max(fitting, default=0)
    if chosen.any() and not chosen.all():
        assert wrong[chosen].min() >= wrong[~chosen].max()
