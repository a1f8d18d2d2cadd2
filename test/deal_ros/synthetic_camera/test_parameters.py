"""The synthetic camera's parameters: their file, and the text of profile and resolution."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml
from helpers.paths import PROJECT

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_core.errors import UsageError
from deal_ros.synthetic_camera.parameters import SyntheticCameraParameters


def test_the_parameter_file_sets_every_parameter_to_its_default() -> None:
    content = yaml.safe_load((PROJECT / "config" / "synthetic_camera.param.yaml").read_text())
    values = content["/**"]["ros__parameters"]
    assert values == {field.name: field.default for field in dataclasses.fields(SyntheticCameraParameters)}
    SyntheticCameraParameters(**values)


@pytest.mark.parametrize("profile", ["1280x720x15", "1280X720X15", "1280,720,15"])
def test_a_profile_is_written_as_for_realsense(profile: str) -> None:
    found = SyntheticCameraParameters(profile=profile)
    assert (found.size, found.rate_hz, found.forced_size) == ((1280, 720), 15, None)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"profile": "640x480"}, r"'profile': expected WIDTHxHEIGHTxRATE, for example 640x480x30, found '640x480'"),
        ({"profile": "640x8x30"}, r"'profile': expected sides of 32 to 1920 pixels, found '640x8x30'"),
        ({"profile": "640x480x0"}, r"'profile': expected a rate from 1 to 240, found '640x480x0'"),
        ({"resolution": "half"}, r"'resolution': expected WIDTHxHEIGHT, for example 320x240, found 'half'"),
        ({"lost_depth": 1.5}, r"'lost_depth': expected a number from 0 to 1, found 1.5"),
        ({"unaligned": "maybe"}, r"'unaligned': expected one of off, frame, size, found 'maybe'"),
    ],
)
def test_a_wrong_value_is_refused_by_name(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        SyntheticCameraParameters(**values)
