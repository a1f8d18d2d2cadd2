"""One frame of messages in, one mask message out: what the worker does, free of node and topics."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from sensor_msgs.msg import Image

from deal_core.data.image_codec import ImageFormatError
from deal_core.data.sample import Float32Array, UInt8Array
from deal_core.errors import DealError
from deal_core.runtime import Segmentation
from deal_ros.conversions import array_to_image, color_to_rgb, image_to_depth_m
from deal_ros.synchronizer import Frame


class SegmentsImages(Protocol):
    """The part of `deal_core.runtime.Segmenter` that a frame needs."""

    def segment(self, rgb: UInt8Array, depth: Float32Array | None = None) -> Segmentation:
        """Segment one (H, W, 3) uint8 image with its (H, W) float32 depth in metres, or None."""


class UnalignedDepthError(DealError):
    """A depth image that does not lie on its colour image pixel by pixel."""

    cause = "unaligned_depth"


@dataclass(frozen=True, eq=False)
class SegmentedFrame:
    """What one frame gave.

    Args:
        mask: mono8 class ids, 255 unlabelled, with the colour image's size, stamp and frame.
        inference_ms: time inside the network's `segment`, milliseconds.
        valid_depth: share of pixels with a depth measurement; None without depth.
    """

    mask: Image
    inference_ms: float
    valid_depth: float | None


def segment_frame(segmenter: SegmentsImages, frame: Frame) -> SegmentedFrame:
    """Segment a frame.

    Raises:
        ImageFormatError: an image's fields contradict each other, or its encoding cannot be used, or its data do not
            decode.
        UnalignedDepthError: depth has another size or frame than colour.
    """
    rgb = color_to_rgb(frame.color)
    depth, valid_depth = None, None
    if frame.depth is not None:
        depth, valid = image_to_depth_m(frame.depth)
        _check_aligned(rgb, depth, frame.color.header.frame_id, frame.depth.header.frame_id)
        valid_depth = float(valid.mean())
    begun = time.perf_counter()
    result = segmenter.segment(rgb, depth)
    inference_ms = (time.perf_counter() - begun) * 1000
    return SegmentedFrame(array_to_image(result.mask, frame.color.header), inference_ms, valid_depth)


def failure_cause(error: Exception) -> str:
    """Return the fixed word under which a failed frame is counted."""
    return error.cause if isinstance(error, ImageFormatError | UnalignedDepthError) else type(error).__name__


def _check_aligned(rgb: UInt8Array, depth: Float32Array, color_frame: str, depth_frame: str) -> None:
    (height, width), (depth_height, depth_width) = rgb.shape[:2], depth.shape
    if (height, width) != (depth_height, depth_width):
        raise UnalignedDepthError(
            f"expected depth aligned to colour ({width}x{height}), found {depth_width}x{depth_height}; "
            "start the camera with align_depth.enable:=true and use its aligned_depth_to_color topic"
        )
    if color_frame != depth_frame:
        raise UnalignedDepthError(
            f"expected depth in colour's frame '{color_frame}', found '{depth_frame}'; "
            "start the camera with align_depth.enable:=true and use its aligned_depth_to_color topic"
        )
