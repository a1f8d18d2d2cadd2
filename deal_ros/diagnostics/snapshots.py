"""What /diagnostics speaks of: snapshots of the node, its last results, and statuses as a message."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from deal_ros.input.image_input import InputSnapshot
from deal_ros.input.synchronizer import SyncCounts
from deal_ros.node.worker import WorkerCounts

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
    stamp_offset_ms_p50: float = math.nan
    """Median distance of the stamps of colour and depth."""
    stamp_offset_ms_max: float = math.nan
    oldest_dropped_ms: float = math.nan
    """Age of the last frame that was dropped as too old."""
    last_error: str = ""
    troubles: int = 0
    """Masks that were published although something about their frame went wrong."""
    last_trouble: str = ""


@dataclass(frozen=True)
class LifecycleSnapshot:
    """The node as its manager sees it.

    Args:
        state: "unconfigured", "inactive", "active", "finalized", or a transition as in "configuring".
        failure: why the last transition failed; empty after one that succeeded.
        reload: what became of the last `~/reload_model`.
        reload_failed: whether it was refused.
        rivals: other nodes that publish on this node's mask topic.
        is_enabled: what `~/enable` was told last.
        clock_jumps: how often the node's clock was set, or simulated time began anew.
        last_clock_jump: how far it went, in words.
    """

    state: str
    failure: str = ""
    reload: str = "never asked for"
    reload_failed: bool = False
    rivals: tuple[str, ...] = ()
    is_enabled: bool = True
    clock_jumps: int = 0
    last_clock_jump: str = ""


@dataclass(frozen=True)
class ModelSnapshot:
    """What is loaded."""

    path: str
    sha256: str
    backend: str
    backend_reason: str
    device: str
    precision: str
    classes: int
    depth_mode: str
    pairing: str
    gpu_memory: str = "no GPU"


@dataclass(frozen=True)
class Limits:
    """Where warnings begin; the node's parameters of these names."""

    input_timeout_s: float = 2.0
    input_error_s: float = 10.0
    max_age_ms: float = 250.0
    warn_busy_share: float = 0.5
    warn_valid_depth: float = 0.0


@dataclass(frozen=True)
class WorkSnapshot:
    """What an active node is at.

    Args:
        inputs: those that the work needs.
        sync: what became of every message.
        work: what became of every frame.
        results: the last ones.
        mask_subscribers: how many listen to masks.
        depth_mode: what is wanted of depth now; "off" where nothing needs optional depth.
        missed: frames that lacked something for an output that somebody listens to.
        missing: what the last frame lacked, a sentence each.
        model_lacks_depth: whether the model uses depth that is switched off.
    """

    inputs: tuple[InputSnapshot, ...]
    sync: SyncCounts = field(default_factory=SyncCounts)
    work: WorkerCounts = field(default_factory=WorkerCounts)
    results: ResultSummary = ResultSummary()
    mask_subscribers: int = 0
    depth_mode: str = "off"
    missed: int = 0
    missing: tuple[str, ...] = ()
    model_lacks_depth: bool = False


@dataclass(frozen=True)
class NodeSnapshot:
    """Everything /diagnostics tells, at one moment.

    Args:
        time_s: of the moment, never going back.
        lifecycle: always there.
        model: None until the node is configured.
        active: None until the node is active.
        limits: where warnings begin.
    """

    time_s: float
    lifecycle: LifecycleSnapshot
    model: ModelSnapshot | None = None
    active: WorkSnapshot | None = None
    limits: Limits = Limits()


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
        self._last_error = self._last_trouble = ""
        self._troubles = 0
        self._offsets: deque[float] = deque(maxlen=_WINDOW)

    def add_result(
        self, age_at_start_ms: float, age_at_publish_ms: float, inference_ms: float, valid_depth: float | None
    ) -> None:
        """Take the times of one published mask, milliseconds (ages nan where the stamp is 0), and its valid depth."""
        with self._lock:
            if not math.isnan(age_at_start_ms):
                self._age_at_start.append(age_at_start_ms)
                self._age_at_publish.append(age_at_publish_ms)
            self._inference.append(inference_ms)
            if valid_depth is not None:
                self._valid_depth = valid_depth

    def add_error(self, message: str) -> None:
        """Take what went wrong with one frame."""
        with self._lock:
            self._last_error = message

    def add_trouble(self, message: str) -> None:
        """Take what went wrong with a frame whose mask was published all the same."""
        with self._lock:
            self._troubles += 1
            self._last_trouble = message

    def add_offset(self, offset_ms: float) -> None:
        """Take the distance of the stamps of a pair."""
        with self._lock:
            self._offsets.append(offset_ms)

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
                stamp_offset_ms_p50=_percentiles(self._offsets).p50,
                stamp_offset_ms_max=max(self._offsets, default=math.nan),
                oldest_dropped_ms=self._oldest_dropped,
                last_error=self._last_error,
                troubles=self._troubles,
                last_trouble=self._last_trouble,
            )


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


def _percentiles(values: deque[float]) -> Percentiles:
    if not values:
        return Percentiles()
    p50, p99 = np.percentile(np.array(values), (50, 99))
    return Percentiles(float(p50), float(p99))
