"""Tags while recording: the command language, the guard around changes, discarding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.errors import UsageError
from deal_core.recorder.tag_commands import TagTrack, check_class_names, parse_tags
from deal_core.recording.tags import Skip, TagSpan
from deal_core.structures import ClassList, TagMarker, TagState

CLASSES = ClassList(("mug", "drill", "red box"))
MUG, DRILL = TagState(("mug",)), TagState(("drill",), marker=TagMarker.COMPLETE)


@pytest.mark.parametrize(
    ("command", "present", "marker"),
    [
        ("drill", ("drill",), "partial"),
        (" drill , red box ", ("drill", "red box"), "partial"),
        ("+drill", ("drill", "mug"), "partial"),
        ("-mug", (), "partial"),
        ("-drill", ("mug",), "partial"),
        ("+drill,-mug,complete", ("drill",), "complete"),
        ("drill,-drill", (), "partial"),
        ("clear", (), "partial"),
        ("clear,+red box", ("red box",), "partial"),
        ("ignore", ("mug",), "ignore"),
        ("complete", ("mug",), "complete"),
    ],
)
def test_a_command_changes_what_it_speaks_of(command: str, present: tuple[str, ...], marker: str) -> None:
    assert parse_tags(command, MUG, CLASSES) == TagState(present, marker=TagMarker(marker))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("mugg", "unknown class 'mugg'.*Did you mean 'mug'"),
        ("mug,+dril", "Did you mean 'drill'"),
        ("-box", "unknown class 'box'"),
        ("+", "unknown class ''"),
        (" , ", r"tag command is empty: expected class names, \+name"),
    ],
)
def test_a_wrong_command_is_refused(command: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_tags(command, MUG, CLASSES)


@pytest.mark.parametrize("name", ["ignore", "clear", "+one", "-one", "a,b"])
def test_classes_that_no_command_can_name_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be set while recording"):
        check_class_names(ClassList(("mug", name)))


@given(
    st.lists(st.tuples(st.integers(1, 40), st.sampled_from([MUG, DRILL, TagState()])), max_size=8),
    st.integers(0, 15),
)
def test_nothing_near_a_change_is_labelled_and_everything_else_is(
    steps: list[tuple[int, TagState]], guard: int
) -> None:
    track = TagTrack(0, MUG, guard, "start")
    changes = [(0, MUG)]
    for step, tags in steps:
        changes.append((changes[-1][0] + step, tags))
        track.change(*changes[-1], source="keyboard")
    timeline = track.timeline()
    for stamp in range(changes[-1][0] + 2 * guard + 2):
        span = timeline.spans[timeline.segment(stamp)]
        if any(-guard <= stamp - at < guard for at, _ in changes[1:]):
            assert span.skip is Skip.AMBIGUOUS
        else:
            assert span.skip is None and span.tags == [tags for at, tags in changes if at <= stamp][-1]


def test_a_segment_begins_under_the_same_tags_and_not_within_a_guard() -> None:
    track = TagTrack(0, MUG, 5, "start")
    assert track.begin_segment(50, "page") == TagSpan(50, MUG, "page")
    track.change(100, DRILL, "keyboard")
    assert track.begin_segment(102, "page") == TagSpan(105, DRILL, "page")
    timeline = track.timeline()
    assert [timeline.segment(stamp) for stamp in (0, 49, 50, 94, 95, 104, 105, 200)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert timeline.spans[2].skip is Skip.AMBIGUOUS


def test_discarding_goes_back_segment_by_segment_and_recording_goes_on() -> None:
    track, stamps = TagTrack(0, MUG, 5, "start"), np.arange(0, 300, 10)
    track.change(100, DRILL, "keyboard")
    track.change(200, MUG, "keyboard")

    def skips(until: int) -> list[Skip | None]:
        timeline = track.timeline()
        return [timeline.spans[timeline.segment(s)].skip for s in range(0, until, 10)]

    before = skips(300)
    assert before[9:12] == [None, Skip.AMBIGUOUS, None]
    spans, number = track.discard_last(295, stamps)
    assert number == 9 and [span.stamp_ns for span in spans] == [205, 295]
    assert skips(300) == before[:21] + [Skip.DISCARDED] * 9
    assert track.timeline().spans[-1].tags == MUG
    assert track.discard_last(296, stamps)[1] == 9
    assert skips(300) == [*before[:11], *[Skip.DISCARDED] * 9, Skip.AMBIGUOUS, *[Skip.DISCARDED] * 9]
    assert track.discard_last(297, stamps)[1] == 10
    with pytest.raises(UsageError, match="nothing to discard"):
        track.discard_last(298, stamps)
    assert track.timeline().spans[-1].skip is None  # what comes now is labelled
