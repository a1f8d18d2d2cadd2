"""The segmentation pipeline with a network of our own, and the images sent to it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
from helpers.workers import wait_idle
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from deal_core.runtime.segmenter import Segmentation
from deal_core.structures import ClassList
from deal_ros.input.conversions import array_to_image, stamp_from_ns
from deal_ros.segmentation.one_frame import SegmentedFrame
from deal_ros.segmentation.pipeline import SegmentationPipeline

SIZE = (4, 6)
MS = 1_000_000


@dataclass
class Red:
    """Labels with 1 what is more red than green, and 255 what has no depth."""

    classes = ClassList(("red", "green"))
    uses_depth = True
    depths: list[np.ndarray | None] = field(default_factory=list)
    gate: threading.Semaphore | None = None

    def segment(self, rgb: np.ndarray, depth: np.ndarray | None = None) -> Segmentation:
        if self.gate is not None:
            assert self.gate.acquire(timeout=10)
        self.depths.append(depth)
        mask = (rgb[..., 0] > rgb[..., 1]).astype(np.uint8)
        if depth is not None:
            mask[depth == 0] = 255
        return Segmentation(mask, np.ones(mask.shape, np.float32))


@dataclass
class Rig:
    pipeline: SegmentationPipeline
    segmenter: Red
    results: list[SegmentedFrame]
    errors: list[str]
    clock: list[int]

    def send(self, color: Image | CompressedImage, depth: Image | CompressedImage | None) -> None:
        self.pipeline.synchronizer.add_color(color)
        if depth is not None:
            self.pipeline.synchronizer.add_depth(depth)

    def settle(self) -> None:
        self.wait_idle()
        counts, work = self.pipeline.sync, self.pipeline.work
        assert counts.paired + counts.color_alone == work.submitted
        assert work.submitted == work.done + work.dropped + sum(work.failed.values()) + work.in_flight
        assert work.done == len(self.results)

    def wait_idle(self) -> None:
        wait_idle(lambda: self.pipeline.work)


def color_of(stamp_ns: int, frame_id: str = "optical", size: tuple[int, int] = SIZE) -> Image:
    rgb = np.random.default_rng(stamp_ns).integers(0, 256, (*size, 3), np.uint8)
    return array_to_image(rgb, Header(stamp=stamp_from_ns(stamp_ns), frame_id=frame_id))


def depth_of(stamp_ns: int, frame_id: str = "optical", size: tuple[int, int] = SIZE) -> Image:
    depth = np.random.default_rng(stamp_ns).integers(0, 3, size).astype(np.uint16) * 1000
    return array_to_image(depth, Header(stamp=stamp_from_ns(stamp_ns), frame_id=frame_id))
