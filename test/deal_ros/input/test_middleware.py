"""Advice for each middleware."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_ros.input.middleware import discovery_advice, loss_advice


@pytest.mark.parametrize(
    ("rmw", "is_lossy", "said"),
    [
        (
            "rmw_fastrtps_cpp",
            True,
            "set FASTDDS_DEFAULT_PROFILES_FILE to share/deal_ros/config/fastdds_shm.xml for camera",
        ),
        ("rmw_fastrtps_cpp", False, "for the camera's process, too"),
        ("rmw_cyclonedds_cpp", False, "net.core.rmem_max"),
        ("rmw_zenoh_cpp", False, "ZENOH_CONFIG_OVERRIDE"),
        ("rmw_connextdds", False, "rmw_connextdds"),
    ],
)
def test_each_middleware_has_advice_of_its_own(rmw: str, is_lossy: bool, said: str) -> None:
    assert said in loss_advice(rmw, {"ROS_DISTRO": "kilted"}, is_lossy=is_lossy)


def test_the_variable_is_that_of_the_distribution() -> None:
    advice = loss_advice("rmw_fastrtps_dynamic_cpp", {"ROS_DISTRO": "humble"}, is_lossy=True)
    assert "set FASTRTPS_DEFAULT_PROFILES_FILE to share" in advice


def test_only_zenoh_needs_a_router() -> None:
    assert "rmw_zenohd" in discovery_advice("rmw_zenoh_cpp")
    assert discovery_advice("rmw_fastrtps_cpp") == discovery_advice("rmw_cyclonedds_cpp") == ""
