"""Visits, spans of equal tags, and folds that no visit crosses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deal_core.audit.visits import divided, folds_of, tag_spans, visits_of
from deal_core.dataset.dataset import FrameRecord
from deal_core.structures import TagMarker, TagState

SECOND = 10**9
MUG, CUP = (TagState((name,), (), TagMarker.COMPLETE) for name in ("mug", "cup"))


def frame(recording: str, seconds: float, segment: int, tags: TagState = MUG) -> FrameRecord:
    return FrameRecord(recording, round(seconds * SECOND), Path("c.png"), None, None, tags, segment)


def test_a_pause_and_a_recording_end_a_visit_and_a_segment_does_not() -> None:
    frames = [*(frame("a", t / 5, t // 3) for t in range(6)), *(frame("a", 9 + t / 5, 2) for t in range(3))]
    frames += [frame("b", 11 + t / 5, 0) for t in range(2)]
    assert visits_of(frames).tolist() == [0] * 6 + [1] * 3 + [2] * 2


def test_a_slow_recording_has_no_pauses() -> None:
    assert visits_of([frame("a", 10.0 * t, 0) for t in range(5)]).tolist() == [0] * 5


def test_without_times_each_segment_is_a_visit() -> None:
    frames = [frame("a", t / SECOND, t // 2) for t in range(6)]
    assert visits_of(frames).tolist() == [0, 0, 1, 1, 2, 2]


def test_no_frames_are_no_visits() -> None:
    assert len(visits_of([])) == len(tag_spans([])) == 0


def test_a_span_ends_with_the_segment_and_with_the_tags() -> None:
    frames = [frame("a", 0, 0), frame("a", 1, 0), frame("a", 2, 0, CUP), frame("a", 3, 1, CUP), frame("b", 4, 1, CUP)]
    assert tag_spans(frames).tolist() == [0, 0, 1, 2, 3]


def test_few_visits_are_divided_between_spans() -> None:
    visits, spans = np.array([0] * 6 + [1] * 3), np.array([0, 0, 1, 2, 2, 3, 4, 5, 5])
    assert divided(visits, spans, 2) is visits
    assert divided(visits, spans, 4).tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 3]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=30), st.integers(1, 12), st.integers(0, 9))
def test_groups_keep_spans_whole_and_folds_keep_groups_whole(lengths: list[int], least: int, seed: int) -> None:
    spans = np.repeat(np.arange(len(lengths)), lengths)
    visits = spans // 4
    groups = divided(visits, spans, least)
    assert (np.diff(groups) >= 0).all() and (np.diff(groups) <= 1).all()
    assert len({*zip(spans.tolist(), groups.tolist(), strict=True)}) == len(lengths)
    assert len({*zip(groups.tolist(), visits.tolist(), strict=True)}) == groups[-1] + 1
    folds = folds_of(groups, 3, seed)
    assert len({*zip(groups.tolist(), folds.tolist(), strict=True)}) == groups[-1] + 1
    counts = np.bincount([folds[groups == one][0] for one in range(groups[-1] + 1)])
    assert counts.max() - counts.min() <= 1
