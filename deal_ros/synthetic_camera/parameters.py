"""The synthetic camera's parameters: what it shows, and the faults it has, each of them changed live."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deal_core.errors import UsageError
from deal_ros.node.parameters import check_values, parameter

_SMALLEST, _LARGEST, _FASTEST_HZ = 32, 1920, 240
_PROFILE = re.compile(r"(\d+)[xX,](\d+)[xX,](\d+)")
_SIZE = re.compile(r"(\d+)[xX,](\d+)")


@dataclass(frozen=True)
class SyntheticCameraParameters:
    """Values as read and checked; the fields are the parameters. Those after `qos` are faults, none by default."""

    profile: str = parameter("640x480x30", "Width, height and rate as for realsense-ros, as in 1280x720x30.")
    seed: int = parameter(0, "Which tabletop is rendered.", minimum=0)
    views: int = parameter(4, "Views rendered before the start, then shown back and forth.", minimum=1, maximum=1000)
    view_rate_hz: float = parameter(
        5.0, "How often the next view is shown; 0 is at every image.", minimum=0.0, maximum=1000.0, live=True
    )
    qos: str = parameter(
        "reliable",
        "Reliability that images are offered with; a change makes the publishers anew.",
        choices=("reliable", "best_effort"),
        live=True,
    )

    lost_color: float = parameter(0.0, "Share of colour images that are lost.", minimum=0.0, maximum=1.0, live=True)
    lost_depth: float = parameter(0.0, "Share of depth images that are lost.", minimum=0.0, maximum=1.0, live=True)
    late_depth_ms: float = parameter(
        0.0, "How much later than its colour image depth is sent, ms.", minimum=0.0, maximum=10_000.0, live=True
    )
    depth_stamp_offset_ms: float = parameter(
        0.0,
        "How much later than its colour image depth is stamped, ms.",
        minimum=-10_000.0,
        maximum=10_000.0,
        live=True,
    )
    stamp_offset_s: float = parameter(
        0.0, "Added to all stamps, s; they jump when it changes.", minimum=-86_400.0, maximum=86_400.0, live=True
    )
    duplicate_stamps: float = parameter(
        0.0, "Share of frames with the stamp of the frame before.", minimum=0.0, maximum=1.0, live=True
    )
    resolution: str = parameter("", "Size of both images, as in 320x240; empty is that of the profile.", live=True)
    unaligned: str = parameter(
        "off",
        "frame: depth in the depth camera's frame. size: depth of half the size.",
        choices=("off", "frame", "size"),
        live=True,
    )
    color_encoding: str = parameter(
        "rgb8",
        "Encoding of colour; 8UC3 does not tell the order of its channels.",
        choices=("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "8UC3"),
        live=True,
    )
    depth_encoding: str = parameter(
        "16UC1",
        "Encoding of depth: millimetres, 0 where nothing was measured; in 32FC1 metres and NaN.",
        choices=("16UC1", "mono16", "32FC1"),
        live=True,
    )
    empty_depth: bool = parameter(False, "Whether no pixel of depth has a measurement.", live=True)
    malformed: str = parameter(
        "off",
        "Messages that contradict themselves: a step one byte short of a row, or half of the data missing.",
        choices=("off", "color_step", "color_truncated", "depth_step", "depth_truncated"),
        live=True,
    )
    frozen: bool = parameter(False, "Whether the view stays the same; stamps go on.", live=True)
    silent: bool = parameter(False, "Whether nothing is sent.", live=True)
    unplugged: bool = parameter(False, "Whether the publishers of images are gone; false makes them anew.", live=True)

    def __post_init__(self) -> None:
        check_values(self)
        _ = self._profile, self.forced_size  # raise where they cannot be read

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the profile, pixels."""
        width, height, _ = self._profile
        return width, height

    @property
    def rate_hz(self) -> int:
        """Images of each stream a second."""
        return self._profile[2]

    @property
    def forced_size(self) -> tuple[int, int] | None:
        """Width and height that `resolution` asks for, pixels."""
        if not self.resolution:
            return None
        width, height = _numbers("resolution", self.resolution, _SIZE, "WIDTHxHEIGHT, as in 320x240")
        return width, height

    @property
    def _profile(self) -> tuple[int, int, int]:
        width, height, rate = _numbers("profile", self.profile, _PROFILE, "WIDTHxHEIGHTxRATE, as in 640x480x30")
        if not 1 <= rate <= _FASTEST_HZ:
            raise UsageError(f"parameter 'profile': expected a rate from 1 to {_FASTEST_HZ}, found '{self.profile}'")
        return width, height, rate


def _numbers(name: str, text: str, form: re.Pattern[str], expected: str) -> tuple[int, ...]:
    match = form.fullmatch(text)
    if match is None:
        raise UsageError(f"parameter '{name}': expected {expected}, found '{text}'")
    numbers = tuple(int(number) for number in match.groups())
    if not all(_SMALLEST <= side <= _LARGEST for side in numbers[:2]):
        raise UsageError(f"parameter '{name}': expected sides of {_SMALLEST} to {_LARGEST} pixels, found '{text}'")
    return numbers
