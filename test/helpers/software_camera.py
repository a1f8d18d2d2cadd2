"""A RealSense made by the SDK itself: `rs.software_device`, whose images a test gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyrealsense2 as rs

START_MS = 1_700_000_000_000.0
PERIOD_MS = 1000 / 30


class SoftwareCamera:
    """Two sensors as a D435 has, colour rgb8 and depth z16.

    Args:
        size: (H, W) of both streams.
        scale: metres per unit of depth.
        shift: of the colour camera to the right of the depth camera, metres.
        focal: (depth, colour) focal lengths, pixels.
        domain: of the time stamps.
        depth_domain: that of depth, where it is another.
    """

    def __init__(
        self,
        size: tuple[int, int] = (48, 64),
        *,
        scale: float = 0.001,
        shift: float = 0.0,
        focal: tuple[float, float] = (60.0, 60.0),
        domain: Any = rs.timestamp_domain.global_time,
        depth_domain: Any = None,
        serial: str = "123",
    ) -> None:
        self.size, self.scale, self.focal, self.shift = size, scale, focal, shift
        self._domain, self._depth_domain = domain, depth_domain or domain
        self.device = rs.software_device()
        self.device.register_info(rs.camera_info.name, "Software D435")
        self.device.register_info(rs.camera_info.serial_number, serial)
        self.device.register_info(rs.camera_info.firmware_version, "5.16.0.1")
        self._stereo, self._rgb = self.device.add_sensor("Stereo Module"), self.device.add_sensor("RGB Camera")
        self._stereo.add_read_only_option(rs.option.depth_units, scale)
        self._depth = self._stereo.add_video_stream(self._stream(rs.stream.depth, 0, rs.format.z16, 2, focal[0]), True)
        self._color = self._rgb.add_video_stream(self._stream(rs.stream.color, 1, rs.format.rgb8, 3, focal[1]), True)
        way = rs.extrinsics()
        way.rotation, way.translation = [1, 0, 0, 0, 1, 0, 0, 0, 1], [-shift, 0, 0]
        self._depth.register_extrinsics_to(self._color, way)
        self.device.create_matcher(rs.matchers.dlr_c)

    @property
    def center(self) -> tuple[float, float]:
        """Principal point (x, y) of both, pixels."""
        return self.size[1] / 2, self.size[0] / 2

    def give(self, number: int, color: np.ndarray, depth: np.ndarray, time_ms: float | None = None) -> None:
        """Send a pair, (H, W, 3) uint8 and (H, W) uint16, with this frame number."""
        self.give_depth(number, depth, time_ms)
        self.give_color(number, color, time_ms)

    def give_color(self, number: int, color: np.ndarray, time_ms: float | None = None) -> None:
        self._rgb.on_video_frame(self._frame(number, color, self._color, 3, time_ms))

    def give_depth(self, number: int, depth: np.ndarray, time_ms: float | None = None) -> None:
        frame = self._frame(number, depth, self._depth, 2, time_ms)
        frame.depth_units = self.scale
        self._stereo.on_video_frame(frame)

    def _frame(self, number: int, pixels: np.ndarray, profile: Any, bpp: int, time_ms: float | None) -> Any:
        frame = rs.software_video_frame()
        frame.bpp, frame.stride, frame.frame_number = bpp, bpp * self.size[1], number
        frame.domain = self._depth_domain if profile is self._depth else self._domain
        frame.timestamp = START_MS + number * PERIOD_MS if time_ms is None else time_ms
        frame.pixels, frame.profile = pixels, profile.as_video_stream_profile()
        return frame

    def _stream(self, kind: Any, uid: int, form: Any, bpp: int, focal: float) -> Any:
        stream = rs.video_stream()
        stream.type, stream.index, stream.uid, stream.fmt, stream.bpp = kind, 0, uid, form, bpp
        stream.width, stream.height, stream.fps = self.size[1], self.size[0], 30
        inner = rs.intrinsics()
        inner.width, inner.height, inner.fx, inner.fy = self.size[1], self.size[0], focal, focal
        inner.ppx, inner.ppy = self.center
        inner.model, inner.coeffs = rs.distortion.brown_conrady, [0.0] * 5
        stream.intrinsics = inner
        return stream
