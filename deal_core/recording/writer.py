"""Write a recording: a rosbag2 folder of standard messages that any bag reader can open."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from deal_core.errors import RecordingError
from deal_core.files import os_errors_as, replacing_folder
from deal_core.ownership import remove_left_of
from deal_core.recording.image_encodings import RawImage
from deal_core.recording.mcap_writer import Buffer, McapWriter
from deal_core.recording.stored_message import StoredChannel
from deal_core.structures import (
    UNLABELLED,
    CameraIntrinsics,
    ClassList,
    Float32Array,
    RgbdPair,
    TagState,
    UInt8Array,
    classes_to_json,
)

COLOR_TOPIC = "/camera/camera/color/image_raw"
COLOR_INFO_TOPIC = "/camera/camera/color/camera_info"
DEPTH_TOPIC = "/camera/camera/aligned_depth_to_color/image_raw"
DEPTH_INFO_TOPIC = "/camera/camera/aligned_depth_to_color/camera_info"
TAGS_TOPIC = "/deal/tags"
SESSION_TOPIC = "/deal/session"
LOSS_TOPIC = "/deal/loss"
SUMMARY_TOPIC, SUMMARY_FILE = "/deal/summary", "summary.json"
GROUND_TRUTH = "ground_truth"
"""Folder beside the bag's file with drawn masks, `<stamp_ns>.png`, for evaluation only."""
POSES_FILE = "poses.json"
"""File in that folder with the true poses of a synthetic camera, for evaluation only."""

_LATCHED = """\
- history: 1
  depth: 100
  reliability: 1
  durability: 1
  deadline: {sec: 9223372036, nsec: 854775807}
  lifespan: {sec: 9223372036, nsec: 854775807}
  liveliness: 1
  liveliness_lease_duration: {sec: 9223372036, nsec: 854775807}
  avoid_ros_namespace_conventions: false
"""
"""QoS profile with which `ros2 bag play` offers a topic to late subscribers; as Humble writes it."""

MAX_STAMP_NS = 2**31 * 10**9  # builtin_interfaces/Time counts seconds in 31 bits
_IMAGE, _INFO, _STRING = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo", "std_msgs/msg/String"


class RecordingWriter:
    """Write one recording; use it as a context manager.

    The result is a rosbag2 folder (metadata version 8, which all distributions from Humble on read) with one MCAP file
    on the topics of realsense-ros: colour, aligned depth, both camera_info with each pair if the camera is known, tags
    and session as JSON. Its bytes depend only on the written content and the calls of `flush`. Chunks are not
    compressed: this takes no time on a robot, and every complete message can be read after a power cut. Depth alone can
    be compressed, which takes a robot a few per cent of a core at camera rate.

    Everything is written beside `path` and renamed at the end: to a hidden folder that is removed if the block fails;
    or, with `survives`, to the folder `<path>.partial`, which stays and is a recording without an index, up to the last
    `flush` or chunk. Without a pair, nothing is kept.

    Args:
        path: folder to create; it must not exist.
        classes: classes that tags may name.
        camera: intrinsics of the colour camera, whose size every image must have; None if unknown.
        session: more facts for the session message (device, profiles, tool), plain JSON values.
        survives: keep the written part if the block fails or the process is killed.
        overwrite: replace `path` when the new recording is complete; not with `survives`.
        compress_depth: compress depth images with zstd at level 1; everything else stays uncompressed.

    Attributes:
        pairs_written: number of written pairs, also those in memory.

    Raises:
        RecordingError: `path` exists or cannot be made, or the session is not plain JSON; from any method that writes,
            if the disk is full, or a stamp is out of range or was written before.

    Example:
        >>> with RecordingWriter(Path("kitchen_1"), classes, camera) as writer:  # doctest: +SKIP
        ...     writer.write_tags(stamp_ns, TagState(("mug",), marker=TagMarker.COMPLETE), source="keyboard")
        ...     writer.write_pair(RgbdPair(stamp_ns, color, depth_mm))
    """

    def __init__(
        self,
        path: Path,
        classes: ClassList,
        camera: CameraIntrinsics | None,
        *,
        session: Mapping[str, Any] | None = None,
        survives: bool = False,
        overwrite: bool = False,
        compress_depth: bool = False,
    ) -> None:
        self.path = Path(path)
        self.classes = classes
        self.camera = camera
        self.pairs_written = 0
        self._session = _session_json(self.path, classes, session or {})
        self._survives = survives
        self._overwrite = overwrite
        self._compress_depth = compress_depth
        self._stamps: set[int] = set()
        self._masks: set[int] = set()
        self._poses: dict[str, dict[str, Any]] = {}
        self._bag: _Bag | None = None
        self._is_open = False

    @property
    def pairs_on_file(self) -> int:
        """Number of pairs in the file."""
        return self._bag.pairs_on_file if self._bag else 0

    def __enter__(self) -> RecordingWriter:
        remove_left_of(self.path)
        if not self._overwrite:
            check_unused(self.path, survives=self._survives)
        self._writing = self._write_bag()
        with os_errors_as(RecordingError, f"{self.path} cannot be written (choose a writable folder)"):
            self._writing.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        with os_errors_as(RecordingError, f"{self.path} cannot be put in place (another program may have made it)"):
            self._writing.__exit__(*error)

    def write_tags(self, stamp_ns: int, tags: TagState, source: str, *, log_time_ns: int | None = None) -> None:
        """Write tags that are valid from `stamp_ns` until the next tags; they start a new segment.

        Args:
            stamp_ns: stamp on the clock of the images; of two tags with one stamp, the later logged wins.
            tags: tags that name the recording's classes.
            source: origin of the tags, as in "keyboard" or "service".
            log_time_ns: log time; the stamp if None.

        Raises:
            UsageError: a tag is not in the class list.
        """
        bag = self._open_bag()
        tags.vector(self.classes)
        bag.check_stamp(stamp_ns)
        message = {"stamp_ns": stamp_ns, **tags.to_json(), "source": source}
        self.write_text(TAGS_TOPIC, stamp_ns if log_time_ns is None else log_time_ns, json.dumps(message))

    def write_text(self, topic: str, log_time_ns: int, text: str) -> None:
        """Write a `String` message."""
        bag = self._open_bag()
        bag.check_stamp(log_time_ns)
        self._write_session(bag, log_time_ns)
        bag.write_string(topic, log_time_ns, text)

    def write_message(self, topic: str, kind: str, log_time_ns: int, data: bytes) -> None:
        """Write a serialised message of another topic unchanged, such as one of TF.

        Args:
            topic: name of the topic.
            kind: type of the message, one of the standard ones.
            log_time_ns: log time on the clock of the images.
            data: the message in CDR.
        """
        bag = self._open_bag()
        bag.check_stamp(log_time_ns)
        self._write_session(bag, log_time_ns)
        bag.write_message(topic, kind, log_time_ns, data)

    def write_pair(self, pair: RgbdPair) -> None:
        """Write both images, as `rgb8` and `16UC1`, and both camera_info with the pair's stamp.

        Raises:
            RecordingError: an image has another size or type than the camera's.
        """
        if self.camera is None:
            raise RecordingError(f"{self.path}: pairs need a camera; without a camera, use `write_images`")
        size = (self.camera.height, self.camera.width)
        _check_array(self.path, "colour", pair.color, (*size, 3), np.uint8)
        _check_array(self.path, "depth", pair.depth_mm, size, np.uint16)
        frame_id = self.camera.frame_id
        self.write_images(
            RawImage.of(pair.color, pair.stamp_ns, frame_id, "rgb8"),
            RawImage.of(pair.depth_mm, pair.stamp_ns, frame_id, "16UC1"),
        )

    def write_images(self, color: RawImage, depth: RawImage) -> None:
        """Write the unchanged images of a pair, and both camera_info if the camera is known.

        Nothing is copied, and nothing is kept after the return.
        """
        bag = self._open_bag()
        for stamp_ns in (color.stamp_ns, depth.stamp_ns):
            bag.check_stamp(stamp_ns)
        if color.stamp_ns in self._stamps:
            raise RecordingError(f"{self.path}: a pair with stamp {color.stamp_ns} ns was written before")
        self._write_session(bag, color.stamp_ns)
        self._stamps.add(color.stamp_ns)
        self.pairs_written += 1
        bag.write_images(color, depth, self.camera)

    def write_summary(self, log_time_ns: int, text: str) -> None:
        """Write the summary of the recording as JSON, into the bag and to `summary.json` beside its file."""
        self.write_text(SUMMARY_TOPIC, log_time_ns, text)
        self._open_bag().write_file(SUMMARY_FILE, text + "\n")

    def flush(self, *, sync: bool = False) -> None:
        """Write everything so far to the file; with `sync`, to the disk."""
        self._open_bag().flush(sync=sync)

    def write_ground_truth(self, stamp_ns: int, mask: UInt8Array) -> None:
        """Write a drawn mask beside the bag's file; training never reads it.

        Args:
            stamp_ns: stamp of its pair.
            mask: (H, W) uint8 class ids, 0 background, 255 unlabelled.

        Raises:
            RecordingError: the mask has another size or type, or an unknown id, or the stamp has a mask already.
        """
        bag = self._open_bag()
        if self.camera is None:
            raise RecordingError(f"{self.path}: masks need a camera")
        _check_array(self.path, "mask", mask, (self.camera.height, self.camera.width), np.uint8)
        known = (mask <= len(self.classes)) | (mask == UNLABELLED)
        if not known.all():
            raise RecordingError(
                f"{self.path}: mask {stamp_ns} contains id {int(mask[~known].max())}, expected 0 to "
                f"{len(self.classes)} or {UNLABELLED}"
            )
        if stamp_ns in self._masks:
            raise RecordingError(f"{self.path}: a mask for stamp {stamp_ns} ns was written before")
        bag.write_mask(stamp_ns, mask)
        self._masks.add(stamp_ns)

    def write_true_pose(self, stamp_ns: int, rotation: Float32Array, position: Float32Array) -> None:
        """Write the true pose of the camera to `poses.json` beside the masks; training never reads it.

        Args:
            stamp_ns: stamp of its pair.
            rotation: (3, 3) from the optical frame (x right, y down, z forward) to the world (z up).
            position: (3,) position of the camera in the world, metres.
        """
        self._open_bag()
        self._poses[str(stamp_ns)] = {"rotation": rotation.tolist(), "position": position.tolist()}

    def _write_session(self, bag: _Bag, stamp_ns: int) -> None:
        if self._session:
            bag.write_session(stamp_ns, self._session)
            self._session = ""

    @contextmanager
    def _write_bag(self) -> Iterator[None]:
        place = self._partial_folder() if self._survives else replacing_folder(self.path, overwrite=self._overwrite)
        with place as folder:
            self._bag = bag = _Bag(self.path, folder, compress_depth=self._compress_depth)
            self._is_open = True
            try:
                yield
                self._finish(bag)
            except BaseException:
                if self._survives:
                    with suppress(RecordingError):
                        bag.flush(sync=True)
                raise
            finally:
                bag.mcap.abort()
                self._is_open = False

    @contextmanager
    def _partial_folder(self) -> Iterator[Path]:
        """Yield a folder that becomes the recording if the block ends well, and stays if it contains a pair."""
        folder = partial_folder(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        try:
            yield folder
            os.rename(folder, self.path)
        finally:
            if not self.pairs_on_file:
                shutil.rmtree(folder, ignore_errors=True)

    def _finish(self, bag: _Bag) -> None:
        bag.flush(sync=self._survives)
        if not self.pairs_on_file:
            raise RecordingError(f"{self.path}: no pair was written, so no recording is kept")
        if unknown := self._masks - self._stamps:
            raise RecordingError(f"{self.path}: the mask for stamp {min(unknown)} ns has no pair")
        if self._poses:
            bag.write_file(f"{GROUND_TRUTH}/{POSES_FILE}", json.dumps(self._poses))
        bag.close()

    def _open_bag(self) -> _Bag:
        if self._bag is None or not self._is_open:
            raise RecordingError(f"{self.path} is not open: write inside `with RecordingWriter(...) as writer:`")
        return self._bag


def partial_folder(path: Path) -> Path:
    """Return the folder of an incomplete recording that survives a crash."""
    return path.parent / f"{path.name}.partial"


def check_unused(path: Path, *, survives: bool) -> None:
    """Raise `RecordingError` if `path`, or with `survives` its partial folder, exists."""
    partial = partial_folder(path)
    if survives and partial.exists():
        raise RecordingError(
            f"{partial} exists already, from a recorder that runs or was killed: choose another name, or make a "
            f"recording of it with `deal check {partial} --repair` and remove it"
        )
    if path.exists() or path.is_symlink():
        raise RecordingError(f"{path} exists already: choose another name or remove it first")


def message_types() -> Any:
    """Return rosbags' types of the standard messages; the first call in a process takes half a second."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_HUMBLE)


def finish_bag(writer: McapWriter, *, ros_distro: str = "", custom_data: Mapping[str, str] | None = None) -> None:
    """Write the buffered messages and the index, close the file, and write metadata.yaml beside it.

    All distributions from Humble on read version 8; from version 9 on, QoS is a list, but Humble expects a string.

    Args:
        writer: writer of the folder's only file.
        ros_distro: distribution of the messages.
        custom_data: facts as in `ros2 bag record --custom-data`.

    Raises:
        OSError: the disk is full.
    """
    import yaml

    writer.flush()
    metadata = _bag_metadata(writer, ros_distro, custom_data)
    writer.write_metadata("rosbag2", {"serialized_metadata": yaml.safe_dump(metadata, sort_keys=False)})
    writer.close()
    text = yaml.safe_dump({"rosbag2_bagfile_information": metadata}, sort_keys=False)
    (writer.path.parent / "metadata.yaml").write_text(text, encoding="utf-8")


class _Bag:
    """The rosbag2 folder with its temporary name."""

    def __init__(self, path: Path, folder: Path, *, compress_depth: bool = False) -> None:
        self._path = path
        self._compress_depth = compress_depth
        self.folder = folder
        self.mcap = McapWriter(folder / f"{path.name}_0.mcap")
        self._types = message_types()
        self._channels: dict[str, int] = {}
        self._heads: dict[tuple[Any, ...], bytes] = {}

    @property
    def pairs_on_file(self) -> int:
        color = self._channels.get(COLOR_TOPIC)
        return self.mcap.counts[color] if color else 0

    def check_stamp(self, stamp_ns: int) -> None:
        if not 0 <= stamp_ns < MAX_STAMP_NS:
            raise RecordingError(f"{self._path}: stamp {stamp_ns} ns is out of range, expected 0 to {MAX_STAMP_NS - 1}")

    def write_string(self, topic: str, log_time_ns: int, text: str) -> None:
        self._write(topic, _STRING, log_time_ns, [self._serialize(_STRING, data=text)])
        self._end_group()

    def write_message(self, topic: str, kind: str, log_time_ns: int, data: bytes) -> None:
        self._write(topic, kind, log_time_ns, [data])
        self._end_group()

    def write_session(self, log_time_ns: int, text: str) -> None:
        """Write the session as a topic, for programs, and as a metadata record, for MCAP tools."""
        self.write_string(SESSION_TOPIC, log_time_ns, text)
        with self._failing():
            self.mcap.write_metadata("deal", {"session": text})

    def write_images(self, color: RawImage, depth: RawImage, camera: CameraIntrinsics | None) -> None:
        if self._compress_depth:
            with self._failing():
                self.mcap.flush()  # chunks are compressed as a whole
        images = [(COLOR_TOPIC, COLOR_INFO_TOPIC, color), (DEPTH_TOPIC, DEPTH_INFO_TOPIC, depth)]
        # Compressed depth comes first: if the disk is full behind it, the pair is not there.
        for topic, info_topic, image in reversed(images) if self._compress_depth else images:
            # Both have the log time of the pair, so that any reader finds them next to each other.
            head = _stamped(self._image_head(image), image.stamp_ns)
            self._write(topic, _IMAGE, color.stamp_ns, [head, image.data])
            if camera is not None:
                info = _stamped(self._info(camera, image.frame_id), image.stamp_ns)
                self._write(info_topic, _INFO, color.stamp_ns, [info])
            if image is depth and self._compress_depth:
                with self._failing():
                    self.mcap.flush(compress=True)
        self._end_group()

    def write_mask(self, stamp_ns: int, mask: UInt8Array) -> None:
        import cv2

        folder = self.folder / GROUND_TRUTH
        with os_errors_as(RecordingError, f"{self._path}: the mask for stamp {stamp_ns} cannot be written"):
            folder.mkdir(exist_ok=True)
            (folder / f"{stamp_ns}.png").write_bytes(cv2.imencode(".png", mask)[1].data)

    def write_file(self, name: str, text: str) -> None:
        with self._failing():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_text(text, encoding="utf-8")

    def flush(self, *, sync: bool) -> None:
        with self._failing():
            self.mcap.flush(sync=sync)

    def close(self) -> None:
        with os_errors_as(RecordingError, f"{self._path} cannot be finished"):
            finish_bag(self.mcap, ros_distro="rosbags")

    def _write(self, topic: str, kind: str, log_time_ns: int, parts: list[Buffer]) -> None:
        if topic not in self._channels:
            definition, _ = self._types.generate_msgdef(kind, ros_version=2)
            qos = _LATCHED if topic.endswith("tf_static") else ""
            channel = StoredChannel(topic, kind, "ros2msg", definition, qos, self._types.hash_rihs01(kind))
            self._channels[topic] = self.mcap.add_channel(channel)
        self.mcap.write(self._channels[topic], log_time_ns, parts)

    def _end_group(self) -> None:
        with self._failing():
            self.mcap.end_group()

    def _failing(self) -> AbstractContextManager[None]:
        return os_errors_as(RecordingError, f"{self._path} cannot be written")

    def _image_head(self, image: RawImage) -> bytes:
        """Return a serialised image up to its pixels, which then need no copy."""
        form = (image.frame_id, *image.size, image.encoding, image.is_bigendian, image.step, len(image.data))
        if form not in self._heads:
            empty = self._serialize(
                _IMAGE,
                header=self._header(image.frame_id),
                height=image.height,
                width=image.width,
                encoding=image.encoding,
                is_bigendian=int(image.is_bigendian),
                step=image.step,
                data=np.empty(0, np.uint8),
            )
            self._heads[form] = empty[:-4] + struct.pack("<I", len(image.data))
        return self._heads[form]

    def _info(self, camera: CameraIntrinsics, frame_id: str) -> bytes:
        if (camera, frame_id) not in self._heads:
            k = (camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0)
            p = (camera.fx, 0.0, camera.cx, 0.0, 0.0, camera.fy, camera.cy, 0.0, 0.0, 0.0, 1.0, 0.0)
            roi = self._types.types["sensor_msgs/msg/RegionOfInterest"](
                x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
            )
            self._heads[camera, frame_id] = self._serialize(
                _INFO,
                header=self._header(frame_id),
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
        return self._heads[camera, frame_id]

    def _header(self, frame_id: str) -> Any:
        time = self._types.types["builtin_interfaces/msg/Time"](sec=0, nanosec=0)
        return self._types.types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)

    def _serialize(self, kind: str, **fields: Any) -> bytes:
        return bytes(self._types.serialize_cdr(self._types.types[kind](**fields), kind))


def _stamped(message: bytes, stamp_ns: int) -> bytes:
    """Return a serialised message with another stamp in its header."""
    return message[:4] + struct.pack("<iI", *divmod(stamp_ns, 10**9)) + message[12:]


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


def _bag_metadata(writer: McapWriter, ros_distro: str, custom_data: Mapping[str, str] | None) -> dict[str, Any]:
    count, file = writer.counts.total(), writer.path.name
    start_ns = writer.start_ns if count else 0
    duration = {"nanoseconds": writer.end_ns - start_ns}
    start = {"nanoseconds_since_epoch": start_ns}
    return {
        "version": 8,
        "storage_identifier": "mcap",
        "relative_file_paths": [file],
        "duration": dict(duration),
        "starting_time": dict(start),
        "message_count": count,
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": channel.topic,
                    "type": channel.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": channel.qos,
                    "type_description_hash": channel.type_hash,
                },
                "message_count": writer.counts[number],
            }
            for number, channel in writer.channels.items()
        ],
        "compression_format": "",
        "compression_mode": "",
        "files": [{"path": file, "starting_time": start, "duration": duration, "message_count": count}],
        "custom_data": dict(custom_data) if custom_data is not None else None,
        "ros_distro": ros_distro,
    }
