"""What /diagnostics says: snapshots of the node, judged against the one before, as levels, sentences and values."""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from deal_ros.qos import SHARED_MEMORY_LIMIT_BYTES
from deal_ros.synchronizer import SyncCounts
from deal_ros.transport import profile_variable
from deal_ros.worker import WorkerCounts

NO_PUBLISHER = "no publisher"
"""Value of `<stream>_publisher_offers` while the node sees none."""
_WINDOW = 300
"""Results over which ages and times are summarised: ten seconds at 30 Hz."""


class Level(IntEnum):
    """Levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class InputSnapshot:
    """One input topic at one moment.

    Args:
        stream: "color" or "depth".
        topic: its full name.
        received: images so far.
        silent_s: seconds since the last image, or since subscribing.
        encoding: of the last image, or format of a compressed one; empty before the first.
        width: of the last image; 0 for a compressed one.
        height: of the last image; 0 for a compressed one.
        size_bytes: of the last image.
        offers: reliability each known publisher offers, in words.
        requests: reliability asked for, in words.
        incompatible: whether no publisher can serve the request.
        best_effort_is_lossy: whether best-effort images over 0.5 MB cannot arrive with this process' transport.
    """

    stream: str
    topic: str
    received: int
    silent_s: float
    encoding: str = ""
    width: int = 0
    height: int = 0
    size_bytes: int = 0
    offers: tuple[str, ...] = ()
    requests: str = "reliable"
    incompatible: bool = False
    best_effort_is_lossy: bool = False


@dataclass(frozen=True)
class Percentiles:
    """Median and 99th percentile over the last results; nan before the first."""

    p50: float = math.nan
    p99: float = math.nan


@dataclass(frozen=True)
class ResultSummary:
    """The last results: ages are now minus header stamp, milliseconds."""

    age_at_start_ms: Percentiles = Percentiles()
    age_at_publish_ms: Percentiles = Percentiles()
    inference_ms: Percentiles = Percentiles()
    valid_depth: float = math.nan
    """Share of pixels with a depth measurement in the last frame that had depth."""
    oldest_dropped_ms: float = math.nan
    """Age of the last frame that was dropped as too old."""
    last_error: str = ""


@dataclass(frozen=True)
class ModelSnapshot:
    """What is loaded."""

    path: str
    sha256: str
    device: str
    precision: str
    classes: int
    depth_mode: str
    pairing: str


@dataclass(frozen=True)
class NodeSnapshot:
    """Everything /diagnostics tells, at one moment."""

    time_s: float
    model: ModelSnapshot
    inputs: tuple[InputSnapshot, ...]
    input_timeout_s: float
    max_age_ms: float
    sync: SyncCounts
    work: WorkerCounts
    results: ResultSummary
    mask_subscribers: int


@dataclass(frozen=True)
class Status:
    """One diagnostic status; the name says which concern."""

    concern: str
    level: Level
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


class ResultStatistics:
    """The last results; written by the worker's thread, read by the executor's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._age_at_start: deque[float] = deque(maxlen=_WINDOW)
        self._age_at_publish: deque[float] = deque(maxlen=_WINDOW)
        self._inference: deque[float] = deque(maxlen=_WINDOW)
        self._valid_depth = self._oldest_dropped = math.nan
        self._last_error = ""

    def add_result(
        self, age_at_start_ms: float, age_at_publish_ms: float, inference_ms: float, valid_depth: float | None
    ) -> None:
        """Take the times of one published mask, milliseconds, and its share of valid depth."""
        with self._lock:
            self._age_at_start.append(age_at_start_ms)
            self._age_at_publish.append(age_at_publish_ms)
            self._inference.append(inference_ms)
            if valid_depth is not None:
                self._valid_depth = valid_depth

    def add_error(self, message: str) -> None:
        """Take what went wrong with one frame."""
        with self._lock:
            self._last_error = message

    def add_dropped(self, age_ms: float) -> None:
        """Take the age of a frame that was too old."""
        with self._lock:
            self._oldest_dropped = age_ms

    @property
    def summary(self) -> ResultSummary:
        """A consistent snapshot."""
        with self._lock:
            return ResultSummary(
                age_at_start_ms=_percentiles(self._age_at_start),
                age_at_publish_ms=_percentiles(self._age_at_publish),
                inference_ms=_percentiles(self._inference),
                valid_depth=self._valid_depth,
                oldest_dropped_ms=self._oldest_dropped,
                last_error=self._last_error,
            )


def assess(now: NodeSnapshot, before: NodeSnapshot | None) -> list[Status]:
    """Judge a snapshot against the one before it; totals are since start, judgements and rates since `before`."""
    earlier = {found.stream: found for found in before.inputs} if before else {}
    elapsed_s = _elapsed_s(now, before)
    inputs = [assess_input(i, earlier.get(i.stream), elapsed_s, now.input_timeout_s) for i in now.inputs]
    return [*inputs, _assess_results(now, before), _model(now)]


def assess_input(found: InputSnapshot, before: InputSnapshot | None, elapsed_s: float, timeout_s: float) -> Status:
    """Judge an input against how it was `elapsed_s` ago (nan where nobody looked); silence counts from `timeout_s`."""
    facts = {
        "topic": found.topic,
        "rate_hz": _rate(found.received - (before.received if before else 0), elapsed_s),
        "silent_s": f"{found.silent_s:.1f}",
        "publisher_offers": ", ".join(found.offers) or NO_PUBLISHER,
        "node_requests": found.requests,
        "encoding": found.encoding or "none yet",
        "size": _size(found),
    }
    # Every key occurs once in a node's diagnostics, so that whoever reads them may forget which status it was in.
    values = {f"{found.stream}_{key}": value for key, value in facts.items()}
    level, message = _judge_input(found, timeout_s)
    return Status(f"{found.stream} input", level, message, values)


def to_message(statuses: Sequence[Status], node_name: str, stamp: Time) -> DiagnosticArray:
    """Return the statuses as a message; their names start with the node's."""
    message = DiagnosticArray()
    message.header.stamp = stamp
    message.status = [
        DiagnosticStatus(
            level=bytes([status.level]),
            name=f"{node_name}: {status.concern}",
            message=status.message,
            hardware_id=node_name,
            values=[KeyValue(key=key, value=value) for key, value in status.values.items()],
        )
        for status in statuses
    ]
    return message


def final_counts(sync: SyncCounts, work: WorkerCounts) -> str:
    """Return the one line that accounts for every message, for the end."""
    return (
        f"received {sync.received_color} colour and {sync.received_depth} depth; "
        f"paired {sync.paired}, colour alone {sync.color_alone}, "
        f"unpaired {_total(sync.unpaired_color)} colour and {_total(sync.unpaired_depth)} depth, "
        f"waiting {sync.pending_color} colour and {sync.pending_depth} depth; "
        f"published {work.done}, dropped {work.dropped_busy} busy, {work.dropped_old} old, "
        f"{work.dropped_stopped} at the stop, failed {_total(work.failed)}, in flight {work.in_flight}"
    )


def _judge_input(found: InputSnapshot, timeout_s: float) -> tuple[Level, str]:
    offers = ", ".join(found.offers)
    if found.incompatible:
        return Level.ERROR, (
            f"no input on {found.topic}, publisher offers {offers}, we request {found.requests}; "
            f"set {found.stream}_qos to auto or best_effort"
        )
    lossy = found.best_effort_is_lossy and found.requests == "best_effort"
    advice = (
        "best-effort images over 0.5 MB do not fit Fast DDS' default shared memory: set "
        f"{profile_variable(os.environ)} to share/deal_ros/config/fastdds_shm.xml for camera and node"
    )
    if found.silent_s > timeout_s:
        if not found.offers:
            return Level.WARN, f"no input on {found.topic}: nobody publishes it; check its name and the camera"
        text = (
            f"no input on {found.topic} for {found.silent_s:.0f} s, publisher offers {offers}, "
            f"we request {found.requests}"
        )
        return Level.WARN, f"{text}; {advice}" if lossy else text
    if lossy and found.size_bytes > SHARED_MEMORY_LIMIT_BYTES:
        return Level.WARN, f"images on {found.topic} may be lost: {advice}"
    return Level.OK, "receiving" if found.received else "waiting for the first image"


def _assess_results(now: NodeSnapshot, before: NodeSnapshot | None) -> Status:
    sync, work, results = now.sync, now.work, now.results
    values = {
        "received_color": str(sync.received_color),
        "received_depth": str(sync.received_depth),
        "paired": str(sync.paired),
        "color_alone": str(sync.color_alone),
        "unpaired_color": str(_total(sync.unpaired_color)),
        "unpaired_depth": str(_total(sync.unpaired_depth)),
        **{f"unpaired_color: {cause}": str(n) for cause, n in sync.unpaired_color.items()},
        **{f"unpaired_depth: {cause}": str(n) for cause, n in sync.unpaired_depth.items()},
        "pending_color": str(sync.pending_color),
        "pending_depth": str(sync.pending_depth),
        "published": str(work.done),
        "dropped_busy": str(work.dropped_busy),
        "dropped_old": str(work.dropped_old),
        "dropped_stopped": str(work.dropped_stopped),
        "failed": str(_total(work.failed)),
        **{f"failed: {cause}": str(n) for cause, n in sorted(work.failed.items())},
        "in_flight": str(work.in_flight),
        "mask_rate_hz": _rate(work.done - (before.work.done if before else 0), _elapsed_s(now, before)),
        "mask_subscribers": str(now.mask_subscribers),
        **_times("age_at_start_ms", results.age_at_start_ms),
        **_times("age_at_publish_ms", results.age_at_publish_ms),
        **_times("inference_ms", results.inference_ms),
        "valid_depth": _number(results.valid_depth, 3),
        "last_error": results.last_error or "none",
    }
    level, message = _judge_results(now, before)
    return Status("results", level, message, values)


def _judge_results(now: NodeSnapshot, before: NodeSnapshot | None) -> tuple[Level, str]:
    sync, work = now.sync, now.work
    old_sync, old_work = (before.sync, before.work) if before else (SyncCounts(), WorkerCounts())
    published = work.done - old_work.done
    failed = _total(work.failed) - _total(old_work.failed)
    too_old = work.dropped_old - old_work.dropped_old
    frames = sync.paired + sync.color_alone - old_sync.paired - old_sync.color_alone
    if failed:
        level = Level.WARN if published else Level.ERROR
        return level, f"{failed} frames failed since the last report: {now.results.last_error}"
    if too_old:
        return Level.WARN if published else Level.ERROR, (
            f"{too_old} frames were older than max_age_ms ({now.max_age_ms:g}) when their turn came, the last "
            f"{now.results.oldest_dropped_ms:.0f} ms; is the clock that stamps them this machine's?"
        )
    unpaired = {
        f"{name}: {cause}": n - earlier.get(cause, 0)
        for name, found, earlier in (
            ("colour", sync.unpaired_color, old_sync.unpaired_color),
            ("depth", sync.unpaired_depth, old_sync.unpaired_depth),
        )
        for cause, n in found.items()
        if n > earlier.get(cause, 0)
    }
    if unpaired:
        causes = ", ".join(f"{n} {cause}" for cause, n in unpaired.items())
        return Level.WARN if frames else Level.ERROR, f"images without a partner since the last report: {causes}"
    if published and now.results.valid_depth == 0:
        return Level.WARN, "no pixel of the last depth image has a measurement"
    if published:
        return Level.OK, f"{published} masks since the last report"
    return Level.OK, "no frame to segment"


def _model(now: NodeSnapshot) -> Status:
    model = now.model
    values = {
        "model": model.path,
        "model_sha256": model.sha256,
        "device": model.device,
        "precision": model.precision,
        "classes": str(model.classes),
        "depth_mode": model.depth_mode,
        "pairing": model.pairing,
    }
    return Status("model", Level.OK, f"{model.classes} classes on {model.device}, {model.precision}", values)


def _size(found: InputSnapshot) -> str:
    if not found.size_bytes:
        return "none yet"
    return f"{found.width}x{found.height}" if found.width else f"compressed to {found.size_bytes} bytes"


def _elapsed_s(now: NodeSnapshot, before: NodeSnapshot | None) -> float:
    return now.time_s - before.time_s if before else math.nan


def _rate(count: int, elapsed_s: float) -> str:
    return f"{count / elapsed_s:.1f}" if elapsed_s > 0 else "unknown"


def _times(key: str, found: Percentiles) -> dict[str, str]:
    return {f"{key}_p50": _number(found.p50, 1), f"{key}_p99": _number(found.p99, 1)}


def _number(value: float, digits: int) -> str:
    return "none yet" if math.isnan(value) else f"{value:.{digits}f}"


def _total(counts: Mapping[str, int]) -> int:
    return sum(counts.values())


def _percentiles(values: deque[float]) -> Percentiles:
    if not values:
        return Percentiles()
    p50, p99 = np.percentile(np.array(values), (50, 99))
    return Percentiles(float(p50), float(p99))
