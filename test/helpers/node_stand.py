"""The lifecycle node with a network of our own, and a client that talks to it."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from helpers.ros_client import NODE, Client
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from deal_core.models.model_file import ModelInfo, Threshold
from deal_core.runtime.segmenter import Segmentation, Segmenter
from deal_core.structures import ClassList
from deal_ros.input.conversions import (
    array_to_image,
    color_to_rgb,
    image_to_mask,
    stamp_from_ns,
)
from deal_ros.segmentation.node import SegmentationNode
from deal_ros.segmentation.parameters import SegmentationParameters

SIZE = (24, 32)
COLOR, DEPTH, INFO = "/color/image_raw", "/depth/image_raw", "/color/camera_info"
PERIOD_S = 0.1
BEST_EFFORT = ReliabilityPolicy.BEST_EFFORT


@dataclass
class RedModel:
    """Finds its first class where the image is more red than green, with half a confidence where it is not."""

    classes: ClassList = field(default_factory=lambda: ClassList(("mug", "drill")))
    model_hash: str = "ab" * 32
    uses_depth: bool = False
    backend: str = "torch"
    backend_reason: str = "asked for"
    device: str = "cpu"
    precision: str = "float32"
    depths: list[np.ndarray | None] = field(default_factory=list)
    error: Exception | None = None
    refined: list[np.ndarray] = field(default_factory=list)

    @property
    def info(self) -> ModelInfo:
        return ModelInfo("cam_net", {}, self.classes, SIZE, Threshold(0.5, "fixed"))

    def segment(self, rgb: np.ndarray, depth: np.ndarray | None = None, refine: Any = None) -> Segmentation:
        if self.error is not None:
            raise self.error
        if refine is not None:
            self.refined.append(refine(np.ones((2, 6, 8), np.float32)))
        self.depths.append(depth)
        mask = (rgb[..., 0] > rgb[..., 1]).astype(np.uint8)
        return Segmentation(mask, np.where(mask, 1.0, 0.5).astype(np.float32))


class Stand(Client):
    """The node and whoever talks to it, in one executor."""

    wait_s = 30.0

    def __init__(self, domain: int, **parameters: Any) -> None:
        super().__init__(domain, "client")
        self.gate = threading.Event()  # models load while it is set
        self.gate.set()
        self.models: dict[str, RedModel | Segmenter | Exception] = {"red": RedModel()}
        self.nodes: list[SegmentationNode] = []
        self.add_node(**{"model": "red", "diagnostics_period_s": PERIOD_S, "max_age_ms": 0, **parameters})
        self.heard: dict[str, list[Any]] = {}
        self.color = self.node.create_publisher(Image, COLOR, 10)
        self.jpeg = self.node.create_publisher(CompressedImage, f"{COLOR}/compressed", 10)
        self.depth = self.node.create_publisher(Image, DEPTH, 10)
        self.info = self.node.create_publisher(CameraInfo, INFO, 10)
        self.listen("mask", Image)
        self._stamps = itertools.count(1_000_000_000)

    @property
    def tested(self) -> SegmentationNode:
        return self.nodes[0]

    def add_node(self, **parameters: Any) -> None:
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.nodes.append(SegmentationNode(self._load, context=self.context, parameter_overrides=overrides))
        self.executor.add_node(self.nodes[-1])

    def close(self) -> None:
        for node in self.nodes:
            node.finish()
        super().close()

    def _load(self, parameters: SegmentationParameters) -> Any:
        assert self.gate.wait(self.wait_s)
        parameters.check_complete()
        model = self.models[parameters.model]
        if isinstance(model, Exception):
            raise model
        return model

    def listen(self, topic: str, kind: Any) -> Any:
        heard = self.heard.setdefault(topic, [])
        qos = QoSProfile(depth=10, reliability=BEST_EFFORT)  # suits every offer
        return self.node.create_subscription(kind, f"{NODE}/{topic}", heard.append, qos)

    def activate(self) -> None:
        assert self.change_state("configure") == "inactive" and self.change_state("activate") == "active"
        publishers = (self.color, self.jpeg)
        self.wait(lambda: any(p.get_subscription_count() for p in publishers), "a subscription")

    def pair(self, depth_mm: int = 1000) -> tuple[Image, Image]:
        stamp_ns = next(self._stamps)
        header = Header(stamp=stamp_from_ns(stamp_ns), frame_id="optical")
        rgb = np.random.default_rng(stamp_ns).integers(0, 256, (*SIZE, 3), np.uint8)
        return array_to_image(rgb, header), array_to_image(np.full(SIZE, depth_mm, np.uint16), header)

    def segment(self) -> tuple[np.ndarray, np.ndarray]:
        """Send a colour image and return it with its mask."""
        color, _ = self.pair()
        self.color.publish(color)
        return color_to_rgb(color), image_to_mask(self.mask_of(color))

    def mask_of(self, color: Any) -> Image:
        def masks() -> list[Image]:
            return [mask for mask in self.heard["mask"] if mask.header == color.header]

        self.wait(lambda: bool(masks()), "a mask")
        (mask,) = masks()
        return mask
