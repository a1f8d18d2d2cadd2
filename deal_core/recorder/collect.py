"""Record a RealSense."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
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
        summary: summary of the recording.
        failure: why recording ended by itself; empty if it was stopped, or the file ended.
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
    """Record a source until it ends, fails, is stopped, or the duration is over.

    Args:
        source: streaming source.
        recorder_of: makes the recorder after the first pair, when `source.facts` are complete.
        path: path of the recording.
        is_stopped: called between pairs, and ten times per second without images.
        on_start: called when recording has begun.
        on_pair: called after each pair.
        duration_s: duration by the images' stamps; 0 is without limit.

    Raises:
        RecordingError: nothing was recorded: no pair arrived, or recording was refused.
    """
    message_types()  # loaded now, because images would have to wait after the first pair
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
        end_ns = first.color.stamp_ns + round(duration_s * 1e9) if duration_s else math.inf
        for frame in takewhile(lambda frame: frame.color.stamp_ns < end_ns, frames):
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
