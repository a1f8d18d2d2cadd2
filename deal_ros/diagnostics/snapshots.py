"""Snapshots of the segmentation node's state, from which `deal_ros.diagnostics.judge` makes diagnostic statuses."""

from __future__ import annotations

from dataclasses import dataclass, field

from deal_ros.diagnostics.statistics import ResultSummary
from deal_ros.input.image_input import InputSnapshot
from deal_ros.input.synchronizer import SyncCounts
from deal_ros.node.worker import WorkerCounts

NEVER_RELOADED = "never called"
"""Value of `reload` before the first `~/reload_model`."""


@dataclass(frozen=True)
class LifecycleSnapshot:
    """Lifecycle of the node.

    Args:
        state: "unconfigured", "inactive", "active", "finalized", or a transition, for example "configuring".
        failure: why the last transition failed; empty if it succeeded.
        reload: outcome of the last `~/reload_model`.
        reload_failed: whether the last `~/reload_model` failed.
        rivals: other nodes that publish on this node's mask topic.
        is_enabled: last value of `~/enable`.
        clock_jumps: number of times that the node's clock was set or simulated time restarted.
        last_clock_jump: the last jump, for example "back by 9.0 s".
        rmw: middleware of the process.
    """

    state: str
    failure: str = ""
    reload: str = NEVER_RELOADED
    reload_failed: bool = False
    rivals: tuple[str, ...] = ()
    is_enabled: bool = True
    clock_jumps: int = 0
    last_clock_jump: str = ""
    rmw: str = "unknown"


@dataclass(frozen=True)
class ModelSnapshot:
    """The loaded model and how it runs; the fields are keys in the diagnostics."""

    model: str
    model_sha256: str
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
    """Thresholds of warnings and errors: the node's parameters of the same names."""

    input_timeout_s: float = 2.0
    input_error_s: float = 10.0
    max_age_ms: float = 250.0
    warn_busy_share: float = 0.5
    warn_valid_depth: float = 0.0


@dataclass(frozen=True)
class WorkSnapshot:
    """Work of an active node.

    Args:
        inputs: the image inputs in use.
        sync: counts of messages by outcome.
        work: counts of frames by outcome.
        results: summary of the last results.
        mask_subscribers: number of subscribers of the mask.
        depth_mode: the depth mode in use; "off" if nothing needs optional depth.
        missed: number of frames that lacked something for an output with subscribers.
        missing: what the last frame lacked, one message each.
        model_lacks_depth: whether the model uses depth but depth is off.
    """

    inputs: tuple[InputSnapshot, ...]
    sync: SyncCounts = field(default_factory=SyncCounts)
    work: WorkerCounts = field(default_factory=WorkerCounts)
    results: ResultSummary = field(default_factory=ResultSummary)
    mask_subscribers: int = 0
    depth_mode: str = "off"
    missed: int = 0
    missing: tuple[str, ...] = ()
    model_lacks_depth: bool = False


@dataclass(frozen=True)
class NodeSnapshot:
    """State of the segmentation node, as /diagnostics reports it.

    Args:
        time_s: monotonic time of the snapshot.
        lifecycle: lifecycle of the node.
        model: the loaded model; None if the node is not configured.
        active: the work of the node; None if the node is not active.
        limits: thresholds of warnings and errors.
    """

    time_s: float
    lifecycle: LifecycleSnapshot
    model: ModelSnapshot | None = None
    active: WorkSnapshot | None = None
    limits: Limits = Limits()
