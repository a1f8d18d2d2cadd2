"""Depth aligned with what is heard over DDS: two camera_info topics, and /tf_static or the driver's extrinsics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from geometry_msgs.msg import Transform, TransformStamped, Vector3
from helpers.interface_packages import BUILD_S
from helpers.ros_client import NODE, Client
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from deal_core.recording.depth_values import DepthValues
from deal_core.runtime.depth_registration import DepthRegistration
from deal_core.structures import CameraIntrinsics
from deal_ros.input import depth_alignment
from deal_ros.input.conversions import array_to_image, camera_to_info, stamp_from_ns
from deal_ros.input.depth_alignment import DepthAlignment, DepthAlignmentError

pytestmark = [pytest.mark.ros, pytest.mark.timeout(BUILD_S)]
DEPTH = CameraIntrinsics(80, 60, 60.0, 60.0, 40.0, 30.0, frame_id="depth_optical")
COLOR = CameraIntrinsics(96, 64, 90.0, 90.0, 48.0, 32.0, frame_id="color_optical")
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SHIFT = 0.03


def depth_m() -> np.ndarray:
    depth = np.full((60, 80), 1.5, np.float32)
    depth[20:40, 30:50] = 0.6
    return depth


def depth_message(stamp_ns: int = 5) -> Image:
    header = Header(stamp=stamp_from_ns(stamp_ns), frame_id=DEPTH.frame_id)
    return array_to_image((depth_m() * 1000).round().astype(np.uint16), header)


def expected() -> np.ndarray:
    to_color = np.eye(4)
    to_color[0, 3] = -SHIFT
    return DepthRegistration(DEPTH, COLOR, to_color)(depth_m())


@pytest.fixture
def client(
    interface_packages: None, new_domain: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    from realsense2_camera_msgs.msg import Extrinsics
    from tf2_msgs.msg import TFMessage

    monkeypatch.setattr(depth_alignment, "TFMessage", TFMessage)
    monkeypatch.setattr(depth_alignment, "Extrinsics", Extrinsics)
    found = Client(new_domain(), "camera")
    yield found
    found.close()


def tell_cameras(client: Client) -> None:
    """Publish both camera_info again and again while the client waits, as a camera does beside its images."""
    infos = [
        (client.node.create_publisher(CameraInfo, topic, 10), camera_to_info(camera, Header(frame_id=camera.frame_id)))
        for topic, camera in (("color/camera_info", COLOR), ("depth/camera_info", DEPTH))
    ]

    def tell() -> None:
        for publisher, info in infos:
            publisher.publish(info)

    client.node.create_timer(0.1, tell)


def tell_transform(client: Client) -> None:
    from tf2_msgs.msg import TFMessage

    transform = TransformStamped(header=Header(frame_id=COLOR.frame_id), child_frame_id=DEPTH.frame_id)
    transform.transform = Transform(translation=Vector3(x=-SHIFT, y=0.0, z=0.0))
    client.node.create_publisher(TFMessage, "/tf_static", LATCHED).publish(TFMessage(transforms=[transform]))


def tell_extrinsics(client: Client) -> None:
    from realsense2_camera_msgs.msg import Extrinsics

    message = Extrinsics(rotation=np.eye(3).ravel(), translation=[-SHIFT, 0.0, 0.0])
    client.node.create_publisher(Extrinsics, "extrinsics/depth_to_color", LATCHED).publish(message)


@pytest.mark.parametrize("tell", [tell_transform, tell_extrinsics], ids=["tf_static", "extrinsics"])
def test_what_is_missing_is_named_until_depth_is_aligned(client: Client, tell: Callable[[Client], None]) -> None:
    alignment = DepthAlignment(client.node, DepthValues())
    with pytest.raises(DepthAlignmentError, match="no usable camera_info on /color/camera_info"):
        alignment.align(depth_message())
    tell_cameras(client)

    def why() -> str:
        try:
            alignment.align(depth_message())
        except DepthAlignmentError as error:
            return str(error)
        return ""

    client.wait(lambda: "camera_info" not in why(), "both camera_info")
    assert "no transform from 'depth_optical' to 'color_optical' on /tf_static" in why()
    tell(client)
    client.wait(lambda: not why(), "the transform")
    reading = alignment.align(depth_message())
    np.testing.assert_allclose(reading.metres(), expected(), atol=1e-6)
    image = alignment.lazily(depth_message(stamp_ns=7))
    assert (image.stamp_ns, image.frame_id, image.size, image.encoding) == (7, "color_optical", (64, 96), "16UC1")
    np.testing.assert_array_equal(image.pixels(), np.rint(expected() * 1000).astype(np.uint16))
    alignment.close()


def test_a_lack_of_message_packages_is_named(new_domain: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TFMessage", "Extrinsics"):
        monkeypatch.setattr(depth_alignment, name, None)
    client = Client(new_domain(), "camera")
    alignment = DepthAlignment(client.node, DepthValues())
    tell_cameras(client)
    said: list[str] = []

    def names_packages() -> bool:
        with pytest.raises(DepthAlignmentError) as caught:
            alignment.align(depth_message())
        said.append(str(caught.value))
        return "not installed here: tf2_msgs, realsense2_camera_msgs" in said[-1]

    client.wait(names_packages, "the packages")
    client.close()


@pytest.mark.slow
def test_a_node_takes_depth_of_another_camera(client: Client, start_node: Callable[..., Any]) -> None:
    """The node is a process of its own, which finds tf2_msgs; its points have the depth of the colour camera."""
    from sensor_msgs.msg import PointCloud2

    running = start_node(depth_mode="required", align_depth=True, max_age_ms=0, points_stride=1)
    camera = Client(running.domain, "camera")
    base = "/camera/camera"
    color = camera.node.create_publisher(Image, f"{base}/color/image_raw", 10)
    depth = camera.node.create_publisher(Image, f"{base}/aligned_depth_to_color/image_raw", 10)
    infos = {
        "color": camera.node.create_publisher(CameraInfo, f"{base}/color/camera_info", LATCHED),
        "depth": camera.node.create_publisher(CameraInfo, "/depth/camera_info", LATCHED),
    }
    clouds: list[PointCloud2] = []
    camera.node.create_subscription(PointCloud2, f"{NODE}/points", clouds.append, 10)
    tell_transform(camera)

    def is_shown() -> bool:
        assert running.node.is_alive(), running.node.text()
        infos["color"].publish(camera_to_info(COLOR, Header(frame_id=COLOR.frame_id)))
        infos["depth"].publish(camera_to_info(DEPTH, Header(frame_id=DEPTH.frame_id)))
        stamp_ns = camera.node.get_clock().now().nanoseconds
        header = Header(stamp=stamp_from_ns(stamp_ns), frame_id=COLOR.frame_id)
        color.publish(array_to_image(np.zeros((64, 96, 3), np.uint8), header))
        depth.publish(depth_message(stamp_ns))
        return bool(clouds)

    camera.wait(is_shown, "points")
    (z,) = [field.offset for field in clouds[-1].fields if field.name == "z"]
    rows = np.frombuffer(clouds[-1].data, np.uint8).reshape(-1, clouds[-1].point_step)
    found = rows[:, z : z + 4].copy().view(np.float32).ravel()
    wanted = expected()
    assert len(found) == np.count_nonzero(wanted)
    assert np.sort(found) == pytest.approx(np.sort(wanted[wanted > 0]), abs=1e-3)
    assert clouds[-1].header.frame_id == COLOR.frame_id
    camera.close()


@pytest.mark.slow
def test_a_recording_has_the_aligned_depth(client: Client, new_domain: Callable[[], int], tmp_path: Path) -> None:
    from deal_core.dataset.dataset import Dataset
    from deal_core.dataset.extract import ExtractOptions, extract_recording
    from deal_ros.node.process import node_process

    domain = new_domain()
    parameters = {"output": str(tmp_path / "kitchen"), "classes": "mug", "tags": "mug", "align_depth": True}
    camera = Client(domain, "camera")
    color = camera.node.create_publisher(Image, "color/image_raw", 10)
    depth = camera.node.create_publisher(Image, "depth/image_raw", 10)
    tell_transform(camera)
    with node_process(
        "deal_ros.recorder.main",
        tmp_path / "output.txt",
        parameters={**parameters, "rate_hz": 0.0, "keyboard": False, "tag_guard_s": 0.0, "max_loss": 1.0},
        environment={"ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1"},
    ) as recorder:
        tell_cameras(camera)

        def is_recording() -> bool:
            assert recorder.is_alive(), recorder.text()
            stamp_ns = camera.node.get_clock().now().nanoseconds
            header = Header(stamp=stamp_from_ns(stamp_ns), frame_id=COLOR.frame_id)
            color.publish(array_to_image(np.zeros((64, 96, 3), np.uint8), header))
            depth.publish(depth_message(stamp_ns))
            time.sleep(0.02)
            found = list(tmp_path.glob("*kitchen*/*.mcap"))
            return bool(found) and found[0].stat().st_size > 500_000

        camera.wait(is_recording, "some pairs on disk")
        assert recorder.stop() == 0, recorder.text()
    camera.close()
    extract_recording(tmp_path / "kitchen", tmp_path / "data", ExtractOptions())
    dataset = Dataset.open(tmp_path / "data")
    assert dataset.frames
    for frame in dataset.frames:
        np.testing.assert_allclose(dataset.load(frame).depth, expected(), atol=6e-4)
