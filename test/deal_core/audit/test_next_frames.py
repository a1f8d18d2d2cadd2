"""The next frames: unsure ones, those with unknown tags first, and no two of a kind."""

from __future__ import annotations

import numpy as np

from deal_core.audit.next_frames import choose_frames

LOOKS = np.eye(6, 8, dtype=np.float32)
SPANS = np.arange(6)


def test_unknown_tags_come_first_and_sure_frames_never() -> None:
    presence = np.array([[0.5], [0.01], [0.5], [0.99], [0.4], [0.3]])
    unknown = np.array([[False], [True], [True], [True], [False], [False]])
    assert choose_frames(presence, unknown, LOOKS, SPANS, 10) == [2, 0, 4, 5]


def test_frames_of_a_span_and_frames_that_look_alike_are_not_chosen_twice() -> None:
    presence, unknown = np.full((6, 1), 0.5), np.ones((6, 1), bool)
    assert choose_frames(presence, unknown, LOOKS, SPANS // 3, 10) == [0, 3]
    alike = LOOKS.copy()
    alike[1:4] = alike[0]
    assert choose_frames(presence, unknown, alike, SPANS, 10) == [0, 4, 5]


def test_no_more_than_asked_for() -> None:
    presence, unknown = np.full((6, 2), 0.5), np.ones((6, 2), bool)
    assert len(choose_frames(presence, unknown, LOOKS, SPANS, 2)) == 2
    assert choose_frames(presence, unknown, LOOKS, SPANS, 0) == []
