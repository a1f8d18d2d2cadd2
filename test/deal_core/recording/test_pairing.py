"""Pairing against a slow formulation, and the conservation of messages."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.errors import UsageError
from deal_core.recording.pairing import Pair, StampPairer, UnpairedCause

Event = tuple[str, int]  # stream, stamp
events = st.lists(st.tuples(st.sampled_from(["color", "depth"]), st.integers(0, 60)), max_size=60)


def run(pairer: StampPairer[str, str], sequence: Sequence[Event]) -> list[Pair[str, str]]:
    pairs: list[Pair[str, str]] = []
    for index, (stream, stamp) in enumerate(sequence):
        item = f"{stream} {stamp} #{index}"
        pairs += (pairer.add_color if stream == "color" else pairer.add_depth)(stamp, item)
    return pairs


def slow_greedy(colors: Sequence[int], depths: Sequence[int], slop: int) -> set[tuple[int, int]]:
    """Every candidate in order of (offset, colour, depth); a message is taken once."""
    free_colors, free_depths, taken = set(colors), set(depths), set()
    candidates = sorted((abs(c - d), c, d) for c in free_colors for d in free_depths if abs(c - d) <= slop)
    for _, color, depth in candidates:
        if color in free_colors and depth in free_depths:
            taken.add((color, depth))
            free_colors.remove(color)
            free_depths.remove(depth)
    return taken


def stamps_of(pairs: Sequence[Pair[str, str]]) -> set[tuple[int, int]]:
    return {(p.stamp_ns, p.depth_stamp_ns) for p in pairs}


@given(events, st.integers(0, 12), st.integers(1, 6), st.booleans())
def test_every_message_is_accounted_for_and_used_once(
    sequence: list[Event], slop: int, queue_size: int, flush: bool
) -> None:
    pairer = StampPairer[str, str](slop_ns=slop, queue_size=queue_size)
    pairs = run(pairer, sequence) + (pairer.flush() if flush else [])
    counts = pairer.counts

    assert counts.received_color == sum(stream == "color" for stream, _ in sequence)
    assert counts.received_depth == sum(stream == "depth" for stream, _ in sequence)
    assert counts.paired == len(pairs)
    assert counts.received_color == len(pairs) + sum(counts.unpaired_color.values()) + pairer.pending_color
    assert counts.received_depth == len(pairs) + sum(counts.unpaired_depth.values()) + pairer.pending_depth
    assert pairer.pending_color <= queue_size and pairer.pending_depth <= queue_size
    if flush:
        assert pairer.pending_color == pairer.pending_depth == 0
    items = [item for pair in pairs for item in (pair.color, pair.depth)]
    assert len(set(items)) == len(items)
    for pair in pairs:
        assert abs(pair.offset_ns) <= slop
        assert pair.color.startswith(f"color {pair.stamp_ns} ")
        assert pair.depth.startswith(f"depth {pair.depth_stamp_ns} ")


@given(st.data(), st.sets(st.integers(0, 10**9), max_size=12), st.sets(st.integers(0, 10**9), max_size=12))
def test_exact_pairs_are_found_in_any_order_of_arrival(data: st.DataObject, colors: set[int], depths: set[int]) -> None:
    common = data.draw(st.sets(st.integers(0, 10**9), max_size=12))
    sequence = [("color", s) for s in colors | common] + [("depth", s) for s in depths | common]
    pairer = StampPairer[str, str](queue_size=24)
    pairs = run(pairer, data.draw(st.permutations(sequence)))
    assert stamps_of(pairs) == {(s, s) for s in (colors | common) & (depths | common)}


@given(
    st.sets(st.integers(0, 200), max_size=40),
    st.sets(st.integers(0, 200), max_size=40),
    st.integers(1, 25),
    st.randoms(use_true_random=False),
)
def test_nearest_pairs_equal_the_slow_formulation_for_streams_in_order(
    colors: set[int], depths: set[int], slop: int, random: object
) -> None:
    # Each stream in its own order, the two interleaved at will: one may run far ahead of the other.
    rest = {"color": sorted(colors), "depth": sorted(depths)}
    sequence: list[Event] = []
    while any(rest.values()):
        stream = random.choice([name for name, stamps in rest.items() if stamps])  # type: ignore[attr-defined]
        sequence.append((stream, rest[stream].pop(0)))
    pairer = StampPairer[str, str](slop_ns=slop, queue_size=100)
    early = run(pairer, sequence)
    assert stamps_of(early + pairer.flush()) == slow_greedy(sorted(colors), sorted(depths), slop)


def test_exact_pair_is_returned_by_the_call_that_completes_it() -> None:
    pairer = StampPairer[str, str]()
    assert run(pairer, [("depth", 7), ("depth", 9), ("color", 9)]) == [
        Pair(9, "color 9 #2", 9, "depth 9 #1"),
    ]
    assert stamps_of(pairer.add_color(7, "late")) == {(7, 7)}
    assert pairer.counts.backwards_color == 1


def test_nearest_waits_until_no_closer_message_can_come() -> None:
    pairer = StampPairer[str, str](slop_ns=15)
    assert run(pairer, [("color", 100), ("depth", 110)]) == []  # a colour image at 105 could still come
    assert stamps_of(pairer.add_color(133, "next")) == {(100, 110)}
    assert run(pairer, [("depth", 133)])[0].offset_ns == 0  # nothing beats equal stamps


def test_a_closer_late_partner_wins() -> None:
    pairer = StampPairer[str, str](slop_ns=15)
    pairs = run(pairer, [("color", 100), ("depth", 110), ("color", 112), ("depth", 140), ("color", 140)])
    assert stamps_of(pairs) == {(112, 110), (140, 140)}
    assert pairer.flush() == []
    assert pairer.counts.unpaired_color == {UnpairedCause.NO_PARTNER: 1}


def test_causes_tell_a_lost_partner_from_a_silent_stream() -> None:
    silent = StampPairer[str, str](queue_size=2)
    run(silent, [("color", s) for s in (1, 2, 3, 4)])
    assert silent.counts.unpaired == {"color: queue full": 2}

    lost = StampPairer[str, str](queue_size=2)
    run(lost, [("color", 1), ("color", 2), ("depth", 9), ("color", 3)])
    assert lost.counts.unpaired == {"color: no partner within slop": 1}


def test_duplicates_are_not_used_even_after_their_twin_was_paired() -> None:
    pairer = StampPairer[str, str](slop_ns=5)
    pairs = run(pairer, [("color", 1), ("depth", 1), ("color", 1), ("depth", 2), ("color", 1)])
    assert stamps_of(pairs + pairer.flush()) == {(1, 1)}
    assert pairer.counts.unpaired_color == {UnpairedCause.DUPLICATE: 2}


@pytest.mark.parametrize("slop", [0, 4])
def test_recovers_after_the_clock_jumps_back(slop: int) -> None:
    pairer = StampPairer[str, str](slop_ns=slop, queue_size=3)
    ahead = [("color", 1000), ("color", 1010), ("depth", 1005)]
    again = [(stream, stamp) for stamp in range(0, 300, 10) for stream in ("color", "depth")]
    pairs = run(pairer, ahead + again)
    expected = {(s, s) for s in range(0, 300, 10)}
    assert expected <= stamps_of(pairs)
    assert pairer.counts.backwards_color == pairer.counts.backwards_depth == 1


def test_queue_overflow_pairs_what_it_can_instead_of_losing_it() -> None:
    pairer = StampPairer[str, str](slop_ns=5, queue_size=2)
    # The depth stream falls silent after 8, so that no certainty about 10 ever comes.
    pairs = run(pairer, [("depth", 8), ("color", 10), ("color", 20), ("color", 30)])
    assert stamps_of(pairs) == {(10, 8)}


def test_expired_colour_is_given_back_once() -> None:
    pairer = StampPairer[str, str]()
    run(pairer, [("color", 20), ("color", 10), ("color", 30)])
    assert [stamp for stamp, _ in pairer.expire_color(30)] == [10, 20]
    assert pairer.expire_color(30) == []
    assert pairer.counts.unpaired == {"color: waited too long": 2} and pairer.pending_color == 1


@pytest.mark.parametrize("arguments", [{"slop_ns": -1}, {"queue_size": 0}])
def test_impossible_settings_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="pairing"):
        StampPairer(**arguments)
