"""Colour with aligned depth straight from a RealSense, without ROS.

A camera, a file that RealSense's tools recorded, and the SDK's `software_device` are all an `rs.device` and run the
same code: open one colour and one depth profile, pair with `rs.syncer`, align with `rs.align` where needed.

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
from types import TracebackType
from typing import Any

import numpy as np

from deal_core.errors import RecordingError, UsageError, nearest_hint
from deal_core.recording.image_encodings import RawImage
from deal_core.recording.pairing import Pair, StampPairer
from deal_core.structures import CameraIntrinsics, UInt16Array, metres_to_depth

FILTERS = ("spatial", "temporal", "hole_filling")
"""The SDK's filters that can be switched on, in the order in which they run."""

_MILLIMETRE = 0.001
_ENCODINGS = {"rgb8": "rgb8", "bgr8": "bgr8", "rgba8": "rgba8", "bgra8": "bgra8", "y8": "mono8"}
_POLL_MS = 100
_PAIR_QUEUE = 4
"""Images of each stream that may wait for their partner; more would take the SDK's memory."""
_SYNC_QUEUE = 8
"""Pairs that the SDK may hold for us; with 16 it has no memory left for the next image, and loses all that follow."""
_UDEV_HINT = (
    "install the udev rules of librealsense (package librealsense2-udev-rules, or copy "
    "config/99-realsense-libusb.rules of its source to /etc/udev/rules.d and run "
    "`sudo udevadm control --reload-rules && sudo udevadm trigger`), then plug it in again"
)
_CLOSE_HINT = "close what else uses it, as realsense-viewer or a ROS driver"


@dataclass(frozen=True)
class StreamRequest:
    """What to ask of a camera.

    Attributes:
        width, height: of colour, pixels; depth has the same size, or the largest that there is.
        fps: images a second of both.
        filters: of `FILTERS`, to run on depth before it is aligned.

    Raises:
        UsageError: a filter that does not exist.
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
    """One colour image and the depth aligned to it, copies of the SDK's.

    Attributes:
        color: as the camera gives it.
        depth: 16UC1, millimetres, 0 where nothing was measured; stamp and frame are those of colour.
        dropped: pairs that the camera took since the frame before and that did not arrive.
        offset_ms: depth's time minus colour's.
    """

    color: RawImage
    depth: RawImage
    dropped: int
    offset_ms: float


class RealSense:
    """A camera that streams within `with`.

    Args:
        device: an `rs.device`: camera, playback or software device.
        request: streams and filters; a file has its own streams, and uses the filters only.
        silence_s: time without an image after which a camera counts as lost.

    Attributes:
        camera: the colour camera's intrinsics.
        facts: for a recording's session: device, profiles, depth scale, filters, options; plain JSON values.

    Raises:
        RecordingError: the device has no such streams; the message lists those that it has.
    """

    def __init__(self, device: Any, request: StreamRequest, *, silence_s: float = 5.0) -> None:
        self._device, self._silence_s = device, silence_s
        self._rs = rs = load_sdk()
        self._is_file = bool(device.is_playback())
        self._name = _info(device, rs.camera_info.name) or "RealSense"
        profiles = _video_profiles(rs, device)
        self._color, self._depth = (
            _profiles_of_file(rs, profiles, self._name)
            if self._is_file
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
            "is_file": self._is_file,
            "profiles": {"color": _profile_text(self._color), "depth": _profile_text(self._depth)},
            "color_distortion": self._color.get_intrinsics().model.name,
            "filters": [name for name in FILTERS if name in request.filters],
            "aligned": "depth to colour by rs.align" if self._align else "one camera gives depth and colour",
            "options": {sensor.get_info(rs.camera_info.name): _options(sensor) for sensor in device.query_sensors()},
        }

    @classmethod
    def of_camera(cls, request: StreamRequest, serial: str = "", *, silence_s: float = 5.0) -> RealSense:
        """Return the camera with a serial number; the only one if it is empty.

        Raises:
            RecordingError: there is no such camera, it has no such streams, another program uses it, or this user may
                not open it.
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
            raise RecordingError(f"found several cameras: choose one with --serial, of {', '.join(serials)}")
        with _refusals("the camera"):
            return cls(devices[serials.index(serial) if serial else 0], request, silence_s=silence_s)

    @classmethod
    def of_file(cls, path: Path, filters: tuple[str, ...] = ()) -> RealSense:
        """Return the camera of a file that RealSense's tools recorded; its images come as fast as they are read.

        Raises:
            RecordingError: the file cannot be read, or holds no colour and depth.
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

    @property
    def is_file(self) -> bool:
        """Whether the images wait until they are taken."""
        return self._is_file

    def __enter__(self) -> RealSense:
        """Start streaming.

        Raises:
            RecordingError: another program uses the camera, this user may not, or it refuses.
        """
        self._syncer = self._rs.syncer(_SYNC_QUEUE)
        try:
            with _refusals(self._name):
                for sensor, profiles in _by_sensor(self._device, self._color, self._depth):
                    sensor.open(profiles)
                    self._sensors.append(sensor)
                if self._is_file:
                    self._device.pause()  # else one stream runs before the other is open
                for sensor in self._sensors:
                    sensor.start(self._syncer)
                if self._is_file:
                    self._device.resume()
        except RecordingError:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop streaming."""
        self._close()

    def frames(self, is_stopped: Callable[[], bool] = lambda: False) -> Iterator[RgbdFrame]:
        """Yield whole pairs until the file ends or `is_stopped`.

        Images before the first whole pair are left out: the streams do not begin together.

        Raises:
            RecordingError: the camera was unplugged, has been silent for too long, or gives no pairs.
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
                if self._is_file and self._device.current_status() == self._rs.playback_status.stopped:
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
        if self._is_file and not pairs.is_any:
            pairs.check(self._name)

    def _frame(self, frames: Any, dropped: int) -> RgbdFrame:
        color = frames.get_color_frame()
        offset_ms = frames.get_depth_frame().get_timestamp() - color.get_timestamp()
        for each in self._filters:
            frames = each.process(frames).as_frameset()
        aligned = self._align.process(frames) if self._align else frames
        depth = aligned.get_depth_frame()
        stamp_ns, frame_id = self._clock.stamp_ns(color), self.camera.frame_id
        self.facts |= {"clock": color.get_frame_timestamp_domain().name, "depth_scale_m": _scale(depth)}
        # Copies: the SDK has a few images only, and would drop new ones while these wait for the disk.
        pixels = np.array(color.get_data())
        return RgbdFrame(
            RawImage.of(pixels, stamp_ns, frame_id, self._encoding),
            RawImage.of(_millimetres(np.array(depth.get_data()), _scale(depth)), stamp_ns, frame_id, "16UC1"),
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
        # A file waits until its images are taken, and does not hear that it should stop before.
        is_closed = threading.Event()
        taker = threading.Thread(target=self._take_until, args=(is_closed,), daemon=True)
        if self._is_file:
            taker.start()
        for sensor in self._sensors:
            for act in (sensor.stop, sensor.close):
                with contextlib.suppress(RuntimeError):  # an unplugged camera, or one that did not start
                    act()
        self._sensors = []
        is_closed.set()
        if self._is_file:
            taker.join()

    def _take_until(self, is_closed: threading.Event) -> None:
        while not is_closed.is_set():
            self._syncer.try_wait_for_frames(_POLL_MS)


def load_sdk() -> Any:
    """Return the module pyrealsense2.

    Raises:
        RecordingError: it is not installed, or does not load.
    """
    try:
        import pyrealsense2
    except ImportError as error:
        raise RecordingError(
            f"pyrealsense2 does not load ({error}): install it with `pip install 'deal_ros[realsense]'` and "
            "libusb with `sudo apt-get install libusb-1.0-0`; `deal doctor` says more"
        ) from None
    return pyrealsense2


_INFO_KEYS = ("name", "serial_number", "firmware_version", "usb_type_descriptor", "product_line")


class _Clock:
    """Turn the time of images into nanoseconds since 1970.

    Global and system time are that already. A camera's own clock counts from when it was switched on: its first
    image stands for the moment in which it arrived, and the others follow by the camera's clock.
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
    """Pair what the SDK's syncer hands out, whole or not.

    It takes the time since the camera was switched on, divided by the number of the first image, for the time between
    images. A camera that does not have this computer's time, and was switched on a while ago, would have to run for as
    long again before the syncer found every pair.

    Args:
        rs: the SDK.
        fps: of colour; a pair is at most half the time between its images apart.
    """

    def __init__(self, rs: Any, fps: int) -> None:
        self._half_ms = 500 / fps
        self._pairer = StampPairer[Any, Any](slop_ns=round(self._half_ms * 1e6), queue_size=_PAIR_QUEUE)
        self._latest: dict[str, tuple[float, str]] = {}
        # The SDK never releases the function, and waits at its end for every image that is still held.
        self._both = both = list[Any]()
        self._block = rs.processing_block(lambda _, made: made.frame_ready(made.allocate_composite_frame(both)))
        self._made = rs.frame_queue(1)
        self._block.start(self._made)

    def add(self, frames: Any) -> Iterator[Any]:
        """Take a frameset of one or two images; give the pairs that are certain now, as framesets."""
        color, depth = frames.get_color_frame(), frames.get_depth_frame()
        for name, frame, add in (("colour", color, self._pairer.add_color), ("depth", depth, self._pairer.add_depth)):
            if frame:
                time_ms = frame.get_timestamp()
                self._latest[name] = time_ms, frame.get_frame_timestamp_domain().name
                yield from map(self._frameset, add(round(time_ms * 1e6), frame))

    def rest(self) -> Iterator[Any]:
        """Return the pairs that still wait, when no image follows."""
        yield from map(self._frameset, self._pairer.flush())

    def _frameset(self, pair: Pair[Any, Any]) -> Any:
        self._both[:] = pair.color, pair.depth
        self._block.invoke(pair.color)
        self._both.clear()
        return self._made.wait_for_frame().as_frameset()

    @property
    def is_any(self) -> bool:
        """Whether there was a pair."""
        return self._pairer.counts.paired > 0

    def check(self, name: str) -> None:
        """Say why no pairs are there, if images are.

        Raises:
            RecordingError: they are.
        """
        if len(self._latest) == 1:
            (there,), (other,) = self._latest, {"colour", "depth"} - self._latest.keys()
            raise RecordingError(
                f"{name} sends {there}, but no {other}: its USB port has not enough power or bandwidth; plug it into a "
                "USB 3 port, or take a smaller --width and --height or a lower --fps"
            )
        if self._latest:
            (color_ms, color_clock), (depth_ms, depth_clock) = self._latest["colour"], self._latest["depth"]
            if color_clock != depth_clock:
                raise RecordingError(
                    f"{name} gives no pairs: colour has the time of {color_clock}, depth that of {depth_clock}, and "
                    "the two cannot be compared; switch the option Global Time Enabled on for both sensors "
                    "(realsense-viewer shows it), or off for both, and update the camera's firmware"
                )
            raise RecordingError(
                f"{name} gives no pairs: colour and depth are {abs(depth_ms - color_ms):.0f} ms apart, expected at "
                f"most {self._half_ms:.0f} ms, half the time between images; plug it in again, or take another --fps"
            )


def _video_profiles(rs: Any, device: Any) -> list[Any]:
    """Return the device's colour profiles that can be recorded, and its depth profiles."""
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
            f"the file of {name} must hold colour ({', '.join(_ENCODINGS)}) and depth (z16), found {found}"
        )
    return by_kind[rs.stream.color], by_kind[rs.stream.depth]


def _requested_profiles(rs: Any, profiles: list[Any], request: StreamRequest, name: str) -> tuple[Any, Any]:
    """Return colour of the size, rgb8 before others, and depth of the same or the largest size, both of the rate."""
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
            f"this USB port; choose with --width, --height and --fps among: {listed}"
        )
    best = min(fitting, key=lambda p: list(_ENCODINGS).index(p.format().name))
    return best, max(depth, key=lambda p: ((p.width(), p.height()) == wanted, p.width() * p.height()))


def _by_sensor(device: Any, *profiles: Any) -> list[tuple[Any, list[Any]]]:
    """Return the sensors to open and with what; one sensor may give both streams."""
    wanted = {(p.stream_type(), p.unique_id()) for p in profiles}
    found = []
    for sensor in device.query_sensors():
        own = {(p.stream_type(), p.unique_id()) for p in sensor.get_stream_profiles()} & wanted
        if own:
            found.append((sensor, [p for p in profiles if (p.stream_type(), p.unique_id()) in own]))
    return found


def _sees_the_same(depth: Any, color: Any) -> bool:
    """Say whether depth lies on colour already (D405): rs.align would only widen its edges."""
    way, one, other = depth.get_extrinsics_to(color), depth.get_intrinsics(), color.get_intrinsics()
    is_still = list(way.rotation) == [1, 0, 0, 0, 1, 0, 0, 0, 1] and not any(way.translation)
    return is_still and all(
        getattr(one, name) == getattr(other, name)
        for name in ("width", "height", "fx", "fy", "ppx", "ppy", "model", "coeffs")
    )


@contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Explain an error of the SDK that says why it cannot open a camera."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error)
        said = reason.lower()
        if "busy" in said:
            text = f"is used by another program ({reason}): {_CLOSE_HINT}"
        elif "access" in said or "permission" in said:
            text = f"may not be opened by this user ({reason}): {_UDEV_HINT}"
        elif "power state" in said:  # all that the SDK says of either where it goes past the kernel's driver
            text = f"cannot be opened ({reason}): {_CLOSE_HINT}; if nothing does, {_UDEV_HINT}"
        else:
            text = f"does not start ({reason}): plug it in again, into a USB 3 port"
        raise RecordingError(f"{name} {text}") from None


def _camera(found: Any) -> CameraIntrinsics:
    """Return intrinsics as realsense-ros publishes them."""
    is_fisheye = found.model.name == "kannala_brandt4"
    coefficients = tuple(float(value) for value in found.coeffs)
    return CameraIntrinsics(
        found.width,
        found.height,
        found.fx,
        found.fy,
        found.ppx,
        found.ppy,
        coefficients[:4] if is_fisheye else coefficients,
        "equidistant" if is_fisheye else "plumb_bob",
    )


def _scale(depth: Any) -> float:
    """Return metres per unit; the SDK's float32 of a millimetre is one."""
    scale = float(depth.get_units())
    return _MILLIMETRE if math.isclose(scale, _MILLIMETRE, rel_tol=1e-6) else scale


def _millimetres(raw: UInt16Array, scale: float) -> UInt16Array:
    return raw if scale == _MILLIMETRE else metres_to_depth(raw * scale)


def _info(device: Any, key: Any) -> str:
    return str(device.get_info(key)) if device.supports(key) else ""


def _options(sensor: Any) -> dict[str, float]:
    found = {}
    for option in sensor.get_supported_options():
        try:
            found[option.name] = float(sensor.get_option(option))
        except RuntimeError:  # some can be read only while streaming
            continue
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _profile_text(profile: Any) -> str:
    return f"{profile.width()}x{profile.height()} at {profile.fps()}, {profile.format().name}"
