"""From recordings to datasets: exact pixels, tags by stamp, and an account of everything left out."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.motion import add_tf, transform
from helpers.paths import PROJECT
from helpers.rvl import encode

from deal_core.dataset.check import check_recording
from deal_core.dataset.dataset import Dataset
from deal_core.dataset.extract import Extraction, ExtractOptions, extract_recording
from deal_core.dataset.poses import read_poses
from deal_core.errors import DatasetError, DealError, RecordingError, UsageError
from deal_core.recording.tags import Skip
from deal_core.recording.writer import RecordingWriter, message_types
from deal_core.structures import CameraIntrinsics, ClassList, RgbdPair, TagMarker, TagState

MS = 1_000_000
COLOR = "/camera/camera/color/image_raw"
DEPTH = "/camera/camera/aligned_depth_to_color/image_raw"
PLAIN = ExtractOptions(classes=ClassList(("mug", "drill")), tags=TagState(("mug",)))


@pytest.fixture
def bag(new_bag: Callable[[], Any]) -> Any:
    """A bag of ours with classes mug and drill, still without tags and images."""
    made = new_bag()
    made.session("mug", "drill")
    return made


@pytest.fixture
def extract(tmp_path: Path) -> Callable[..., tuple[Extraction, Dataset]]:
    def _extract(bag: Any, **options: Any) -> tuple[Extraction, Dataset]:
        storage = options.pop("storage", "mcap")
        path = bag if isinstance(bag, Path) else bag.save(tmp_path / "kitchen", storage)
        extraction = extract_recording(path, tmp_path / "dataset", ExtractOptions(**options))
        return extraction, Dataset.open(tmp_path / "dataset")

    return _extract


def stamps(dataset: Dataset) -> list[int]:
    return [frame.stamp_ns for frame in dataset.frames]


def test_real_frames_come_through_to_the_bit(
    real_recording: Path, real_frames: Any, extract: Callable[..., tuple[Extraction, Dataset]]
) -> None:
    report = check_recording(real_recording)
    assert report.errors == [] and report.frames == report.pairs == report.masks == len(real_frames.pairs)
    valid = [(pair.depth_mm > 0).mean() for pair in real_frames.pairs]
    assert 0 < report.valid_depth == pytest.approx(np.mean(valid)) and report.offset_max_ms == 0
    assert report.gaps.over_3x == 0 and report.gaps.period_s == pytest.approx(1 / 30, rel=0.01)
    visible = [real_frames.visible(index) for index in range(len(real_frames.pairs))]
    assert {name for name, tags in report.tags.items() if tags.present} == set().union(*visible)

    extraction, dataset = extract(real_recording)
    assert extraction.report == report
    assert dataset.classes == real_frames.classes
    for pair, mask, names, frame in zip(real_frames.pairs, real_frames.masks, visible, dataset.frames, strict=True):
        sample = dataset.load(frame)
        assert frame.stamp_ns == pair.stamp_ns and sample.key == f"tabletop/{pair.stamp_ns}"
        np.testing.assert_array_equal(sample.image, pair.color)
        np.testing.assert_array_equal(cv2.imread(str(frame.depth), cv2.IMREAD_UNCHANGED), pair.depth_mm)
        np.testing.assert_array_equal(sample.depth, pair.depth_mm.astype(np.float32) / 1000)
        np.testing.assert_array_equal(sample.depth_valid, pair.depth_mm > 0)
        np.testing.assert_array_equal(sample.mask, mask)
        np.testing.assert_array_equal(sample.tags, [name in names for name in real_frames.classes.names])
    assert dataset.camera("tabletop") == real_frames.camera


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_tags_hold_from_their_stamp_until_the_next_and_start_segments(
    bag: Any, extract: Callable[..., tuple[Extraction, Dataset]], storage: str
) -> None:
    for stamp in range(100, 1000, 100):
        bag.pair(stamp)
    # Recorded long after the images they hold for, and not in order.
    bag.tags(700, "drill", marker="partial", log_time=9000)
    bag.tags(200, "mug", log_time=9001)
    bag.tags(500, marker="ignore", log_time=9002)
    bag.tags(400, "mug", log_time=9003)
    extraction, dataset = extract(bag, storage=storage)
    assert stamps(dataset) == [200, 300, 400, 700, 800, 900]
    assert [frame.segment for frame in dataset.frames] == [0, 0, 1, 3, 3, 3]
    np.testing.assert_array_equal(dataset.tags, [[1, 0]] * 3 + [[np.nan, 1]] * 3)
    assert extraction.report.skipped == {Skip.UNTAGGED.value: 1, Skip.IGNORED.value: 2}
    assert extraction.report.errors == [] and extraction.report.segments == 3


def test_images_are_paired_by_header_stamp_not_by_log_time(
    bag: Any, extract: Callable[..., tuple[Extraction, Dataset]]
) -> None:
    bag.tags(0, "mug")
    for index, stamp in enumerate((100, 200, 300)):
        bag.image(COLOR, stamp, bag.color_of(stamp), "rgb8", log_time=5000 + index)
        bag.image(DEPTH, stamp, bag.depth_of(stamp), "16UC1", log_time=5010 - index)
    extraction, dataset = extract(bag)
    assert stamps(dataset) == [100, 200, 300]
    np.testing.assert_array_equal(dataset.load(1).image, bag.color_of(200))
    np.testing.assert_array_equal(dataset.load(1).depth, bag.depth_of(200).astype(np.float32) / 1000)
    assert extraction.report.unpaired == {}


def test_every_message_is_accounted_for(bag: Any, extract: Callable[..., tuple[Extraction, Dataset]]) -> None:
    bag.tags(0, "mug")
    for stamp in range(100, 4100, 100):
        bag.pair(stamp)
    del bag.messages[21]  # a depth image is lost
    bag.image(COLOR, 4100, bag.color_of(1), "rgb8")  # never had a depth image
    bag.image(COLOR, 4000, bag.color_of(1), "rgb8", log_time=4101)  # a duplicate
    bag.raw(COLOR, "sensor_msgs/msg/Image", 4102, b"\x00\x01\x00\x00")  # no header
    bag.image(COLOR, 4200, bag.color_of(1), "mystery")
    bag.image(DEPTH, 4200, bag.depth_of(1), "16UC1")
    bag.image(COLOR, 4300, bag.color_of(1), "rgb8")
    bag.image(DEPTH, 4300, bag.depth_of(1), "16UC1", step=3)
    bag.image(COLOR, 4400, bag.color_of(1, (3, 4)), "rgb8")
    bag.image(DEPTH, 4400, bag.depth_of(1, (3, 4)), "16UC1")
    bag.image(COLOR, 4500, bag.color_of(1), "rgb8", height=0)
    bag.image(DEPTH, 4500, bag.depth_of(1), "16UC1")
    extraction, dataset = extract(bag)
    report = extraction.report
    assert report.frames == len(dataset) == 39
    assert report.pairs == report.frames + sum(report.skipped.values()) == 43
    assert report.skipped == {Skip.BAD_COLOR.value: 2, Skip.BAD_DEPTH.value: 1, Skip.SIZE_CHANGED.value: 1}
    assert report.unreadable == {"color": 1}
    color = sum(n for cause, n in report.unpaired.items() if cause.startswith("color"))
    depth = sum(n for cause, n in report.unpaired.items() if cause.startswith("depth"))
    assert report.received_color == report.pairs + color == 46
    assert report.received_depth == report.pairs + depth == 43
    assert any("mystery" in error for error in report.errors), "an example of each fault in full"
    assert any("step" in error for error in report.errors)


def test_stamps_that_repeat_after_a_clock_reset_are_counted(
    bag: Any, extract: Callable[..., tuple[Extraction, Dataset]]
) -> None:
    bag.tags(0, "mug")
    for run in range(2):
        for index in range(40):
            for topic, pixels, encoding in (
                (COLOR, bag.color_of(index), "rgb8"),
                (DEPTH, bag.depth_of(index), "16UC1"),
            ):
                bag.image(topic, 100 + index, pixels, encoding, log_time=1000 * run + 100 + index)
    extraction, dataset = extract(bag)
    assert len(dataset) == 40 and extraction.report.skipped == {Skip.REPEATED.value: 40}


def test_depth_without_a_valid_pixel_is_kept_and_counted(
    bag: Any, extract: Callable[..., tuple[Extraction, Dataset]]
) -> None:
    bag.tags(0, "mug")
    bag.pair(100)
    bag.image(COLOR, 200, bag.color_of(200), "rgb8")
    bag.image(DEPTH, 200, np.full((6, 8), np.nan, np.float32), "32FC1")
    extraction, dataset = extract(bag)
    assert extraction.report.without_depth == 1 and extraction.report.errors == []
    assert any("no valid depth" in note for note in extraction.report.notes)
    assert not dataset.load(1).depth_valid.any() and dataset.load(0).depth_valid.any()


def test_slop_pairs_unequal_stamps_and_without_it_the_error_proposes_one(
    bag: Any, extract: Callable[..., tuple[Extraction, Dataset]], tmp_path: Path
) -> None:
    bag.tags(0, "mug")
    for index in range(5):
        bag.pair(33 * MS * index, depth_stamp=33 * MS * index + 4 * MS)
    path = bag.save(tmp_path / "kitchen")
    with pytest.raises(RecordingError, match=r"typically 4.0 ms away.*--slop-ms 6"):
        extract(path)
    extraction, dataset = extract(path, slop_ns=6 * MS)
    assert stamps(dataset) == [33 * MS * index for index in range(5)]
    assert extraction.report.offset_p50_ms == extraction.report.offset_max_ms == 4


def test_compressed_topics_are_extracted_exactly(bag: Any, extract: Callable[..., tuple[Extraction, Dataset]]) -> None:
    bag.tags(0, "mug")
    bgr = cv2.imencode(".png", bag.color_of(1)[..., ::-1])[1].tobytes()
    depth = struct.pack("<iff", 0, 0, 0) + cv2.imencode(".png", bag.depth_of(1))[1].tobytes()
    bag.compressed(f"{COLOR}/compressed", 100, "rgb8; png compressed bgr8", bgr)
    bag.compressed(f"{DEPTH}/compressedDepth", 100, "16UC1; compressedDepth png", depth)
    _, dataset = extract(bag)
    np.testing.assert_array_equal(dataset.load(0).image, bag.color_of(1))
    np.testing.assert_array_equal(dataset.load(0).depth, bag.depth_of(1).astype(np.float32) / 1000)


@pytest.mark.parametrize(
    ("size", "frame", "found"),
    [((3, 4), "optical", "colour is 8x6, depth is 4x3"), ((6, 8), "depth_optical", "depth in 'depth_optical'")],
)
def test_depth_that_is_not_aligned_names_the_driver_option(
    bag: Any, extract: Callable[..., tuple[Extraction, Dataset]], size: tuple[int, int], frame: str, found: str
) -> None:
    bag.tags(0, "mug")
    bag.image(COLOR, 100, bag.color_of(1), "rgb8")
    bag.image(DEPTH, 100, bag.depth_of(1, size), "16UC1", frame_id=frame)
    with pytest.raises(RecordingError, match=rf"{found}.*align_depth.enable:=true"):
        extract(bag)


def test_plain_recording_takes_classes_and_tags_from_the_options(
    new_bag: Callable[[], Any], extract: Callable[..., tuple[Extraction, Dataset]]
) -> None:
    bag = new_bag()
    bag.pair(100)
    _, dataset = extract(bag, classes=PLAIN.classes, tags=TagState(("mug",), marker=TagMarker.COMPLETE))
    assert dataset.frames[0].segment == 0
    np.testing.assert_array_equal(dataset.tags, [[1, 0]])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"classes": None}, "does not name its classes.*--classes"),
        ({"tags": None}, "contains no tags.*--tags"),
        ({"tags": TagState(("mugg",))}, "Did you mean 'mug'"),
    ],
)
def test_plain_recording_without_classes_or_tags_is_wrong_use(
    new_bag: Callable[[], Any], tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    bag = new_bag()
    bag.pair(100)
    with pytest.raises(UsageError, match=said):
        extract_recording(bag.save(tmp_path / "bag"), tmp_path / "dataset", replace(PLAIN, **changed))
    assert not (tmp_path / "dataset").exists()


def test_recorded_tags_and_classes_are_not_overruled(bag: Any, tmp_path: Path) -> None:
    bag.tags(0, "mug")
    bag.pair(100)
    path = bag.save(tmp_path / "bag")
    with pytest.raises(UsageError, match="contains tags, so --tags must be left out"):
        extract_recording(path, tmp_path / "dataset", PLAIN)
    with pytest.raises(DatasetError, match=r"classes of --classes are \[a\].*\[mug, drill\]"):
        extract_recording(path, tmp_path / "dataset", ExtractOptions(classes=ClassList(("a",))))


@pytest.mark.parametrize(
    "content",
    [
        {"stamp_ns": 150, "present": ["ghost"], "absent": [], "marker": "complete"},
        {"stamp_ns": 150, "present": "mug"},
        {"stamp_ns": 150, "present": ["mug"], "absent": ["mug"]},
        {"stamp_ns": 150, "present": ["mug"], "marker": "sure"},
        {"present": ["mug"]},
        "not json",
        "[]",
    ],
)
def test_tags_that_cannot_be_used_leave_their_frames_out(
    bag: Any, extract: Callable[..., tuple[Extraction, Dataset]], content: Any
) -> None:
    bag.tags(0, "mug")
    bag.text("/deal/tags", 150, content)
    bag.tags(250, "drill")
    for stamp in (100, 200, 300):
        bag.pair(stamp)
    extraction, dataset = extract(bag)
    assert stamps(dataset) == [100, 300]
    assert extraction.report.skipped == {Skip.BAD_TAGS.value: 1}
    assert any("/deal/tags at 150 ns cannot be used" in error for error in extraction.report.errors)


@pytest.mark.parametrize(
    ("sessions", "said"),
    [
        (['{"classes": []}'], "expected 1 to"),
        (["rubbish"], "/deal/session cannot be read"),
        (['{"classes": [{"name": "a"}]}', '{"classes": [{"name": "b"}]}'], "several /deal/session"),
    ],
)
def test_session_that_cannot_be_used(
    new_bag: Callable[[], Any], tmp_path: Path, sessions: list[str], said: str
) -> None:
    bag = new_bag()
    for session in sessions:
        bag.text("/deal/session", 1, session)
    bag.pair(100)
    with pytest.raises(RecordingError, match=said):
        extract_recording(bag.save(tmp_path / "bag"), tmp_path / "dataset", ExtractOptions())


def test_recording_with_everything_ignored_gives_no_dataset(bag: Any, tmp_path: Path) -> None:
    bag.tags(0, marker="ignore")
    bag.pair(100)
    with pytest.raises(RecordingError, match=r"gives no frame\. 1 pairs: the operator marked"):
        extract_recording(bag.save(tmp_path / "bag"), tmp_path / "dataset", ExtractOptions())
    assert not (tmp_path / "dataset").exists()


def test_truncated_recording_saves_what_is_complete_and_says_so(
    bag: Any, extract: Callable[..., tuple[Extraction, Dataset]], tmp_path: Path
) -> None:
    bag.tags(0, "mug")
    for stamp in range(100, 2100, 100):
        bag.pair(stamp, (60, 80))
    path = bag.save(tmp_path / "cut")
    content = (path / "cut.mcap").read_bytes()
    (path / "cut.mcap").write_bytes(content[: len(content) // 2])
    extraction, dataset = extract(path)
    assert 8 <= len(dataset) <= 10 and extraction.report.frames == len(dataset)
    for index, stamp in enumerate(stamps(dataset)):
        np.testing.assert_array_equal(dataset.load(index).image, bag.color_of(stamp, (60, 80)))
    assert any("damaged file, truncated" in error for error in extraction.report.errors)


def test_ground_truth_goes_along_and_a_wrong_mask_is_told(
    bag: Any, extract: Callable[..., tuple[Extraction, Dataset]], tmp_path: Path
) -> None:
    bag.tags(0, "mug")
    for stamp in (100, 200, 300):
        bag.pair(stamp)
    path = bag.save(tmp_path / "kitchen")
    (path / "ground_truth").mkdir()
    masks = {100: np.full((6, 8), 2, np.uint8), 200: np.zeros((3, 4), np.uint8), 300: np.full((6, 8), 3, np.uint8)}
    for stamp, mask in {**masks, 999: masks[100]}.items():
        cv2.imwrite(str(path / "ground_truth" / f"{stamp}.png"), mask)
    extraction, dataset = extract(path)
    assert [frame.mask is not None for frame in dataset.frames] == [True, False, False]
    np.testing.assert_array_equal(dataset.load(0).mask, masks[100])
    assert extraction.report.masks == 1
    assert [e.split(" is")[0] for e in extraction.report.errors] == ["mask 200.png", "mask 300.png"]
    assert "1 drawn masks have no frame" in extraction.report.notes


def test_the_same_extraction_is_not_repeated_but_another_is_refused(bag: Any, tmp_path: Path) -> None:
    bag.tags(0, "mug")
    bag.pair(100)
    path, out = bag.save(tmp_path / "kitchen"), tmp_path / "dataset"
    first = extract_recording(path, out, ExtractOptions())
    frames = out / "recordings" / "kitchen" / "frames.jsonl"
    made = frames.stat().st_mtime_ns
    again = extract_recording(path, out, ExtractOptions())
    assert (first.was_there, again.was_there) == (False, True) and first.report == again.report
    with pytest.raises(DatasetError, match=r"exists already.*--overwrite.*--name"):
        extract_recording(path, out, ExtractOptions(color_format="jpeg"))
    assert frames.stat().st_mtime_ns == made
    extract_recording(path, out, ExtractOptions(color_format="jpeg", overwrite=True))
    assert Dataset.open(out).frames[0].color.suffix == ".jpg"
    assert {p.name for p in (out / "recordings").iterdir()} == {"kitchen"}, "nothing temporary stays"


def test_same_recording_gives_the_same_files(bag: Any, tmp_path: Path) -> None:
    bag.tags(0, "mug")
    bag.pair(100)
    path = bag.save(tmp_path / "kitchen")
    contents = []
    for out in (tmp_path / "one", tmp_path / "two"):
        extract_recording(path, out, ExtractOptions())
        contents.append({str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()})
    assert contents[0] == contents[1]


def test_classes_of_another_dataset_are_refused(bag: Any, tmp_path: Path, new_bag: Callable[[], Any]) -> None:
    bag.tags(0, "mug")
    bag.pair(100)
    extract_recording(bag.save(tmp_path / "kitchen"), tmp_path / "dataset", ExtractOptions())
    other = new_bag()
    other.session("drill", "mug")
    other.tags(0, "mug")
    other.pair(100)
    with pytest.raises(DatasetError, match=r"\[drill, mug\].*\[mug, drill\]: names and order"):
        extract_recording(other.save(tmp_path / "other"), tmp_path / "dataset", ExtractOptions())
    assert Dataset.open(tmp_path / "dataset").recordings == ["kitchen"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interruption_leaves_the_dataset_as_it_was(bag: Any, tmp_path: Path, error: type[BaseException]) -> None:
    bag.tags(0, "mug")
    bag.pair(100)
    bag.pair(200)
    path, out = bag.save(tmp_path / "kitchen"), tmp_path / "dataset"

    def stop() -> None:
        raise error

    with pytest.raises(error):
        extract_recording(path, out, ExtractOptions(), on_pair=stop)
    assert not out.exists()
    extract_recording(path, out, ExtractOptions())
    before = sorted(p.name for p in out.rglob("*"))
    with pytest.raises(error):
        extract_recording(path, out, ExtractOptions(overwrite=True, color_format="jpeg"), on_pair=stop)
    assert sorted(p.name for p in out.rglob("*")) == before


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a\\b"])
def test_names_that_are_no_folder_are_refused(bag: Any, tmp_path: Path, name: str) -> None:
    bag.tags(0, "mug")
    bag.pair(100)
    path = bag.save(tmp_path / "kitchen")
    if name:
        with pytest.raises(UsageError, match="cannot name a recording"):
            extract_recording(path, tmp_path / "dataset", ExtractOptions(), name=name)
    else:  # the recording's own
        assert extract_recording(path, tmp_path / "dataset", ExtractOptions(), name=name).name == "kitchen"


def test_whatever_is_damaged_the_result_is_an_extraction_or_an_error(bag: Any, tmp_path: Path) -> None:
    """Cut a recording anywhere and flip bytes anywhere: a frame is right or missing, and nothing else is raised."""
    bag.tags(0, "mug")
    for stamp in (100, 200, 300):
        bag.pair(stamp)
    content = (bag.save(tmp_path / "whole") / "whole.mcap").read_bytes()
    random = np.random.default_rng(3)
    outcomes = set()
    for case in range(60):
        damaged = bytearray(content)
        if case % 2:
            damaged = damaged[: random.integers(0, len(content))]
        for at in random.integers(0, len(damaged), 4 if damaged else 0):
            damaged[at] = random.integers(0, 256)
        file = tmp_path / f"case_{case}.mcap"
        file.write_bytes(damaged)
        try:
            extraction = extract_recording(file, tmp_path / "dataset", ExtractOptions())
            outcomes.add(type(extraction))
        except DealError as error:
            outcomes.add(type(error))
        assert isinstance(check_recording(file).errors, list)
    assert Extraction in outcomes and RecordingError in outcomes


def test_source_file_says_what_was_done(bag: Any, tmp_path: Path) -> None:
    bag.tags(0, "mug")
    bag.pair(100)
    extract_recording(bag.save(tmp_path / "kitchen"), tmp_path / "dataset", ExtractOptions())
    source = json.loads((tmp_path / "dataset" / "recordings" / "kitchen" / "source.json").read_text())
    assert source["report"]["frames"] == 1 and len(source["fingerprint"]) == 64


@pytest.mark.parametrize(("size", "known"), [((6, 8), True), ((0, 0), True), ((480, 640), False)])
def test_intrinsics_are_kept_only_if_they_fit_the_images(
    bag: Any, extract: Callable[..., tuple[Extraction, Dataset]], size: tuple[int, int], known: bool
) -> None:
    bag.tags(0, "mug")
    bag.camera_info("/camera/camera/color/camera_info", 100, 500.0, size)
    bag.pair(100)
    extraction, dataset = extract(bag)
    camera = dataset.camera("kitchen")
    assert (camera is not None) == known and any("intrinsics" in n for n in extraction.report.notes) != known
    assert camera is None or (camera.width, camera.height, camera.fx) == (8, 6, 500)


def camera_json(dataset: Dataset) -> dict[str, Any]:
    return json.loads((dataset.path / "recordings" / "kitchen" / "camera.json").read_text())


def info(bag: Any, topic: str, stamp: int, k: float, p: float, frame: str = "optical") -> None:
    """Add a camera_info with the focal lengths k of the image as taken and p of the rectified image."""
    roi = message_types().types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    bag.add(
        topic,
        "sensor_msgs/msg/CameraInfo",
        stamp,
        header=bag.header(stamp, frame),
        height=6,
        width=8,
        distortion_model="plumb_bob",
        d=np.array([0.1, 0, 0, 0, 0]),
        k=np.array([k, 0, 4, 0, k, 3, 0, 0, 1.0]),
        r=np.eye(3).reshape(-1),
        p=np.array([p, 0, 3.5, 0, 0, p, 2.5, 0, 0, 0, 1.0, 0]),
        binning_x=0,
        binning_y=0,
        roi=roi,
    )


@pytest.mark.parametrize(
    ("topic", "known", "expected"),
    [
        ("/cam/image_raw", (60, 50), (60, 4, 0.1)),
        ("/cam/image_rect", (60, 50), (50, 3.5, 0)),
        ("/cam/image_rect_color", (60, 50), (50, 3.5, 0)),
        ("/cam/image_rect_color", (60, 0), (60, 4, 0)),  # a driver that leaves P empty
        ("/cam/image_raw", (0, 50), (50, 3.5, 0)),  # one that leaves K empty
    ],
)
def test_intrinsics_are_those_of_the_images(
    bag: Any,
    extract: Callable[..., tuple[Extraction, Dataset]],
    topic: str,
    known: tuple[float, float],
    expected: tuple[float, float, float],
) -> None:
    bag.tags(0, "mug")
    info(bag, "/cam/camera_info", 50, 0, 0)  # before the driver knows its calibration
    for stamp in (100, 200):
        bag.image(topic, stamp, bag.color_of(stamp), "rgb8")
        bag.image("/depth/image", stamp, bag.depth_of(stamp), "16UC1")
        info(bag, "/cam/camera_info", stamp, *known)
    _, dataset = extract(bag)
    camera = dataset.camera("kitchen")
    assert camera is not None and (camera.fx, camera.cx, camera.distortion[0]) == expected


@pytest.mark.parametrize(
    ("encoding", "stored", "unit"),
    [
        ("16UC1", lambda mm: mm * 10, "0.1mm"),
        ("32FC1", lambda mm: mm.astype(np.float32), "mm"),
        ("16UC1", lambda mm: mm, None),
    ],
)
def test_the_unit_of_depth_is_an_option_and_is_kept(
    bag: Any,
    extract: Callable[..., tuple[Extraction, Dataset]],
    encoding: str,
    stored: Callable[[np.ndarray], np.ndarray],
    unit: str | None,
) -> None:
    depth = np.random.default_rng(0).integers(500, 6500, (6, 8)).astype(np.uint16)
    bag.tags(0, "mug")
    bag.camera_info("/camera/camera/color/camera_info", 100, 500.0)
    bag.image(COLOR, 100, bag.color_of(1), "rgb8")
    bag.image(DEPTH, 100, stored(depth), encoding)
    _, dataset = extract(bag, depth_unit=unit, max_depth_m=4.0)
    kept = np.where(depth > 4000, 0, depth)
    np.testing.assert_array_equal(cv2.imread(str(dataset.frames[0].depth), cv2.IMREAD_UNCHANGED), kept)
    content = camera_json(dataset)
    assert (content["depth_unit"], content["max_depth_m"]) == (unit or "mm", 4.0)
    assert dataset.camera("kitchen") is not None


def test_the_unit_that_a_recorder_was_told_is_used(new_bag: Callable[[], Any], tmp_path: Path) -> None:
    bag = new_bag()
    bag.text("/deal/session", 0, {"classes": [{"name": "mug"}], "depth": {"unit": "0.1mm", "max_m": 0.0}})
    bag.tags(0, "mug")
    bag.image(COLOR, 100, bag.color_of(1), "rgb8")
    bag.image(DEPTH, 100, bag.depth_of(1) * 10, "16UC1")
    path = bag.save(tmp_path / "kitchen")
    extract_recording(path, tmp_path / "dataset", ExtractOptions())
    (depth,) = (tmp_path / "dataset").rglob("depth/*.png")
    np.testing.assert_array_equal(cv2.imread(str(depth), cv2.IMREAD_UNCHANGED), bag.depth_of(1))
    extract_recording(path, tmp_path / "other", ExtractOptions(depth_unit="mm"))
    (depth,) = (tmp_path / "other").rglob("depth/*.png")
    np.testing.assert_array_equal(cv2.imread(str(depth), cv2.IMREAD_UNCHANGED), bag.depth_of(1) * 10)


def test_depth_that_cannot_be_true_fails_a_check_until_the_unit_is_named(bag: Any, tmp_path: Path) -> None:
    bag.tags(0, "mug")
    for stamp in (100, 200, 300):
        bag.image(COLOR, stamp, bag.color_of(stamp, (48, 64)), "rgb8")
        depth = np.random.default_rng(stamp).integers(500, 6500, (48, 64)).astype(np.float32)
        bag.image(DEPTH, stamp, depth, "32FC1")
    path = bag.save(tmp_path / "kitchen")
    assert any("--depth-unit mm" in error for error in check_recording(path).errors)
    report = check_recording(path, depth_unit="mm")
    assert report.errors == [] and report.valid_depth == 1


@pytest.mark.parametrize(
    ("form", "pack"),
    [
        ("32FC1; compressedDepth rvl", "rvl"),
        ("32FC1; compressedDepth png", "png"),
        ("16UC1; compressedDepth rvl", "rvl"),
        ("; compressedDepth", "png"),
        ("tiff", "tiff"),
        ("", "png16"),
    ],
)
def test_depth_of_every_transport_is_known_by_its_bytes(
    bag: Any, extract: Callable[..., tuple[Extraction, Dataset]], form: str, pack: str
) -> None:
    bag.tags(0, "mug")
    depth = np.random.default_rng(0).integers(500, 6500, (6, 8)).astype(np.uint16)
    depth[0] = 0
    stored, settings = depth, struct.pack("<iff", 0, 0, 0)
    if form.startswith("32FC1"):  # metres as inverse depth, finest near the camera
        a = 100.0 * 101.0
        b = 1 - a / 10.0
        with np.errstate(divide="ignore"):
            stored = np.where(depth > 0, a / (depth / 1000) + b, 0).astype(np.uint16)
        settings = struct.pack("<iff", 0, a, b)
    data = {
        "rvl": lambda: settings + struct.pack("<II", 8, 6) + encode(stored),
        "png": lambda: settings + cv2.imencode(".png", stored)[1].tobytes(),
        "tiff": lambda: cv2.imencode(".tiff", depth.astype(np.float32) / 1000)[1].tobytes(),
        "png16": lambda: cv2.imencode(".png", depth)[1].tobytes() + bytes(500),
    }[pack]()
    bag.image(COLOR, 100, bag.color_of(1), "rgb8")
    bag.compressed(f"{DEPTH}/compressedDepth", 100, form, data)
    _, dataset = extract(bag)
    found = cv2.imread(str(dataset.frames[0].depth), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found == 0, depth == 0)
    tolerance = 0.03 if form.startswith("32FC1") else 0
    np.testing.assert_allclose(found, depth, rtol=tolerance)


MEASURE = """
import resource, sys
from pathlib import Path
from deal_core.dataset.extract import ExtractOptions, extract_recording
extract_recording(Path(sys.argv[1]), Path(sys.argv[2]), ExtractOptions(color_format="jpeg"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    classes, camera = ClassList(("mug",)), CameraIntrinsics(320, 240, 300, 300, 160, 120)
    still = np.zeros((240, 320, 3), np.uint8), np.ones((240, 320), np.uint16)
    peaks = []
    for pairs in (20, 400):  # 8 MB and 150 MB
        path = tmp_path / f"recording_{pairs}"
        with RecordingWriter(path, classes, camera) as writer:
            writer.write_tags(0, TagState(("mug",)), "test")
            for index in range(pairs):
                writer.write_pair(RgbdPair(index * 33 * MS, *still))
        command = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / "dataset")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT)
        peaks.append(int(done.stdout))
        shutil.rmtree(path)
    assert peaks[1] - peaks[0] < 40, f"peak memory in MB: {peaks}"


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_poses_are_written_where_the_recording_has_them(
    bag: Any, extract: Callable[..., tuple[Extraction, Dataset]], storage: str
) -> None:
    bag.tags(1000 * MS, "mug")
    bag.camera_info("/camera/camera/color/camera_info", 1000 * MS, 10.0)
    for ms in (1000, 1100, 1200, 1300):
        bag.pair(ms * MS)
    for ms in (950, 1150, 1250):
        add_tf(bag, ms * MS, transform(bag, "odom", "optical", ms * MS, (ms / 100, 0, 0)))
    extraction, dataset = extract(bag, storage=storage)
    assert "poses of TF, in the frame odom for 3 of 4 frames" in extraction.report.notes
    poses = read_poses(dataset.path, extraction.name)
    assert {stamp: round(float(pose[0, 3]), 9) for stamp, pose in poses.items()} == {
        1000 * MS: 10.0,
        1100 * MS: 11.0,
        1200 * MS: 12.0,
    }


def test_a_recording_without_tf_has_no_poses(
    bag: Any, extract: Callable[..., tuple[Extraction, Dataset]], tmp_path: Path
) -> None:
    bag.tags(1000 * MS, "mug")
    bag.camera_info("/camera/camera/color/camera_info", 1000 * MS, 10.0)
    bag.pair(1000 * MS)
    with pytest.raises(RecordingError, match="expected one of no frame"):
        extract(bag, fixed_frame="map")
    assert not (tmp_path / "dataset").exists() or not list((tmp_path / "dataset").glob("recordings/*"))
    extraction, dataset = extract(tmp_path / "kitchen")
    assert read_poses(dataset.path, extraction.name) == {}
    assert not any("poses" in note for note in extraction.report.notes)
