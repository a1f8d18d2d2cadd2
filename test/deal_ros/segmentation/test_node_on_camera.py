"""The segmentation node on the synthetic camera, each a process of its own: managed from outside, fault after fault."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from helpers.ros_client import Client
from std_srvs.srv import SetBool, Trigger

pytestmark = pytest.mark.ros
CAMERA = "/camera/camera"
WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope="module")
def running(start_node: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A node that waits for a lifecycle manager, with a camera in its domain."""
    from deal_ros.node.process import node_process

    node = start_node(autostart=False, max_age_ms=0)
    with node_process(
        "deal_ros.synthetic_camera.main",
        tmp_path_factory.mktemp("camera") / "output.txt",
        parameters={"profile": f"{WIDTH}x{HEIGHT}x20", "views": 1},
        environment={"ROS_DOMAIN_ID": str(node.domain), "OMP_NUM_THREADS": "1"},
    ):
        yield node


@pytest.fixture(scope="module")
def client(running: Any) -> Iterator[Client]:
    found = Client(running.domain, "manager")
    yield found
    found.close()


@pytest.fixture(scope="module")
def active(client: Client) -> Client:
    """The manager, with the node active and its masks flowing."""
    if client.state() == "unconfigured":
        client.change_state("configure")
    if client.state() == "inactive":
        client.change_state("activate")
    wait_masks(client)
    return client


def wait_masks(client: Client, count: int = 3) -> None:
    """Wait until so many more masks are published."""
    before = int(client.fresh_values().get("published", 0))
    client.wait(lambda: int(client.values.get("published", 0)) >= before + count, "masks")


@pytest.mark.slow
def test_a_manager_takes_the_node_through_its_states(client: Client, running: Any) -> None:
    assert client.state() == "unconfigured"
    assert client.change_state("configure") == "inactive"
    client.wait(lambda: client.labels == {0: "background", 1: "mug", 2: "drill", 3: "box", 255: "unlabelled"}, "labels")
    assert client.change_state("activate") == "active"
    wait_masks(client)
    assert client.change_state("deactivate") == "inactive"
    assert client.change_state("cleanup") == "unconfigured"
    assert client.change_state("configure") == "inactive" and client.change_state("activate") == "active"
    wait_masks(client)
    assert "waiting for a lifecycle manager" in running.node.text()


def test_services_answer(active: Client, tmp_path: Any) -> None:
    assert active.call(SetBool, "enable", SetBool.Request(data=False)).success
    assert active.fresh_values()["enabled"] == "false"
    assert active.call(SetBool, "enable", SetBool.Request(data=True)).success
    wait_masks(active)
    assert active.set(snapshot_dir=str(tmp_path)) == ""
    answer = active.call(Trigger, "save_snapshot")
    assert answer.success and {"color.png", "mask.png"} <= {p.name for p in (tmp_path / answer.message).iterdir()}


def test_a_broken_file_is_not_loaded_and_the_old_model_goes_on(active: Client, model_file: Any, tmp_path: Any) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(model_file.read_bytes()[:5000])
    assert active.set(model=str(broken)) == ""
    answer = active.call(Trigger, "reload_model")
    assert not answer.success and f"{broken}: damaged or truncated" in answer.message
    assert answer.message.endswith(f"{model_file} stays in use")
    active.wait_said("the model was not replaced")
    wait_masks(active)
    assert active.set(model=str(model_file)) == "" and active.call(Trigger, "reload_model").success
    wait_masks(active)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"malformed": "color_step"}, "frames failed since the last report: frame"),
        ({"malformed": "color_truncated"}, "length: expected"),
        ({"stamp_offset_s": 600.0}, "have stamps in the future, the last by"),
        (
            {"stamp_offset_s": -600.0},
            f"images on {CAMERA}/color/image_raw have an earlier stamp than the image",
        ),
        ({"resolution": "64x48"}, f"changed from {WIDTH}x{HEIGHT} rgb8 to 64x48 rgb8"),
        ({"color_encoding": "bgr8"}, "rgb8 to 96x64 bgr8"),
        ({"silent": True}, "no input on /camera/camera/color/image_raw for"),
        ({"unplugged": True}, "its publisher is gone; images resume when the camera is back"),
    ],
)
def test_a_fault_of_the_colour_stream_is_named_and_survived(active: Client, fault: dict[str, Any], said: str) -> None:
    _survive(active, fault, said)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"lost_depth": 1.0}, "frames were segmented without depth"),
        ({"late_depth_ms": 400.0}, "frames were segmented without depth"),
        ({"depth_stamp_offset_ms": 7.0}, "unpaired images since the last report"),
        ({"duplicate_stamps": 1.0}, "duplicate stamp"),
        ({"unaligned": "size"}, "depth ignored: unaligned_depth"),
        ({"unaligned": "frame"}, "depth ignored: unaligned_depth"),
        ({"malformed": "depth_step"}, "depth ignored: step"),
        ({"malformed": "depth_truncated"}, "depth ignored: length"),
        ({"empty_depth": True}, "no pixel of the last depth image is valid"),
        ({"depth_encoding": "32FC1"}, "16UC1 to 96x64 32FC1"),
    ],
)
def test_a_fault_of_depth_is_named_and_costs_no_mask(
    active: Client, points: list[Any], fault: dict[str, Any], said: str
) -> None:
    _survive(active, fault, said)
    points.clear()
    active.wait(lambda: len(points) > 1, "points")


@pytest.fixture(scope="module")
def points(active: Client) -> list[Any]:
    """Clouds, and so somebody who needs depth."""
    from sensor_msgs.msg import PointCloud2

    found: list[Any] = []
    active.node.create_subscription(PointCloud2, "/deal_segmentation/points", found.append, 10)
    active.wait(lambda: bool(found), "a cloud")
    return found


def _survive(client: Client, fault: dict[str, Any], said: str) -> None:
    """Set a fault, wait for its diagnostic, take it back, and wait for masks."""
    usual = {
        "malformed": "off",
        "unaligned": "off",
        "resolution": "",
        "color_encoding": "rgb8",
        "depth_encoding": "16UC1",
        "silent": False,
        "unplugged": False,
        "empty_depth": False,
    }
    client.said.clear()
    try:
        assert client.set(CAMERA, **fault) == ""
        client.wait_said(said)
    finally:
        client.set(CAMERA, **{name: usual.get(name, 0.0) for name in fault})
    wait_masks(client)


def test_sigint_ends_the_node_with_its_account(active: Client, running: Any) -> None:
    _survive(active, {"malformed": "color_step"}, "frames failed since the last report: frame")
    values = active.fresh_values()
    assert int(values["failed"]) > 0 and values["state"] == "active"
    assert running.node.stop(signal.SIGINT) == 0
    lines = [line for line in running.node.text().splitlines() if "stopped:" in line]
    assert "received" in lines[-1] and "Traceback" not in running.node.text()
