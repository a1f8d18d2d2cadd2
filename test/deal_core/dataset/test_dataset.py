"""The dataset folder: what is written is read, what is wrong is named, splits keep segments whole."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deal_core.dataset.check import check_dataset
from deal_core.dataset.dataset import Dataset, FrameRecord
from deal_core.dataset.depth_maps import DepthMapsWriter
from deal_core.dataset.open import open_dataset
from deal_core.dataset.settings import SourceSettings
from deal_core.dataset.writer import DatasetWriter
from deal_core.errors import DatasetError, DealError, UsageError
from deal_core.structures import CameraIntrinsics, ClassList, RgbdPair, TagMarker, TagState

CLASSES = ClassList(("mug", "drill"), ((1, 2, 3), (4, 5, 6)))
MUG, NEITHER = TagState(("mug",)), TagState(marker=TagMarker.COMPLETE)


def pair(stamp: int) -> RgbdPair:
    random = np.random.default_rng(stamp)
    return RgbdPair(stamp, random.integers(0, 256, (6, 8, 3), np.uint8), random.integers(0, 65536, (6, 8), np.uint16))


def mask(stamp: int) -> np.ndarray:
    return np.random.default_rng(stamp).choice(np.array([0, 1, 2, 255], np.uint8), (6, 8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two recordings: a with stamps 9, 10 and 100, b with stamp 5."""
    path = tmp_path / "dataset"
    writer = DatasetWriter(path, CLASSES)
    with writer.recording("b") as recording:
        recording.write(pair(5), NEITHER, 0)
    with writer.recording("a") as recording:
        recording.write(pair(100), MUG, 1, mask(100))
        recording.write(pair(9), NEITHER, 0)
        recording.write(pair(10), NEITHER, 0)
        recording.write_camera(CameraIntrinsics(8, 6, 10.5, 11.5, 4.0, 3.0, (0.1, 0.2)))
    return path


def test_what_is_written_is_read(folder: Path) -> None:
    dataset = Dataset.open(folder)
    assert dataset.classes == CLASSES and len(dataset) == 4 and dataset.recordings == ["a", "b"]
    assert [frame.key for frame in dataset.frames] == ["a/9", "a/10", "a/100", "b/5"]
    assert [frame.segment for frame in dataset.frames] == [0, 0, 1, 0]
    np.testing.assert_array_equal(dataset.tags, [[0, 0], [0, 0], [1, np.nan], [0, 0]])
    for index, frame in enumerate(dataset.frames):
        sample, expected = dataset.load(index), pair(frame.stamp_ns)
        np.testing.assert_array_equal(sample.image, expected.color)
        np.testing.assert_array_equal(sample.depth, expected.depth_mm.astype(np.float32) / 1000)
        np.testing.assert_array_equal(sample.depth_valid, expected.depth_mm > 0)
        np.testing.assert_array_equal(sample.tags, dataset.tags[index])
        assert (sample.mask is None) == (frame.stamp_ns != 100)
    np.testing.assert_array_equal(dataset.load(dataset.frames[2]).mask, mask(100))
    assert dataset.camera("a") == CameraIntrinsics(8, 6, 10.5, 11.5, 4.0, 3.0, (0.1, 0.2))
    assert dataset.camera("b") is None


def test_depth_files_are_16_bit_png_in_millimetres(folder: Path) -> None:
    stored = cv2.imread(str(folder / "recordings" / "a" / "depth" / "9.png"), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored, pair(9).depth_mm)


def test_jpeg_is_close_and_smaller(tmp_path: Path) -> None:
    smooth = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[:, None, None], (1, 64, 3))
    with DatasetWriter(tmp_path / "d", CLASSES).recording("a", color_format="jpeg") as recording:
        recording.write(RgbdPair(1, smooth, np.ones((64, 64), np.uint16)), MUG, 0)
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.frames[0].color.name == "1.jpg"
    assert np.abs(dataset.load(0).image.astype(int) - smooth).max() < 10


def test_a_recording_is_added_and_removed_as_a_folder(folder: Path) -> None:
    shutil.copytree(folder / "recordings" / "a", folder / "recordings" / "c")
    shutil.rmtree(folder / "recordings" / "b")
    assert Dataset.open(folder).recordings == ["a", "c"]
    (folder / "recordings" / ".half_written").mkdir()
    assert Dataset.open(folder).recordings == ["a", "c"]


def test_a_linked_recording_is_read_where_links_may_leave_the_dataset(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(folder / "recordings" / "a", tmp_path / "elsewhere")
    (folder / "recordings" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"a link to a place outside .*outside_links=1"):
        Dataset.open(folder)
    monkeypatch.setenv("DEAL_LIMITS", "outside_links=1")
    dataset = Dataset.open(folder)
    assert len(dataset) == 4 and dataset.load(0).key == "a/9"


def test_subset_by_recording_and_by_frame(folder: Path) -> None:
    dataset = Dataset.open(folder)
    assert [f.key for f in dataset.subset(["b"]).frames] == ["b/5"]
    assert [f.key for f in dataset.subset(predicate=lambda f: f.mask is not None).frames] == ["a/100"]
    assert len(dataset.subset([])) == 0 and dataset.subset([]).tags.shape == (0, 2)
    with pytest.raises(UsageError, match="no recording 'aa'"):
        dataset.subset(["aa"])


def test_a_dataset_travels_to_worker_processes(folder: Path) -> None:
    dataset = pickle.loads(pickle.dumps(Dataset.open(folder)))
    assert dataset.load(3).key == "b/5"


# --- splits

segments = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 9)), min_size=1, max_size=30, unique=True
)


def listed(keys: list[tuple[str, int]], per_segment: int = 2) -> Dataset:
    frames = [
        FrameRecord(name, 100 * segment + i, Path("c"), Path("d"), None, MUG, segment)
        for name, segment in keys
        for i in range(per_segment)
    ]
    return Dataset(Path("nowhere"), CLASSES, frames)


def sides(dataset: Dataset, fraction: float, seed: int) -> tuple[set[Any], set[Any]]:
    split = dataset.split_by_segment(fraction, seed)
    assert len(split.train) + len(split.held_out) == len(dataset)
    return tuple({(f.recording, f.segment) for f in side.frames} for side in split)  # type: ignore[return-value]


@given(segments, st.floats(0, 0.999), st.integers(0, 5), st.randoms(use_true_random=False))
def test_splits_keep_segments_whole_and_do_not_depend_on_order(
    keys: list[tuple[str, int]], fraction: float, seed: int, random: Any
) -> None:
    train, held = sides(listed(keys), fraction, seed)
    assert train | held == set(keys) and not train & held
    if len(keys) > 1 and fraction > 0:
        assert train and held
    if len(keys) == 1:
        assert train, "a single segment is trained on, whatever its rank"
    shuffled = list(keys)
    random.shuffle(shuffled)
    assert sides(listed(shuffled), fraction, seed) == (train, held)


def test_a_segment_keeps_its_side_when_recordings_are_added() -> None:
    before = [("a", i) for i in range(40)]
    train, held = sides(listed(before), 0.3, 11)
    more_train, more_held = sides(listed(before + [("b", i) for i in range(40)]), 0.3, 11)
    assert train <= more_train and held <= more_held
    assert 4 <= len(held) <= 20  # about 30 % of 40
    assert sides(listed(before), 0.3, 12) != (train, held)


def test_no_share_holds_out_nothing_and_a_wrong_one_is_refused() -> None:
    dataset = listed([("a", 0), ("a", 1)])
    assert len(dataset.split_by_segment(0).held_out) == 0
    for fraction in (-0.1, 1, float("nan")):
        with pytest.raises(UsageError, match="fraction"):
            dataset.split_by_segment(fraction)


# --- what is wrong on disk


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is not a dataset"),
        ("", "expected a mapping"),
        ("{{", "cannot be read"),
        ("!!python/object/apply:os.getcwd []", "cannot be read"),
        ("format: other", "'format': expected 'deal-dataset', found 'other'"),
        ("format: deal-dataset\nversion: 2", "'version': expected 1, found 2"),
        ("format: deal-dataset\nversion: 1\ndepth_unit: m", "'depth_unit': expected 'mm', found 'm'"),
        ("format: deal-dataset\nversion: 1\ndepth_unit: mm", "expected classes like"),
        ("format: deal-dataset\nversion: 1\ndepth_unit: mm\nclasses: [{name: a}, {name: a}]", "unique"),
        ("format: deal-dataset\nversion: 1\ndepth_unit: mm\nclasses: [mug]", "expected classes like"),
    ],
)
def test_header_that_is_wrong(folder: Path, content: str | None, said: str) -> None:
    file = folder / "dataset.yaml"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(DatasetError, match=said) as caught:
        Dataset.open(folder)
    assert str(folder) in str(caught.value)
    assert any(said.split()[0] in error for error in check_dataset(folder).errors)


GOOD = {
    "stamp_ns": 1,
    "color": "color/9.png",
    "depth": "depth/9.png",
    "tags": {"present": [], "absent": [], "marker": "partial"},
    "segment": 0,
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("rubbish", "expected a JSON object"),
        ("[]", "expected a JSON object"),
        ("\x00", "expected a JSON object"),
        ({"stamp_ns": "1"}, "'stamp_ns': expected a valid integer, found '1'"),
        ({"stamp_ns": True}, "'stamp_ns': expected a valid integer, found True"),
        ({"segment": None}, "'segment': expected a valid integer, found None"),
        ({"tags": []}, "'tags': expected an object, found \\[\\]"),
        ({"tags": {"present": ["ghost"]}}, "unknown class 'ghost'"),
        ({"tags": {"present": ["mug"], "absent": ["mug"]}}, "present and absent"),
        ({"color": 3}, "'color': expected a valid string, found 3"),
        ({"color": "../b/color/5.png"}, "expected a file inside"),
        ({"depth": "/etc/passwd"}, "expected a file inside"),
        ({"mask": "masks/../../../x.png"}, "expected a file inside"),
        ({"mask": 5}, "'mask': expected a valid string, found 5"),
        ({"color": "color\\9.png"}, "expected a file inside"),
        ({"color": ""}, "expected a file inside"),
        ({"stamp_ns": 9}, "stamp 9 appears in an earlier line"),
    ],
)
def test_lines_that_are_wrong_are_named_by_number(folder: Path, changed: Any, said: str) -> None:
    file = folder / "recordings" / "a" / "frames.jsonl"
    first = json.dumps({**GOOD, "stamp_ns": 9})
    second = changed if isinstance(changed, str) else json.dumps({**GOOD, **changed})
    file.write_text(f"{first}\n{second}\n")
    with pytest.raises(DatasetError, match=said) as caught:
        Dataset.open(folder)
    assert f"{file} line 2:" in str(caught.value)


def test_recording_without_its_list_is_an_error(folder: Path) -> None:
    (folder / "recordings" / "a" / "frames.jsonl").unlink()
    with pytest.raises(DatasetError, match=r"recordings/a has no frames.jsonl"):
        Dataset.open(folder)


def test_dataset_without_frames_is_an_error(folder: Path) -> None:
    shutil.rmtree(folder / "recordings")
    with pytest.raises(DatasetError, match=r"contains no frames.*deal extract"):
        Dataset.open(folder)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def link_out(file: Path) -> None:
    target = file.parents[3] / "b" / "color" / "5.png"
    file.unlink()
    file.symlink_to(target)


DAMAGE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "colour gone": ("color", Path.unlink, "colour image .*color/100.png cannot be read .No such file"),
    "depth gone": ("depth", Path.unlink, "depth image .*depth/100.png cannot be read"),
    "mask gone": ("masks", Path.unlink, "mask image .*masks/100.png"),
    "colour cut": ("color", cut, "colour image .* is damaged"),
    "depth empty": ("depth", lambda f: f.write_bytes(b""), r"depth image .* is damaged \(0 bytes\)"),
    "depth rubbish": ("depth", lambda f: f.write_bytes(b"IEND"), "depth image .* is damaged"),
    "depth 8 bit": ("depth", lambda f: cv2.imwrite(str(f), np.zeros((6, 8), np.uint8)), "expected uint16"),
    "depth colour": ("depth", lambda f: cv2.imwrite(str(f), np.zeros((6, 8, 3), np.uint16)), "expected uint16"),
    "depth size": ("depth", lambda f: cv2.imwrite(str(f), np.zeros((3, 4), np.uint16)), r"found uint16 \(3, 4\)"),
    "mask size": ("masks", lambda f: cv2.imwrite(str(f), np.zeros((3, 4), np.uint8)), r"found uint8 \(3, 4\)"),
    "mask 16 bit": ("masks", lambda f: cv2.imwrite(str(f), np.zeros((6, 8), np.uint16)), "mask of .*expected uint8"),
    "mask id": ("masks", lambda f: cv2.imwrite(str(f), np.full((6, 8), 7, np.uint8)), "contains id 7, expected 0 to 2"),
    "link out": ("color", link_out, "a link to a file outside"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_files_that_are_wrong_are_named_at_load_and_by_check(folder: Path, case: str) -> None:
    kind, damage, said = DAMAGE[case]
    damage(folder / "recordings" / "a" / kind / "100.png")
    dataset = Dataset.open(folder)
    dataset.load(0)
    with pytest.raises(DatasetError, match=said):
        dataset.load(2)
    report = check_dataset(folder)
    assert len(report.errors) == 1 and [r.frames for r in report.recordings] == [3, 1]


def test_check_lists_everything_that_is_wrong(folder: Path) -> None:
    for name in ("9", "10"):
        (folder / "recordings" / "a" / "color" / f"{name}.png").unlink()
    (folder / "recordings" / "b" / "frames.jsonl").write_text("rubbish\n")
    (folder / "recordings" / "a" / "camera.json").write_text("{}")
    report = check_dataset(folder)
    assert len(report.errors) == 4
    assert any("b/frames.jsonl line 1" in e for e in report.errors)
    assert any("camera.json: 'width' is missing" in e for e in report.errors)
    assert any("no line of frames.jsonl names 2 image files" in note for note in report.notes)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "expected a JSON object"),
        ({"fx": "wide"}, "'fx': expected a valid number"),
        ({"fx": None}, "'fx': expected a valid number"),
        ({"zoom": 2}, "unknown key 'zoom', found 2"),
    ],
)
def test_a_camera_that_is_wrong_is_named(folder: Path, content: Any, said: str) -> None:
    file = folder / "recordings" / "a" / "camera.json"
    good = json.loads(file.read_text())
    file.write_text(content if isinstance(content, str) else json.dumps({**good, **content}))
    with pytest.raises(DatasetError, match=said) as caught:
        Dataset.open(folder).camera("a")
    assert str(file) in str(caught.value) and "extract the recording again" in str(caught.value)


def test_check_reports_balance_and_what_cannot_be_learnt(folder: Path) -> None:
    report = check_dataset(folder)
    assert report.errors == []
    assert (report.tags["mug"].present, report.tags["mug"].absent, report.tags["mug"].unknown) == (1, 3, 0)
    assert (report.tags["drill"].present, report.tags["drill"].absent, report.tags["drill"].unknown) == (0, 3, 1)
    assert report.notes == [
        "classes that are never tagged present, and so cannot be learnt: drill",
        "classes in fewer than 4 segments; record them in more scenes: mug",
        "classes absent in fewer than 4 segments; record the same places without them: mug",
    ]
    assert [(r.name, r.frames, r.segments, r.masks, r.has_camera) for r in report.recordings] == [
        ("a", 3, 2, 1, True),
        ("b", 1, 1, 0, False),
    ]


# --- writing


def test_existing_recording_is_kept_unless_overwritten(folder: Path) -> None:
    writer = DatasetWriter(folder, CLASSES)
    with pytest.raises(DatasetError, match=r"exists already.*--overwrite"):
        writer.recording("a")
    with writer.recording("a", overwrite=True) as recording:
        recording.write(pair(7), MUG, 0)
    assert [f.key for f in Dataset.open(folder).frames] == ["a/7", "b/5"]


def test_colours_of_an_existing_dataset_stay(folder: Path) -> None:
    with DatasetWriter(folder, ClassList(CLASSES.names)).recording("c") as recording:
        recording.write(pair(7), MUG, 0)
    assert Dataset.open(folder).classes == CLASSES


def test_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    for frames in (0, 1):
        with (
            pytest.raises((RuntimeError, DatasetError)),
            DatasetWriter(tmp_path / "new" / "d", CLASSES).recording("a") as recording,
        ):
            if frames:
                recording.write(pair(1), MUG, 0)
                raise RuntimeError
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((pair(1), MUG, 0), "written before"),
        ((RgbdPair(2, pair(2).color, np.zeros((3, 4), np.uint16)), MUG, 0), "depth of"),
        ((RgbdPair(2, pair(2).color, np.zeros((6, 8), np.float32)), MUG, 0), "depth of"),
        ((pair(2), TagState(("ghost",)), 0), "unknown class"),
        ((pair(2), MUG, 0, np.zeros((3, 4), np.uint8)), "mask of"),
    ],
)
def test_frames_that_do_not_fit_are_refused(tmp_path: Path, arguments: tuple[Any, ...], said: str) -> None:
    with DatasetWriter(tmp_path / "d", CLASSES).recording("a") as recording:
        recording.write(pair(1), MUG, 0)
        with pytest.raises(DealError, match=said):
            recording.write(*arguments)
    assert len(Dataset.open(tmp_path / "d")) == 1


def test_a_folder_that_is_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("")
    with pytest.raises(DatasetError, match="exists and is not a dataset"):
        DatasetWriter(tmp_path / "photos", CLASSES)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="exists and is not a dataset"):
        DatasetWriter(tmp_path / "file", CLASSES)


@pytest.mark.parametrize("options", [{"color_format": "webp"}, {"jpeg_quality": 0}])
def test_unknown_formats_are_wrong_use(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected colour as png"):
        DatasetWriter(tmp_path / "d", CLASSES).recording("a", **options)


# --- estimated depth


def test_check_with_estimated_depth(folder: Path, tmp_path: Path) -> None:
    writer = DepthMapsWriter(tmp_path / "depth", "inverse", "m")
    keys = [frame.key for frame in Dataset.open(folder).frames]
    for key in keys[1:]:
        writer.write(key, np.ones((6, 8)))
    report = check_dataset(folder, depth=tmp_path / "depth")
    assert len(report.errors) == 1 and f"lacks the depth maps of 1 of 4 images of {folder}" in report.errors[0]
    assert f"{keys[0]}.png" in report.errors[0] and report.depth_kind == "metric"
    writer.write(keys[0], np.full((6, 8), np.nan))
    report = check_dataset(folder, depth=tmp_path / "depth")
    assert report.errors == [] and report.depth_kind == "inverse"
    assert [r.without_depth for r in report.recordings] == [1, 0]
    assert [r.valid_depth for r in report.recordings] == [pytest.approx(2 / 3), 1.0]


def test_open_dataset_reads_the_own_layout(folder: Path) -> None:
    dataset = open_dataset(SourceSettings(path=folder, recordings=("b",)))
    assert [frame.key for frame in dataset.frames] == ["b/5"] and dataset.has_depth
    with pytest.raises(UsageError, match="has no splits, found split: val"):
        open_dataset(SourceSettings(path=folder, split="val"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_from_any_editor_are_read(folder: Path, encoding: str) -> None:
    before = Dataset.open(folder)
    for name in ("dataset.yaml", "recordings/a/frames.jsonl"):
        text = (folder / name).read_text()
        (folder / name).write_bytes(text.replace("\n", "\r\n").encode(encoding))
    after = Dataset.open(folder)
    assert (after.frames, after.classes) == (before.frames, before.classes)


def test_masks_of_0_and_255_are_asked_about(folder: Path) -> None:
    for file in (folder / "recordings").rglob("masks/*.png"):
        cv2.imwrite(str(file), np.full((6, 8), 255, np.uint8))
    tagged = folder / "recordings" / "a" / "frames.jsonl"
    lines = [json.loads(line) for line in tagged.read_text().splitlines()]
    tags = {"present": ["mug"], "absent": [], "marker": "complete"}
    tagged.write_text("".join(json.dumps({**line, "tags": tags}) + "\n" for line in lines))
    (error,) = check_dataset(folder).errors
    assert "a: no mask of a tagged frame contains a class" in error and "255 (unlabelled)" in error
    assert "1 for mug" in error


def test_results_never_land_on_the_dataset(folder: Path) -> None:
    dataset = Dataset.open(folder)
    dataset.refuse_output(folder / "results", [folder / "results" / "a.png"])
    with pytest.raises(UsageError, match="lies among the recordings of the dataset"):
        dataset.refuse_output(folder / "recordings" / "masks")
    again = folder / "again.png"
    again.symlink_to(dataset.frames[0].color)
    with pytest.raises(UsageError, match=rf"again\.png would replace what is read, .*color/{dataset.frames[0].name}"):
        dataset.refuse_output(folder / "results", [again])


def test_depth_beside_a_photo_that_is_turned_is_told(folder: Path) -> None:
    file = folder / "recordings" / "a" / "color" / "100.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(file) as image:
        image.save(file, exif=exif)
    with pytest.raises(
        DatasetError, match=r"size \(8, 6\), found uint16 \(6, 8\): one of the two is turned, as by the EXIF"
    ):
        Dataset.open(folder).load(2)
