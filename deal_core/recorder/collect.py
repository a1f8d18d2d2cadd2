"""The loop that records a RealSense."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deal_core.errors import RecordingError
from deal_core.recorder.pair_recorder import PairRecorder
from deal_core.recorder.realsense import RealSense, RgbdFrame
from deal_core.recorder.summary import RecordingSummary
from deal_core.recording.writer import message_types

_WAIT_S = 0.001


@dataclass(frozen=True)
class Collected:
    """A finished recording, and how it ended.

    Attributes:
        summary: of the recording.
        failure: why it ended by itself; empty if it was stopped, or if the file ended.
        offset_ms: largest difference between the times of colour and depth of a pair.
    """

    summary: RecordingSummary
    failure: str
    offset_ms: float


def collect_pairs(
    source: RealSense,
    recorder_of: Callable[[], PairRecorder],
    path: Path,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    on_start: Callable[[PairRecorder], None] = lambda recorder: None,
    on_pair: Callable[[], None] = lambda: None,
    duration_s: float = 0.0,
) -> Collected:
    """Record a source that streams until it ends, fails, is stopped, or for a time.

    Args:
        source: open, inside its `with`.
        recorder_of: makes the recorder after the first pair, when `source.facts` are complete.
        path: of the recording.
        is_stopped: asked between pairs, ten times a second in silence.
        on_start: called once when recording has begun.
        on_pair: called after each pair.
        duration_s: by the images' stamps; 0 is without limit.

    Raises:
        RecordingError: nothing was recorded: no pair arrived, or recording was refused.
    """
    message_types()  # now, because after the first pair images would wait for it
    frames = source.frames(is_stopped)
    first = next(frames, None)
    if first is None:
        raise RecordingError("nothing was recorded: no pair of colour and depth arrived")
    recorder = recorder_of()
    recorder.set_camera(source.camera)
    _add(recorder, first)
    recorder.start(path, with_latest=True)
    offset_ms, failure = abs(first.offset_ms), ""
    try:
        on_start(recorder)
        on_pair()
        for frame in _within(frames, first.color.stamp_ns + round(duration_s * 1e9) if duration_s else None):
            recorder.note_dropped(frame.dropped)
            _add(recorder, frame)
            offset_ms = max(offset_ms, abs(frame.offset_ms))
            on_pair()
            if recorder.state.failure:
                break
            while source.is_file and recorder.is_behind and not recorder.state.failure:
                time.sleep(_WAIT_S)
    except RecordingError as error:
        failure = str(error)
    finally:
        summary = recorder.stop()
    return Collected(summary, summary.failure or failure, offset_ms)


def _add(recorder: PairRecorder, frame: RgbdFrame) -> None:
    recorder.add_color(frame.color)
    recorder.add_depth(frame.depth)


def _within(frames: Iterator[RgbdFrame], end_ns: int | None) -> Iterator[RgbdFrame]:
    for frame in frames:
        if end_ns is not None and frame.color.stamp_ns >= end_ns:
            return
        yield frame
