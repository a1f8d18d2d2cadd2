"""The executable `synthetic_camera_node`: errors and exit codes."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_ros.synthetic_camera.main import main

pytestmark = pytest.mark.ros


def test_a_camera_that_cannot_work_says_why(new_domain: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["synthetic_camera_node", "--ros-args", "-p", "profile:=huge"]) == 2
    captured = capfd.readouterr()
    said = "parameter 'profile': expected WIDTHxHEIGHTxRATE, for example 640x480x30, found 'huge'"
    assert said in captured.err + captured.out and "Traceback" not in captured.err
