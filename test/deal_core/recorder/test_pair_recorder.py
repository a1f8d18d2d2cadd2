"""Recording a live camera: whole pairs or nothing, and an account of everything that is not there."""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from helpers.motion import add_tf, transform
from helpers.paths import HELPERS
from helpers.rvl import encode
from hypothesis import given, settings
from hypothesis import strategies as st

from deal_core.dataset.check import check_recording
from deal_core.dataset.dataset import Dataset
from deal_core.dataset.extract import ExtractOptions, extract_recording
from deal_core.dataset.poses import read_poses
from deal_core.errors import RecordingError, UsageError
from deal_core.recorder import write_queue
from deal_core.recorder.pair_recorder import PairRecorder, RecorderSettings
from deal_core.recorder.summary import RecordingCounts
from deal_core.recording.depth_values import DepthValues
from deal_core.recording.image_encodings import RawImage
from deal_core.recording.image_messages import EncodedImage, MessageDecoder
from deal_core.recording.mcap_writer import McapWriter
from deal_core.recording.reader import open_recording
from deal_core.recording.repair import repair_recording
from deal_core.recording.writer import LOSS_TOPIC, SUMMARY_TOPIC, RecordingWriter
from deal_core.structures import CameraIntrinsics, ClassList, TagState

CLASSES = ClassList(("mug", "drill"))
CAMERA = CameraIntrinsics(8, 6, 10.0, 11.0, 4.0, 3.0, frame_id="optical")
BIG_CAMERA = replace(CAMERA, width=320, height=240)
MS = 1_000_000
START = 1_700_000_000 * 1000 * MS
WAIT_S = 60.0


def color(stamp: int, size: tuple[int, int] = (6, 8), encoding: str = "rgb8", frame: str = "optical") -> RawImage:
    random = np.random.default_rng(stamp % 2**32)
    return RawImage.of(random.integers(0, 256, (*size, 3), np.uint8), stamp, frame, encoding)


def depth(stamp: int, size: tuple[int, int] = (6, 8), encoding: str = "16UC1", frame: str = "optical") -> RawImage:
    return RawImage.of(np.full(size, 1 + stamp // MS % 60_000, np.uint16), stamp, frame, encoding)


class Rig:
    """A recorder with a camera whose clock is its stamps'."""

    def __init__(self, tags: TagState | None = None, **options: Any) -> None:
        self.now = START
        # This camera is faster than any disk, and its tests need few of its images.
        wanted = RecorderSettings(CLASSES, **{"queue_pairs": 10_000, "planned_minutes": 0, **options})
        self.recorder = PairRecorder(wanted, tags, clock=lambda: self.now / 1e9)
        self.recorder.set_camera(CAMERA)
        self.pair(START)

    def pair(self, stamp: int, **options: Any) -> None:
        self.now = stamp
        self.recorder.add_color(color(stamp, **options))
        self.recorder.add_depth(depth(stamp))

    def pairs(self, first_ms: int, last_ms: int, step_ms: int = 33) -> None:
        for ms in range(first_ms, last_ms, step_ms):
            self.pair(START + ms * MS)

    def wait(self, is_true: Callable[[RecordingCounts], bool]) -> RecordingCounts:
        for _ in range(round(WAIT_S / 0.01)):
            if is_true(counts := self.recorder.state.counts):
                return counts
            threading.Event().wait(0.01)
        raise AssertionError(f"waited in vain; {self.recorder.state}")


def check_balance(counts: RecordingCounts) -> None:
    for received, unpaired, pending in (
        (counts.received_color, counts.unpaired_color, counts.pending_color),
        (counts.received_depth, counts.unpaired_depth, counts.pending_depth),
    ):
        assert received == counts.paired + sum(unpaired.values()) + pending
    known = counts.written + sum(counts.skipped.values()) + sum(counts.lost.values())
    assert counts.paired == known + counts.pending_pairs
    assert counts.pending_pairs >= 0


events = st.tuples(
    st.sampled_from(["color", "depth", "both", "both", "both"]),
    st.integers(1, 60),
    st.sampled_from(["good"] * 6 + ["encoding", "size", "short", "frame"]),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(events, max_size=40), st.integers(0, 2), st.sampled_from([0.0, 100.0]), st.integers(1, 5))
def test_every_image_is_accounted_for_at_any_time(
    sequence: list[tuple[str, int, str]], slop_ms: int, rate_hz: float, queue: int
) -> None:
    rig = Rig(slop_ns=slop_ms * MS, rate_hz=rate_hz, queue_pairs=queue, sync_queue=3)
    recorder = rig.recorder
    with tempfile.TemporaryDirectory() as folder:
        recorder.start(Path(folder) / "kitchen")
        sent: Counter[str] = Counter()
        for stream, ms, form in sequence:
            stamp = START + (10 + ms) * MS
            images = {"color": color(stamp), "depth": depth(stamp)}
            if form == "encoding":
                images["color"] = color(stamp, encoding="bgr8")
            elif form == "size":
                images["color"] = color(stamp, size=(6, 9))
            elif form == "frame":
                images["depth"] = depth(stamp, frame="elsewhere")
            elif form == "short":
                whole = images["depth"]
                images["depth"] = RawImage(stamp, "optical", 6, 8, "16UC1", 16, whole.data[:-1])
            for name in images if stream == "both" else [stream]:
                getattr(recorder, f"add_{name}")(images[name])
                sent[name] += 1
                counts = recorder.state.counts
                check_balance(counts)
                assert (counts.received_color, counts.received_depth) == (sent["color"], sent["depth"])
        try:
            counts = recorder.stop().counts
        except RecordingError as error:
            assert "no pair was written" in str(error) and list(Path(folder).iterdir()) == []
            counts = recorder.state.counts
            assert counts.written == 0
        else:
            report = check_recording(Path(folder) / "kitchen", slop_ns=slop_ms * MS)
            assert (report.pairs, report.frames, report.unpaired, report.errors) == (counts.written,) * 2 + ({}, [])
        check_balance(counts)
        assert counts.pending_pairs == 0
        assert (counts.received_color, counts.received_depth) == (sent["color"], sent["depth"])


def test_the_dataset_holds_what_was_tagged_and_nothing_else(tmp_path: Path) -> None:
    rig = Rig(TagState(("mug",)), rate_hz=0, session={"device": "D435 1234"})
    rig.recorder.start(tmp_path / "kitchen")
    rig.pairs(33, 3000)
    rig.recorder.set_tags("drill, complete", "keyboard")
    rig.pairs(3003, 6000)
    with pytest.raises(UsageError, match="Did you mean 'drill'"):
        rig.recorder.set_tags("drll", "keyboard")
    rig.recorder.set_tags("+drill", "topic")  # nothing new
    rig.recorder.set_tags("+mug", "topic")
    rig.pairs(6006, 9000)
    rig.wait(lambda counts: counts.pending_pairs == 0)
    assert rig.recorder.discard_last() > 70
    rig.pairs(9009, 12000)
    summary = rig.recorder.stop()
    assert summary.counts.written == summary.counts.paired == summary.labelled + sum(summary.unlabelled.values())
    assert summary.loss == 0 and summary.segments == 3 and not summary.failure
    assert summary.tags["mug"].present == summary.labelled - summary.tags["mug"].absent
    assert [p.name for p in tmp_path.iterdir()] == ["kitchen"]

    report = check_recording(tmp_path / "kitchen")
    assert report.errors == [] and report.unpaired == {} and report.frames == summary.labelled
    assert report.skipped == summary.unlabelled
    assert set(report.skipped) == {
        "within the guard time around a change of tags",
        "the operator discarded it while recording",
    }
    extract_recording(tmp_path / "kitchen", tmp_path / "data", ExtractOptions())
    dataset = Dataset.open(tmp_path / "data")
    assert dataset.camera("kitchen") == CAMERA
    for frame in dataset.frames:
        ms = (frame.stamp_ns - START) / MS
        first, second, third = ms < 2500, 3470 <= ms < 5500, ms >= 9000
        assert first + second + third == 1
        assert frame.tags.present == (("mug",) if first else ("drill",) if second else ("drill", "mug"))
        np.testing.assert_array_equal(dataset.load(frame).image, color(frame.stamp_ns).pixels())

    content = json.loads((tmp_path / "kitchen" / "summary.json").read_text())
    with open_recording(tmp_path / "kitchen") as recording:
        (stored,) = [json.loads(MessageDecoder().text(m.data)) for m in recording.messages([SUMMARY_TOPIC])]
        (session,) = [json.loads(MessageDecoder().text(m.data)) for m in recording.messages(["/deal/session"])]
    assert stored == content and content["counts"]["written"] == summary.counts.written
    assert session["device"] == "D435 1234"
    assert any("labelled" in line for line in summary.lines())


def test_keyframes_come_at_the_rate_whatever_the_jitter(tmp_path: Path) -> None:
    rig = Rig(rate_hz=5)
    rig.recorder.start(tmp_path / "kitchen")
    jitter = np.random.default_rng(0).integers(-8 * MS, 8 * MS, 300)
    for i, offset in enumerate(jitter.tolist()):
        rig.pair(START + (i + 1) * 33_333_333 + offset)
    summary = rig.recorder.stop()
    assert summary.counts.written + summary.counts.skipped["between keyframes"] == 300
    assert abs(summary.counts.written - 50) <= 1 and summary.loss == 0
    assert summary.gaps.longest_s < 0.3


def test_a_still_view_is_written_once(tmp_path: Path) -> None:
    rig = Rig(rate_hz=0, only_if_changed=True, change_threshold=2.0)
    rig.recorder.start(tmp_path / "kitchen")
    views = [np.full((6, 8, 3), level, np.uint8) for level in (100, 101, 101, 103, 104, 100)]
    for i, view in enumerate(views):
        stamp = START + (i + 1) * 33 * MS
        rig.recorder.add_color(RawImage.of(view, stamp, "optical", "rgb8"))
        rig.recorder.add_depth(depth(stamp))
    summary = rig.recorder.stop()
    assert summary.counts.written == 3 and summary.counts.skipped == {"view unchanged": 3}


def test_a_pair_that_is_asked_for_is_kept_whatever_is_left_out(tmp_path: Path) -> None:
    rig = Rig(rate_hz=1.0, only_if_changed=True, change_threshold=2.0)
    with pytest.raises(RecordingError, match="no recording is running"):
        rig.recorder.keep_next()
    rig.recorder.start(tmp_path / "kitchen")
    grey = np.full((6, 8, 3), 100, np.uint8)
    for number in range(1, 40):  # 1.3 s of one view
        if number in (10, 12):
            rig.recorder.keep_next()
        stamp = START + number * 33 * MS
        rig.recorder.add_color(RawImage.of(grey, stamp, "optical", "rgb8"))
        rig.recorder.add_depth(depth(stamp))
    summary = rig.recorder.stop()
    assert summary.counts.written == 3
    assert summary.counts.skipped == {"between keyframes": 35, "view unchanged": 1}
    with open_recording(tmp_path / "kitchen") as recording:
        stamps = {message.log_time_ns for message in recording.messages(["/camera/camera/color/image_raw"])}
    assert stamps == {START + number * 33 * MS for number in (1, 10, 12)}


def test_a_segment_that_somebody_begins_has_the_same_tags(tmp_path: Path) -> None:
    rig = Rig(TagState(("mug",)), rate_hz=0)
    rig.recorder.start(tmp_path / "kitchen")
    rig.pairs(33, 1000)
    rig.recorder.begin_segment("page")
    rig.pairs(1023, 2000)
    summary = rig.recorder.stop()
    assert summary.segments == 2 and summary.unlabelled == {}
    assert summary.tags["mug"].present == summary.counts.written == 60


def test_stamps_that_repeat_or_go_back_are_lost_with_their_cause(tmp_path: Path) -> None:
    rig = Rig(rate_hz=0, sync_queue=2)
    rig.recorder.start(tmp_path / "kitchen")
    for ms in (100, 133, 166, 200, 100, 150, 200, 233):
        rig.pair(START + ms * MS)
    counts = rig.recorder.stop().counts
    assert counts.lost == {"stamp backwards": 2, "duplicate stamp": 1}
    assert counts.written == 5 and counts.loss == pytest.approx(3 / 8)


def test_a_clock_that_jumped_back_shows(tmp_path: Path) -> None:
    rig = Rig(rate_hz=0, sync_queue=2)
    rig.recorder.start(tmp_path / "kitchen")
    rig.pairs(33, 99)
    rig.pairs(-9000, -8000)
    counts = rig.recorder.stop().counts
    assert counts.written == 2 and counts.lost["stamp backwards"] > 25


def test_what_belongs_to_moments_before_and_after_is_not_lost(tmp_path: Path) -> None:
    rig = Rig(rate_hz=0)
    rig.recorder.add_color(color(START + 33 * MS))
    rig.recorder.start(tmp_path / "kitchen")
    rig.recorder.add_depth(depth(START + 33 * MS))
    rig.pairs(66, 200)
    rig.recorder.add_depth(depth(START + 210 * MS))
    counts = rig.recorder.stop().counts
    assert counts.loss == 0 and counts.causes == {} and (counts.pending_color, counts.pending_depth) == (0, 1)


def test_depth_at_half_the_rate_of_colour_is_no_loss(tmp_path: Path) -> None:
    rig = Rig(rate_hz=5)
    rig.recorder.start(tmp_path / "kitchen")
    for index in range(1, 181):
        rig.recorder.add_color(color(START + index * 33 * MS))
        if index % 2:
            rig.recorder.add_depth(depth(START + index * 33 * MS))
    summary = rig.recorder.stop()
    assert summary.loss == 0 and summary.counts.causes == {}
    assert summary.counts.unpaired == {"color: no partner within slop": 89} and summary.counts.written == 30
    assert "180 colour (30.3 Hz) and 90 depth (15.2 Hz)" in "\n".join(summary.lines())


@pytest.mark.parametrize("compress", ["none", "depth"])
def test_compressed_depth_reads_back_to_the_bit_everywhere(tmp_path: Path, compress: Any) -> None:
    from rosbags.highlevel import AnyReader

    rig = Rig(rate_hz=0, compress=compress)
    rig.recorder.set_camera(BIG_CAMERA)
    first = START - 33 * MS
    rig.recorder.add_color(color(first, (240, 320)))
    rig.recorder.add_depth(depth(first, (240, 320)))
    rig.recorder.start(tmp_path / "kitchen")
    sent = [START + index * 33 * MS for index in range(10)]
    for stamp in sent:
        rig.recorder.add_color(color(stamp, (240, 320)))
        rig.recorder.add_depth(depth(stamp, (240, 320)))
    assert rig.recorder.stop().counts.written == 10
    with AnyReader([tmp_path / "kitchen"]) as reader:  # rosbags reads it, too
        images = {
            (connection.topic, time): bytes(reader.deserialize(data, connection.msgtype).data)
            for connection, time, data in reader.messages()
            if connection.topic.endswith("image_raw")
        }
    assert len(images) == 20
    for stamp in sent:
        assert images["/camera/camera/color/image_raw", stamp] == bytes(color(stamp, (240, 320)).data)
        depth_topic = "/camera/camera/aligned_depth_to_color/image_raw"
        assert images[depth_topic, stamp] == bytes(depth(stamp, (240, 320)).data)
    assert check_recording(tmp_path / "kitchen").errors == []
    size = next((tmp_path / "kitchen").glob("*.mcap")).stat().st_size
    assert (size < 10 * 240 * 320 * 3.2) == (compress == "depth")


def test_images_of_compressed_transports_are_recorded_decoded(tmp_path: Path) -> None:
    rgb = color(0)
    jpeg = cv2.imencode(".png", rgb.pixels()[..., ::-1])[1].tobytes() + bytes(300)
    millimetres = np.random.default_rng(0).integers(500, 3000, (6, 8)).astype(np.uint16)
    packed = struct.pack("<iff", 0, 0, 0) + struct.pack("<II", 8, 6) + encode(millimetres)

    def send(stamp: int, damage: bytes = b"") -> None:
        form = "16UC1; compressedDepth rvl"
        rig.recorder.add_color(EncodedImage(stamp, "optical", "png", memoryview(jpeg), is_depth=False))
        rig.recorder.add_depth(EncodedImage(stamp, "optical", form, memoryview(damage or packed), is_depth=True))

    rig = Rig(rate_hz=0)
    send(START + 33 * MS)
    rig.recorder.start(tmp_path / "kitchen")
    for index in range(2, 6):
        send(START + index * 33 * MS, packed[:30] if index == 3 else b"")
    counts = rig.recorder.stop().counts
    assert counts.written == 3 and counts.lost == {"bad image": 1}
    extract_recording(tmp_path / "kitchen", tmp_path / "dataset", ExtractOptions(tags=None))
    frame = Dataset.open(tmp_path / "dataset").load(0)
    np.testing.assert_array_equal(frame.image, rgb.pixels())
    np.testing.assert_array_equal(frame.depth, millimetres.astype(np.float32) / 1000)


def test_depth_of_another_frame_name_is_recorded_if_it_is_said_to_be_aligned(tmp_path: Path) -> None:
    rig = Rig(rate_hz=0, aligned=True)
    rig.recorder.add_depth(depth(START, frame="depth_optical"))
    rig.recorder.start(tmp_path / "kitchen")
    for index in range(1, 4):
        rig.recorder.add_color(color(START + index * 33 * MS))
        rig.recorder.add_depth(depth(START + index * 33 * MS, frame="depth_optical"))
    assert rig.recorder.stop().counts.written == 3
    assert check_recording(tmp_path / "kitchen").frames == 3  # without the option: the frame is colour's now


def test_images_without_stamps_are_refused_at_the_start(tmp_path: Path) -> None:
    rig = Rig()
    rig.pair(0)
    with pytest.raises(RecordingError, match="stamp 0"):
        rig.recorder.start(tmp_path / "kitchen")


def test_depth_that_cannot_be_true_is_refused_at_the_start(tmp_path: Path) -> None:
    metres = np.random.default_rng(0).integers(1, 6, (6, 8)).astype(np.uint16)
    for unit in ("auto", "m"):
        rig = Rig(depth=DepthValues(unit))
        rig.recorder.add_depth(RawImage.of(metres, START, "optical", "16UC1"))
        if unit == "auto":
            with pytest.raises(RecordingError, match=r"depth cannot be true: .*depth_unit:=m"):
                rig.recorder.start(tmp_path / "kitchen")
            continue
        rig.recorder.start(tmp_path / "kitchen")
        for index in range(1, 4):
            rig.recorder.add_color(color(START + index * 200 * MS))
            rig.recorder.add_depth(RawImage.of(metres, START + index * 200 * MS, "optical", "16UC1"))
        rig.recorder.stop()
    report = check_recording(tmp_path / "kitchen")
    assert report.errors == [] and report.frames == 3  # the recording names its unit


def test_a_busy_writer_and_a_slow_disk_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, is_at_work = threading.Event(), threading.Event()
    for cause, owner, name in (
        ("disk slow", RecordingWriter, "write_images"),
        ("queue full", write_queue, "_fault"),
    ):
        work = getattr(owner, name)
        gate.clear()
        is_at_work.clear()

        def wait(*arguments: Any, work: Any = work) -> Any:
            is_at_work.set()
            assert gate.wait(WAIT_S)
            return work(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, wait)
            rig = Rig(rate_hz=0, queue_pairs=3)
            rig.recorder.start(tmp_path / cause)
            rig.pair(START + 33 * MS)
            assert is_at_work.wait(WAIT_S)  # the queue is empty again
            rig.pairs(66, 33 * 10)
            counts = rig.recorder.state.counts
            assert counts.lost == {cause: 5} and counts.pending_pairs == 4
            gate.set()
            summary = rig.recorder.stop()
            assert summary.counts.written == 4 and summary.loss == pytest.approx(5 / 9)


def test_the_memory_of_the_queue_is_bounded(tmp_path: Path) -> None:
    queue = write_queue.RecordingQueue(max_pairs=100, max_bytes=3 * 240)
    for ms in range(5):
        queue.put_pair(write_queue.Pair(ms, color(ms), ms, depth(ms)))
    assert queue.pending == 3 and queue.lost.total() == 2


def other_camera(recorder: PairRecorder) -> None:
    recorder.set_camera(BIG_CAMERA)
    recorder.add_color(color(1))
    recorder.add_depth(depth(1))


def no_images(recorder: PairRecorder) -> None:
    pass


def unaligned_frame(recorder: PairRecorder) -> None:
    recorder.add_color(color(1))
    recorder.add_depth(depth(1, frame="depth_optical"))


def unaligned_size(recorder: PairRecorder) -> None:
    recorder.add_color(color(1))
    recorder.add_depth(depth(1, size=(3, 4)))


def colorized(recorder: PairRecorder) -> None:
    recorder.add_color(color(1))
    recorder.add_depth(color(1))


def depth_as_color(recorder: PairRecorder) -> None:
    recorder.add_color(depth(1))
    recorder.add_depth(depth(1))


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (no_images, "no colour and depth image has arrived"),
        (
            unaligned_frame,
            "not aligned.*8x6 in frame 'optical', depth 8x6 in frame 'depth_optical'.*align_depth.enable",
        ),
        (unaligned_size, "not aligned.*depth 4x3"),
        (colorized, "found 'rgb8'.*colorizer"),
        (other_camera, "camera_info is for 320x240, the colour image is 8x6"),
        (depth_as_color, "expected colour in a colour encoding, as rgb8; found '16UC1'"),
    ],
)
def test_a_camera_that_gives_no_usable_pairs_is_refused(
    tmp_path: Path, prepare: Callable[[PairRecorder], None], said: str
) -> None:
    recorder = PairRecorder(RecorderSettings(CLASSES))
    prepare(recorder)
    with pytest.raises(RecordingError, match=said):
        recorder.start(tmp_path / "kitchen")
    assert list(tmp_path.iterdir()) == [] and not recorder.state.is_recording


def test_other_starts_and_stops_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(planned_minutes=10, rate_hz=5)
    for action in (rig.recorder.stop, rig.recorder.discard_last):
        with pytest.raises(RecordingError, match="no recording is running"):
            action()
    usage = "deal_core.recorder.pair_recorder.shutil.disk_usage"
    with monkeypatch.context() as patch:
        patch.setattr(usage, lambda place: SimpleNamespace(free=128 * 2**20 + 240 * 5 * 600 - 1))
        with pytest.raises(RecordingError, match=r"GB free, expected .* for 10 minutes at 5 Hz"):
            rig.recorder.start(tmp_path / "deep" / "kitchen")
    (tmp_path / "kitchen.partial").mkdir()
    with pytest.raises(RecordingError, match=r"kitchen.partial exists already"):
        rig.recorder.start(tmp_path / "kitchen")
    rig.recorder.start(tmp_path / "hall")
    with pytest.raises(RecordingError, match="hall is being recorded already"):
        rig.recorder.start(tmp_path / "hall2")
    with pytest.raises(RecordingError, match="no pair was written"):
        rig.recorder.stop()
    with pytest.raises(UsageError, match="Did you mean 'mug'"):
        PairRecorder(RecorderSettings(CLASSES), TagState(("mugs",)))


@pytest.mark.parametrize("index_fits", [True, False])
def test_a_full_disk_ends_the_recording_and_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index_fits: bool
) -> None:
    full = threading.Event()
    put = McapWriter._put_all

    def put_or_fail(self: McapWriter, data: Any) -> None:
        if full.is_set() and (len(data) > 64 * 1024 or not index_fits):
            self._file.write(bytes(data)[:100])  # a disk takes what it can
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(self, data)

    monkeypatch.setattr(McapWriter, "_put_all", put_or_fail)
    rig = Rig(rate_hz=0)
    rig.recorder.set_camera(BIG_CAMERA)
    big = {"size": (240, 320)}

    def pair(ms: int) -> None:
        rig.recorder.add_color(color(START + ms * MS, **big))
        rig.recorder.add_depth(depth(START + ms * MS, **big))

    pair(1)
    rig.recorder.start(tmp_path / "kitchen")
    pair(33)
    pair(66)
    rig.wait(lambda counts: counts.written == 2)
    full.set()
    pair(99)
    rig.wait(lambda _: bool(rig.recorder.state.failure))
    pair(133)
    summary = rig.recorder.stop()
    check_balance(summary.counts)
    assert "the disk is full" in summary.failure and any("ended by itself" in line for line in summary.lines())
    assert summary.counts.written == 2 and summary.counts.lost == {"disk full or failed": 2}
    assert summary.path == str(tmp_path / ("kitchen" if index_fits else "kitchen.partial"))
    report = check_recording(Path(summary.path))
    assert report.frames == 2 and bool(report.errors) != index_fits


def test_recording_ends_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(rate_hz=0)
    rig.recorder.start(tmp_path / "kitchen")
    rig.pairs(33, 200)
    usage = "deal_core.recorder.write_queue.shutil.disk_usage"
    monkeypatch.setattr(usage, lambda place: SimpleNamespace(free=100))
    rig.wait(lambda _: bool(rig.recorder.state.failure))
    summary = rig.recorder.stop()
    assert "almost full" in summary.failure and check_recording(tmp_path / "kitchen").errors == []
    with open_recording(tmp_path / "kitchen") as recording:
        assert recording.count(LOSS_TOPIC) == 1 and summary.counts.written == 6


KILLED = """
import sys, time
from test_pair_recorder import Rig, START, MS, Path, TagState
rig = Rig(TagState(("mug",)), rate_hz=0)
rig.recorder.start(Path(sys.argv[1]))
for i in range(1, 100_000):
    rig.pair(START + 33 * i * MS)
    print(rig.recorder.state.counts.written, flush=True)
    time.sleep(0.001)
"""


@pytest.mark.slow
def test_a_killed_recording_is_there_and_readable(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "kitchen")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parent, HELPERS.parent)))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        written = next(n for n in map(int, process.stdout) if n)
        process.send_signal(signal.SIGKILL)
    assert [p.name for p in tmp_path.iterdir()] == ["kitchen.partial"]
    report = check_recording(tmp_path / "kitchen.partial")
    assert report.frames >= written and report.unpaired == {}
    extraction = extract_recording(tmp_path / "kitchen.partial", tmp_path / "data", ExtractOptions(), name="kitchen")
    assert extraction.report.frames == report.frames
    assert extraction.report.errors, "it is damaged, and says so"
    repaired = check_recording(Path(str(repair_recording(tmp_path / "kitchen.partial").out)))
    assert repaired.path.endswith("kitchen_repaired") and repaired.errors == []
    assert (repaired.frames, repaired.unpaired) == (report.frames, {})


FILLED = """
import json, resource, sys
from dataclasses import asdict
from test_pair_recorder import BIG_CAMERA, Rig, START, MS, Path, TagState, color, depth
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))  # a disk with room for five pairs
rig, stamp = Rig(TagState(("mug",)), rate_hz=0), START
rig.recorder.set_camera(BIG_CAMERA)
while not rig.recorder.state.failure:
    stamp += 33 * MS
    rig.recorder.add_color(color(stamp, size=(240, 320)))
    rig.recorder.add_depth(depth(stamp, size=(240, 320)))
    if not rig.recorder.state.is_recording:
        rig.recorder.start(Path(sys.argv[1]))
    rig.wait(lambda counts: not counts.pending_pairs)
print(json.dumps(asdict(rig.recorder.stop())))
"""


@pytest.mark.slow
def test_where_the_system_takes_no_more_everything_before_is_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FILLED, str(tmp_path / "kitchen")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parent, HELPERS.parent)))}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True, timeout=WAIT_S)
    summary = json.loads(done.stdout)
    assert "a file would become larger than this user may write" in summary["failure"]
    assert summary["counts"]["written"] == 5 and summary["counts"]["lost"] == {"disk full or failed": 1}
    report = check_recording(Path(summary["path"]))
    assert report.pairs == 5 and report.unpaired == {}


def test_the_reference_reader_of_mcap_finds_everything(tmp_path: Path) -> None:
    reader = pytest.importorskip("mcap.reader", reason="needs the package mcap, of the extra dev")
    rig = Rig(TagState(("mug",)), rate_hz=0, session={"device": "D435"})
    rig.recorder.start(tmp_path / "kitchen")
    rig.pairs(33, 999)
    rig.recorder.stop()
    with (tmp_path / "kitchen" / "kitchen_0.mcap").open("rb") as file:
        strict = reader.make_reader(file, validate_crcs=True)
        summary = strict.get_summary()
        found = Counter(channel.topic for _, channel, _ in strict.iter_messages())
        file.seek(0)
        scanned = Counter(c.topic for _, c, _ in reader.NonSeekingReader(file).iter_messages())
        file.seek(0)
        metadata = {record.name: record.metadata for record in reader.make_reader(file).iter_metadata()}
    assert found == scanned and sum(found.values()) == summary.statistics.message_count
    assert found["/camera/camera/color/image_raw"] == found["/camera/camera/aligned_depth_to_color/camera_info"] == 30
    assert json.loads(metadata["deal"]["session"])["device"] == "D435" and summary.statistics.metadata_count == 2
    assert yaml.safe_load(metadata["rosbag2"]["serialized_metadata"])["message_count"] == sum(found.values())
    assert {schema.encoding for schema in summary.schemas.values()} == {"ros2msg"}


def message_of(topic: str, parent: str, child: str, stamp: int, x: float, new_bag: Callable[[], Any]) -> bytes:
    bag = new_bag()
    add_tf(bag, 0, transform(bag, parent, child, stamp, (x, 0, 0)), topic=topic)
    return bag.messages[0][-1]


def test_the_motion_of_the_camera_is_recorded_and_becomes_poses(tmp_path: Path, new_bag: Callable[[], Any]) -> None:
    rig, kind = Rig(TagState(("mug",))), "tf2_msgs/msg/TFMessage"
    static = message_of("/tf_static", "base", "optical", 0, 1.0, new_bag)
    for _ in range(3):  # a latched message may come again
        rig.recorder.add_message("/tf_static", kind, static, is_latched=True)
    for name in ("one", "two"):
        start = rig.now
        rig.recorder.start(tmp_path / name)
        for ms in range(100, 1100, 100):
            stamp = start + ms * MS
            rig.recorder.add_message("/tf", kind, message_of("/tf", "odom", "base", stamp, ms / 100, new_bag))
            rig.pair(stamp - 50 * MS)
        counts = rig.recorder.stop().counts
        assert counts.others == {"/tf_static": 1, "/tf": 10} and counts.others_lost == 0
        extract_recording(tmp_path / name, tmp_path / "data", ExtractOptions())
        poses = read_poses(tmp_path / "data", name)
        frames = [frame.stamp_ns for frame in Dataset.open(tmp_path / "data").subset([name]).frames]
        # The frame before the first message of TF has no pose.
        assert sorted(poses) == frames[-len(poses) :] and len(poses) >= len(frames) - 1 > 0
        for stamp, pose in poses.items():
            assert pose[0, 3] == pytest.approx(1.0 + (stamp - start) / (100 * MS))
    with open_recording(tmp_path / "two") as recording:
        assert recording.count("/tf_static") == 1


def test_messages_beyond_the_queue_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = write_queue.RecordingQueue(1, 1)
    monkeypatch.setattr(write_queue, "_WAITING_MESSAGES", 3)
    message = write_queue.LoggedMessage(1, "/tf", "tf2_msgs/msg/TFMessage", b"")
    for _ in range(5):
        queue.put_message(message)
    assert queue.others == {"/tf": 3} and queue.others_lost == 2
    assert queue.get(0) == message
    queue.put_message(message)
    assert queue.others == {"/tf": 4}
