"""Snapshots of the node, judged against the one before: which level, why, and what to do."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from deal_ros.diagnostics.snapshots import (
    NO_PUBLISHER,
    Level,
    LifecycleSnapshot,
    Limits,
    ModelSnapshot,
    NodeSnapshot,
    Percentiles,
    Status,
    WorkSnapshot,
)
from deal_ros.input.image_input import InputSnapshot
from deal_ros.input.qos import SHARED_MEMORY_LIMIT_BYTES
from deal_ros.input.synchronizer import SyncCounts
from deal_ros.node.transport import profile_variable
from deal_ros.node.worker import WorkerCounts

Judgement = tuple[Level, str]


def assess(now: NodeSnapshot, before: NodeSnapshot | None) -> list[Status]:
    """Judge a snapshot against the one before it.

    Totals are since the node was activated, judgements and rates since `before`. Every key occurs once in a node's
    diagnostics, so that whoever reads them may forget which status it was in.
    """
    statuses = [_assess_lifecycle(now.lifecycle, before.lifecycle if before else None)]
    if now.active:
        earlier = before.active if before and before.active else None
        elapsed_s = now.time_s - before.time_s if before and earlier else math.nan
        known = {found.stream: found for found in earlier.inputs} if earlier else {}
        statuses += [assess_input(i, known.get(i.stream), elapsed_s, now.limits) for i in now.active.inputs]
        statuses.append(_assess_results(now.active, earlier, elapsed_s, now.limits))
    if now.model:
        statuses.append(_assess_model(now.model))
    return statuses


def assess_input(found: InputSnapshot, before: InputSnapshot | None, elapsed_s: float, limits: Limits) -> Status:
    """Judge an input against how it was `elapsed_s` ago (nan where nobody looked)."""
    facts = {
        "topic": found.topic,
        "rate_hz": _rate(found.received - (before.received if before else 0), elapsed_s),
        "silent_s": f"{found.silent_s:.1f}",
        "publisher_offers": ", ".join(found.offers) or NO_PUBLISHER,
        "node_requests": found.requests,
        "encoding": found.encoding or "none yet",
        "size": _size(found),
        "changes": str(found.changes),
        "stamps_zero": str(found.stamps.zero),
        "stamps_backwards": str(found.stamps.backwards),
        "stamps_in_the_future": str(found.stamps.future),
    }
    values = {f"{found.stream}_{key}": value for key, value in facts.items()}
    level, message = _judge_input(found, before, limits)
    return Status(f"{found.stream} input", level, message, values)


def final_counts(sync: SyncCounts, work: WorkerCounts) -> str:
    """Return the one line that accounts for every message, for the end."""
    refused = "".join(f"{n} {cause}, " for cause, n in sorted(work.dropped_refused.items()) if n)
    return (
        f"received {sync.received_color} colour and {sync.received_depth} depth; "
        f"paired {sync.paired}, colour alone {sync.color_alone}, "
        f"unpaired {_total(sync.unpaired_color)} colour and {_total(sync.unpaired_depth)} depth, "
        f"waiting {sync.pending_color} colour and {sync.pending_depth} depth; "
        f"published {work.done}, dropped {work.dropped_busy} busy, {work.dropped_old} old, {refused}"
        f"{work.dropped_stopped} at the stop, failed {_total(work.failed)}, in flight {work.in_flight}"
    )


def _assess_lifecycle(now: LifecycleSnapshot, before: LifecycleSnapshot | None) -> Status:
    values = {
        "state": now.state,
        "enabled": str(now.is_enabled).lower(),
        "last_failure": now.failure or "none",
        "reload": now.reload,
        "clock_jumps": str(now.clock_jumps),
        "last_clock_jump": now.last_clock_jump or "none",
        "other_mask_publishers": ", ".join(now.rivals) or "none",
    }
    level, message = _judge_lifecycle(now, before)
    return Status("state", level, message, values)


def _judge_lifecycle(now: LifecycleSnapshot, before: LifecycleSnapshot | None) -> Judgement:
    if now.failure:
        return Level.ERROR, f"{now.state}: {now.failure}"
    if now.rivals:
        return Level.WARN, (
            f"{', '.join(now.rivals)} publishes masks on this node's topic too: whoever reads it gets both; "
            "end one of them, or start it with another namespace or name (__ns, __node)"
        )
    if now.clock_jumps > (before.clock_jumps if before else 0):
        return Level.WARN, f"the node's clock went {now.last_clock_jump}: ages across the jump mean nothing"
    if now.reload_failed:
        return Level.WARN, f"{now.state}; the model was not replaced: {now.reload}"
    if now.state == "active" and not now.is_enabled:
        return Level.OK, "active, but switched off by ~/enable: no image is subscribed"
    return Level.OK, now.state


def _judge_input(found: InputSnapshot, before: InputSnapshot | None, limits: Limits) -> Judgement:
    offers = ", ".join(found.offers)
    if not found.is_subscribed:
        return Level.OK, "not subscribed: the node is switched off by ~/enable"
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
    if found.silent_s > limits.input_timeout_s:
        level = Level.ERROR if found.silent_s > limits.input_error_s else Level.WARN
        if found.publisher_left:
            return level, (
                f"no input on {found.topic} for {found.silent_s:.0f} s: its publisher went away; input goes on when "
                "the camera is back"
            )
        if not found.offers:
            return level, f"no input on {found.topic}: nobody publishes it; check its name and the camera"
        text = (
            f"no input on {found.topic} for {found.silent_s:.0f} s, publisher offers {offers}, "
            f"we request {found.requests}"
        )
        return level, f"{text}; {advice}" if lossy else text
    if lossy and found.size_bytes > SHARED_MEMORY_LIMIT_BYTES:
        return Level.WARN, f"images on {found.topic} may be lost: {advice}"
    return _judge_messages(found, before)


def _judge_messages(found: InputSnapshot, before: InputSnapshot | None) -> Judgement:
    """Judge what came since the last report."""
    old = before or InputSnapshot(found.stream, found.topic, 0, 0.0)
    if zero := found.stamps.zero - old.stamps.zero:
        return Level.WARN, (
            f"{zero} images on {found.topic} have stamp 0: their age is unknown and they cannot be paired; "
            "the driver has to stamp them"
        )
    if future := found.stamps.future - old.stamps.future:
        return Level.WARN, (
            f"{future} images on {found.topic} are stamped in the future, the last by {found.stamps.ahead_ms:.0f} ms: "
            "set the clocks of the camera's machine and this one alike (chrony, PTP), or use_sim_time on both"
        )
    if backwards := found.stamps.backwards - old.stamps.backwards:
        return Level.WARN, (
            f"{backwards} images on {found.topic} are stamped before the one that came ahead of them: the camera's "
            "clock was set, a recording began anew, or two cameras publish there"
        )
    if found.changes > old.changes:
        return Level.WARN, f"images on {found.topic} changed: {found.last_change}"
    return Level.OK, "receiving" if found.received else "waiting for the first image"


def _assess_results(now: WorkSnapshot, before: WorkSnapshot | None, elapsed_s: float, limits: Limits) -> Status:
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
        "dropped_rate": str(work.dropped_refused.get("rate", 0)),
        "dropped_disabled": str(work.dropped_refused.get("disabled", 0)),
        "dropped_stopped": str(work.dropped_stopped),
        "failed": str(_total(work.failed)),
        **{f"failed: {cause}": str(n) for cause, n in sorted(work.failed.items())},
        "in_flight": str(work.in_flight),
        "mask_rate_hz": _rate(work.done - (before.work.done if before else 0), elapsed_s),
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
    level, message = _judge_results(now, before or WorkSnapshot(()), elapsed_s, limits)
    return Status("results", level, message, values)


def _judge_results(now: WorkSnapshot, before: WorkSnapshot, elapsed_s: float, limits: Limits) -> Judgement:
    sync, work, results = now.sync, now.work, now.results
    published = work.done - before.work.done
    failed = _total(work.failed) - _total(before.work.failed)
    too_old = work.dropped_old - before.work.dropped_old
    alone = sync.color_alone - before.sync.color_alone
    frames = sync.paired - before.sync.paired + alone
    if failed:
        level = Level.WARN if published else Level.ERROR
        return level, f"{failed} frames failed since the last report: {results.last_error}"
    if too_old:
        return Level.WARN if published else Level.ERROR, (
            f"{too_old} frames were older than max_age_ms ({limits.max_age_ms:g}) when their turn came, the last "
            f"{results.oldest_dropped_ms:.0f} ms; is the clock that stamps them this machine's?"
        )
    if unpaired := _new_unpaired(sync, before.sync):
        causes = ", ".join(f"{n} {cause}" for cause, n in unpaired.items())
        return Level.WARN if frames else Level.ERROR, f"images without a partner since the last report: {causes}"
    if alone and now.depth_mode == before.depth_mode == "optional":
        return (
            Level.WARN,
            f"{alone} of {frames} frames went on without depth, as it did not come within sync_timeout_ms",
        )
    if troubles := results.troubles - before.results.troubles:
        return Level.WARN, f"{troubles} masks were published with something amiss: {results.last_trouble}"
    if now.missed > before.missed:
        hint = "; depth_mode is off" if now.depth_mode == "off" else ""
        return Level.WARN, f"{'; '.join(now.missing)}{hint}"
    busy = work.dropped_busy - before.work.dropped_busy
    if busy > limits.warn_busy_share * frames:
        return Level.WARN, (
            f"{busy} of {frames} frames were replaced by newer ones before their turn: the network takes "
            f"{results.inference_ms.p50:.0f} ms a frame, and {_rate(frames, elapsed_s)} come a second; "
            "use a GPU, a smaller network or input, or set max_rate_hz"
        )
    if published and now.model_lacks_depth:
        return Level.WARN, "the model uses depth and works without it: depth_mode is off"
    if published and results.valid_depth <= limits.warn_valid_depth:
        if results.valid_depth == 0:
            return Level.WARN, "no pixel of the last depth image has a measurement"
        return Level.WARN, f"only {results.valid_depth:.1%} of the last depth image's pixels have a measurement"
    return Level.OK, f"{published} masks since the last report" if published else "no frame to segment"


def _new_unpaired(now: SyncCounts, before: SyncCounts) -> dict[str, int]:
    streams = (
        ("colour", now.unpaired_color, before.unpaired_color),
        ("depth", now.unpaired_depth, before.unpaired_depth),
    )
    return {
        f"{name}: {cause}": n - earlier.get(cause, 0)
        for name, found, earlier in streams
        for cause, n in found.items()
        if n > earlier.get(cause, 0)
    }


def _assess_model(model: ModelSnapshot) -> Status:
    values = {
        "model": model.path,
        "model_sha256": model.sha256,
        "backend": model.backend,
        "backend_reason": model.backend_reason,
        "device": model.device,
        "precision": model.precision,
        "classes": str(model.classes),
        "depth_mode": model.depth_mode,
        "pairing": model.pairing,
        "gpu_memory": model.gpu_memory,
    }
    message = f"{model.classes} classes by {model.backend} on {model.device}, {model.precision}"
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


def _total(counts: Mapping[Any, int]) -> int:
    return sum(counts.values())
