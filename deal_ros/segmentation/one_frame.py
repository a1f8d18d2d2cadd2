"""Segment one frame of messages and return its mask message, independent of node and topics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy.typing as npt
from sensor_msgs.msg import Image

from deal_core.errors import DealError
from deal_core.recording.depth_values import DepthDoubt, DepthReading, DepthSample, DepthValues
from deal_core.recording.image_encodings import ImageFormatError
from deal_core.recording.pair_rules import alignment_fault
from deal_core.runtime.class_filter import kept_ids, restrict
from deal_core.runtime.segmenter import Segmentation, Segmenter
from deal_core.structures import Float32Array, UInt8Array
from deal_ros.input.conversions import ImageMessage, array_to_image, color_to_rgb, read_depth
from deal_ros.input.depth_alignment import DepthAlignmentError
from deal_ros.input.synchronizer import Frame
from deal_ros.segmentation.outputs import FrameInputs

Refine: TypeAlias = Callable[[FrameInputs, Float32Array], Float32Array]
"""Returns better class scores (K, h, w) for the images of a frame and the scores of the network."""


class UnalignedDepthError(DealError):
    """A depth image that is not aligned to its colour image."""

    cause = "unaligned_depth"


@dataclass(frozen=True, eq=False)
class SegmentedFrame:
    """Result of one frame.

    Args:
        mask: mono8 class ids, unlabelled (255), with the size, stamp and frame of the colour image.
        inputs: the images that were segmented.
        segmentation: the segmentation that the mask contains.
        inference_ms: duration of the network's `segment`, milliseconds.
        depth: the depth image of the frame; None without depth, and if it was ignored.
        depth_error: why the depth of the frame was ignored; empty if it was used or there was none.
    """

    mask: Image
    inputs: FrameInputs
    segmentation: Segmentation
    inference_ms: float
    depth: DepthReading | None
    depth_error: str = ""

    @property
    def valid_depth(self) -> float | None:
        """Fraction of pixels with valid depth; None without depth. Each call counts them."""
        return self.depth.valid_share() if self.depth else None

    @property
    def depth_doubt(self) -> str:
        """Why the depth cannot be true, or may not be; empty if nothing is odd. Each call looks at a sample."""
        return _doubt(self.depth.sample()) if self.depth else ""


def segment_frame(
    segmenter: Segmenter,
    frame: Frame,
    *,
    needs_depth: bool = True,
    classes: Sequence[str] = (),
    min_confidence: float = 0.0,
    depth_values: DepthValues | None = None,
    aligned: bool = False,
    refine: Refine | None = None,
    align: Callable[[ImageMessage], DepthReading] | None = None,
) -> SegmentedFrame:
    """Segment a frame.

    Args:
        segmenter: segments an image.
        frame: the messages.
        needs_depth: whether invalid depth is an error; otherwise the frame is segmented without depth.
        classes: names of the classes that the mask may contain; empty for all classes.
        min_confidence: pixels with a lower confidence become unlabelled (255).
        depth_values: how to read the numbers of the depth image.
        aligned: whether depth is aligned to colour although its frame has another name.
        refine: returns better class scores for the inputs and the scores of the network.
        align: reads a depth image and aligns it to colour; None if it is aligned.

    Raises:
        ImageFormatError: the fields of an image contradict each other, its encoding is not supported, or its data
            cannot be decoded.
        UnalignedDepthError: size or frame of depth and colour differ.
        DepthAlignmentError: `align` cannot align the image.
        UsageError: the segmenter does not have one of the classes.
    """
    rgb = color_to_rgb(frame.color)
    depth, depth_error = None, ""
    try:
        if frame.depth is not None:
            reading = align(frame.depth) if align else read_depth(frame.depth, depth_values or DepthValues())
            _require_alignment(rgb, reading.pixels, frame.color, frame.depth, aligned or align is not None)
            depth = reading
    except (ImageFormatError, UnalignedDepthError, DepthAlignmentError) as error:
        if needs_depth:
            raise
        depth_error = f"{failure_cause(error)}: {error}"
    inputs = FrameInputs(frame.color.header, rgb, depth.metres if depth else None)
    begun = time.perf_counter()
    options: dict[str, Any] = {} if refine is None else {"refine": partial(refine, inputs)}
    result = segmenter.segment(rgb, inputs.depth if segmenter.uses_depth else None, **options)
    inference_ms = (time.perf_counter() - begun) * 1000
    if classes or min_confidence:
        result = restrict(result, kept_ids(segmenter.classes, classes), min_confidence)
    mask = array_to_image(result.mask, inputs.header)
    return SegmentedFrame(mask, inputs, result, inference_ms, depth, depth_error)


def failure_cause(error: Exception) -> str:
    """Return the cause under which a failed frame is counted."""
    if isinstance(error, ImageFormatError | UnalignedDepthError | DepthAlignmentError):
        return error.cause
    return type(error).__name__


@dataclass(frozen=True)
class _Place:
    size: tuple[int, int]
    frame_id: str


def _require_alignment(
    rgb: UInt8Array, depth: npt.NDArray[Any], color: ImageMessage, message: ImageMessage, aligned: bool
) -> None:
    places = (
        _Place((rgb.shape[0], rgb.shape[1]), color.header.frame_id),
        _Place((depth.shape[0], depth.shape[1]), message.header.frame_id),
    )
    if fault := alignment_fault(*places, aligned=aligned):
        raise UnalignedDepthError(
            f"expected depth aligned to colour, found that {fault}; start the camera with align_depth.enable:=true and "
            "use its aligned_depth_to_color topic, or set the parameter align_depth"
        )


def _doubt(sample: DepthSample) -> str:
    """Return why the unit of depth is likely another; what else is odd does not concern every frame."""
    found = [doubt for doubt in sample.doubts if doubt.is_certain or doubt is DepthDoubt.FAR]
    return found[0].as_parameter if found else ""
