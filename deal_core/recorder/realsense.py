"""Read colour with aligned depth from a RealSense, without ROS.

A camera, a file from RealSense's tools, and the SDK's `software_device` are all an `rs.device` and use the same code:
open one colour and one depth profile, pair with `rs.syncer`, align with `rs.align` if needed.

Example:
    >>> with RealSense.of_camera(StreamRequest(640, 480, 30)) as source:  # doctest: +SKIP
    ...     for frame in source.frames():
    ...         recorder.add_color(frame.color), recorder.add_depth(frame.depth)
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deal_core.errors import RecordingError, UsageError, nearest_hint
from deal_core.recording.image_encodings import RawImage
from deal_core.recording.pairing import Pair, StampPairer
from deal_core.structures import CameraIntrinsics, metres_to_depth

FILTERS = ("spatial", "temporal", "hole_filling")
"""The SDK's optional filters, in the order in which they run."""

_MILLIMETRE = 0.001
_ENCODINGS = {"rgb8": "rgb8", "bgr8": "bgr8", "rgba8": "rgba8", "bgra8": "bgra8", "y8": "mono8"}
_POLL_MS = 100
_PAIR_QUEUE = 4
"""Number of images of each stream that may wait for their partner; more would use up the SDK's memory."""
_SYNC_QUEUE = 8
"""Number of pairs that the SDK may keep; with 16 it has no memory for the next image, and loses all that follow."""
_UDEV_HINT = (
    "install the udev rules of librealsense (package librealsense2-udev-rules, or copy "
    "config/99-realsense-libusb.rules of its source to /etc/udev/rules.d and run "
    "`sudo udevadm control --reload-rules && sudo udevadm trigger`), then plug it in again"
)
_CLOSE_HINT = "close other programs that use it, such as realsense-viewer or a ROS driver"


@dataclass(frozen=True)
class StreamRequest:
    """The requested streams of a camera.

    Attributes:
        width, height: size of colour, pixels; depth has the same size, or else its largest size.
        fps: images per second of both streams.
        filters: some of `FILTERS`, to run on depth before the alignment.

    Raises:
        UsageError: a filter does not exist.
    """

    width: int = 640
    height: int = 480
    fps: int = 30
    filters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.filters:
            if name not in FILTERS:
                raise UsageError(
                    f"filter '{name}' does not exist: expected some of {', '.join(FILTERS)}."
                    f"{nearest_hint(name, FILTERS)}"
                )


@dataclass(frozen=True, eq=False)
class RgbdFrame:
    """One colour image with aligned depth, copied from the SDK.

    Attributes:
        color: colour image in the camera's encoding.
        depth: 16UC1, millimetres, 0 where nothing was measured, with the stamp and frame of colour.
        dropped: number of pairs that did not arrive since the frame before.
        offset_ms: time of depth minus time of colour.
    """

    color: RawImage
    depth: RawImage
    dropped: int
    offset_ms: float


class RealSense:
    """A camera that streams as a context manager.

    Args:
        device: `rs.device`: camera, playback or software device.
        request: streams and filters; a file uses only the filters.
        silence_s: time without an image after which a camera counts as lost.

    Attributes:
        camera: intrinsics of the colour camera.
        facts: facts for a recording's session: device, profiles, depth scale, filters, options; plain JSON values.
        is_file: whether the images come from a file, and so wait until they are read.

    Raises:
        RecordingError: the device does not have these streams; the message lists its streams.
    """

    def __init__(self, device: Any, request: StreamRequest, *, silence_s: float = 5.0) -> None:
        self._device, self._silence_s = device, silence_s
        self._rs = rs = load_sdk()
        self.is_file = bool(device.is_playback())
        self._name = _info(device, rs.camera_info.name) or "RealSense"
        profiles = _video_profiles(rs, device)
        self._color, self._depth = (
            _profiles_of_file(rs, profiles, self._name)
            if self.is_file
            else _requested_profiles(rs, profiles, request, self._name)
        )
        self._encoding = _ENCODINGS[self._color.format().name]
        self.camera = _camera(self._color.get_intrinsics())
        self._clock = _Clock(rs)
        self._filters = [getattr(rs, f"{name}_filter")() for name in FILTERS if name in request.filters]
        self._align = None if _sees_the_same(self._depth, self._color) else rs.align(rs.stream.color)
        self._sensors: list[Any] = []
        self.facts: dict[str, Any] = {
            "sdk": f"pyrealsense2 {rs.__version__}",
            "device": {key: _info(device, getattr(rs.camera_info, key)) for key in _INFO_KEYS},
            "is_file": self.is_file,
            "profiles": {"color": _profile_text(self._color), "depth": _profile_text(self._depth)},
            "color_distortion": self._color.get_intrinsics().model.name,
            "filters": [name for name in FILTERS if name in request.filters],
            "aligned": "depth to colour by rs.align" if self._align else "one camera gives depth and colour",
            "options": {sensor.get_info(rs.camera_info.name): _options(sensor) for sensor in device.query_sensors()},
        }

    @classmethod
    def of_camera(cls, request: StreamRequest, serial: str = "", *, silence_s: float = 5.0) -> RealSense:
        """Return the camera with a serial number; the only camera if it is empty.

        Raises:
            RecordingError: the camera or its streams do not exist, another program uses it, or this user may not open
                it.
        """
        rs = load_sdk()
        with _refusals("the camera"):
            devices = list(rs.context().query_devices())
            serials = [_info(device, rs.camera_info.serial_number) for device in devices]
        if not devices:
            raise RecordingError(
                f"no RealSense was found: plug it into a USB 3 port; if `lsusb -d 8086:` lists it, this user may not "
                f"open it: {_UDEV_HINT}. Without a camera, --from FILE reads "
                "a file that RealSense's tools recorded (.bag, .db3)"
            )
        if serial and serial not in serials:
            raise RecordingError(f"no RealSense has the serial number {serial}; found {', '.join(serials)}")
        if not serial and len(devices) > 1:
            raise RecordingError(f"found several cameras: choose one with --serial from {', '.join(serials)}")
        with _refusals("the camera"):
            return cls(devices[serials.index(serial) if serial else 0], request, silence_s=silence_s)

    @classmethod
    def of_file(cls, path: Path, filters: tuple[str, ...] = ()) -> RealSense:
        """Return the camera of a file from RealSense's tools; its images arrive as fast as they are read.

        Raises:
            RecordingError: the file cannot be read, or does not contain colour and depth.
        """
        if not path.exists():
            raise RecordingError(f"{path} does not exist: expected a file that RealSense's tools recorded")
        if path.is_dir() or path.suffix == ".mcap":
            raise RecordingError(
                f"{path} is a rosbag2, which is a recording already: `deal extract {path} --out DATASET` reads it. "
                "--from is for the files (.bag, .db3) of RealSense's own tools"
            )
        rs = load_sdk()
        try:
            device = rs.context().load_device(str(path))
        except RuntimeError as error:
            raise RecordingError(
                f"{path} was not recorded by RealSense's tools ({error}); a rosbag2 is a recording already: "
                f"`deal extract {path} --out DATASET` reads it"
            ) from None
        device.set_real_time(False)
        return cls(device, StreamRequest(filters=filters))

    def __enter__(self) -> RealSense:
        """Start streaming.

        Raises:
            RecordingError: another program uses the camera, this user may not open it, or it does not start.
        """
        self._syncer = self._rs.syncer(_SYNC_QUEUE)
        try:
            with _refusals(self._name):
                for sensor, profiles in _by_sensor(self._device, self._color, self._depth):
                    sensor.open(profiles)
                    self._sensors.append(sensor)
                if self.is_file:
                    self._device.pause()  # otherwise one stream starts before the other is open
                for sensor in self._sensors:
                    sensor.start(self._syncer)
                if self.is_file:
                    self._device.resume()
        except RecordingError:
            self._close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Stop streaming."""
        self._close()

    def frames(self, is_stopped: Callable[[], bool] = lambda: False) -> Iterator[RgbdFrame]:
        """Yield complete pairs until the file ends or `is_stopped`.

        Images before the first complete pair are left out, because the streams do not begin together.

        Raises:
            RecordingError: the camera was unplugged, sends no images for too long, or gives no pairs.
        """
        before = -1
        for pair in self._framesets(is_stopped):
            number = pair.get_color_frame().get_frame_number()
            if number > before:
                yield self._frame(pair, dropped=number - before - 1 if before >= 0 else 0)
                before = number

    def _framesets(self, is_stopped: Callable[[], bool]) -> Iterator[Any]:
        pairs = _Pairs(self._rs, self._color.fps())
        heard_s = paired_s = time.monotonic()
        while not is_stopped():
            try:
                arrived, frames = self._syncer.try_wait_for_frames(_POLL_MS)
            except RuntimeError as error:
                raise RecordingError(f"{self._name} failed: {error}") from None
            if not arrived:
                if self.is_file and self._device.current_status() == self._rs.playback_status.stopped:
                    break
                self._check_alive(time.monotonic() - heard_s)
                continue
            heard_s = time.monotonic()
            for pair in pairs.add(frames):
                yield pair
                paired_s = time.monotonic()
            if heard_s - paired_s > self._silence_s:
                pairs.check(self._name)
        yield from pairs.rest()
        if self.is_file and not pairs.counts.paired:
            pairs.check(self._name)

    def _frame(self, frames: Any, dropped: int) -> RgbdFrame:
        color = frames.get_color_frame()
        offset_ms = frames.get_depth_frame().get_timestamp() - color.get_timestamp()
        for each in self._filters:
            frames = each.process(frames).as_frameset()
        aligned = self._align.process(frames) if self._align else frames
        depth = aligned.get_depth_frame()
        stamp_ns, frame_id = self._clock.stamp_ns(color), self.camera.frame_id
        scale = _scale(depth)
        self.facts |= {"clock": color.get_frame_timestamp_domain().name, "depth_scale_m": scale}
        # The images are copied, because the SDK has few buffers and would drop images while these wait for the disk.
        pixels, raw = np.array(color.get_data()), np.array(depth.get_data())
        millimetres = raw if scale == _MILLIMETRE else metres_to_depth(raw * scale)
        return RgbdFrame(
            RawImage.of(pixels, stamp_ns, frame_id, self._encoding),
            RawImage.of(millimetres, stamp_ns, frame_id, "16UC1"),
            dropped,
            offset_ms,
        )

    def _check_alive(self, silent_s: float) -> None:
        if not self._device.is_connected():
            raise RecordingError(f"{self._name} was unplugged")
        if silent_s > self._silence_s:
            raise RecordingError(
                f"{self._name} has sent no image for {silent_s:.1f} s: it was unplugged, or its USB port has not "
                "enough power or bandwidth; plug it in again, into a USB 3 port"
            )

    def _close(self) -> None:
        # A file waits until its images are taken, and cannot be stopped before.
        is_closed = threading.Event()
        taker = threading.Thread(target=self._take_until, args=(is_closed,), daemon=True)
        if self.is_file:
            taker.start()
        for sensor in self._sensors:
            for act in (sensor.stop, sensor.close):
                with contextlib.suppress(RuntimeError):  # an unplugged camera, or one that did not start
                    act()
        self._sensors = []
        is_closed.set()
        if self.is_file:
            taker.join()

    def _take_until(self, is_closed: threading.Event) -> None:
        while not is_closed.is_set():
            self._syncer.try_wait_for_frames(_POLL_MS)


def load_sdk() -> Any:
    """Return the module pyrealsense2.

    Raises:
        RecordingError: it is not installed, or cannot be loaded.
    """
    try:
        import pyrealsense2
    except ImportError as error:
        raise RecordingError(
            f"pyrealsense2 cannot be loaded ({error}): install it with `pip install 'deal_ros[realsense]'` and "
            "libusb with `sudo apt-get install libusb-1.0-0`; `deal doctor` gives details"
        ) from None
    return pyrealsense2


_INFO_KEYS = ("name", "serial_number", "firmware_version", "usb_type_descriptor", "product_line")


class _Clock:
    """Convert the time of images to nanoseconds since 1970.

    Global and system time are in this form already. A camera's own clock counts from its start: the first image gets
    its time of arrival, and the others follow by the camera's clock.
    """

    def __init__(self, rs: Any) -> None:
        self._rs = rs
        self._shift_ms: float | None = None

    def stamp_ns(self, frame: Any) -> int:
        time_ms = float(frame.get_timestamp())
        if frame.get_frame_timestamp_domain() == self._rs.timestamp_domain.hardware_clock:
            if self._shift_ms is None:
                arrival = self._rs.frame_metadata_value.time_of_arrival
                known = frame.supports_frame_metadata(arrival)
                now_ms = float(frame.get_frame_metadata(arrival)) if known else time.time() * 1000
                self._shift_ms = now_ms - time_ms
            time_ms += self._shift_ms
        return round(time_ms * 1e6)


class _Pairs:
    """Pair the framesets of the SDK's syncer, which may be incomplete.

    The syncer estimates the time between images as the time since the camera's start, divided by the number of the
    first image. If the camera has its own clock and has been on for a while, the syncer finds every pair only after the
    same time again.

    Args:
        rs: the SDK.
        fps: images per second of colour; the images of a pair are at most half a period apart.
    """

    def __init__(self, rs: Any, fps: int) -> None:
        self._half_ms = 500 / fps
        self._pairer = StampPairer[Any, Any](slop_ns=round(self._half_ms * 1e6), queue_size=_PAIR_QUEUE)
        self.counts = self._pairer.counts
        self._latest: dict[str, tuple[float, str]] = {}
        # The SDK never releases this function, and waits at its end for all images that are still in use.
        self._both = both = list[Any]()
        self._block = rs.processing_block(lambda _, made: made.frame_ready(made.allocate_composite_frame(both)))
        self._made = rs.frame_queue(1)
        self._block.start(self._made)

    def add(self, frames: Any) -> Iterator[Any]:
        """Add a frameset of one or two images; yield the pairs that are certain now, as framesets."""
        color, depth = frames.get_color_frame(), frames.get_depth_frame()
        for name, frame, add in (("colour", color, self._pairer.add_color), ("depth", depth, self._pairer.add_depth)):
            if frame:
                time_ms = frame.get_timestamp()
                self._latest[name] = time_ms, frame.get_frame_timestamp_domain().name
                yield from map(self._frameset, add(round(time_ms * 1e6), frame))

    def rest(self) -> Iterator[Any]:
        """Yield the pairs that still wait; call it after the last image."""
        yield from map(self._frameset, self._pairer.flush())

    def _frameset(self, pair: Pair[Any, Any]) -> Any:
        self._both[:] = pair.color, pair.depth
        self._block.invoke(pair.color)
        self._both.clear()
        return self._made.wait_for_frame().as_frameset()

    def check(self, name: str) -> None:
        """Raise a `RecordingError` with the reason why images, if any, form no pairs."""
        if len(self._latest) == 1:
            (there,), (other,) = self._latest, {"colour", "depth"} - self._latest.keys()
            raise RecordingError(
                f"{name} sends {there}, but no {other}: its USB port has not enough power or bandwidth; plug it into a "
                "USB 3 port, or choose a smaller --width and --height or a lower --fps"
            )
        if self._latest:
            (color_ms, color_clock), (depth_ms, depth_clock) = self._latest["colour"], self._latest["depth"]
            if color_clock != depth_clock:
                raise RecordingError(
                    f"{name} gives no pairs: colour uses the clock {color_clock}, depth the clock {depth_clock}, and "
                    "the two cannot be compared; switch the option Global Time Enabled on for both sensors (in "
                    "realsense-viewer), or off for both, and update the camera's firmware"
                )
            raise RecordingError(
                f"{name} gives no pairs: colour and depth are {abs(depth_ms - color_ms):.0f} ms apart, expected at "
                f"most {self._half_ms:.0f} ms, half the time between images; plug it in again, or choose another --fps"
            )


def _video_profiles(rs: Any, device: Any) -> list[Any]:
    """Return the device's depth profiles, and its colour profiles that can be recorded."""
    found = []
    for sensor in device.query_sensors():
        for profile in sensor.get_stream_profiles():
            kind, form = profile.stream_type(), profile.format()
            if (kind == rs.stream.color and form.name in _ENCODINGS) or (
                kind == rs.stream.depth and form == rs.format.z16
            ):
                found.append(profile.as_video_stream_profile())
    return found


def _profiles_of_file(rs: Any, profiles: list[Any], name: str) -> tuple[Any, Any]:
    by_kind = {profile.stream_type(): profile for profile in reversed(profiles)}
    if len(by_kind) < 2:
        found = ", ".join(_profile_text(profile) for profile in profiles) or "neither"
        raise RecordingError(
            f"the file of {name} must contain colour ({', '.join(_ENCODINGS)}) and depth (z16), found {found}"
        )
    return by_kind[rs.stream.color], by_kind[rs.stream.depth]


def _requested_profiles(rs: Any, profiles: list[Any], request: StreamRequest, name: str) -> tuple[Any, Any]:
    """Return the colour profile of the size, preferably rgb8, and the depth profile of the same or the largest size."""
    color = [p for p in profiles if p.stream_type() == rs.stream.color]
    depth = [p for p in profiles if p.stream_type() == rs.stream.depth and p.fps() == request.fps]
    wanted = (request.width, request.height)
    fitting = [p for p in color if (p.width(), p.height(), p.fps()) == (*wanted, request.fps)]
    if not (fitting and depth):
        rates = {p.fps() for p in profiles if p.stream_type() == rs.stream.depth}
        modes = sorted({(p.width(), p.height(), p.fps()) for p in color if p.fps() in rates})
        listed = ", ".join(f"{w}x{h} at {fps}" for w, h, fps in modes) or "none"
        raise RecordingError(
            f"{name} has no colour and depth of {request.width}x{request.height} at {request.fps} images a second on "
            f"this USB port; choose --width, --height and --fps from: {listed}"
        )
    best = min(fitting, key=lambda p: list(_ENCODINGS).index(p.format().name))
    return best, max(depth, key=lambda p: ((p.width(), p.height()) == wanted, p.width() * p.height()))


def _by_sensor(device: Any, *profiles: Any) -> list[tuple[Any, list[Any]]]:
    """Return the sensors to open with their profiles; one sensor may give both streams."""
    wanted = {(p.stream_type(), p.unique_id()) for p in profiles}
    found = []
    for sensor in device.query_sensors():
        own = {(p.stream_type(), p.unique_id()) for p in sensor.get_stream_profiles()} & wanted
        if own:
            found.append((sensor, [p for p in profiles if (p.stream_type(), p.unique_id()) in own]))
    return found


def _sees_the_same(depth: Any, color: Any) -> bool:
    """Return whether depth is aligned already (D405), so that rs.align would only widen its edges."""
    way, one, other = depth.get_extrinsics_to(color), depth.get_intrinsics(), color.get_intrinsics()
    is_still = list(way.rotation) == [1, 0, 0, 0, 1, 0, 0, 0, 1] and not any(way.translation)
    return is_still and all(
        getattr(one, name) == getattr(other, name)
        for name in ("width", "height", "fx", "fy", "ppx", "ppy", "model", "coeffs")
    )


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Turn an error of the SDK about opening a camera into a `RecordingError` with advice."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error)
        said = reason.lower()
        if "busy" in said:
            text = f"is used by another program ({reason}): {_CLOSE_HINT}"
        elif "access" in said or "permission" in said:
            text = f"may not be opened by this user ({reason}): {_UDEV_HINT}"
        elif "power state" in said:  # the SDK's message for both causes if it bypasses the kernel's driver
            text = f"cannot be opened ({reason}): {_CLOSE_HINT}; if no other program uses it, {_UDEV_HINT}"
        else:
            text = f"does not start ({reason}): plug it in again, into a USB 3 port"
        raise RecordingError(f"{name} {text}") from None


def _camera(found: Any) -> CameraIntrinsics:
    """Return the intrinsics in the form of realsense-ros."""
    is_fisheye = found.model.name == "kannala_brandt4"
    coefficients = tuple(float(value) for value in found.coeffs)
    distortion = (coefficients[:4], "equidistant") if is_fisheye else (coefficients, "plumb_bob")
    lens = (found.fx, found.fy, found.ppx, found.ppy)
    return CameraIntrinsics(found.width, found.height, *lens, *distortion)


def _scale(depth: Any) -> float:
    """Return metres per unit; the SDK's float32 millimetre becomes exactly 0.001."""
    scale = float(depth.get_units())
    return _MILLIMETRE if math.isclose(scale, _MILLIMETRE, rel_tol=1e-6) else scale


def _info(device: Any, key: Any) -> str:
    return str(device.get_info(key)) if device.supports(key) else ""


def _options(sensor: Any) -> dict[str, float]:
    found = {}
    for option in sensor.get_supported_options():
        try:
            found[option.name] = float(sensor.get_option(option))
        except RuntimeError:  # some options are readable only while streaming
            continue
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _profile_text(profile: Any) -> str:
    return f"{profile.width()}x{profile.height()} at {profile.fps()}, {profile.format().name}"
