"""The rules of Nav2's semantic segmentation layer, held against a node and a camera that run as processes of their own.

The rules are those of the package semantic_segmentation_layer for Humble, Jazzy and later:
- Mask, confidence and cloud are subscribed as sensor data (best effort), labels as reliable and transient local.
- Humble takes only equal stamps; later versions take stamps that differ by at most 100 ms, too.
- Mask and confidence are mono8 and indexed by `row * width + column`, so their rows have no padding; the cloud has as
  many points as the mask has pixels, in the same order; points whose z is not finite are skipped.
- Each id of a mask has a name in the labels, ids fit 8 bits, and no name occurs twice; each name is in the parameters.
- The frame of the cloud is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.paths import PROJECT

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

import rclpy
from helpers.interface_packages import BUILD_S
from helpers.ros_client import NODE, Client
from rclpy.context import Context
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField

from deal_ros.input.conversions import stamp_to_ns
from deal_ros.segmentation import labels
from deal_ros.segmentation.node import SegmentationNode

CAMERA = "/camera/camera"
WIDTH, HEIGHT = 96, 64
FRAMES = 6
SENSOR_DATA = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def node_parameters() -> dict[str, Any]:
    text = (PROJECT / "config" / "nav2_segmentation.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text)["/**"]["ros__parameters"])


def layer_parameters() -> dict[str, Any]:
    text = (PROJECT / "config" / "nav2_costmap.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text)["local_costmap"]["local_costmap"]["ros__parameters"]["semantic_layer"])


def named_classes() -> list[str]:
    """Return the classes in the parameters of the layer."""
    camera = layer_parameters()["camera"]
    return [name for kind in camera["class_types"] for name in camera[kind]["classes"]]


class Layer(Client):
    """Subscribes as the layer does, and keeps what arrives by its stamp."""

    def __init__(self, domain: int) -> None:
        from vision_msgs.msg import LabelInfo

        super().__init__(domain, "costmap")
        camera = layer_parameters()["camera"]
        self.masks: dict[int, Image] = {}
        self.confidences: dict[int, Image] = {}
        self.clouds: dict[int, PointCloud2] = {}
        self.infos: dict[int, CameraInfo] = {}
        self.depths: dict[int, Image] = {}
        for kind, topic, kept in (
            (Image, camera["segmentation_topic"], self.masks),
            (Image, camera["confidence_topic"], self.confidences),
            (PointCloud2, camera["pointcloud_topic"], self.clouds),
            (CameraInfo, f"{NODE}/camera_info", self.infos),
            (Image, f"{CAMERA}/aligned_depth_to_color/image_raw", self.depths),
        ):
            self.node.create_subscription(kind, topic, lambda m, kept=kept: self._keep(kept, m), SENSOR_DATA)
        self.label_infos: list[Any] = []
        self.node.create_subscription(LabelInfo, camera["labels_topic"], self.label_infos.append, LATCHED)

    def _keep(self, kept: dict[int, Any], message: Any) -> None:
        kept[stamp_to_ns(message.header.stamp)] = message

    def sets(self) -> list[tuple[Image, Image, PointCloud2]]:
        """Return mask, confidence and cloud of each moment of which all messages have arrived."""
        kept = (self.masks, self.confidences, self.clouds, self.infos, self.depths)
        stamps = sorted(set.intersection(*map(set, kept)))
        return [(self.masks[stamp], self.confidences[stamp], self.clouds[stamp]) for stamp in stamps]


@pytest.fixture
def nav2_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model with the classes of the costmap's parameters."""
    import torch

    from deal_core.models.factory import create_model
    from deal_core.models.model_file import ModelInfo, Threshold, save_model
    from deal_core.structures import ClassList

    torch.manual_seed(0)
    classes = ClassList(tuple(name for name in named_classes() if name not in ("background", "unlabelled")))
    arguments = {"backbone": "test_resnet", "width": 8}
    network = create_model("cam_net", len(classes), **arguments)
    with torch.no_grad():  # as drawn, the classes differ too little for masks with more than one id
        network.classifier.weight *= 50
    path = tmp_path_factory.mktemp("nav2") / "model.safetensors"
    save_model(path, network, ModelInfo("cam_net", arguments, classes, (64, 64), Threshold(0.4, "fixed")))
    return path


@pytest.fixture
def layer(
    interface_packages: None,
    start_node: Callable[..., Any],
    nav2_model: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Layer]:
    """The layer, which was started last, after some frames."""
    from deal_ros.node.process import node_process

    running = start_node(nav2_model, max_age_ms=0, min_confidence=0.7, **node_parameters())
    with node_process(
        "deal_ros.synthetic_camera.main",
        tmp_path_factory.mktemp("camera") / "output.txt",
        parameters={"profile": f"{WIDTH}x{HEIGHT}x20", "views": 2},
        environment={"ROS_DOMAIN_ID": str(running.domain), "OMP_NUM_THREADS": "1"},
    ):
        found = Layer(running.domain)
        found.wait(lambda: len(found.sets()) >= FRAMES, f"{FRAMES} masks with confidence and cloud")
        found.wait(lambda: found.label_infos, "the latched labels, which were published before")
        yield found
        found.close()


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.timeout(BUILD_S)
def test_the_layer_takes_what_the_node_publishes(layer: Layer) -> None:
    check_sizes_and_headers(layer)
    check_completeness(layer)
    check_points(layer)
    check_labels(layer)


def check_sizes_and_headers(layer: Layer) -> None:
    """Mask, confidence and cloud have one size, stamp and frame."""
    scale = node_parameters()["output_scale"]
    for mask, confidence, cloud in layer.sets():
        assert mask.encoding == confidence.encoding == "mono8"
        assert (mask.width, mask.height) == (confidence.width, confidence.height) == (WIDTH * scale, HEIGHT * scale)
        assert mask.width * mask.height == cloud.width * cloud.height
        assert len(mask.data) == len(confidence.data) == mask.width * mask.height
        assert mask.step == confidence.step == mask.width
        assert mask.header == confidence.header == cloud.header, "Humble takes only equal stamps"
        assert cloud.header.frame_id == "camera_color_optical_frame"
        assert not cloud.is_dense and cloud.row_step == cloud.width * cloud.point_step
        assert len(cloud.data) == cloud.height * cloud.row_step
        kinds = {field.name: (field.datatype, field.count) for field in cloud.fields}
        assert [kinds[axis] for axis in "xyz"] == [(PointField.FLOAT32, 1)] * 3


def check_completeness(layer: Layer) -> None:
    """Of the moments between the first and the last set, none is left out: the layer would lose it."""
    stamps = [stamp_to_ns(mask.header.stamp) for mask, _, _ in layer.sets()]
    for kept in (layer.masks, layer.confidences, layer.clouds):
        assert [stamp for stamp in sorted(kept) if stamps[0] <= stamp <= stamps[-1]] == stamps


def check_points(layer: Layer) -> None:
    """Against the depth of the camera, pixel by pixel: the layer finds the place of pixel n in point n."""
    step = round(1 / node_parameters()["output_scale"])
    seen = Counter[int]()
    for mask, _, cloud in layer.sets():
        depth_image = layer.depths[stamp_to_ns(mask.header.stamp)]
        depth = np.frombuffer(depth_image.data, np.uint16).reshape(HEIGHT, WIDTH)[::step, ::step] / 1000
        floats = np.frombuffer(cloud.data, np.uint8).reshape(-1, cloud.point_step)
        offsets = {field.name: field.offset for field in cloud.fields}
        x, y, z = (
            np.ascontiguousarray(floats[:, offsets[axis] : offsets[axis] + 4]).view(np.float32).reshape(depth.shape)
            for axis in "xyz"
        )
        is_measured = (depth >= 0.1) & (depth <= 5.0)
        np.testing.assert_array_equal(np.isfinite(z), is_measured)
        np.testing.assert_allclose(z[is_measured], depth[is_measured], rtol=1e-6)
        info = layer.infos[stamp_to_ns(mask.header.stamp)]
        assert info.header == mask.header and (info.width, info.height) == (mask.width, mask.height)
        columns, rows = np.meshgrid(np.arange(mask.width), np.arange(mask.height))
        np.testing.assert_allclose((info.k[0] * x / z + info.k[2])[is_measured], columns[is_measured], atol=1e-3)
        np.testing.assert_allclose((info.k[4] * y / z + info.k[5])[is_measured], rows[is_measured], atol=1e-3)
        seen.update(np.frombuffer(mask.data, np.uint8)[is_measured.ravel()].tolist())
    assert len(seen) > 1, "a mask with one id would prove little"


def check_labels(layer: Layer) -> None:
    """The layer looks up each id; it reports an error for each name that its parameters lack."""
    entries = [(entry.class_id, entry.class_name) for entry in layer.label_infos[-1].class_map]
    names = dict(entries)
    assert len(entries) == len(names) and layer.label_infos[-1].threshold == pytest.approx(0.4)
    found = {id_ for mask, _, _ in layer.sets() for id_ in np.unique(np.frombuffer(mask.data, np.uint8)).tolist()}
    assert found <= names.keys() and 255 in found, "min_confidence makes unlabelled pixels"
    assert max(names) <= 255 and len(set(names.values())) == len(names)
    assert sorted(names.values()) == sorted(named_classes())


def test_the_node_reads_its_file_for_nav2(new_domain: Callable[[], int]) -> None:
    context = Context()
    rclpy.init(args=[], context=context, domain_id=new_domain())
    file = str(PROJECT / "config" / "nav2_segmentation.yaml")
    node = SegmentationNode(context=context, cli_args=["--ros-args", "--params-file", file])
    try:
        found = asdict(node.parameters)
        assert {name: found[name] for name in node_parameters()} == node_parameters()
    finally:
        node.destroy_node()
        context.shutdown()


def test_the_parameters_for_nav2_are_those_of_the_layer() -> None:
    layer, camera = layer_parameters(), layer_parameters()["camera"]
    assert layer["plugin"] == "semantic_segmentation_layer::SemanticSegmentationLayer"
    assert layer["observation_sources"].split() == ["camera"]
    topics = ("segmentation", "confidence", "labels", "pointcloud")
    assert [camera[f"{topic}_topic"] for topic in topics] == [
        f"{NODE}/{topic}" for topic in ("mask", "confidence", labels.LABEL_INFO_TOPIC, "points")
    ]
    assert len(set(named_classes())) == len(named_classes()) and {"background", "unlabelled"} <= set(named_classes())
    for kind in camera["class_types"]:
        costs = {key: value for key, value in camera[kind].items() if key != "classes"}
        assert costs.keys() == {"base_cost", "max_cost", "mark_confidence", "samples_to_max_cost", "dominant_priority"}
        assert all(0 <= value <= 255 for value in costs.values())
