"""Write a recording: a rosbag2 folder of standard messages that any bag reader opens."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from deal_core.data.class_json import classes_to_json
from deal_core.data.sample import (
    UNLABELLED,
    CameraIntrinsics,
    ClassList,
    RgbdPair,
    TagState,
    UInt8Array,
)
from deal_core.errors import RecordingError

if TYPE_CHECKING:
    from rosbags.interfaces import Connection

COLOR_TOPIC = "/camera/camera/color/image_raw"
COLOR_INFO_TOPIC = "/camera/camera/color/camera_info"
DEPTH_TOPIC = "/camera/camera/aligned_depth_to_color/image_raw"
DEPTH_INFO_TOPIC = "/camera/camera/aligned_depth_to_color/camera_info"
TAGS_TOPIC = "/deal/tags"
SESSION_TOPIC = "/deal/session"
GROUND_TRUTH = "ground_truth"
"""Folder beside the bag's file with drawn masks, `<stamp_ns>.png`, for evaluation only."""

_IMAGE, _INFO, _STRING = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo", "std_msgs/msg/String"
_MAX_STAMP_NS = 2**31 * 10**9  # builtin_interfaces/Time counts seconds in 31 bits


class RecordingWriter:
    """Write one recording; use it as a context manager.

    The result is a rosbag2 folder (metadata version 8, which Humble to the newest distribution read) with one
    MCAP file on the topics and encodings of realsense-ros: colour `rgb8`, aligned depth `16UC1` in millimetres,
    both camera_info with each pair, tags and session as JSON. Its bytes depend on what was written and on the
    version of `rosbags` alone. Chunks are not compressed: the bytes then do not depend on a compressor's version,
    writing costs no time on a robot, and what a power cut leaves can be read to the last message.

    Everything is written to a hidden folder beside `path` and renamed at the end. If the block fails, or nothing
    was paired, nothing is left behind.

    Args:
        path: the folder to make; it must not exist.
        classes: the classes that tags may name.
        camera: intrinsics of the colour camera; every image must have its size.
        session: more facts for the session message (device, profiles, tool), plain JSON values.

    Raises:
        RecordingError: `path` exists or cannot be made, or the session is not plain JSON.

    Example:
        >>> with RecordingWriter(Path("kitchen_1"), classes, camera) as writer:  # doctest: +SKIP
        ...     writer.write_tags(stamp_ns, TagState(("mug",), marker=TagMarker.COMPLETE), source="keyboard")
        ...     writer.write_pair(RgbdPair(stamp_ns, color, depth_mm))
    """

    def __init__(
        self,
        path: Path,
        classes: ClassList,
        camera: CameraIntrinsics,
        *,
        session: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.classes = classes
        self.camera = camera
        self.pairs_written = 0
        self._session = _session_json(self.path, classes, session or {})
        self._stamps: set[int] = set()
        self._masks: set[int] = set()
        self._bag: _Bag | None = None

    def __enter__(self) -> RecordingWriter:
        if self.path.exists() or self.path.is_symlink():
            raise RecordingError(f"{self.path} exists already: choose another name or remove it first")
        self._bag = _Bag(self.path, self.camera)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        bag, self._bag = self._open_bag(), None
        try:
            if kind is None:
                self._publish(bag)
        finally:
            bag.remove()

    def write_tags(self, stamp_ns: int, tags: TagState, source: str) -> None:
        """Write the tags that hold from `stamp_ns` until the next ones; they start a new segment.

        Args:
            stamp_ns: on the clock of the images.
            tags: classes of the recording's list only.
            source: who said so, as in "keyboard" or "service".

        Raises:
            UsageError: a tag is not in the class list.
            RecordingError: the stamp is out of range.
        """
        bag = self._open_bag()
        tags.vector(self.classes)
        bag.check_stamp(stamp_ns)
        self._write_session(bag, stamp_ns)
        message = {"stamp_ns": stamp_ns, **tags.to_json(), "source": source}
        bag.write_string(TAGS_TOPIC, stamp_ns, json.dumps(message))

    def write_pair(self, pair: RgbdPair) -> None:
        """Write both images and both camera_info with the pair's stamp.

        Raises:
            RecordingError: an image of another size or type than the camera's, or a stamp that is out of range or
                was written before.
        """
        bag = self._open_bag()
        size = (self.camera.height, self.camera.width)
        _check_array(self.path, "colour", pair.color, (*size, 3), np.uint8)
        _check_array(self.path, "depth", pair.depth_mm, size, np.uint16)
        bag.check_stamp(pair.stamp_ns)
        if pair.stamp_ns in self._stamps:
            raise RecordingError(f"{self.path}: a pair with stamp {pair.stamp_ns} ns was written before")
        self._write_session(bag, pair.stamp_ns)
        bag.write_pair(pair)
        self._stamps.add(pair.stamp_ns)
        self.pairs_written += 1

    def write_ground_truth(self, stamp_ns: int, mask: UInt8Array) -> None:
        """Write a drawn mask beside the bag's file; training never sees it.

        Args:
            stamp_ns: stamp of the pair it belongs to.
            mask: (H, W) uint8 class ids, 0 background, 255 not labelled.

        Raises:
            RecordingError: a mask of another size or type, an id beyond the classes, or a second one for a stamp.
        """
        bag = self._open_bag()
        _check_array(self.path, "mask", mask, (self.camera.height, self.camera.width), np.uint8)
        known = (mask <= len(self.classes)) | (mask == UNLABELLED)
        if not known.all():
            raise RecordingError(
                f"{self.path}: mask {stamp_ns} holds id {int(mask[~known].max())}, expected 0 to "
                f"{len(self.classes)} or {UNLABELLED}"
            )
        if stamp_ns in self._masks:
            raise RecordingError(f"{self.path}: a mask for stamp {stamp_ns} ns was written before")
        bag.write_mask(stamp_ns, mask)
        self._masks.add(stamp_ns)

    def _write_session(self, bag: _Bag, stamp_ns: int) -> None:
        if self._session:
            bag.write_string(SESSION_TOPIC, stamp_ns, self._session)
            self._session = ""

    def _publish(self, bag: _Bag) -> None:
        if not self.pairs_written:
            raise RecordingError(f"{self.path}: no pair was written, so no recording is kept")
        if unknown := self._masks - self._stamps:
            raise RecordingError(f"{self.path}: there is a mask for stamp {min(unknown)} ns but no pair")
        bag.close()
        try:
            os.rename(bag.folder, self.path)
        except OSError as error:
            raise RecordingError(
                f"{self.path} cannot be put in place: {error.strerror}; another program may have made it meanwhile"
            ) from error

    def _open_bag(self) -> _Bag:
        if self._bag is None:
            raise RecordingError(f"{self.path} is not open: write inside `with RecordingWriter(...) as writer:`")
        return self._bag


class _Bag:
    """The rosbag2 folder under its temporary name."""

    def __init__(self, path: Path, camera: CameraIntrinsics) -> None:
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.typesys import Stores, get_typestore

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        except OSError as error:
            raise RecordingError(f"{path} cannot be written: {error.strerror}") from error
        self._path = path
        # The bag's file takes its name from the folder it is written in.
        self.folder = self._holder / f"{path.name}_0"
        self._types = get_typestore(Stores.ROS2_HUMBLE)
        self._writer = Writer(self.folder, version=8, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections: dict[str, Connection] = {
            topic: self._writer.add_connection(topic, kind, typestore=self._types)
            for topic, kind in (
                (SESSION_TOPIC, _STRING),
                (TAGS_TOPIC, _STRING),
                (COLOR_TOPIC, _IMAGE),
                (COLOR_INFO_TOPIC, _INFO),
                (DEPTH_TOPIC, _IMAGE),
                (DEPTH_INFO_TOPIC, _INFO),
            )
        }
        self._frame_id = camera.frame_id
        self._camera = camera

    def check_stamp(self, stamp_ns: int) -> None:
        if not 0 <= stamp_ns < _MAX_STAMP_NS:
            raise RecordingError(
                f"{self._path}: stamp {stamp_ns} ns is out of range, expected 0 to {_MAX_STAMP_NS - 1}"
            )

    def write_string(self, topic: str, stamp_ns: int, text: str) -> None:
        self._write(topic, stamp_ns, self._types.types[_STRING](data=text))

    def write_pair(self, pair: RgbdPair) -> None:
        header = self._header(pair.stamp_ns)
        info = self._info(header)
        for topic, info_topic, image, encoding in (
            (COLOR_TOPIC, COLOR_INFO_TOPIC, pair.color, "rgb8"),
            (DEPTH_TOPIC, DEPTH_INFO_TOPIC, pair.depth_mm, "16UC1"),
        ):
            data = np.ascontiguousarray(image).astype(image.dtype.newbyteorder("<"), copy=False)
            height, width = image.shape[:2]
            message = self._types.types[_IMAGE](
                header=header,
                height=height,
                width=width,
                encoding=encoding,
                is_bigendian=0,
                step=data.nbytes // height,
                data=data.reshape(-1).view(np.uint8),
            )
            self._write(topic, pair.stamp_ns, message)
            self._write(info_topic, pair.stamp_ns, info)

    def write_mask(self, stamp_ns: int, mask: UInt8Array) -> None:
        import cv2

        folder = self.folder / GROUND_TRUTH
        folder.mkdir(exist_ok=True)
        if not cv2.imwrite(str(folder / f"{stamp_ns}.png"), mask):
            raise RecordingError(f"{self._path}: the mask for stamp {stamp_ns} cannot be written; is the disk full?")

    def close(self) -> None:
        try:
            self._writer.close()
        except OSError as error:
            raise RecordingError(f"{self._path} cannot be finished: {error.strerror}") from error

    def remove(self) -> None:
        self._writer.abort()  # does nothing after close
        shutil.rmtree(self._holder)

    def _write(self, topic: str, stamp_ns: int, message: object) -> None:
        connection = self._connections[topic]
        try:
            self._writer.write(connection, stamp_ns, self._types.serialize_cdr(message, connection.msgtype))
        except OSError as error:
            raise RecordingError(f"{self._path} cannot be written: {error.strerror}") from error

    def _header(self, stamp_ns: int) -> Any:
        seconds, nanoseconds = divmod(stamp_ns, 10**9)
        time = self._types.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
        return self._types.types["std_msgs/msg/Header"](stamp=time, frame_id=self._frame_id)

    def _info(self, header: Any) -> Any:
        camera = self._camera
        k = (camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0)
        p = (camera.fx, 0.0, camera.cx, 0.0, 0.0, camera.fy, camera.cy, 0.0, 0.0, 0.0, 1.0, 0.0)
        roi = self._types.types["sensor_msgs/msg/RegionOfInterest"](
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        return self._types.types[_INFO](
            header=header,
            height=camera.height,
            width=camera.width,
            distortion_model=camera.distortion_model,
            d=np.array(camera.distortion, np.float64),
            k=np.array(k, np.float64),
            r=np.eye(3, dtype=np.float64).reshape(-1),
            p=np.array(p, np.float64),
            binning_x=0,
            binning_y=0,
            roi=roi,
        )


def _session_json(path: Path, classes: ClassList, session: Mapping[str, Any]) -> str:
    if "classes" in session:
        raise RecordingError(f"{path}: the session must not name 'classes', they come from the class list")
    try:
        return json.dumps({"classes": classes_to_json(classes), **session}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RecordingError(f"{path}: the session must be plain JSON values ({error})") from None


def _check_array(path: Path, name: str, image: object, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    if not isinstance(image, np.ndarray) or image.shape != shape or image.dtype != dtype:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise RecordingError(f"{path}: expected {name} as {np.dtype(dtype).name} {shape}, found {found}")
