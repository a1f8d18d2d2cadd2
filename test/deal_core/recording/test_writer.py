"""Writing recordings: what rosbags reads back, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from deal_core.errors import RecordingError, UsageError
from deal_core.recording.writer import COLOR_TOPIC, DEPTH_TOPIC, RecordingWriter
from deal_core.structures import CameraIntrinsics, ClassList, RgbdPair, TagMarker, TagState

CLASSES = ClassList(("mug", "drill"))
CAMERA = CameraIntrinsics(8, 6, 10.0, 11.0, 4.0, 3.0, frame_id="optical")


def pair(stamp: int) -> RgbdPair:
    random = np.random.default_rng(stamp)
    return RgbdPair(stamp, random.integers(0, 256, (6, 8, 3), np.uint8), random.integers(0, 9999, (6, 8), np.uint16))


def write(path: Path) -> None:
    with RecordingWriter(path, CLASSES, CAMERA, session={"device": "D435"}) as writer:
        writer.write_tags(5, TagState(("mug",), marker=TagMarker.COMPLETE), "keyboard")
        for stamp in (3 * 10**9 + 7, 10**9):  # out of order, as a pairer may return them
            writer.write_pair(pair(stamp))
        writer.write_ground_truth(10**9, np.full((6, 8), 2, np.uint8))


def test_rosbags_reads_what_was_written(tmp_path: Path) -> None:
    from rosbags.rosbag2 import Reader
    from rosbags.typesys import Stores, get_typestore

    write(tmp_path / "made" / "kitchen")
    store = get_typestore(Stores.ROS2_JAZZY)
    messages: dict[str, list] = {}
    with Reader(tmp_path / "made" / "kitchen") as reader:
        for connection, log_time, data in reader.messages():
            message = store.deserialize_cdr(data, connection.msgtype)
            messages.setdefault(connection.topic, []).append((log_time, message))

    assert set(messages) == {
        COLOR_TOPIC,
        DEPTH_TOPIC,
        "/camera/camera/color/camera_info",
        "/camera/camera/aligned_depth_to_color/camera_info",
        "/deal/tags",
        "/deal/session",
    }
    for topic, encoding, pixels in ((COLOR_TOPIC, "rgb8", "color"), (DEPTH_TOPIC, "16UC1", "depth_mm")):
        for (log_time, image), stamp in zip(messages[topic], (10**9, 3 * 10**9 + 7), strict=True):
            expected = getattr(pair(stamp), pixels)
            assert (log_time, image.header.stamp.sec * 10**9 + image.header.stamp.nanosec) == (stamp, stamp)
            assert (image.encoding, image.header.frame_id, image.is_bigendian) == (encoding, "optical", 0)
            assert image.step * image.height == image.data.size
            np.testing.assert_array_equal(image.data.view(expected.dtype).reshape(expected.shape), expected)
    ((_, tags),) = messages["/deal/tags"]
    assert json.loads(tags.data) == {
        "stamp_ns": 5,
        "present": ["mug"],
        "absent": [],
        "marker": "complete",
        "source": "keyboard",
    }
    ((_, session),) = messages["/deal/session"]
    assert json.loads(session.data)["device"] == "D435"
    assert [c["name"] for c in json.loads(session.data)["classes"]] == ["mug", "drill"]
    info = messages["/camera/camera/color/camera_info"][0][1]
    assert (info.width, info.height, *info.k) == (8, 6, 10, 0, 4, 0, 11, 3, 0, 0, 1)
    mask = cv2.imread(str(tmp_path / "made" / "kitchen" / "ground_truth" / "1000000000.png"), -1)
    assert (mask == 2).all()


def test_files_are_named_as_rosbag2_names_them_and_readable_by_humble(tmp_path: Path) -> None:
    write(tmp_path / "kitchen")
    metadata = yaml.safe_load((tmp_path / "kitchen" / "metadata.yaml").read_text())
    information = metadata["rosbag2_bagfile_information"]
    assert information["relative_file_paths"] == ["kitchen_0.mcap"]
    # From version 9 on, QoS is a list where Humble expects a string.
    assert information["version"] == 8 and information["message_count"] == 10
    assert {p.name for p in tmp_path.iterdir()} == {"kitchen"}


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for place in ("one", "two"):
        write(tmp_path / place / "kitchen")
        files = sorted(p for p in (tmp_path / place).rglob("*") if p.is_file())
        digests.append([(p.name, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), RecordingWriter(tmp_path / "kitchen", CLASSES, CAMERA) as writer:
        writer.write_pair(pair(1))
        raise error
    assert list(tmp_path.iterdir()) == []


def test_recording_without_pairs_is_not_kept(tmp_path: Path) -> None:
    with (
        pytest.raises(RecordingError, match="no pair was written"),
        RecordingWriter(tmp_path / "kitchen", CLASSES, CAMERA) as writer,
    ):
        writer.write_tags(1, TagState(("mug",)), "test")
    assert list(tmp_path.iterdir()) == []


def test_existing_path_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "kitchen").mkdir()
    (tmp_path / "kitchen" / "precious").write_text("data")
    with pytest.raises(RecordingError, match="exists already"), RecordingWriter(tmp_path / "kitchen", CLASSES, CAMERA):
        raise AssertionError("the block must not run")
    assert [p.name for p in (tmp_path / "kitchen").iterdir()] == ["precious"]


def test_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RecordingError, match=r"file/kitchen cannot be written"),
        RecordingWriter(tmp_path / "file" / "kitchen", CLASSES, CAMERA),
    ):
        raise AssertionError("the block must not run")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (RgbdPair(1, np.zeros((6, 9, 3), np.uint8), np.zeros((6, 8), np.uint16)), r"colour as uint8 \(6, 8, 3\)"),
        (RgbdPair(1, np.zeros((6, 8, 3), np.float32), np.zeros((6, 8), np.uint16)), "found float32"),
        (RgbdPair(1, np.zeros((6, 8, 3), np.uint8), np.zeros((6, 8), np.float32)), "depth as uint16"),
        (RgbdPair(1, np.zeros((6, 8, 3), np.uint8), np.zeros((3, 4), np.uint16)), r"found uint16 \(3, 4\)"),
        (RgbdPair(-1, np.zeros((6, 8, 3), np.uint8), np.zeros((6, 8), np.uint16)), "out of range"),
        (RgbdPair(2**31 * 10**9, np.zeros((6, 8, 3), np.uint8), np.zeros((6, 8), np.uint16)), "out of range"),
        (pair(7), "written before"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(tmp_path: Path, wrong: RgbdPair, said: str) -> None:
    with RecordingWriter(tmp_path / "kitchen", CLASSES, CAMERA) as writer:
        writer.write_pair(pair(7))
        with pytest.raises(RecordingError, match=said):
            writer.write_pair(wrong)
    assert writer.pairs_written == 1


def test_tags_outside_the_classes_are_refused_with_a_hint(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "kitchen", CLASSES, CAMERA) as writer:
        writer.write_pair(pair(7))
        with pytest.raises(UsageError, match="Did you mean 'mug'"):
            writer.write_tags(1, TagState(("mugg",)), "test")


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.zeros((6, 9), np.uint8), "mask as uint8"),
        (np.full((6, 8), 3, np.uint8), "contains id 3"),
    ],
)
def test_masks_that_do_not_fit_are_refused(tmp_path: Path, mask: np.ndarray, said: str) -> None:
    with RecordingWriter(tmp_path / "kitchen", CLASSES, CAMERA) as writer:
        writer.write_pair(pair(7))
        writer.write_ground_truth(7, np.full((6, 8), 255, np.uint8))
        with pytest.raises(RecordingError, match=said):
            writer.write_ground_truth(8, mask)
        with pytest.raises(RecordingError, match="written before"):
            writer.write_ground_truth(7, np.zeros((6, 8), np.uint8))


def test_mask_without_a_pair_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(RecordingError, match="mask for stamp 8 ns has no pair"),
        RecordingWriter(tmp_path / "kitchen", CLASSES, CAMERA) as writer,
    ):
        writer.write_pair(pair(7))
        writer.write_ground_truth(8, np.zeros((6, 8), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("session", [{"classes": []}, {"x": object()}, {"x": float("nan")}])
def test_session_must_be_plain(tmp_path: Path, session: dict[str, object]) -> None:
    with pytest.raises(RecordingError, match="session must"):
        RecordingWriter(tmp_path / "kitchen", CLASSES, CAMERA, session=session)


def test_writing_outside_the_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="is not open"):
        RecordingWriter(tmp_path / "kitchen", CLASSES, CAMERA).write_pair(pair(1))


def test_ros_itself_reads_what_was_written_and_we_read_what_ros_wrote(tmp_path: Path) -> None:
    serialization = pytest.importorskip("rclpy.serialization", reason="needs ROS 2 (rclpy)")
    messages = pytest.importorskip("sensor_msgs.msg", reason="needs ROS 2 (sensor_msgs)")
    from deal_core.recording.image_messages import MessageDecoder
    from deal_core.recording.reader import open_recording

    write(tmp_path / "kitchen")
    decoder = MessageDecoder()
    with open_recording(tmp_path / "kitchen") as recording:
        for raw in recording.messages([COLOR_TOPIC, DEPTH_TOPIC, "/camera/camera/color/camera_info"]):
            kind = getattr(messages, raw.type.rsplit("/", 1)[1])
            message = serialization.deserialize_message(raw.data, kind)
            assert message.header.frame_id == "optical"
            again = serialization.serialize_message(message)
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            if raw.topic == COLOR_TOPIC:
                np.testing.assert_array_equal(decoder.color(again, raw.type).rgb, pair(stamp).color)
            elif raw.topic == DEPTH_TOPIC:
                np.testing.assert_array_equal(decoder.depth(again, raw.type).depth_mm, pair(stamp).depth_mm)
            else:
                assert list(message.k) == [10, 0, 4, 0, 11, 3, 0, 0, 1] and decoder.camera(again) == CAMERA


def test_true_poses_lie_beside_the_masks(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "room", CLASSES, CAMERA) as writer:
        for stamp in (1, 2):
            writer.write_pair(RgbdPair(stamp, np.zeros((6, 8, 3), np.uint8), np.zeros((6, 8), np.uint16)))
            writer.write_true_pose(stamp, np.eye(3, dtype=np.float32), np.array([0.5, 0, stamp], np.float32))
    poses = json.loads((tmp_path / "room" / "ground_truth" / "poses.json").read_text())
    assert poses["2"] == {"rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "position": [0.5, 0, 2]}
    assert list(poses) == ["1", "2"]
    with pytest.raises(RecordingError, match="is not open"):
        writer.write_true_pose(3, np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
