"""Judge snapshots of the segmentation node: level, cause and remedy of each diagnostic status."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass

from deal_ros.diagnostics.snapshots import LifecycleSnapshot, Limits, ModelSnapshot, NodeSnapshot, WorkSnapshot
from deal_ros.diagnostics.statistics import Percentiles
from deal_ros.diagnostics.status import Level, Status
from deal_ros.input.conversions import CPU
from deal_ros.input.image_input import InputSnapshot
from deal_ros.input.middleware import discovery_advice, loss_advice
from deal_ros.input.nearest_topics import describe_nearest
from deal_ros.input.qos import SHARED_MEMORY_LIMIT_BYTES
from deal_ros.input.synchronizer import SyncCounts
from deal_ros.node.worker import WorkerCounts

NO_PUBLISHER = "no publisher"
"""Value of `<stream>_publisher_offers` while the node knows no publisher."""

Judgement = tuple[Level, str]


def assess(now: NodeSnapshot, before: NodeSnapshot | None) -> list[Status]:
    """Judge a snapshot against the previous one.

    Totals count from the activation of the node, judgements and rates from `before`. Each key occurs only once in all
    statuses of a node, so that a reader can merge their values.
    """
    statuses = [_assess_lifecycle(now.lifecycle, before.lifecycle if before else None)]
    if now.active:
        earlier = before.active if before and before.active else None
        elapsed_s = now.time_s - before.time_s if before and earlier else math.nan
        known = {found.stream: found for found in earlier.inputs} if earlier else {}
        statuses += [assess_input(i, known.get(i.stream), elapsed_s, now.limits) for i in now.active.inputs]
        statuses.append(_assess_results(_Interval(earlier or WorkSnapshot(()), now.active, elapsed_s, now.limits)))
    if now.model:
        statuses.append(_assess_model(now.model))
    return statuses


def assess_input(found: InputSnapshot, before: InputSnapshot | None, elapsed_s: float, limits: Limits) -> Status:
    """Judge an input against its snapshot `elapsed_s` seconds ago (nan if there is none)."""
    facts = {
        "topic": found.topic,
        "rate_hz": _rate(found.received - (before.received if before else 0), elapsed_s),
        "silent_s": f"{found.silent_s:.1f}",
        "publisher_offers": ", ".join(found.offers) or NO_PUBLISHER,
        "node_requests": found.requests,
        "encoding": found.encoding or "none yet",
        "size": _size(found),
        "changes": str(found.changes),
        "memory": found.memory if found.memory == CPU else f"{found.memory}, copied to main memory",
        "lost": str(found.lost),
        "stamps_zero": str(found.stamps.zero),
        "stamps_backwards": str(found.stamps.backwards),
        "stamps_in_the_future": str(found.stamps.future),
    }
    values = {f"{found.stream}_{key}": value for key, value in facts.items()}
    earlier = before or InputSnapshot(found.stream, found.topic, 0, 0.0)
    judgement = (
        _judge_subscription(found, limits)
        or _judge_losses(found, earlier)
        or _judge_stamps(found, earlier)
        or (Level.OK, "receiving" if found.received else "waiting for the first image")
    )
    return Status(f"{found.stream} input", *judgement, values)


def final_counts(sync: SyncCounts, work: WorkerCounts) -> str:
    """Return one line with the counts of all messages, for the log when the node stops."""
    refused = "".join(f"{n} {cause}, " for cause, n in sorted(work.dropped_refused.items()) if n)
    return (
        f"received {sync.received_color} colour and {sync.received_depth} depth; "
        f"paired {sync.paired}, colour alone {sync.color_alone}, "
        f"unpaired {sync.unpaired_color.total()} colour and {sync.unpaired_depth.total()} depth, "
        f"waiting {sync.pending_color} colour and {sync.pending_depth} depth; "
        f"published {work.done}, dropped {work.dropped_busy} busy, {work.dropped_old} old, {refused}"
        f"{work.dropped_stopped} at the stop, failed {work.failed.total()}, in flight {work.in_flight}"
    )


def _assess_lifecycle(now: LifecycleSnapshot, before: LifecycleSnapshot | None) -> Status:
    values = {
        "state": now.state,
        "enabled": str(now.is_enabled).lower(),
        "rmw": now.rmw,
        "last_failure": now.failure or "none",
        "reload": now.reload,
        "clock_jumps": str(now.clock_jumps),
        "last_clock_jump": now.last_clock_jump or "none",
        "other_mask_publishers": ", ".join(now.rivals) or "none",
    }
    return Status("state", *_judge_lifecycle(now, before), values)


def _judge_lifecycle(now: LifecycleSnapshot, before: LifecycleSnapshot | None) -> Judgement:
    if now.failure:
        return Level.ERROR, f"{now.state}: {now.failure}"
    if now.rivals:
        return Level.WARN, (
            f"{', '.join(now.rivals)} also publishes masks on this node's topic, so that subscribers receive both; "
            "stop one of the nodes, or start it with another namespace or name (__ns, __node)"
        )
    if now.clock_jumps > (before.clock_jumps if before else 0):
        return Level.WARN, f"the node's clock jumped {now.last_clock_jump}: ages across the jump are invalid"
    if now.reload_failed:
        return Level.WARN, f"{now.state}; the model was not replaced: {now.reload}"
    if now.state == "active" and not now.is_enabled:
        return Level.OK, "active, but disabled by ~/enable: the node subscribes to no image"
    return Level.OK, now.state


def _judge_subscription(found: InputSnapshot, limits: Limits) -> Judgement | None:
    """Return the problem that keeps images from arriving; None if there is none."""
    if not found.is_subscribed:
        return Level.OK, "not subscribed: the node is disabled by ~/enable"
    offers = ", ".join(found.offers)
    if found.incompatible:
        return Level.ERROR, (
            f"no input on {found.topic}, publisher offers {offers}, we request {found.requests}; "
            f"set {found.stream}_qos to auto or best_effort"
        )
    is_lossy = found.best_effort_is_lossy and found.requests == "best_effort"
    advice = _loss_advice(found)
    if found.silent_s > limits.input_timeout_s:
        level = Level.ERROR if found.silent_s > limits.input_error_s else Level.WARN
        text = f"no input on {found.topic} for {found.silent_s:.0f} s"
        if found.publisher_left:
            return level, f"{text}: its publisher is gone; images resume when the camera is back"
        if not offers:
            text = f"no input on {found.topic}: it has no publisher; check the topic name and the camera"
            more = discovery_advice(found.rmw)
            text += f"; {describe_nearest(found.nearest)}"
            return level, f"{text}; {more}" if more else text
        text += f", publisher offers {offers}, we request {found.requests}"
        return level, f"{text}; {advice}" if is_lossy else text
    if is_lossy and found.size_bytes > SHARED_MEMORY_LIMIT_BYTES:
        return Level.WARN, f"images on {found.topic} may be lost: {advice}"
    return None


def _judge_losses(found: InputSnapshot, before: InputSnapshot) -> Judgement | None:
    """Return the problem of messages that the middleware lost since the last report; None if there is none."""
    if lost := found.lost - before.lost:
        text = f"{lost} messages on {found.topic} were lost on the way to the node since the last report"
        return Level.WARN, f"{text}; {_loss_advice(found)}"
    return None


def _loss_advice(found: InputSnapshot) -> str:
    return loss_advice(found.rmw, os.environ, is_lossy=found.best_effort_is_lossy)


def _judge_stamps(found: InputSnapshot, before: InputSnapshot) -> Judgement | None:
    """Return the problem of the images received since the last report; None if there is none."""
    if zero := found.stamps.zero - before.stamps.zero:
        return Level.WARN, (
            f"{zero} images on {found.topic} have stamp 0: their age is unknown and they cannot be paired; "
            "the camera driver must set the stamps"
        )
    if future := found.stamps.future - before.stamps.future:
        return Level.WARN, (
            f"{future} images on {found.topic} have stamps in the future, the last by {found.stamps.ahead_ms:.0f} ms: "
            "synchronise the clocks of the camera's machine and of this machine (chrony, PTP), or set use_sim_time on "
            "both"
        )
    if backwards := found.stamps.backwards - before.stamps.backwards:
        return Level.WARN, (
            f"{backwards} images on {found.topic} have an earlier stamp than the image before: the camera's clock was "
            "set, a recording was restarted, or two cameras publish on this topic"
        )
    if found.changes > before.changes:
        return Level.WARN, f"images on {found.topic} changed from {found.last_change}"
    return None


@dataclass(frozen=True)
class _Interval:
    """The work between two reports, `elapsed_s` seconds apart (nan before the second report)."""

    before: WorkSnapshot
    now: WorkSnapshot
    elapsed_s: float
    limits: Limits

    @property
    def published(self) -> int:
        """Masks published in the interval."""
        return self.now.work.done - self.before.work.done

    @property
    def alone(self) -> int:
        """Frames of colour alone in the interval."""
        return self.now.sync.color_alone - self.before.sync.color_alone

    @property
    def frames(self) -> int:
        """All frames in the interval."""
        return self.now.sync.paired - self.before.sync.paired + self.alone


def _assess_results(interval: _Interval) -> Status:
    now = interval.now
    results = now.results
    values = {
        **{key: str(n) for key, n in _counts(now.sync, now.work).items()},
        "mask_rate_hz": _rate(interval.published, interval.elapsed_s),
        "mask_subscribers": str(now.mask_subscribers),
        **_times("age_at_start_ms", results.age_at_start_ms),
        **_times("age_at_publish_ms", results.age_at_publish_ms),
        **_times("inference_ms", results.inference_ms),
        "stamp_offset_ms_p50": _number(results.stamp_offset_ms_p50, 1),
        "stamp_offset_ms_max": _number(results.stamp_offset_ms_max, 1),
        "valid_depth": _number(results.valid_depth, 3),
        "last_error": results.last_error or "none",
        "troubles": str(results.troubles),
        "last_trouble": results.last_trouble or "none",
        "missing": "; ".join(now.missing) or "none",
    }
    return Status("results", *_judge_results(interval), values)


def _counts(sync: SyncCounts, work: WorkerCounts) -> dict[str, int]:
    return {
        "received_color": sync.received_color,
        "received_depth": sync.received_depth,
        "paired": sync.paired,
        "color_alone": sync.color_alone,
        "unpaired_color": sync.unpaired_color.total(),
        "unpaired_depth": sync.unpaired_depth.total(),
        **{f"unpaired_color: {cause}": n for cause, n in sync.unpaired_color.items()},
        **{f"unpaired_depth: {cause}": n for cause, n in sync.unpaired_depth.items()},
        "pending_color": sync.pending_color,
        "pending_depth": sync.pending_depth,
        "published": work.done,
        "dropped_busy": work.dropped_busy,
        "dropped_old": work.dropped_old,
        "dropped_rate": work.dropped_refused["rate"],
        "dropped_disabled": work.dropped_refused["disabled"],
        "dropped_stopped": work.dropped_stopped,
        "failed": work.failed.total(),
        **{f"failed: {cause}": n for cause, n in sorted(work.failed.items())},
        "in_flight": work.in_flight,
    }


def _judge_results(interval: _Interval) -> Judgement:
    """Return the most serious problem of an interval, or the number of masks."""
    return (
        _judge_lost_frames(interval)
        or _judge_incomplete_frames(interval)
        or _judge_busy(interval)
        or _judge_depth(interval)
        or (
            Level.OK,
            f"{interval.published} masks since the last report" if interval.published else "no frame to segment",
        )
    )


def _judge_lost_frames(interval: _Interval) -> Judgement | None:
    """Judge frames that failed or were too old, and images without a partner: an error if they are all there is."""
    now, before, results = interval.now, interval.before, interval.now.results
    level = Level.WARN if interval.published else Level.ERROR
    if failed := now.work.failed.total() - before.work.failed.total():
        return level, f"{failed} frames failed since the last report: {results.last_error}"
    if too_old := now.work.dropped_old - before.work.dropped_old:
        return level, (
            f"{too_old} frames were older than max_age_ms ({interval.limits.max_age_ms:g}) and dropped, the last at "
            f"{results.oldest_dropped_ms:.0f} ms; check that this machine's clock and the clock that stamps them agree"
        )
    if unpaired := _new_unpaired(now.sync, before.sync):
        causes = ", ".join(f"{n} {cause}" for cause, n in unpaired.items())
        return Level.WARN if interval.frames else Level.ERROR, f"unpaired images since the last report: {causes}"
    return None


def _judge_incomplete_frames(interval: _Interval) -> Judgement | None:
    """Judge frames that lacked depth or something else."""
    now, before = interval.now, interval.before
    if interval.alone and now.depth_mode == before.depth_mode == "optional":
        return Level.WARN, (
            f"{interval.alone} of {interval.frames} frames were segmented without depth: "
            "it did not arrive within sync_timeout_ms"
        )
    if troubles := now.results.troubles - before.results.troubles:
        return Level.WARN, f"{troubles} masks were published in spite of a problem: {now.results.last_trouble}"
    if now.missed > before.missed:
        hint = "; depth_mode is off" if now.depth_mode == "off" else ""
        return Level.WARN, f"{'; '.join(now.missing)}{hint}"
    return None


def _judge_busy(interval: _Interval) -> Judgement | None:
    """Judge frames that a newer frame replaced."""
    busy = interval.now.work.dropped_busy - interval.before.work.dropped_busy
    if busy <= interval.limits.warn_busy_share * interval.frames:
        return None
    return Level.WARN, (
        f"{busy} of {interval.frames} frames were replaced by newer frames while the network was busy: it takes "
        f"{interval.now.results.inference_ms.p50:.0f} ms a frame, and {_rate(interval.frames, interval.elapsed_s)} "
        "frames arrive a second; use a GPU, a smaller network or input, or set max_rate_hz"
    )


def _judge_depth(interval: _Interval) -> Judgement | None:
    """Judge the depth of published masks."""
    valid = interval.now.results.valid_depth
    if interval.published and interval.now.model_lacks_depth:
        return Level.WARN, "the model uses depth but runs without it: depth_mode is off"
    if interval.published and valid <= interval.limits.warn_valid_depth:
        if valid == 0:
            return Level.WARN, "no pixel of the last depth image is valid"
        return Level.WARN, f"only {valid:.1%} of the pixels of the last depth image are valid"
    return None


def _new_unpaired(now: SyncCounts, before: SyncCounts) -> dict[str, int]:
    color, depth = now.unpaired_color - before.unpaired_color, now.unpaired_depth - before.unpaired_depth
    return {f"{name}: {cause}": n for name, new in (("colour", color), ("depth", depth)) for cause, n in new.items()}


def _assess_model(model: ModelSnapshot) -> Status:
    values = {key: str(value) for key, value in asdict(model).items()}
    message = f"{model.classes} classes with {model.backend} on {model.device}, {model.precision}"
    return Status("model", Level.OK, message, values)


def _size(found: InputSnapshot) -> str:
    if not found.size_bytes:
        return "none yet"
    return f"{found.width}x{found.height}" if found.width else f"compressed to {found.size_bytes} bytes"


def _rate(count: int, elapsed_s: float) -> str:
    return f"{count / elapsed_s:.1f}" if elapsed_s > 0 else "unknown"


def _times(key: str, found: Percentiles) -> dict[str, str]:
    return {f"{key}_p50": _number(found.p50, 1), f"{key}_p99": _number(found.p99, 1)}


def _number(value: float, digits: int) -> str:
    return "none yet" if math.isnan(value) else f"{value:.{digits}f}"
