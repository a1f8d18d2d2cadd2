"""The SROS 2 policies: up to date, and with everything that a node really does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from helpers.paths import PROJECT

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from helpers.node_stand import Stand

from deal_core.errors import UsageError
from deal_ros.recorder.parameters import RecorderParameters
from deal_ros.security_policies import (
    CAMERA,
    SECURED,
    main,
    policy_file,
    policy_of_file,
    policy_text,
)
from deal_ros.segmentation.parameters import SegmentationParameters


def names(text: str, group: str, allowed: str) -> set[str]:
    found = ElementTree.fromstring(text).findall(f".//{group}[@{allowed}='ALLOW']/*")
    return {str(entry.text) for entry in found}


@pytest.mark.parametrize("room", SECURED)
def test_the_policy_is_that_of_the_shipped_parameters(room: str) -> None:
    expected = policy_of_file(room, PROJECT / "config" / f"{room}.param.yaml")
    assert policy_file(PROJECT, room).read_text(encoding="utf-8") == expected, "run make params"


@pytest.mark.ros
@pytest.mark.parametrize("parameters", [{}, {"depth_mode": "off"}, {"color_transport": "compressed"}])
def test_the_node_does_nothing_that_its_policy_forbids(
    new_domain: Callable[[], int], parameters: dict[str, object]
) -> None:
    stand = Stand(new_domain(), **parameters)
    try:
        check_deeds(stand, parameters)
    finally:
        stand.close()


def check_deeds(stand: Stand, parameters: dict[str, object]) -> None:
    stand.activate()
    for output in ("points", "object_markers"):  # they need depth and camera_info
        from sensor_msgs.msg import PointCloud2
        from visualization_msgs.msg import MarkerArray

        stand.listen(output, PointCloud2 if output == "points" else MarkerArray)
    if parameters.get("depth_mode") != "off":
        stand.wait(lambda: stand.depth.get_subscription_count() > 0, "a subscription of depth")
    text = policy_text(SECURED["segmentation"], stand.tested.parameters)
    name, space = stand.tested.get_name(), stand.tested.get_namespace()
    publishes = {topic for topic, _ in stand.node.get_publisher_names_and_types_by_node(name, space)}
    subscribes = {topic for topic, _ in stand.node.get_subscriber_names_and_types_by_node(name, space)}
    replies = {service for service, _ in stand.node.get_service_names_and_types_by_node(name, space)}
    assert publishes - names(text, "topics", "publish") == set()
    launched = {topic: f"{CAMERA}{topic}" for topic in subscribes if topic.startswith("/color/")}
    launched["/depth/image_raw"] = f"{CAMERA}/aligned_depth_to_color/image_raw"
    assert {launched.get(topic, topic) for topic in subscribes} - names(text, "topics", "subscribe") == set()
    assert replies - names(text, "services", "reply") == set()


def test_the_motion_of_the_camera_is_read_only_where_it_is_used() -> None:
    for weight, expected in ((0.0, set()), (0.5, {"/tf", "/tf_static", "/odom"})):
        text = policy_text(SECURED["segmentation"], SegmentationParameters(temporal_weight=weight))
        assert names(text, "topics", "subscribe") & {"/tf", "/tf_static", "/odom"} == expected


def test_the_recorder_answers_for_its_classes() -> None:
    def tags(**parameters: tuple[str, ...]) -> set[str]:
        text = policy_text(SECURED["recorder"], RecorderParameters(**parameters))
        return {name for name in names(text, "services", "reply") if "/tag/" in name}

    assert tags(classes=("mug", "red box")) == {"/deal_recorder/tag/mug", "/deal_recorder/tag/red_box"}
    assert tags() == {"/deal_recorder/tag/*"}


def test_a_file_of_ones_own_is_printed_and_a_wrong_one_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("/**: {ros__parameters: {align_depth: true}}", encoding="utf-8")
    assert main(["recorder", str(own)]) == 0
    assert f"{CAMERA}/depth/image_rect_raw" in names(capsys.readouterr().out, "topics", "subscribe")
    for text in (
        "",
        "a: b",
        "/**: {ros__parameters: {no_such: 1}}",
        "/**: {ros__parameters: {rate_hz: -1}}",
        "[",
        "é\0",
    ):
        own.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError):
            policy_of_file("recorder", own)
    assert main(["recorderr", str(own)]) == 2 and main(["recorder"]) == 2
