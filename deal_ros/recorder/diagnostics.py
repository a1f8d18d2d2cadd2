"""Diagnostics of the recorder: snapshots of its state, judged as diagnostic statuses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from deal_core.recorder.pair_recorder import RecorderState
from deal_core.recorder.summary import RecordingCounts
from deal_ros.diagnostics.judge import Judgement, assess_input
from deal_ros.diagnostics.snapshots import Limits
from deal_ros.diagnostics.status import Level, Status
from deal_ros.input.image_input import InputSnapshot


@dataclass(frozen=True)
class RecorderSnapshot:
    """State of the recorder, as /diagnostics reports it.

    Args:
        time_s: monotonic time of the snapshot.
        inputs: colour and depth.
        input_timeout_s: time without images after which a warning is reported.
        recorder: state of the recorder.
        waits: why the recorder has not started yet; empty while it records or waits for `~/start`.
        info_topic: topic of camera_info.
        has_camera: whether intrinsics were received.
    """

    time_s: float
    inputs: tuple[InputSnapshot, ...]
    input_timeout_s: float
    recorder: RecorderState
    waits: str
    info_topic: str
    has_camera: bool


def assess_recorder(now: RecorderSnapshot, before: RecorderSnapshot | None) -> list[Status]:
    """Judge a snapshot against the previous one; totals count over the running recording, or over the last one."""
    earlier = {found.stream: found for found in before.inputs} if before else {}
    elapsed_s = now.time_s - before.time_s if before else math.nan
    limits = Limits(input_timeout_s=now.input_timeout_s)
    inputs = [assess_input(i, earlier.get(i.stream), elapsed_s, limits) for i in now.inputs]
    return [*inputs, _assess_recording(now, before)]


def _assess_recording(now: RecorderSnapshot, before: RecorderSnapshot | None) -> Status:
    state, counts = now.recorder, now.recorder.counts
    values = {
        "recording": state.path or "none",
        "rmw": next((found.rmw for found in now.inputs), "unknown"),
        "tags": ", ".join(state.tags.present) or "none",
        "marker": state.tags.marker.value,
        "camera_info": "received" if now.has_camera else "none yet",
        "received_color": str(counts.received_color),
        "received_depth": str(counts.received_depth),
        "paired": str(counts.paired),
        "written": str(counts.written),
        "skipped": str(sum(counts.skipped.values())),
        **{f"skipped: {cause}": str(n) for cause, n in counts.skipped.items()},
        "lost": str(sum(counts.causes.values())),
        **{f"lost: {cause}": str(n) for cause, n in counts.causes.items()},
        "loss": f"{counts.loss:.4f}",
        "pending_color": str(counts.pending_color),
        "pending_depth": str(counts.pending_depth),
        "pending_pairs": str(counts.pending_pairs),
    }
    return Status("recording", *_judge_recording(now, before), values)


def _judge_recording(now: RecorderSnapshot, before: RecorderSnapshot | None) -> Judgement:
    state = now.recorder
    if state.failure:
        return Level.ERROR, state.failure
    if not state.is_recording:
        return (Level.WARN, now.waits) if now.waits else (Level.OK, "not recording: waiting for ~/start")
    if lost := _new_losses(state, before.recorder if before else None):
        causes = ", ".join(f"{n} {cause}" for cause, n in lost.items())
        return Level.WARN, f"lost since the last report: {causes}"
    if not now.has_camera:
        return Level.WARN, f"recording without intrinsics: no usable camera_info on {now.info_topic}"
    return Level.OK, f"recording {state.path}: {state.counts.written} pairs"


def _new_losses(now: RecorderState, before: RecorderState | None) -> Mapping[str, int]:
    same = before is not None and before.path == now.path
    old = before.counts if before and same else RecordingCounts()
    return {
        cause: n - old.causes.get(cause, 0) for cause, n in now.counts.causes.items() if n > old.causes.get(cause, 0)
    }
