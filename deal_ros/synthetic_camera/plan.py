"""What the synthetic camera sends at each tick, faults included: planned first, so that every fault is a pure function.

A plan says everything about an image but its pixels; `color_pixels` and `depth_pixels` make those.
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
"""Frame of depth that is not aligned to colour."""
_COLOR_CONVERSIONS = {
    "bgr8": cv2.COLOR_RGB2BGR,
    "rgba8": cv2.COLOR_RGB2RGBA,
    "bgra8": cv2.COLOR_RGB2BGRA,
    "mono8": cv2.COLOR_RGB2GRAY,
}


class Fate(str, Enum):
    """What becomes of an image."""

    SENT = "sent"
    LOST = "lost"
    """It would have been sent, but for a fault that loses single images."""
    WITHHELD = "withheld"
    """The camera is silent or unplugged."""


@dataclass(frozen=True)
class ImagePlan:
    """One image message, but for its pixels.

    Args:
        stamp_ns: header stamp.
        frame_id: header frame.
        size: width and height, pixels.
        encoding: of sensor_msgs/Image.
        fate: what becomes of it.
        delay_s: how long after the tick it is sent.
        is_empty: depth without any measurement.
        defect: "step" (one byte short of a row), "truncated" (half the data) or nothing.
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
    """Both images of a tick, and which view they show."""

    view: int
    color: ImagePlan
    depth: ImagePlan


@dataclass(frozen=True)
class Tick:
    """One moment at which a camera without faults takes a frame.

    Args:
        number: counted from 0; also the source of chance for this tick.
        now_ns: the camera's clock.
        view: which view it sees.
        before: what was planned for the tick before.
    """

    number: int
    now_ns: int
    view: int
    before: FramePlan | None = None


def plan_frame(tick: Tick, camera: CameraIntrinsics, wanted: SyntheticCameraParameters) -> FramePlan:
    """Return what is sent at a tick, with all faults that are wanted."""
    size = wanted.forced_size or (camera.width, camera.height)
    color = ImagePlan(tick.now_ns, camera.frame_id, size, wanted.color_encoding)
    depth = replace(color, encoding=wanted.depth_encoding, is_empty=wanted.empty_depth)
    plan = FramePlan(tick.view, color, depth)
    for fault in (_frozen, _stamped, _unaligned, _malformed, _late, _lost, _withheld):
        plan = fault(plan, tick, wanted)
    return plan


def next_tick(last: int, elapsed_s: float, rate_hz: float) -> int:
    """Return the number of the tick to wait for: the next one, or the nearest to now if that is later.

    Tick n is due n / rate_hz after the start, whatever came before: rates do not drift, and ticks that are missed are
    skipped, not made up for.
    """
    return max(last + 1, round(elapsed_s * rate_hz))


def view_at(number: int, views: int, ticks_per_view: float) -> int:
    """Return the view that a tick shows: all of them back and forth."""
    if views == 1:
        return 0
    step = int(number / ticks_per_view) % (2 * views - 2)
    return min(step, 2 * views - 2 - step)


def color_pixels(plan: ImagePlan, rgb: UInt8Array) -> npt.NDArray[Any]:
    """Return an (H, W, 3) uint8 RGB view in the size and encoding of a plan."""
    sized = _resized(rgb, plan.size, cv2.INTER_AREA)
    conversion = _COLOR_CONVERSIONS.get(plan.encoding)
    return sized if conversion is None else cv2.cvtColor(sized, conversion)


def depth_pixels(plan: ImagePlan, depth_mm: UInt16Array) -> npt.NDArray[Any]:
    """Return an (H, W) uint16 view (millimetres, 0 invalid) in the size and encoding of a plan."""
    sized = _resized(np.zeros_like(depth_mm) if plan.is_empty else depth_mm, plan.size, cv2.INTER_NEAREST)
    if plan.encoding != "32FC1":
        return sized
    metres, valid = depth_to_metres(sized)
    return np.where(valid, metres, np.float32(np.nan))


def scaled_camera(camera: CameraIntrinsics, plan: ImagePlan) -> CameraIntrinsics:
    """Return the intrinsics of an image of a plan's size and frame."""
    x, y = plan.size[0] / camera.width, plan.size[1] / camera.height
    return replace(
        camera,
        width=plan.size[0],
        height=plan.size[1],
        fx=camera.fx * x,
        fy=camera.fy * y,
        cx=(camera.cx + 0.5) * x - 0.5,
        cy=(camera.cy + 0.5) * y - 0.5,
        frame_id=plan.frame_id,
    )


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
    """Return whether something that happens to a share of the ticks happens to this one, the same at every run."""
    return random.Random(f"{what} {tick.number}").random() < share


def _resized(image: npt.NDArray[Any], size: tuple[int, int], interpolation: int) -> npt.NDArray[Any]:
    if (image.shape[1], image.shape[0]) == size:
        return image
    return cv2.resize(image, size, interpolation=interpolation)
