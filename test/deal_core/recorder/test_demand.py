"""Images without a partner that cost a wanted pair, and those that do not."""

from __future__ import annotations

import pytest

from deal_core.recorder.demand import MISSED_KEYFRAME, PairDemand

MS = 1_000_000


def feed(demand: PairDemand, colors: list[int], depths: list[int]) -> tuple[dict[str, int], int]:
    """Send two streams of stamps in milliseconds; equal stamps are pairs."""
    for stamp in sorted({*colors, *depths}):
        for stream, stamps in (("color", colors), ("depth", depths)):
            if stamp in stamps:
                demand.see(stream, stamp * MS)
        if stamp in colors and stamp in depths:
            demand.fill(stamp * MS)
    pairs = set(colors) & set(depths)
    alone = {"color": len(set(colors) - pairs), "depth": len(set(depths) - pairs)}
    unpaired = {stream: {"no partner": n} if n else {} for stream, n in alone.items()}
    return demand.missed(unpaired, len(pairs), None)


FAST, HALF = list(range(0, 3000, 33)), list(range(0, 3000, 66))


@pytest.mark.parametrize(
    ("rate_hz", "colors", "depths", "missed"),
    [
        (5.0, FAST, HALF, {}),  # depth at half the rate of colour
        (0.0, FAST, HALF, {}),
        (30.0, FAST, HALF, {}),  # no more pairs than the slower stream has
        (0.0, HALF, FAST, {}),
        (0.0, FAST, FAST[:-10], {"color: no partner": 10}),  # depth that is lost on the way
        (0.0, FAST, [s for s in FAST if s % 5], {"color: no partner": len([s for s in FAST if s % 5 == 0])}),
        (5.0, FAST, [s for s in FAST if s % 5], {}),  # every keyframe has its pair all the same
        (5.0, FAST, [s for s in FAST if not 1000 <= s < 2000], {MISSED_KEYFRAME: 5}),  # depth paused for a second
        (5.0, FAST[::2], [s + 1 for s in FAST], {MISSED_KEYFRAME: 15}),  # nothing pairs at all
    ],
)
def test_what_is_missed(rate_hz: float, colors: list[int], depths: list[int], missed: dict[str, int]) -> None:
    demand = PairDemand(rate_hz)
    found, wanted = feed(demand, colors, depths)
    assert found == missed and wanted >= sum(missed.values())


def test_rates_are_told_and_images_that_wait_are_not_missed_yet() -> None:
    demand = PairDemand(5.0)
    feed(demand, FAST, HALF)
    assert (round(demand.rate_hz("color"), 1), round(demand.rate_hz("depth"), 1)) == (30.3, 15.2)
    demand.see("color", 3300 * MS)
    assert demand.missed({"color": {}, "depth": {}}, 45, 3300 * MS)[0] == {}
    assert demand.missed({"color": {"no partner": 1}, "depth": {}}, 45, None)[0] == {MISSED_KEYFRAME: 1}
