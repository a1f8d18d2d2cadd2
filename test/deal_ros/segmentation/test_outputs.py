"""The outputs beside the mask: heard over DDS, and made for nobody who does not listen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from helpers.interface_packages import BUILD_S
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from deal_core.drawing import color_overlay, confidence_image
from deal_core.runtime.labelled_points import POINT, labelled_points
from deal_core.runtime.segmenter import Segmentation
from deal_core.structures import CameraIntrinsics, ClassList
from deal_ros.input.conversions import array_to_image, camera_to_info, color_to_rgb, image_to_mask, stamp_from_ns
from deal_ros.segmentation import outputs
from deal_ros.segmentation.outputs import FrameInputs, Outputs
from deal_ros.segmentation.parameters import OutputOptions

CLASSES = ClassList(("mug", "drill"), ((255, 0, 0), (0, 51, 255)))
CAMERA = CameraIntrinsics(64, 48, 60.0, 60.0, 31.5, 23.5)
MAKERS = ("confidence_image", "color_overlay", "rgb_to_jpeg", "labelled_points", "find_objects")
TOPICS = {
    "confidence": Image,
    "camera_info": CameraInfo,
    "overlay": Image,
    "overlay/compressed": CompressedImage,
    "points": PointCloud2,
    "object_markers": MarkerArray,
}
WAIT_S = 60.0


def frame(stamp_ns: int = 1_700_000_000_987_654_321) -> tuple[FrameInputs, Segmentation]:
    """Return a scene with a mug at 1 m before a wall at 2 m."""
    rng = np.random.default_rng(0)
    mask, depth = np.zeros((48, 64), np.uint8), np.full((48, 64), 2.0, np.float32)
    mask[10:30, 20:40], depth[10:30, 20:40] = 1, 1.0
    mask[40:], depth[40:, :10] = 255, 0.0
    rgb = np.full((48, 64, 3), rng.integers(0, 256, 3), np.uint8)
    header = Header(stamp=stamp_from_ns(stamp_ns), frame_id="camera_color_optical_frame")
    return FrameInputs(header, rgb, depth), Segmentation(mask, rng.random((48, 64), np.float32))


def info(camera: CameraIntrinsics = CAMERA) -> Any:
    return camera_to_info(camera, Header())


class FakePublisher:
    """Keeps what it is given, for as many listeners as it is told to have."""

    def __init__(self, topic: str, qos: QoSProfile) -> None:
        self.topic, self.qos, self.listeners, self.messages = topic, qos, 0, []

    def get_subscription_count(self) -> int:
        return self.listeners

    def publish(self, message: Any) -> None:
        self.messages.append(message)


class FakeNode:
    def __init__(self) -> None:
        self.publishers: dict[str, FakePublisher] = {}

    def create_publisher(self, msg_type: Any, topic: str, qos_profile: QoSProfile) -> FakePublisher:
        self.publishers[topic] = FakePublisher(topic, qos_profile)
        return self.publishers[topic]

    def destroy_publisher(self, publisher: FakePublisher) -> bool:
        return self.publishers.pop(publisher.topic) is publisher

    def __getitem__(self, topic: str) -> FakePublisher:
        return self.publishers[f"~/{topic}"]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the functions that made something, in order."""
    calls: list[str] = []

    def counting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: (calls.append(name), original(*given, **named))[1]

    for name in MAKERS:
        monkeypatch.setattr(outputs, name, counting(name, getattr(outputs, name)))
    return calls


@pytest.fixture(scope="module")
def heard(new_domain: Callable[[], int]) -> Iterator[dict[str, Any]]:
    """Every output of one frame, as a subscriber in another context receives it."""
    import rclpy
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor

    domain, contexts = new_domain(), [Context(), Context()]
    for context in contexts:
        rclpy.init(args=[], context=context, domain_id=domain)
    node, listener = (
        rclpy.create_node(name, context=context)
        for name, context in zip(("deal_segmentation", "listener"), contexts, strict=True)
    )
    published = Outputs(node, CLASSES)
    assert not published.needs_depth
    messages: dict[str, Any] = {}
    for topic, kind in TOPICS.items():
        listener.create_subscription(
            kind, f"/deal_segmentation/{topic}", lambda found, topic=topic: messages.__setitem__(topic, found),
            QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT),
        )  # fmt: skip
    executor = SingleThreadedExecutor(context=contexts[1])
    executor.add_node(listener)
    end = time.monotonic() + WAIT_S
    inputs, result = frame()
    while len(messages) < len(TOPICS):
        assert time.monotonic() < end, f"heard only {sorted(messages)}"
        published.publish(inputs, result, info(), OutputOptions(overlay_max_hz=0.0))
        executor.spin_once(timeout_sec=0.05)
    assert published.needs_depth and published.missing == ()
    yield messages
    executor.shutdown()
    published.close()
    for each, context in zip((node, listener), contexts, strict=True):
        each.destroy_node()
        context.shutdown()


@pytest.mark.ros
def test_every_output_has_stamp_and_frame_of_the_image(heard: dict[str, Any]) -> None:
    header = frame()[0].header
    for topic in TOPICS:
        for message in heard[topic].markers if topic == "object_markers" else [heard[topic]]:
            assert message.header == header, topic


@pytest.mark.ros
def test_confidence_and_overlay_are_images_of_the_input_size(heard: dict[str, Any]) -> None:
    inputs, result = frame()
    confidence = image_to_mask(heard["confidence"])
    np.testing.assert_allclose(confidence, 255 * result.confidence, atol=0.51)
    assert heard["overlay"].encoding == "rgb8"
    overlay = color_overlay(inputs.rgb, result.mask, CLASSES.palette(), 0.5)
    np.testing.assert_array_equal(color_to_rgb(heard["overlay"]), overlay)
    compressed = heard["overlay/compressed"]
    assert compressed.format == "rgb8; jpeg compressed bgr8"
    shown = cv2.imdecode(np.frombuffer(compressed.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert shown.shape == overlay.shape and np.abs(shown.astype(int) - overlay).mean() < 8


@pytest.mark.ros
def test_points_are_read_back_field_by_field(heard: dict[str, Any]) -> None:
    cloud, (inputs, result) = heard["points"], frame()
    kinds = {2: "u1", 4: "<u2", 7: "<f4"}
    layout = {
        "names": [f.name for f in cloud.fields],
        "formats": [kinds[f.datatype] for f in cloud.fields],
        "offsets": [f.offset for f in cloud.fields],
        "itemsize": cloud.point_step,
    }
    points = np.frombuffer(cloud.data, np.dtype(layout))
    expected = labelled_points(inputs.rgb, inputs.depth, result, CAMERA, stride=2, near_m=0.1, far_m=5.0)
    assert len(points) == cloud.width == len(expected) > 700
    for name in POINT.names:
        np.testing.assert_array_equal(points[name], expected[name])
    assert set(points["label"].tolist()) == {0, 1, 255}


@pytest.mark.ros
def test_the_mug_is_marked(heard: dict[str, Any]) -> None:
    erase, box, name = heard["object_markers"].markers
    assert (erase.action, box.type) == (Marker.DELETEALL, Marker.CUBE)
    assert (box.pose.position.x, box.pose.position.z) == pytest.approx((-2 / 60, 1.0), abs=1e-3)
    assert name.text.startswith("mug 0.")


def test_nothing_is_made_for_nobody(made: list[str]) -> None:
    node = FakeNode()
    published = Outputs(node, CLASSES)
    published.publish(*frame(), None, OutputOptions())
    assert made == [] and published.missing == () and published.missed == 0
    for topic, needed in {
        "confidence": ["confidence_image"],
        "overlay": ["color_overlay"],
        "overlay/compressed": ["color_overlay", "rgb_to_jpeg"],
        "points": ["labelled_points"],
        "object_markers": ["find_objects"],
    }.items():
        node[topic].listeners = 1
        published.publish(*frame(), info(), OutputOptions(overlay_max_hz=0.0))
        assert made == needed and len(node[topic].messages) == 1
        assert published.needs_depth == (topic in ("points", "object_markers"))
        node[topic].listeners = 0
        made.clear()


def test_all_outputs_of_a_frame_have_the_wanted_size_and_one_geometry() -> None:
    """Mask, confidence, camera_info and an organized cloud describe the same pixels."""
    node = FakeNode()
    published = Outputs(node, CLASSES)
    for topic in ("confidence", "camera_info", "points", "overlay"):
        node[topic].listeners = 1
    inputs, result = frame()
    full = array_to_image(result.mask, inputs.header)
    assert published.mask(full, inputs, result, OutputOptions()) is full
    for scale, height, width in ((0.5, 24, 32), (0.3, 15, 19), (1.0, 48, 64)):
        options = OutputOptions(output_scale=scale, points_layout="organized", overlay_max_hz=0.0)
        mask = image_to_mask(published.mask(full, inputs, result, options))
        published.publish(inputs, result, info(), options)
        confidence, camera, cloud, overlay = (
            node[topic].messages[-1] for topic in ("confidence", "camera_info", "points", "overlay")
        )
        assert mask.shape == (height, width) == image_to_mask(confidence).shape == (camera.height, camera.width)
        assert (cloud.height, cloud.width, cloud.is_dense) == (height, width, False)
        assert cloud.row_step == width * cloud.point_step and len(cloud.data) == height * cloud.row_step
        assert camera.header == confidence.header == cloud.header == inputs.header
        assert (overlay.height, overlay.width) == (48, 64), "the overlay keeps the size of the image"
        points = np.frombuffer(cloud.data, POINT).reshape(height, width)
        np.testing.assert_array_equal(points["label"], mask)
        np.testing.assert_array_equal(confidence_image(points["conf"]), image_to_mask(confidence))
        seen = np.isfinite(points["z"])
        assert 0.9 < seen.mean() < 1
        rows, columns = np.nonzero(seen)
        x, y, z = (points[axis][seen] for axis in "xyz")
        # Within half a pixel of the full image; exactly where the step is whole.
        error = 0.5 * scale + 1e-3 if scale == 0.3 else 1e-3
        np.testing.assert_allclose(camera.k[0] * x / z + camera.k[2], columns, atol=error)
        np.testing.assert_allclose(camera.k[4] * y / z + camera.k[5], rows, atol=error)


@pytest.mark.timeout(BUILD_S)
def test_a_mask_of_objects_names_the_objects_of_the_detections(vision: ModuleType) -> None:
    node = FakeNode()
    published = Outputs(node, CLASSES, mask_encoding="16SC1")
    assert published.needs_depth and not published.needs_camera_info
    node["objects"].listeners = 1
    inputs, result = frame()
    message = published.mask(array_to_image(result.mask, inputs.header), inputs, result, OutputOptions())
    published.publish(inputs, result, info(), OutputOptions())
    assert message.encoding == "16SC1" and message.step == 2 * message.width and message.header == inputs.header
    ids = np.frombuffer(message.data, np.int16).reshape(48, 64)
    (detection,) = node["objects"].messages[0].detections
    assert set(np.unique(ids).tolist()) == {0, int(detection.id)}
    np.testing.assert_array_equal(ids > 0, result.mask == 1)
    half = published.mask(message, inputs, result, OutputOptions(output_scale=0.5))
    np.testing.assert_array_equal(np.frombuffer(half.data, np.int16).reshape(24, 32), ids[::2, ::2])


def test_only_chosen_classes_become_points_and_objects() -> None:
    node = FakeNode()
    published = Outputs(node, CLASSES)
    node["points"].listeners = node["object_markers"].listeners = 1
    inputs, result = frame()
    result.mask[32:38, 5:60] = 2
    for names, ids in (
        (("drill",), {2}),
        (("background", "mug"), {0, 1}),
        (("unlabelled",), {255}),
        ((), {0, 1, 2, 255}),
    ):
        published.publish(inputs, result, info(), OutputOptions(points_classes=names, points_stride=1))
        points = np.frombuffer(node["points"].messages[-1].data, POINT)
        assert set(points["label"].tolist()) == ids
        assert len(points) == np.count_nonzero(np.isin(result.mask, list(ids)) & (inputs.depth > 0))
    for names, shown in (((), ["mug", "drill"]), (("drill",), ["drill"])):
        published.publish(inputs, result, info(), OutputOptions(object_classes=names))
        texts = [marker.text.split()[0] for marker in node["object_markers"].messages[-1].markers if marker.text]
        assert texts == shown


def test_camera_info_needs_no_depth() -> None:
    node = FakeNode()
    published = Outputs(node, CLASSES, camera_info_topic="/cam/info")
    node["camera_info"].listeners = 1
    assert published.needs_camera_info and not published.needs_depth
    inputs, result = frame()
    published.publish(FrameInputs(inputs.header, inputs.rgb), result, info(), OutputOptions())
    assert len(node["camera_info"].messages) == 1 and published.missing == ()
    published.publish(FrameInputs(inputs.header, inputs.rgb), result, None, OutputOptions())
    assert published.missing == ("camera_info: no camera_info on /cam/info",)


def test_overlays_are_no_more_often_than_wanted() -> None:
    now = [100.0]
    node = FakeNode()
    published = Outputs(node, CLASSES, now_s=lambda: now[0])
    node["overlay"].listeners = node["overlay/compressed"].listeners = node["confidence"].listeners = 1
    for _ in range(30):
        published.publish(*frame(), None, OutputOptions(overlay_max_hz=10.0))
        now[0] += 1 / 30
    assert len(node["overlay"].messages) == len(node["overlay/compressed"].messages) == pytest.approx(10, abs=1)
    assert len(node["confidence"].messages) == 30


def test_what_is_missing_is_named_and_counted_only_for_who_listens() -> None:
    node = FakeNode()
    published = Outputs(node, CLASSES, depth_topic="/cam/depth", camera_info_topic="/cam/info")
    inputs, result = frame()
    without_depth = FrameInputs(inputs.header, inputs.rgb)
    node["points"].listeners = 1
    published.publish(inputs, result, None, OutputOptions())
    assert published.missing == ("points: no camera_info on /cam/info",)
    node["object_markers"].listeners = 1
    published.publish(without_depth, result, info(), OutputOptions())
    assert published.missing == ("points: no depth on /cam/depth", "objects: no depth on /cam/depth")
    published.publish(inputs, result, info(CameraIntrinsics(640, 480, 600.0, 600.0, 320.0, 240.0)), OutputOptions())
    assert published.missing[0].startswith("points: camera_info on /cam/info: expected the camera of the colour image")
    fisheye = CameraIntrinsics(64, 48, 60.0, 60.0, 31.5, 23.5, (0.9,), "fov")
    published.publish(inputs, result, info(fisheye), OutputOptions())
    assert "found 'fov'" in published.missing[1]
    assert published.missed == 4 and node["points"].messages == node["object_markers"].messages == []
    published.publish(inputs, result, info(), OutputOptions())
    assert published.missing == () and published.missed == 4
    assert len(node["points"].messages) == len(node["object_markers"].messages) == 1


def test_options_reach_points_and_objects() -> None:
    node = FakeNode()
    published = Outputs(node, CLASSES)
    node["points"].listeners = node["object_markers"].listeners = 1
    for options, points, objects in (
        (OutputOptions(points_stride=1), 64 * 48 - 80, 1),
        (OutputOptions(points_stride=4, depth_max_m=1.5), 25, 1),
        (OutputOptions(points_stride=1, depth_min_m=1.5), 64 * 48 - 80 - 400, 0),
        (OutputOptions(object_min_points=401), 16 * 12 * 4 - 4 * 5, 0),
    ):
        published.publish(*frame(), info(), options)
        assert node["points"].messages[-1].width == points
        assert len(node["object_markers"].messages[-1].markers) == 1 + 2 * objects


@pytest.mark.timeout(BUILD_S)
def test_detections_are_published_where_vision_msgs_is(vision: ModuleType) -> None:
    node = FakeNode()
    published = Outputs(node, CLASSES)
    node["objects"].listeners = 1
    published.publish(*frame(), info(), OutputOptions())
    (message,) = node["objects"].messages
    assert [d.results[0].hypothesis.class_id for d in message.detections] == ["mug"]
    assert node["object_markers"].messages == []


def test_another_class_list_gives_other_names_and_colours() -> None:
    node = FakeNode()
    published = Outputs(node, CLASSES)
    node["overlay"].listeners = node["object_markers"].listeners = 1
    published.use_classes(ClassList(("cup",), ((0, 255, 0),)))
    published.publish(*frame(), info(), OutputOptions(overlay_alpha=1.0))
    assert color_to_rgb(node["overlay"].messages[0])[20, 30].tolist() == [0, 255, 0]
    assert node["object_markers"].messages[0].markers[2].text.startswith("cup")


def test_closing_ends_every_publisher() -> None:
    node = FakeNode()
    Outputs(node, CLASSES).close()
    assert node.publishers == {}


@pytest.mark.parametrize("reliability", [ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT])
def test_who_can_hear_what(reliability: ReliabilityPolicy) -> None:
    node = FakeNode()
    Outputs(node, CLASSES)
    for publisher in node.publishers.values():
        verdict, _ = qos_check_compatible(publisher.qos, QoSProfile(depth=1, reliability=reliability))
        is_deaf = publisher.topic == "~/overlay/compressed" and reliability == ReliabilityPolicy.RELIABLE
        assert (verdict == QoSCompatibility.ERROR) == is_deaf
