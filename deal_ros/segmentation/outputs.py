"""Outputs of the segmentation node: the mask's message, and others that are computed only while somebody subscribes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from deal_core.drawing import color_overlay, confidence_image
from deal_core.runtime.camera_rays import CameraModelError
from deal_core.runtime.class_filter import kept_ids, label_ids
from deal_core.runtime.labelled_points import labelled_points
from deal_core.runtime.objects import find_objects, object_mask
from deal_core.runtime.sampling import sampled
from deal_core.runtime.segmenter import Segmentation
from deal_core.structures import CameraIntrinsics, ClassList, Float32Array, UInt8Array
from deal_ros.input.conversions import array_to_image, info_to_camera, points_to_cloud, rgb_to_jpeg, scaled_info
from deal_ros.input.qos import compressed_qos, mask_qos, view_qos
from deal_ros.segmentation.object_messages import DETECTIONS, detections, markers
from deal_ros.segmentation.parameters import OutputOptions
from deal_ros.segmentation.rate_limit import RateLimit


class Publishes(Protocol):
    """The part of an rclpy node that `Outputs` needs."""

    def create_publisher(self, msg_type: Any, topic: str, qos_profile: QoSProfile) -> Any:
        """Create a publisher."""

    def destroy_publisher(self, publisher: Any) -> bool:
        """Destroy a publisher."""


class FrameInputs:
    """The images that were segmented.

    Args:
        header: stamp and frame of the colour image; every output has the same header.
        rgb: (H, W, 3) uint8.
        depth: (H, W) float32 metres, 0 or nan where invalid, aligned to colour; or a function that computes it when it
            is first read; None without depth.
    """

    def __init__(
        self, header: Header, rgb: UInt8Array, depth: Float32Array | Callable[[], Float32Array] | None = None
    ) -> None:
        self.header, self.rgb = header, rgb
        self._depth = depth

    @cached_property
    def depth(self) -> Float32Array | None:
        """(H, W) float32 metres, 0 or nan where invalid; None without depth."""
        return self._depth() if callable(self._depth) else self._depth


class Outputs:
    """Make the mask's message, and publish the other outputs.

    These are `~/confidence`, `~/camera_info`, `~/overlay`, `~/overlay/compressed`, `~/points`, `~/object_markers`, and
    `~/objects` if vision_msgs is installed. Call `mask` and `publish` from one thread only; the properties are
    thread-safe.

    Args:
        node: creates the publishers.
        classes: the classes of the mask's ids.
        depth_topic: topic of depth images, for the messages in `missing`.
        camera_info_topic: topic of the camera's intrinsics, for the messages in `missing`.
        is_rectified: whether the colour images are rectified, so that P of camera_info is theirs, without distortion.
        mask_encoding: "mono8" for masks with class ids, "16SC1" for masks with ids of objects.
        now_s: monotonic clock for the rate limit of overlays, seconds.
    """

    def __init__(
        self,
        node: Publishes,
        classes: ClassList,
        *,
        depth_topic: str = "depth/image_raw",
        camera_info_topic: str = "color/camera_info",
        is_rectified: bool = False,
        mask_encoding: str = "mono8",
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node, self._classes, self._palette = node, classes, classes.palette()
        self._depth_topic, self._camera_info_topic = depth_topic, camera_info_topic
        self._is_rectified, self._has_object_ids = is_rectified, mask_encoding != "mono8"
        self._overlay_rate = RateLimit(now_s)
        self.missing: tuple[str, ...] = ()
        """What the last frame lacked for outputs with subscribers, one message each."""
        self.missed = 0
        """Number of frames that lacked something for an output with subscribers."""
        self._confidence = node.create_publisher(Image, "~/confidence", mask_qos())
        self._camera_info = node.create_publisher(CameraInfo, "~/camera_info", mask_qos())
        self._overlay = node.create_publisher(Image, "~/overlay", view_qos())
        self._overlay_jpeg = node.create_publisher(CompressedImage, "~/overlay/compressed", compressed_qos())
        self._points = node.create_publisher(PointCloud2, "~/points", view_qos())
        self._markers = node.create_publisher(MarkerArray, "~/object_markers", view_qos())
        self._objects: Any = node.create_publisher(DETECTIONS, "~/objects", view_qos()) if DETECTIONS else None

    @property
    def needs_depth(self) -> bool:
        """Whether an output that needs depth has a subscriber, or the mask needs it."""
        return self._has_object_ids or _has_subscriber(self._points, self._objects, self._markers)

    @property
    def needs_camera_info(self) -> bool:
        """Whether an output that needs intrinsics has a subscriber."""
        return _has_subscriber(self._camera_info, self._points, self._objects, self._markers)

    def use_classes(self, classes: ClassList) -> None:
        """Set the classes of the next mask's ids. Do not call it during `publish`."""
        self._classes, self._palette = classes, classes.palette()

    def mask(self, full: Image, inputs: FrameInputs, result: Segmentation, options: OutputOptions) -> Image:
        """Return the message of `~/mask` in the wanted encoding and size.

        Args:
            full: mono8 class ids of the full size; returned if nothing else is wanted.
            inputs: the images that were segmented.
            result: their segmentation, of the same size.
            options: settings of the outputs.
        """
        if not self._has_object_ids and options.output_scale == 1:
            return full
        ids: Any = result.mask
        if self._has_object_ids:
            ids = object_mask(
                result.mask,
                inputs.depth,
                near_m=options.depth_min_m,
                far_m=options.depth_max_m,
                min_points=options.object_min_points,
            )
        return array_to_image(sampled(ids, 1 / options.output_scale), full.header)

    def publish(
        self, inputs: FrameInputs, result: Segmentation, camera_info: CameraInfo | None, options: OutputOptions
    ) -> None:
        """Compute and publish the outputs that have subscribers.

        If depth or intrinsics are missing, what needs them is not published and `missing` says why.

        Args:
            inputs: the images that were segmented.
            result: their segmentation, of the same size.
            camera_info: last message of the colour camera; None before the first.
            options: settings of the outputs.
        """
        if _has_subscriber(self._confidence):
            confidence = confidence_image(sampled(result.confidence, 1 / options.output_scale))
            self._confidence.publish(array_to_image(confidence, inputs.header))
        if _has_subscriber(self._overlay, self._overlay_jpeg) and self._overlay_rate.allows(options.overlay_max_hz):
            self._publish_overlay(inputs, result.mask, options)
        self.missing = self._publish_in_space(inputs, result, camera_info, options)
        self.missed += bool(self.missing)

    def close(self) -> None:
        """Destroy the publishers."""
        publishers = (
            self._confidence,
            self._camera_info,
            self._overlay,
            self._overlay_jpeg,
            self._points,
            self._markers,
        )
        for publisher in publishers:
            self._node.destroy_publisher(publisher)
        if self._objects is not None:
            self._node.destroy_publisher(self._objects)

    def _publish_overlay(self, inputs: FrameInputs, mask: UInt8Array, options: OutputOptions) -> None:
        picture = color_overlay(inputs.rgb, mask, self._palette, options.overlay_alpha)
        if _has_subscriber(self._overlay):
            self._overlay.publish(array_to_image(picture, inputs.header))
        if _has_subscriber(self._overlay_jpeg):
            self._overlay_jpeg.publish(rgb_to_jpeg(picture, inputs.header, options.jpeg_quality))

    def _publish_in_space(
        self, inputs: FrameInputs, result: Segmentation, camera_info: CameraInfo | None, options: OutputOptions
    ) -> tuple[str, ...]:
        """Publish camera_info, points and objects, and return what they lack."""
        subscribed = {
            "camera_info": _has_subscriber(self._camera_info),
            "points": _has_subscriber(self._points),
            "objects": _has_subscriber(self._objects, self._markers),
        }
        wanted = [name for name, is_wanted in subscribed.items() if is_wanted]
        if not wanted:
            return ()
        if camera_info is None:
            lack = f"no camera_info on {self._camera_info_topic}"
            return (*(f"{name}: {lack}" for name in wanted), *self._lacks_depth(inputs, wanted))
        try:
            height, width = inputs.rgb.shape[:2]
            camera = info_to_camera(camera_info, width, height, is_rectified=self._is_rectified)
            if "camera_info" in wanted:
                self._camera_info.publish(scaled_info(camera_info, inputs.header, options.output_scale))
            if inputs.depth is not None and "points" in wanted:
                self._publish_points(inputs, inputs.depth, result, camera, options)
            if inputs.depth is not None and "objects" in wanted:
                self._publish_objects(inputs.header, inputs.depth, result, camera, options)
        except CameraModelError as error:
            return tuple(f"{name}: camera_info on {self._camera_info_topic}: {error}" for name in wanted)
        return self._lacks_depth(inputs, wanted)

    def _lacks_depth(self, inputs: FrameInputs, wanted: Sequence[str]) -> tuple[str, ...]:
        """Return a message for each wanted output that lacks depth."""
        if inputs.depth is not None:
            return ()
        return tuple(f"{name}: no depth on {self._depth_topic}" for name in wanted if name != "camera_info")

    def _publish_points(
        self,
        inputs: FrameInputs,
        depth: Float32Array,
        result: Segmentation,
        camera: CameraIntrinsics,
        options: OutputOptions,
    ) -> None:
        is_organized = options.points_layout == "organized"
        points = labelled_points(
            inputs.rgb,
            depth,
            result,
            camera,
            stride=(1 if is_organized else options.points_stride) / options.output_scale,
            near_m=options.depth_min_m,
            far_m=options.depth_max_m,
            ids=label_ids(self._classes, options.points_classes),
            organized=is_organized,
        )
        self._points.publish(points_to_cloud(points, inputs.header))

    def _publish_objects(
        self,
        header: Header,
        depth: Float32Array,
        result: Segmentation,
        camera: CameraIntrinsics,
        options: OutputOptions,
    ) -> None:
        objects = find_objects(
            result,
            depth,
            camera,
            near_m=options.depth_min_m,
            far_m=options.depth_max_m,
            min_points=options.object_min_points,
            ids=kept_ids(self._classes, options.object_classes),
        )
        if _has_subscriber(self._objects):
            self._objects.publish(detections(objects, self._classes, header, has_ids=self._has_object_ids))
        if _has_subscriber(self._markers):
            self._markers.publish(markers(objects, self._classes, header, options.marker_lifetime_s))


def _has_subscriber(*publishers: Any) -> bool:
    """Return whether one of the publishers, which may be None, has a subscriber."""
    return any(publisher is not None and publisher.get_subscription_count() > 0 for publisher in publishers)
