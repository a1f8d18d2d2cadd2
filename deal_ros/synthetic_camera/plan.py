"""Plan what the synthetic camera sends at each tick, including faults; each fault is a pure function.

A plan describes an image except for its pixels; `color_pixels` and `depth_pixels` compute these.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.structures import CameraIntrinsics, UInt8Array, UInt16Array, depth_to_metres
from deal_ros.synthetic_camera.parameters import SyntheticCameraParameters

DEPTH_FRAME = "camera_depth_optical_frame"
"""Frame of depth images that are not aligned to colour."""
_COLOR_CONVERSIONS = {
    "bgr8": cv2.COLOR_RGB2BGR,
    "rgba8": cv2.COLOR_RGB2RGBA,
    "bgra8": cv2.COLOR_RGB2BGRA,
    "mono8": cv2.COLOR_RGB2GRAY,
}


class Fate(str, Enum):
    """Outcome of an image."""

    SENT = "sent"
    LOST = "lost"
    """A fault that loses single images has dropped it."""
    WITHHELD = "withheld"
    """The camera is silent or unplugged."""


@dataclass(frozen=True)
class ImagePlan:
    """One image message except for its pixels.

    Args:
        stamp_ns: header stamp, nanoseconds.
        frame_id: header frame.
        size: width and height, pixels.
        encoding: encoding, as in sensor_msgs/Image.
        fate: outcome of the image.
        delay_s: delay after the tick, seconds.
        is_empty: whether all depth pixels are invalid.
        defect: "step" (one byte too small), "truncated" (half of the data is missing) or empty.
    """

    stamp_ns: int
    frame_id: str
    size: tuple[int, int]
    encoding: str
    fate: Fate = Fate.SENT
    delay_s: float = 0.0
    is_empty: bool = False
    defect: str = ""


@dataclass(frozen=True)
class FramePlan:
    """Both images of a tick, and the number of their view."""

    view: int
    color: ImagePlan
    depth: ImagePlan


@dataclass(frozen=True)
class Tick:
    """One time at which a camera without faults captures a frame.

    Args:
        number: number of the tick, from 0; also the random seed of its faults.
        now_ns: time of the camera's clock, nanoseconds.
        view: number of the view.
        before: plan of the previous tick.
    """

    number: int
    now_ns: int
    view: int
    before: FramePlan | None = None


def plan_frame(tick: Tick, camera: CameraIntrinsics, wanted: SyntheticCameraParameters) -> FramePlan:
    """Return the plan of a tick with all faults of the parameters."""
    size = wanted.forced_size or (camera.width, camera.height)
    color = ImagePlan(tick.now_ns, camera.frame_id, size, wanted.color_encoding)
    depth = replace(color, encoding=wanted.depth_encoding, is_empty=wanted.empty_depth)
    plan = FramePlan(tick.view, color, depth)
    for fault in (_frozen, _stamped, _unaligned, _malformed, _late, _lost, _withheld):
        plan = fault(plan, tick, wanted)
    return plan


def next_tick(last: int, elapsed_s: float, rate_hz: float) -> int:
    """Return the number of the next tick: `last + 1`, or the tick nearest to now if that is later.

    Tick n is due n / rate_hz seconds after the start, so that the rate does not drift. Missed ticks are skipped.
    """
    return max(last + 1, round(elapsed_s * rate_hz))


def view_at(number: int, views: int, ticks_per_view: float) -> int:
    """Return the number of the view of a tick; the views are shown forwards and backwards."""
    if views == 1:
        return 0
    step = int(number / ticks_per_view) % (2 * views - 2)
    return min(step, 2 * views - 2 - step)


def color_pixels(plan: ImagePlan, rgb: UInt8Array) -> npt.NDArray[Any]:
    """Convert an (H, W, 3) uint8 RGB view to the size and encoding of a plan."""
    sized = _resized(rgb, plan.size, cv2.INTER_AREA)
    conversion = _COLOR_CONVERSIONS.get(plan.encoding)
    return sized if conversion is None else cv2.cvtColor(sized, conversion)


def depth_pixels(plan: ImagePlan, depth_mm: UInt16Array) -> npt.NDArray[Any]:
    """Convert an (H, W) uint16 view (millimetres, 0 where invalid) to the size and encoding of a plan."""
    sized = _resized(np.zeros_like(depth_mm) if plan.is_empty else depth_mm, plan.size, cv2.INTER_NEAREST)
    if plan.encoding != "32FC1":
        return sized
    metres, valid = depth_to_metres(sized)
    return np.where(valid, metres, np.float32(np.nan))


def scaled_camera(camera: CameraIntrinsics, plan: ImagePlan) -> CameraIntrinsics:
    """Return the intrinsics for the size and frame of a plan."""
    return replace(camera.resized(*plan.size), frame_id=plan.frame_id)


def _frozen(plan: FramePlan, tick: Tick, wanted: SyntheticCameraParameters) -> FramePlan:
    return replace(plan, view=tick.before.view) if wanted.frozen and tick.before else plan


def _stamped(plan: FramePlan, tick: Tick, wanted: SyntheticCameraParameters) -> FramePlan:
    stamp_ns = plan.color.stamp_ns + round(wanted.stamp_offset_s * 1e9)
    if tick.before and _happens(tick, "stamp", wanted.duplicate_stamps):
        stamp_ns = tick.before.color.stamp_ns
    depth_ns = stamp_ns + round(wanted.depth_stamp_offset_ms * 1e6)
    return replace(plan, color=replace(plan.color, stamp_ns=stamp_ns), depth=replace(plan.depth, stamp_ns=depth_ns))


def _unaligned(plan: FramePlan, tick: Tick, wanted: SyntheticCameraParameters) -> FramePlan:
    width, height = plan.depth.size
    if wanted.unaligned == "frame":
        return replace(plan, depth=replace(plan.depth, frame_id=DEPTH_FRAME))
    if wanted.unaligned == "size":
        return replace(plan, depth=replace(plan.depth, size=(width // 2, height // 2)))
    return plan


def _malformed(plan: FramePlan, tick: Tick, wanted: SyntheticCameraParameters) -> FramePlan:
    stream, _, defect = wanted.malformed.partition("_")
    if stream == "color":
        return replace(plan, color=replace(plan.color, defect=defect))
    return replace(plan, depth=replace(plan.depth, defect=defect))


def _late(plan: FramePlan, tick: Tick, wanted: SyntheticCameraParameters) -> FramePlan:
    return replace(plan, depth=replace(plan.depth, delay_s=wanted.late_depth_ms / 1000))


def _lost(plan: FramePlan, tick: Tick, wanted: SyntheticCameraParameters) -> FramePlan:
    if _happens(tick, "color", wanted.lost_color):
        plan = replace(plan, color=replace(plan.color, fate=Fate.LOST))
    if _happens(tick, "depth", wanted.lost_depth):
        plan = replace(plan, depth=replace(plan.depth, fate=Fate.LOST))
    return plan


def _withheld(plan: FramePlan, tick: Tick, wanted: SyntheticCameraParameters) -> FramePlan:
    if not (wanted.silent or wanted.unplugged):
        return plan
    return replace(plan, color=replace(plan.color, fate=Fate.WITHHELD), depth=replace(plan.depth, fate=Fate.WITHHELD))


def _happens(tick: Tick, what: str, share: float) -> bool:
    """Return whether a fault that affects a fraction of the ticks affects this tick; the same in every run."""
    return random.Random(f"{what} {tick.number}").random() < share


def _resized(image: npt.NDArray[Any], size: tuple[int, int], interpolation: int) -> npt.NDArray[Any]:
    if (image.shape[1], image.shape[0]) == size:
        return image
    return cv2.resize(image, size, interpolation=interpolation)
