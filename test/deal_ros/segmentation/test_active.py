"""What the node subscribes to while it is active."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from helpers.node_stand import Stand
from std_srvs.srv import SetBool

from deal_ros.input.synchronizer import DepthMode
from deal_ros.segmentation.active import effective_depth_mode


def test_enable_unsubscribes_and_subscribes(new_stand: Callable[..., Stand]) -> None:
    stand = new_stand()
    assert "not active" in stand.call(SetBool, "enable", SetBool.Request(data=True)).message
    stand.activate()
    assert stand.call(SetBool, "enable", SetBool.Request(data=False)).success
    stand.wait(lambda: stand.color.get_subscription_count() == 0, "no subscription")
    stand.fresh_values()
    assert stand.values["enabled"] == "false" and "disabled by ~/enable" in stand.statuses["state"][1]
    assert stand.call(SetBool, "enable", SetBool.Request(data=True)).success
    stand.wait(lambda: stand.color.get_subscription_count() == 1, "a subscription")
    stand.segment()


def test_optional_depth_is_off_while_nothing_uses_it() -> None:
    assert effective_depth_mode("optional", is_used=False) is DepthMode.OFF
    assert effective_depth_mode("optional", is_used=True) is DepthMode.OPTIONAL
    assert effective_depth_mode("required", is_used=False) is DepthMode.REQUIRED
