"""The visits of a camera to places: what lies on both sides of a split must not be of one visit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from deal_core.dataset.dataset import FrameRecord
from deal_core.structures import Int64Array

_PAUSE_NS = 2 * 10**9
_LONGER = 5.0
_NO_TIME_NS = 10**6


def tag_spans(frames: Sequence[FrameRecord]) -> Int64Array:
    """Return (F,) the number of the span of each frame: frames in a row, of one segment and with the same tags."""
    changes = [_span(two) != _span(one) for one, two in pairwise(frames)]
    return np.cumsum([0, *changes])[: len(frames)]


def visits_of(frames: Sequence[FrameRecord]) -> Int64Array:
    """Return (F,) the number of the visit of each frame, which may have several segments.

    A visit ends with its recording, or at a pause of more than 2 s that is also longer than five usual steps between
    frames. In a recording without times (a published dataset of single images), each segment is a visit.

    Args:
        frames: Frames in the order of a `Dataset`.
    """
    starts = [False] * len(frames)
    for rows in _recordings(frames):
        starts[rows[0]] = True
        steps = np.diff([frames[row].stamp_ns for row in rows])
        usual = float(np.median(steps)) if len(steps) else 0.0
        for row, step in zip(rows[1:], steps, strict=True):
            new_segment = frames[row].segment != frames[row - 1].segment
            starts[row] = new_segment if usual < _NO_TIME_NS else bool(step > max(_PAUSE_NS, _LONGER * usual))
    return np.cumsum(starts) - 1


def divided(visits: Int64Array, spans: Int64Array, least: int) -> Int64Array:
    """Return (F,) groups: the visits or, if there are fewer than `least`, runs of whole spans in them.

    Args:
        visits: (F,) number of the visit of each frame, rising.
        spans: (F,) number of the span of each frame, rising.
        least: Number of groups that is enough.
    """
    count = len(np.unique(visits))
    if count >= least:
        return visits
    parts = -(-least // max(count, 1))
    groups, begin = np.zeros_like(visits), 0
    for visit in np.unique(visits):
        mine = np.flatnonzero(visits == visit)
        names = np.unique(spans[mine])
        part = np.arange(len(names)) * min(parts, len(names)) // len(names)
        groups[mine] = begin + part[np.searchsorted(names, spans[mine])]
        begin = groups[mine].max() + 1
    return groups


def folds_of(groups: Int64Array, folds: int, seed: int) -> Int64Array:
    """Return (F,) the fold of each frame, 0 to `folds` - 1; the frames of a group are in one fold."""
    names = np.unique(groups)
    fold = np.empty(len(names), np.int64)
    fold[np.random.default_rng(seed).permutation(len(names))] = np.arange(len(names)) % folds
    return fold[np.searchsorted(names, groups)]


def _span(frame: FrameRecord) -> tuple[object, ...]:
    return frame.recording, frame.segment, frame.tags


def _recordings(frames: Sequence[FrameRecord]) -> list[list[int]]:
    rows: dict[str, list[int]] = {}
    for row, frame in enumerate(frames):
        rows.setdefault(frame.recording, []).append(row)
    return list(rows.values())
