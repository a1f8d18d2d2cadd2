"""How many moments of a stream are used."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_ros.segmentation import rate_limit
from deal_ros.segmentation.rate_limit import RateLimit


def used(moments: list[float], max_hz: float) -> list[float]:
    clock = iter(moments)
    limit = RateLimit(lambda: next(clock))
    return [moment for moment in moments if limit.allows(max_hz)]


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 60))
def test_no_stretch_of_time_has_more_than_its_share(seed: int, max_hz: float) -> None:
    moments = np.cumsum(np.random.default_rng(seed).exponential(0.03, 200)).tolist()
    kept = used(moments, max_hz)
    for first in range(len(kept)):
        for last in range(first, len(kept)):
            # One more for both ends, one for the moment that may come early.
            assert last - first + 1 <= (kept[last] - kept[first]) * max_hz + 2 + 1e-6


@pytest.mark.parametrize(("camera_hz", "max_hz", "expected"), [(30, 10, 100), (30, 0, 300), (5, 10, 50), (30, 20, 200)])
def test_a_camera_that_jitters_keeps_the_wanted_rate(camera_hz: int, max_hz: float, expected: int) -> None:
    rng = np.random.default_rng(0)
    moments = (np.arange(10 * camera_hz) / camera_hz + rng.uniform(0, 0.004, 10 * camera_hz)).tolist()
    assert len(used(moments, max_hz)) == pytest.approx(expected, abs=2)


def test_a_raised_limit_counts_at_once() -> None:
    moments = iter([0.0, 1.0, 1.1])
    limit = RateLimit(lambda: next(moments))
    assert [limit.allows(0.01), limit.allows(0.01), limit.allows(20.0)] == [True, False, True]


def test_example() -> None:
    assert doctest.testmod(rate_limit).failed == 0
