"""Stamps and clocks that go wrong, as they are counted."""

from __future__ import annotations

import pytest

from deal_ros.input.stamps import ClockWatch, StampWatch

S = 1_000_000_000


def test_each_kind_of_wrong_stamp_is_counted() -> None:
    watch = StampWatch()
    for stamp_ns, now_ns in [
        (10 * S, 10 * S),
        (0, 10 * S),  # no time
        (9 * S, 10 * S),  # backwards, and not measured against the 0 before it
        (10 * S + S // 20, 10 * S),  # 50 ms ahead: rounding
        (11 * S, 10 * S),
    ]:
        watch.see(stamp_ns, now_ns)
    counts = watch.counts
    assert (counts.zero, counts.backwards, counts.future, counts.ahead_ms) == (1, 1, 1, 1000.0)


@pytest.mark.parametrize(
    ("readings", "is_simulated", "jumps", "last"),
    [
        ([(10, 0), (11, 1), (12.5, 2.4)], False, 0, ""),
        ([(10, 0), (14, 1)], False, 1, "ahead by 3.0 s"),
        ([(10, 0), (8, 1)], False, 1, "back by 3.0 s"),
        ([(10, 0), (30, 1)], True, 0, ""),  # simulated time may run fast
        ([(10, 0), (10, 1)], True, 0, ""),  # or stand still
        ([(10, 0), (2, 1)], True, 1, "back by 8.0 s"),
        ([(0, 0), (1000, 1), (1001, 2)], True, 0, ""),  # it begins
        ([(10, 0), (0, 1), (1, 2)], True, 0, ""),  # no time yet is no reading
    ],
)
def test_a_clock_that_is_set_is_noticed(
    readings: list[tuple[float, float]], is_simulated: bool, jumps: int, last: str
) -> None:
    watch = ClockWatch()
    for now_s, steady_s in readings:
        watch.see(round(now_s * S), steady_s, is_simulated=is_simulated)
    assert (watch.jumps, watch.last_jump) == (jumps, last)
