"""Parameters of the synthetic camera: what it shows, and the faults that it simulates."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deal_core.errors import UsageError
from deal_ros.node.parameters import check_values, live_parameter, parameter

_SMALLEST, _LARGEST, _FASTEST_HZ = 32, 1920, 240
_PROFILE = re.compile(r"(\d+)[xX,](\d+)[xX,](\d+)")
_SIZE = re.compile(r"(\d+)[xX,](\d+)")


@dataclass(frozen=True)
class SyntheticCameraParameters:
    """Validated parameter values; the fields are the parameters. Those after `qos` are faults, off by default."""

    profile: str = parameter("640x480x30", "Width, height and rate, as for realsense-ros; for example 1280x720x30.")
    seed: int = parameter(0, "Random seed of the rendered tabletop.", minimum=0)
    views: int = parameter(
        4,
        "Number of views rendered at the start; the camera shows them forwards and backwards.",
        minimum=1,
        maximum=1000,
    )
    view_rate_hz: float = live_parameter(
        5.0, "Rate at which the view changes, Hz; 0 changes it with every image.", minimum=0.0, maximum=1000.0
    )
    qos: str = live_parameter(
        "reliable",
        "Reliability that the image publishers offer; a change recreates the publishers.",
        choices=("reliable", "best_effort"),
    )

    lost_color: float = live_parameter(0.0, "Fraction of colour images that are lost.", minimum=0.0, maximum=1.0)
    lost_depth: float = live_parameter(0.0, "Fraction of depth images that are lost.", minimum=0.0, maximum=1.0)
    late_depth_ms: float = live_parameter(
        0.0,
        "Delay of each depth image after its colour image, ms; stamps do not change.",
        minimum=0.0,
        maximum=10_000.0,
    )
    depth_stamp_offset_ms: float = live_parameter(
        0.0, "Offset of depth stamps from the stamps of colour, ms.", minimum=-10_000.0, maximum=10_000.0
    )
    stamp_offset_s: float = live_parameter(
        0.0, "Offset of all stamps, s; a change makes the stamps jump.", minimum=-86_400.0, maximum=86_400.0
    )
    duplicate_stamps: float = live_parameter(
        0.0, "Fraction of frames that repeat the stamp of the previous frame.", minimum=0.0, maximum=1.0
    )
    resolution: str = live_parameter(
        "", "Size of both images, for example 320x240; empty uses the size of the profile."
    )
    unaligned: str = live_parameter(
        "off",
        "frame: depth has the frame of the depth camera. size: depth has half the size.",
        choices=("off", "frame", "size"),
    )
    color_encoding: str = live_parameter(
        "rgb8",
        "Encoding of colour images; 8UC3 does not define the order of the channels.",
        choices=("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "8UC3"),
    )
    depth_encoding: str = live_parameter(
        "16UC1",
        "Encoding of depth images; 16UC1 and mono16 are millimetres, 0 where invalid; 32FC1 is metres, NaN where "
        "invalid.",
        choices=("16UC1", "mono16", "32FC1"),
    )
    empty_depth: bool = live_parameter(False, "Whether all pixels of depth images are invalid.")
    malformed: str = live_parameter(
        "off",
        "Images with contradictory fields: step is one byte too small, or half of the data is missing.",
        choices=("off", "color_step", "color_truncated", "depth_step", "depth_truncated"),
    )
    frozen: bool = live_parameter(False, "Whether the view stays the same while stamps advance.")
    silent: bool = live_parameter(False, "Whether the camera sends nothing.")
    unplugged: bool = live_parameter(False, "Whether the image publishers are destroyed; false creates them again.")

    def __post_init__(self) -> None:
        check_values(self)
        _ = self._profile, self.forced_size  # raise an error if they cannot be parsed

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the profile, pixels."""
        width, height, _ = self._profile
        return width, height

    @property
    def rate_hz(self) -> int:
        """Rate of each stream, Hz."""
        return self._profile[2]

    @property
    def forced_size(self) -> tuple[int, int] | None:
        """Width and height of `resolution`, pixels; None if it is empty."""
        if not self.resolution:
            return None
        width, height = _numbers("resolution", self.resolution, _SIZE, "WIDTHxHEIGHT, for example 320x240")
        return width, height

    @property
    def _profile(self) -> tuple[int, int, int]:
        form = "WIDTHxHEIGHTxRATE, for example 640x480x30"
        width, height, rate = _numbers("profile", self.profile, _PROFILE, form)
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
