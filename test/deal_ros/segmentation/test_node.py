"""The lifecycle node with a network of our own: transitions, services, parameters and outputs, over real DDS."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from helpers.node_stand import BEST_EFFORT, COLOR, DEPTH, INFO, PERIOD_S, SIZE, RedModel, Stand
from helpers.ros_client import NODE
from helpers.rvl import encode
from rcl_interfaces.srv import DescribeParameters
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from deal_core.errors import ModelFileError
from deal_core.runtime.segmenter import Segmenter
from deal_core.structures import CameraIntrinsics, ClassList
from deal_ros.input.conversions import (
    camera_to_info,
    color_to_rgb,
    image_to_mask,
    rgb_to_jpeg,
    stamp_from_ns,
)
from deal_ros.segmentation import steady_scores


def red(rgb: np.ndarray) -> np.ndarray:
    return (rgb[..., 0] > rgb[..., 1]).astype(np.uint8)


def header_of(message: Any) -> Header:
    return message.markers[0].header if isinstance(message, MarkerArray) else message.header


def test_each_transition_does_its_part_and_can_be_gone_through_again(new_stand: Callable[..., Stand]) -> None:
    stand = new_stand()
    assert stand.state() == "unconfigured"
    for _ in range(2):
        stand.labels = {}
        assert stand.change_state("configure") == "inactive"
        stand.wait(lambda: stand.labels == {0: "background", 1: "mug", 2: "drill", 255: "unlabelled"}, "labels")
        assert stand.node.count_subscribers(COLOR) == 0
        assert stand.change_state("activate") == "active"
        stand.wait(lambda: stand.color.get_subscription_count() == 1, "a subscription")
        rgb, mask = stand.segment()
        np.testing.assert_array_equal(mask, red(rgb))
        stand.fresh_values()
        assert stand.values["published"] == "1" and stand.values["state"] == "active"
        assert stand.change_state("deactivate") == "inactive"
        stand.wait(lambda: stand.color.get_subscription_count() == 0, "no subscription")
        assert stand.change_state("activate") == "active" and stand.change_state("deactivate") == "inactive"
        assert stand.change_state("cleanup") == "unconfigured"
        assert stand.node.count_publishers(f"{NODE}/overlay") == 0
    stand.fresh_values()
    assert set(stand.statuses) == {"state"}
    assert stand.change_state("shutdown") == "finalized"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModelFileError("m.safetensors: damaged or truncated"), "unconfigured: m.safetensors: damaged or truncated"),
        (MemoryError("no room"), "unconfigured: MemoryError: no room"),
    ],
)
def test_a_model_that_does_not_load_leaves_the_node_unconfigured_and_told(
    new_stand: Callable[..., Stand], error: Exception, said: str
) -> None:
    stand = new_stand()
    stand.models["red"] = error
    assert stand.change_state("configure") == "unconfigured"
    stand.fresh_values()
    assert stand.statuses["state"] == (2, said)
    stand.models["red"] = RedModel()
    stand.activate()
    stand.fresh_values()
    assert stand.statuses["state"] == (0, "active")


def test_parameters_change_live_or_are_refused_with_a_reason(new_stand: Callable[..., Stand]) -> None:
    stand = new_stand()
    assert stand.set(depth_mode="required") == ""  # not yet read
    assert stand.set(depth_mode="off") == ""
    stand.activate()
    for refused, said in [
        ({"depth_mode": "optional"}, "parameter 'depth_mode' was read"),
        ({"max_age_ms": -1.0}, "parameter 'max_age_ms': expected a number of at least 0, found -1"),
        ({"points_stride": 0}, "parameter 'points_stride': expected an integer from 1 to 64, found 0"),
        ({"depth_min_m": 9.0}, "expected depth_min_m below depth_max_m, found 9 m and 5 m"),
        ({"classes": ["mig"]}, "parameter 'classes': unknown class 'mig': expected one of mug, drill. Did you mean"),
        ({"min_confidence": "high"}, "parameter 'min_confidence': expected a number from 0 to 1"),
    ]:
        assert said in stand.set(**refused), refused
    rgb, mask = stand.segment()
    np.testing.assert_array_equal(mask, red(rgb))
    assert stand.set(classes=["drill"]) == ""
    assert not stand.segment()[1].any()
    assert stand.set(classes="", min_confidence=0.7) == ""
    rgb, mask = stand.segment()
    np.testing.assert_array_equal(mask, np.where(red(rgb), 1, 255))
    assert stand.set(max_rate_hz=0.001) == ""
    stand.color.publish(stand.pair()[0])
    stand.wait(lambda: stand.values.get("dropped_rate") == "1", "a frame beyond the rate")


def test_a_class_that_the_model_lacks_is_refused_at_configure(new_stand: Callable[..., Stand]) -> None:
    stand = new_stand(classes="mug,drll")
    assert stand.change_state("configure") == "unconfigured"
    stand.fresh_values()
    assert "parameter 'classes': unknown class 'drll'" in stand.statuses["state"][1]


def test_another_model_is_taken_while_the_node_works_or_waits(new_stand: Callable[..., Stand]) -> None:
    stand = new_stand()
    stand.models["other"] = RedModel(ClassList(("cup",)), model_hash="cd" * 32)
    assert not stand.call(Trigger, "reload_model").success
    stand.activate()
    stand.segment()
    for name, classes in (
        ("other", {0: "background", 1: "cup", 255: "unlabelled"}),
        ("red", {0: "background", 1: "mug", 2: "drill", 255: "unlabelled"}),
    ):
        assert stand.set(model=name) == ""
        answer = stand.call(Trigger, "reload_model")
        assert answer.success, answer.message
        stand.wait(lambda classes=classes: stand.labels == classes, "labels")  # type: ignore[misc]
        stand.segment()
    assert len(stand.models["other"].depths) == 1 and len(stand.models["red"].depths) == 2  # type: ignore[union-attr]
    assert stand.change_state("deactivate") == "inactive"
    assert stand.set(model="other") == "" and stand.call(Trigger, "reload_model").success
    stand.wait(lambda: stand.labels == {0: "background", 1: "cup", 255: "unlabelled"}, "labels")
    stand.fresh_values()
    assert stand.values["model_sha256"] == "cd" * 32 and stand.values["reload"].startswith("loaded other")


def test_a_reload_names_precision_and_back_end(new_stand: Callable[..., Stand]) -> None:
    """An int8 model has the hash of the model that it was made from: without them, nothing seems to have changed."""
    stand = new_stand()
    stand.models["int8"] = RedModel(precision="int8", backend="onnxruntime")
    stand.activate()
    assert stand.set(model="int8") == ""
    answer = stand.call(Trigger, "reload_model")
    assert (
        answer.message == "int8 (abababababab, int8 with onnxruntime) replaces red (abababababab, float32 with torch)"
    )
    stand.wait(lambda: "int8 with onnxruntime" in stand.values["reload"], "diagnostics")
    assert stand.values["precision"] == "int8"


def test_classes_of_points_and_objects_must_be_those_of_the_model(new_stand: Callable[..., Stand]) -> None:
    stand = new_stand(points_classes=["background", "mug"])
    stand.activate()
    assert "parameter 'points_classes': unknown class 'cup'" in stand.set(points_classes="mug,cup")
    assert "parameter 'object_classes': unknown class 'background'" in stand.set(object_classes=["background"])
    assert stand.set(points_classes="unlabelled,drill", object_classes="mug") == ""
    stand.models["other"] = RedModel(ClassList(("cup",)), model_hash="cd" * 32)
    assert stand.set(model="other") == ""
    answer = stand.call(Trigger, "reload_model")
    assert not answer.success and "parameter 'points_classes': unknown class 'drill'" in answer.message


def test_numbers_are_described_with_ranges(new_stand: Callable[..., Stand]) -> None:
    """rqt_reconfigure makes sliders of them."""
    names = ["output_scale", "points_stride", "max_rate_hz", "model"]
    answer = new_stand().call(DescribeParameters, "describe_parameters", DescribeParameters.Request(names=names))
    scale, stride, rate, model = answer.descriptors
    (of_scale,), (of_stride,), (of_rate,) = scale.floating_point_range, stride.integer_range, rate.floating_point_range
    assert (of_scale.from_value, of_scale.to_value, of_scale.step) == (0.05, 1.0, 0.0)
    assert (of_stride.from_value, of_stride.to_value, of_stride.step) == (1, 64, 0)
    assert (of_rate.from_value, of_rate.to_value) == (0.0, math.inf)
    assert not model.floating_point_range and model.description.startswith("Path of the model file")


def test_a_mask_of_another_size_or_of_objects_is_published_on_request(new_stand: Callable[..., Stand]) -> None:
    stand = new_stand(output_scale=0.5, mask_encoding="16SC1", depth_mode="optional", object_min_points=10)
    stand.activate()
    stand.wait(lambda: stand.depth.get_subscription_count() > 0, "a subscription to depth, which splits objects")
    color, depth = stand.pair()
    stand.color.publish(color)
    stand.depth.publish(depth)
    mask = stand.mask_of(color)
    assert (mask.encoding, mask.height, mask.width) == ("16SC1", SIZE[0] // 2, SIZE[1] // 2)
    assert set(np.frombuffer(mask.data, np.int16).tolist()) <= set(stand.labels)
    assert stand.set(output_scale=1.0) == ""
    color, depth = stand.pair()
    stand.color.publish(color)
    stand.depth.publish(depth)
    assert (stand.mask_of(color).height, stand.mask_of(color).width) == SIZE
    assert "cannot change now" in stand.set(mask_encoding="mono8")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (ModelFileError("m: damaged or truncated"), "m: damaged or truncated; red stays in use"),
        (RuntimeError("CUDA out of memory"), "RuntimeError: CUDA out of memory; red stays in use"),
        (RedModel(ClassList(("cup",))), "parameter 'classes': unknown class 'mug': expected one of cup"),
    ],
)
def test_a_reload_that_fails_leaves_the_running_model(
    new_stand: Callable[..., Stand], model: RedModel | Exception, said: str
) -> None:
    stand = new_stand(classes="mug")
    stand.activate()
    stand.models["broken"] = model
    assert stand.set(model="broken") == ""
    answer = stand.call(Trigger, "reload_model")
    assert not answer.success and said in answer.message
    rgb, mask = stand.segment()
    np.testing.assert_array_equal(mask, red(rgb))
    stand.fresh_values()
    assert stand.statuses["state"][0] == 1 and f"the model was not replaced: {said}" in stand.statuses["state"][1]
    assert stand.values["model"] == "red" and stand.values["published"] == "1"


def test_a_node_that_is_cleaned_up_while_a_model_loads_does_not_take_it(new_stand: Callable[..., Stand]) -> None:
    stand = new_stand()
    stand.activate()
    stand.gate.clear()
    client = stand.node.create_client(Trigger, f"{NODE}/reload_model")
    stand.wait(client.service_is_ready, "reload_model")
    answer = client.call_async(Trigger.Request())
    stand.wait(lambda: stand.values.get("reload") == "loading red", "the reload to begin")
    stand.segment()  # the node works meanwhile
    assert stand.change_state("deactivate") == "inactive" and stand.change_state("cleanup") == "unconfigured"
    stand.gate.set()
    stand.wait(answer.done, "an answer")
    assert "the node was cleaned up while the model was loading" in answer.result().message  # type: ignore[union-attr]


def test_a_model_that_raises_is_told_and_the_next_frame_has_its_turn(new_stand: Callable[..., Stand]) -> None:
    stand = new_stand()
    stand.activate()
    model = stand.models["red"]
    assert isinstance(model, RedModel)
    model.error = RuntimeError("CUDA error: an illegal memory access was encountered")
    stand.color.publish(stand.pair()[0])
    stand.wait(lambda: stand.values.get("failed: RuntimeError") == "1", "a failure")
    stand.wait_said("1 frames failed since the last report: frame 1000000000: RuntimeError: CUDA error")
    model.error = None
    stand.segment()


def test_every_output_has_its_images_stamp_frame_and_size(new_stand: Callable[..., Stand]) -> None:
    """With listeners, depth and camera_info are subscribed; without, they are not."""
    stand = new_stand(overlay_max_hz=0.0)
    stand.activate()
    assert stand.node.count_subscribers(DEPTH) == stand.node.count_subscribers(INFO) == 0
    listeners = [
        stand.listen("confidence", Image),
        stand.listen("overlay", Image),
        stand.listen("overlay/compressed", CompressedImage),
        stand.listen("points", PointCloud2),
        stand.listen("object_markers", MarkerArray),
    ]
    stand.wait(lambda: stand.depth.get_subscription_count() == stand.info.get_subscription_count() == 1, "depth")
    color, depth = stand.pair()
    stand.color.publish(color)
    stand.depth.publish(depth)
    stand.mask_of(color)
    stand.wait_said("points: no camera_info on /color/camera_info; objects: no camera_info on /color/camera_info")
    info = camera_to_info(CameraIntrinsics(SIZE[1], SIZE[0], 30.0, 30.0, 15.5, 11.5), color.header)
    while not stand.heard["points"]:  # until camera_info has reached the node
        stand.info.publish(info)
        color, depth = stand.pair()
        stand.color.publish(color)
        stand.depth.publish(depth)
        stand.mask_of(color)

    def is_complete() -> bool:
        return all(any(header_of(message) == color.header for message in heard) for heard in stand.heard.values())

    stand.wait(is_complete, "every output")
    for heard in stand.heard.values():
        heard.clear()
    color, depth = stand.pair()
    stand.color.publish(color)
    stand.depth.publish(depth)
    stand.wait(lambda: all(stand.heard.values()), "every output")
    for topic, (message, *more) in stand.heard.items():
        assert not more
        assert header_of(message) == color.header, topic
    found = {topic: messages[0] for topic, messages in stand.heard.items()}
    height, width = SIZE
    for topic, encoding, step in (
        ("mask", "mono8", width),
        ("confidence", "mono8", width),
        ("overlay", "rgb8", 3 * width),
    ):
        image = found[topic]
        assert (image.encoding, image.height, image.width, image.step) == (encoding, height, width, step)
    assert "jpeg" in found["overlay/compressed"].format
    assert [f.name for f in found["points"].fields] == ["x", "y", "z", "rgb", "label", "conf"]
    assert found["points"].width * found["points"].height == height * width // 4
    for listener in listeners:
        stand.node.destroy_subscription(listener)
    stand.wait(lambda: stand.depth.get_subscription_count() == stand.info.get_subscription_count() == 0, "no depth")
    stand.segment()
    stand.fresh_values()
    assert stand.values["depth_mode"] == "optional (not in use)" and "depth input" not in stand.statuses


def test_a_model_that_uses_depth_gets_it_and_goes_on_without(new_stand: Callable[..., Stand]) -> None:
    stand = new_stand(sync_timeout_ms=20.0)
    model = RedModel(uses_depth=True)
    stand.models["red"] = model
    stand.activate()
    stand.wait(lambda: stand.depth.get_subscription_count() == 1, "depth")
    color, depth = stand.pair(depth_mm=1500)
    stand.color.publish(color)
    stand.depth.publish(depth)
    stand.mask_of(color)
    assert model.depths[0] is not None and (model.depths[0] == 1.5).all()
    stand.fresh_values()
    stand.segment()
    assert model.depths[1] is None
    stand.wait_said("frames were segmented without depth")
    color, depth = stand.pair()
    depth.header = Header(stamp=color.header.stamp, frame_id="depth_optical")  # the two share theirs
    stand.depth.publish(depth)
    stand.color.publish(color)
    stand.wait(lambda: len(model.depths) == 3, "a mask")
    stand.wait_said("in spite of a problem: frame 1000000002: depth ignored: unaligned_depth")


def test_the_temporal_filter_takes_depth_and_the_cameras_pose(
    new_stand: Callable[..., Stand], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Still:
        def __init__(self, node: object, fixed_frame: str) -> None:
            assert fixed_frame == "map"

        def pose(self, header: Header) -> np.ndarray:
            return np.eye(4)

        def close(self) -> None:
            pass

    monkeypatch.setattr(steady_scores, "CameraMotion", Still)
    stand = new_stand(temporal_weight=0.5, temporal_frame="map", sync_timeout_ms=10_000.0)
    stand.models["red"] = model = RedModel()
    stand.activate()
    stand.wait(lambda: stand.depth.get_subscription_count() == stand.info.get_subscription_count() == 1, "depth")
    camera = CameraIntrinsics(SIZE[1], SIZE[0], 20.0, 20.0, 16.0, 12.0)
    for _ in range(3):
        stand.info.publish(camera_to_info(camera, Header(frame_id="optical")))
        color, depth = stand.pair()
        stand.color.publish(color)
        stand.depth.publish(depth)
        stand.mask_of(color)
    assert len(model.refined) == 3 and model.depths == [None] * 3
    for scores in model.refined:
        np.testing.assert_allclose(scores, 1.0)


def test_a_network_of_depth_sees_it_and_works_when_it_is_lost(
    new_stand: Callable[..., Stand], rgbd_model: Path
) -> None:
    segmenter = Segmenter.load(rgbd_model, "cpu", backend="torch")
    stand = new_stand(sync_timeout_ms=500.0)
    stand.models["red"] = segmenter
    stand.activate()
    stand.wait(lambda: stand.depth.get_subscription_count() == 1, "depth")
    for sends_depth in (True, False, True):
        color, depth = stand.pair(depth_mm=400)
        rgb = color_to_rgb(color)
        with_depth, without = segmenter.segment(rgb, np.full(SIZE, 0.4, np.float32)).mask, segmenter.segment(rgb).mask
        assert (with_depth != without).any(), "the comparison must have something to compare"
        stand.fresh_values()
        stand.color.publish(color)
        if sends_depth:
            stand.depth.publish(depth)
        np.testing.assert_array_equal(image_to_mask(stand.mask_of(color)), with_depth if sends_depth else without)
        if not sends_depth:
            stand.wait_said("1 of 1 frames were segmented without depth")


def test_a_network_of_depth_that_is_switched_off_says_so(new_stand: Callable[..., Stand]) -> None:
    stand = new_stand(depth_mode="off")
    stand.models["red"] = model = RedModel(uses_depth=True)
    stand.activate()
    stand.segment()
    assert model.depths == [None] and stand.depth.get_subscription_count() == 0
    stand.wait_said("the model uses depth but runs without it")


def test_compressed_colour_is_segmented(new_stand: Callable[..., Stand]) -> None:
    stand = new_stand(color_transport="compressed")
    stand.activate()
    color, _ = stand.pair()
    packed = rgb_to_jpeg(np.full((*SIZE, 3), (200, 10, 10), np.uint8), color.header, 90)
    stand.jpeg.publish(packed)
    mask = stand.mask_of(packed)
    assert (image_to_mask(mask) == 1).all() and mask.header == color.header
    assert stand.color.get_subscription_count() == 0


def test_compressed_depth_is_used(new_stand: Callable[..., Stand]) -> None:
    stand = new_stand(depth_mode="required", depth_transport="compressedDepth")
    stand.models["red"] = model = RedModel(uses_depth=True)
    publisher = stand.node.create_publisher(CompressedImage, f"{DEPTH}/compressedDepth", 10)
    stand.activate()
    stand.wait(lambda: publisher.get_subscription_count() > 0, "the subscription to depth")
    color, depth = stand.pair()
    packed = CompressedImage(header=depth.header, format="16UC1; compressedDepth rvl")
    content = encode(np.frombuffer(depth.data, np.uint16).reshape(SIZE))
    packed.data.frombytes(bytes(12) + struct.pack("<II", SIZE[1], SIZE[0]) + content)
    stand.color.publish(color)
    publisher.publish(packed)
    stand.mask_of(color)
    np.testing.assert_allclose(model.depths[0], 1.0)
    assert stand.depth.get_subscription_count() == 0


def test_a_looped_recording_with_simulated_time_gives_masks_in_every_loop(new_stand: Callable[..., Stand]) -> None:
    stand = new_stand(use_sim_time=True, depth_mode="required", max_age_ms=250.0)
    stand.models["red"] = RedModel(uses_depth=True)
    clock = stand.node.create_publisher(Clock, "/clock", 10)
    stand.activate()
    stand.wait(lambda: stand.depth.get_subscription_count() > 0 and clock.get_subscription_count() > 0, "subscriptions")
    pairs = [stand.pair() for _ in range(4)]
    for index, pair in enumerate(pairs):
        for image in pair:
            image.header.stamp = stamp_from_ns((10 + index) * 100_000_000)
    for loop in range(3):
        for index, (color, depth) in enumerate(pairs):
            now_ns = (10 + index) * 100_000_000
            clock.publish(Clock(clock=stamp_from_ns(now_ns)))
            stand.wait(lambda now_ns=now_ns: stand.tested.get_clock().now().nanoseconds == now_ns, "the time")
            stand.color.publish(color)
            stand.depth.publish(depth)
            expected = 4 * loop + index + 1
            stand.wait(lambda expected=expected: len(stand.heard["mask"]) == expected, f"mask {expected}")


def test_qos_that_cannot_match_is_told_with_both_sides(new_stand: Callable[..., Stand]) -> None:
    stand = new_stand(color_qos="reliable", input_timeout_s=0.5)
    stand.node.destroy_publisher(stand.color)
    stand.color = stand.node.create_publisher(Image, COLOR, QoSProfile(depth=1, reliability=BEST_EFFORT))
    assert stand.change_state("configure") == "inactive" and stand.change_state("activate") == "active"
    stand.wait_said("no input on /color/image_raw, publisher offers best_effort, we request reliable; set color_qos to")
    assert stand.statuses["color input"][0] == 2 and "depth input" not in stand.statuses


def test_two_nodes_of_one_name_are_told_of(new_stand: Callable[..., Stand]) -> None:
    stand = new_stand()
    stand.activate()
    stand.add_node(model="red", diagnostics_period_s=PERIOD_S)
    stand.wait_said("/deal_segmentation also publishes masks on this node's topic")
    stand.segment()


def test_stamps_that_cannot_be_are_told(new_stand: Callable[..., Stand]) -> None:
    stand = new_stand(max_age_ms=250.0)
    stand.activate()
    color, _ = stand.pair()
    for stamp_ns, said in (
        (0, "1 images on /color/image_raw have stamp 0"),
        (time.time_ns() + 3600 * 10**9, "have stamps in the future, the last by 35"),
        (time.time_ns(), "have an earlier stamp than the image before"),
        (1, "1 frames were older than max_age_ms (250)"),
    ):
        color.header.stamp = stamp_from_ns(stamp_ns)
        stand.color.publish(color)
        stand.wait_said(said)


def test_a_node_without_autostart_waits_and_one_with_it_works(new_stand: Callable[..., Stand]) -> None:
    waiting, working = new_stand(autostart=False), new_stand()
    waiting.tested.start()
    working.tested.start()
    assert (waiting.tested.state, working.tested.state) == ("unconfigured", "active")
    broken = new_stand()
    broken.models["red"] = ModelFileError("m: damaged")
    with pytest.raises(ModelFileError, match="m: damaged"):
        broken.tested.start()


def test_a_parameter_set_in_between_is_the_one_in_use(new_stand: Callable[..., Stand]) -> None:
    stand = new_stand()
    assert stand.set(max_age_ms=123.0) == ""
    assert stand.tested.parameters == replace(stand.tested.parameters, max_age_ms=123.0)
