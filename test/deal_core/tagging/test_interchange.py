"""Tags that go to other tools and come back; files of theirs that say less, or something else."""

from __future__ import annotations

import csv
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deal_core.dataset.dataset import FrameRecord
from deal_core.dataset.taps import Box, Tap
from deal_core.errors import DatasetError, UsageError
from deal_core.structures import ClassList, TagState
from deal_core.tagging.choices import TagFormat
from deal_core.tagging.interchange import Imported, export_tags, import_tags
from deal_core.tagging.store import ABSENT, PRESENT, UNKNOWN

ROOT = Path("kitchen")
CLASSES = ClassList(("mug", "pepper mill", "a_b", 'q"ü,'))


def frame(number: int, recording: str = "day 1") -> FrameRecord:
    color = ROOT / "recordings" / recording / "color" / f"{number}.png"
    return FrameRecord(recording, number, color, None, None, TagState(), 0)


FRAMES = [frame(7), frame(8), frame(7, "b,c"), frame(9, "b,c")]


def read(path: Path, form: TagFormat) -> Imported:
    return import_tags(path, form, ROOT, FRAMES, CLASSES)


def table(imported: Imported) -> list[list[int | None]]:
    """What a file says of the frames: None where nothing."""
    rows: list[list[int | None]] = [[None] * len(CLASSES) for _ in FRAMES]
    for index, label, state in imported.changes:
        rows[index][label] = state
    return rows


@pytest.mark.parametrize("form", TagFormat)
@settings(max_examples=40)
@given(states=arrays.arrays(np.int8, (4, 4), elements=st.sampled_from([PRESENT, ABSENT, UNKNOWN])))
def test_what_is_written_is_read_again(form: TagFormat, states: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new" / "tags"
        export_tags(path, form, ROOT, FRAMES, states, CLASSES)
        imported = read(path, form)
        assert [entry.name for entry in path.parent.iterdir()] == ["tags"], "nothing temporary is left"
    assert table(imported) == states.tolist()
    assert (imported.frames, imported.strangers) == (4, ())


MARKS = st.lists(
    st.one_of(
        st.builds(Tap, st.sampled_from(CLASSES.names), st.integers(0, 63), st.integers(0, 47), st.booleans()),
        st.builds(
            lambda name, x, y, w, h: Box(name, x, y, x + w, y + h),
            st.sampled_from(CLASSES.names),
            *(st.integers(0, 30), st.integers(0, 20), st.integers(1, 33), st.integers(1, 27)),
        ),
    ),
    unique=True,
    max_size=5,
)


@pytest.mark.parametrize("form", [TagFormat.COCO, TagFormat.LABELSTUDIO])
@settings(max_examples=40)
@given(marks=MARKS)
def test_taps_and_boxes_that_are_written_are_read_again(form: TagFormat, marks: list[Tap | Box]) -> None:
    states = np.full((1, len(CLASSES)), UNKNOWN, np.int8)
    for mark in marks:
        states[0, CLASSES.id_of(mark.name) - 1] = PRESENT
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        color = root / "recordings" / "a" / "color.png"
        color.parent.mkdir(parents=True)
        cv2.imwrite(str(color), np.zeros((48, 64, 3), np.uint8))
        drawn = FrameRecord("a", 1, color, None, None, TagState(), 0, marks=tuple(marks))
        export_tags(root / "tags", form, root, [drawn], states, CLASSES)
        imported = import_tags(root / "tags", form, root, [drawn], CLASSES)
    assert {mark for _, mark, _ in imported.marks} == set(marks)
    found = {label: state for _, label, state in imported.changes}
    assert [found.get(k, UNKNOWN) for k in range(4)] == states[0].tolist()


@pytest.mark.parametrize("form", [TagFormat.COCO, TagFormat.LABELSTUDIO])
def test_marks_of_absent_classes_are_left_out(form: TagFormat, tmp_path: Path) -> None:
    states = np.array([[ABSENT, PRESENT, UNKNOWN, UNKNOWN]], np.int8)
    drawn = replace(FRAMES[0], marks=(Tap("mug", 1, 1), Box("mug", 1, 1, 3, 3)))
    export_tags(tmp_path / "tags", form, ROOT, [drawn], states, CLASSES)
    imported = read(tmp_path / "tags", form)
    assert imported.marks == ()
    assert table(imported)[0] == states[0].tolist()


def test_marks_of_other_tools_are_read(tmp_path: Path) -> None:
    coco = tmp_path / "coco.json"
    annotations = [
        {"image_id": 5, "category_id": 1, "bbox": [1.4, 2, 3.2, 4], "keypoints": [3, 4, 2, 0, 0, 0, 5.7, 6, 1]},
        {"image_id": 5, "category_id": 1, "bbox": [1, 2, 0, 4]},
    ]
    images = [{"id": 5, "file_name": "day 1/7", "neg_points": [{"category_id": 1, "x": 9, "y": 8}]}]
    content = {"images": images, "categories": [{"id": 1, "name": "mug"}], "annotations": annotations}
    coco.write_text(json.dumps(content))
    marks = [mark for _, mark, _ in read(coco, TagFormat.COCO).marks]
    assert marks == [Box("mug", 1, 2, 5, 6), Tap("mug", 3, 4), Tap("mug", 5, 6), Tap("mug", 9, 8, False)]
    studio = tmp_path / "project.json"
    turned = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 30, "rectanglelabels": ["mug"]}
    point = {"x": 50, "y": 25, "keypointlabels": ["a_b"]}
    result = [
        {"from_name": "box", "original_width": 64, "original_height": 48, "value": turned},
        {"from_name": "tap", "original_width": 64, "original_height": 48, "value": point},
        {"from_name": "tap", "value": point},  # without the size of the image, its place is unknown
    ]
    studio.write_text(json.dumps([{"data": {"image": "day 1/7"}, "annotations": [{"result": result}]}]))
    imported = read(studio, TagFormat.LABELSTUDIO)
    assert [mark for _, mark, _ in imported.marks] == [Tap("a_b", 32, 12)]
    assert table(imported)[0] == [PRESENT, None, PRESENT, None]


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ({"bbox": [1, 2]}, "file: expected .* of COCO"),
        ({"bbox": ["a", 1, 1, 1]}, "file: expected .* of COCO"),
        ({"keypoints": [1, 2]}, "file: expected .* of COCO"),
        ({"bbox": [float("inf"), 1, 1, 1]}, "file cannot be read: expected a finite number, found Infinity"),
    ],
)
def test_a_broken_mark_of_coco_is_refused(tmp_path: Path, annotation: dict[str, Any], said: str) -> None:
    content = {
        "images": [{"id": 5, "file_name": "day 1/7"}],
        "categories": [{"id": 1, "name": "mug"}],
        "annotations": [{"image_id": 5, "category_id": 1, **annotation}],
    }
    (tmp_path / "file").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=said):
        read(tmp_path / "file", TagFormat.COCO)


def test_csv_leaves_classes_without_a_column_and_counts_frames_of_others(tmp_path: Path) -> None:
    path = tmp_path / "tags.csv"
    path.write_text("\ufeffframe,pepper mill\r\nday 1/8,1\r\n\r\nrecordings/day 1/color/7.png, 0\r\nelsewhere/1,1\r\n")
    imported = read(path, TagFormat.CSV)
    assert table(imported)[:2] == [[None, ABSENT, None, None], [None, PRESENT, None, None]]
    assert (imported.frames, imported.strangers) == (2, ("elsewhere/1",))


def test_plain_coco_is_annotated_to_the_full(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    content = {
        "images": [{"id": 5, "file_name": "recordings/day 1/color/7.png"}, {"id": 6, "file_name": "other.png"}],
        "categories": [{"id": 30, "name": "mug"}, {"id": 40, "name": "a_b"}],
        "annotations": [{"image_id": 5, "category_id": 40, "bbox": [1, 2, 3, 4]}, {"image_id": 6, "category_id": 30}],
    }
    path.write_text(json.dumps(content))
    imported = read(path, TagFormat.COCO)
    assert table(imported)[0] == [ABSENT, None, PRESENT, None]
    assert (imported.frames, imported.strangers) == (1, ("other.png",))


def test_label_studio_names_frames_by_the_path_on_its_file_server(tmp_path: Path) -> None:
    path = tmp_path / "project.json"
    image = "/data/local-files/?d=recordings/day%201/color/8.png"
    result = [{"from_name": "what", "type": "choices", "value": {"choices": ["mug", "a_b"]}}]
    cancelled = {"was_cancelled": True, "result": [{"from_name": "what", "value": {"choices": ["pepper mill"]}}]}
    path.write_text(json.dumps([{"data": {"image": image}, "annotations": [{"result": result}, cancelled]}]))
    assert table(read(path, TagFormat.LABELSTUDIO))[1] == [PRESENT, UNKNOWN, PRESENT, UNKNOWN]


MISSPELT = [
    (TagFormat.CSV, "frame,mug,peper mill\n", r"file line 1"),
    (
        TagFormat.COCO,
        '{"images": [],\n"categories": [\n{"id": 1, "name": "peper mill"}], "annotations": []}',
        r"file line 3",
    ),
    (
        TagFormat.LABELSTUDIO,
        '[{"data": {"image": "x"}, "annotations": [{"result":\n[{"from_name": "t", "value":'
        ' {"choices": ["peper mill"]}}]}]}]',
        r"file line 2",
    ),
]


@pytest.mark.parametrize(("form", "text", "place"), MISSPELT, ids=lambda value: getattr(value, "value", ""))
def test_an_unknown_class_is_named_with_file_line_and_the_nearest(
    tmp_path: Path, form: TagFormat, text: str, place: str
) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(DatasetError, match=place + r": unknown class 'peper mill'.*Did you mean 'pepper mill'\?"):
        read(tmp_path / "file", form)


def test_an_unknown_class_of_voc_is_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "mugg_val.txt").write_text("day 1/7  1\n")
    with pytest.raises(DatasetError, match=r"mugg_val\.txt line 1: unknown class 'mugg'.*Did you mean 'mug'\?"):
        read(tmp_path, TagFormat.VOC)


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        (TagFormat.CSV, "name,mug\n", r"line 1: expected `frame,<class>"),
        (
            TagFormat.CSV,
            "frame,mug\nday 1/7,yes\n",
            r"line 2: expected 1, 0 or an empty cell for each class, found 'yes'",
        ),
        (TagFormat.CSV, "frame,mug\nday 1/7\n", r"line 2: expected 2 values, found 1"),
        (
            TagFormat.CSV,
            "frame,mug\nnowhere/7,1\n",
            r"no frame of this file is in kitchen: expected names like day 1/7",
        ),
        (TagFormat.COCO, "{", r"cannot be read: no JSON: Expecting"),
        (TagFormat.COCO, "{}", r"of COCO: 'categories' is missing"),
        (TagFormat.COCO, "[]", r"of COCO"),
        (TagFormat.LABELSTUDIO, "{}", r"of Label Studio: found dict"),
        (TagFormat.LABELSTUDIO, '[{"data": 3}]', r"of Label Studio"),
        (TagFormat.VOC, "", r"expected a folder of <class>_trainval\.txt"),
    ],
)
def test_other_content_is_refused_by_what_it_is(tmp_path: Path, form: TagFormat, text: str, message: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read(tmp_path / "file", form)


def test_files_and_folders_that_are_not_as_needed(tmp_path: Path) -> None:
    states = np.full((4, 4), UNKNOWN, np.int8)
    with pytest.raises(DatasetError, match="cannot be read: No such file"):
        read(tmp_path / "missing.csv", TagFormat.CSV)
    (tmp_path / "latin.csv").write_bytes(b"frame,m\xfcg\n")
    with pytest.raises(DatasetError, match="expected UTF-8"):
        read(tmp_path / "latin.csv", TagFormat.CSV)
    with pytest.raises(DatasetError, match="contains no list of tags"):
        read(tmp_path, TagFormat.VOC)
    with pytest.raises(DatasetError, match="written to a new folder"):
        export_tags(tmp_path, TagFormat.VOC, ROOT, FRAMES, states, CLASSES)
    with pytest.raises(UsageError, match="'a/b' cannot be a file"):
        export_tags(tmp_path / "v", TagFormat.VOC, ROOT, FRAMES, states[:, :1], ClassList(("a/b",)))
    with pytest.raises(DatasetError, match="cannot be written"):
        export_tags(tmp_path / "latin.csv" / "x", TagFormat.CSV, ROOT, FRAMES, states, CLASSES)
    (tmp_path / "mug_val.txt").write_text("day 1/7 1\nday 1/8 yes\n")
    with pytest.raises(DatasetError, match=r"mug_val\.txt line 2: expected `<frame> 1`"):
        read(tmp_path, TagFormat.VOC)


def test_csv_is_what_a_spreadsheet_reads(tmp_path: Path) -> None:
    states = np.array([[1, 0, -1, 1]] * 4, np.int8)
    export_tags(tmp_path / "t.csv", TagFormat.CSV, ROOT, FRAMES, states, CLASSES)
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["frame", *CLASSES.names] and rows[3] == ["b,c/7", "1", "0", "", "1"]


# --- an import never erases


def labelled(kind: str, *names: str, control: str = "label") -> dict[str, Any]:
    return {"from_name": control, "type": kind, "value": {"x": 1, "y": 2, kind: list(names)}}


def task(*results: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {"data": {"image": "day 1/7"}, "annotations": [{"result": list(results), **changed}]}


@pytest.mark.parametrize("kind", ["rectanglelabels", "polygonlabels", "brushlabels", "ellipselabels", "keypointlabels"])
def test_labels_of_regions_are_tags_and_say_nothing_of_other_classes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "project.json"
    path.write_text(json.dumps([task(labelled(kind, "mug"), labelled(kind, "a_b", control="absent"))]))
    imported = read(path, TagFormat.LABELSTUDIO)
    assert table(imported)[0] == [PRESENT, None, ABSENT, None]
    assert (imported.frames, imported.silent, imported.not_understood) == (1, 0, {})


@pytest.mark.parametrize(
    "given",
    [
        task(labelled("choices", "mug"), was_cancelled=True),
        task(),
        {"data": {"image": "day 1/7"}},
        {"data": {"image": "day 1/7"}, "annotations": [], "predictions": [{"result": [labelled("choices", "mug")]}]},
    ],
    ids=["skipped", "empty", "unannotated", "only predicted"],
)
def test_a_task_that_nobody_annotated_changes_nothing(tmp_path: Path, given: dict[str, Any]) -> None:
    path = tmp_path / "project.json"
    path.write_text(json.dumps([given]))
    imported = read(path, TagFormat.LABELSTUDIO)
    assert imported.changes == () and (imported.frames, imported.silent) == (1, 1)


def test_results_that_are_no_tags_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "project.json"
    text = {"from_name": "note", "type": "textarea", "value": {"text": ["mug"]}}
    relation = {"type": "relation", "from_id": "a", "to_id": "b"}
    path.write_text(json.dumps([task(text, labelled("polygonlabels", "mug"), text, relation)]))
    imported = read(path, TagFormat.LABELSTUDIO)
    assert imported.not_understood == {"textarea": 2, "relation": 1}
    assert table(imported)[0] == [PRESENT, None, None, None]


def test_an_image_of_coco_without_annotation_keeps_its_tags(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    images = [{"id": i, "file_name": f"recordings/day 1/color/{name}.png"} for i, name in ((1, 7), (2, 8))]
    annotations = [{"image_id": 1, "category_id": 0}]
    categories = [{"id": 0, "name": "mug"}, {"id": 1, "name": "a_b"}]
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    imported = read(path, TagFormat.COCO)
    assert table(imported)[:2] == [[PRESENT, None, ABSENT, None], [None] * 4]
    assert (imported.frames, imported.silent) == (2, 1)


def test_an_import_counts_the_frames_that_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "tags.csv"
    path.write_text("frame,mug\nday 1/7,1\nday 1/8,1\n")
    states = np.full((4, 4), UNKNOWN, np.int8)
    states[0, 0] = PRESENT
    assert read(path, TagFormat.CSV).changed(states) == 1


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_table_of_any_spreadsheet_is_read(tmp_path: Path, separator: str, encoding: str) -> None:
    rows = [["frame", "mug", "a_b"], ["day 1/8", "1", "0"]]
    text = "\r\n".join(separator.join(row) for row in rows)
    (tmp_path / "tags.csv").write_bytes(text.encode(encoding))
    assert table(read(tmp_path / "tags.csv", TagFormat.CSV))[1] == [PRESENT, None, ABSENT, None]


def test_a_folder_of_lists_that_a_mac_copied_is_read(tmp_path: Path) -> None:
    (tmp_path / "mug_trainval.txt").write_bytes("day 1/7  1\r\n".encode("utf-8-sig"))
    (tmp_path / "._mug_trainval.txt").write_bytes(b"\0\x05\x16\x07" + bytes(100))
    assert table(read(tmp_path, TagFormat.VOC))[0] == [PRESENT, None, None, None]


def test_names_of_frames_that_are_not_there_fill_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tags.csv"
    path.write_text("frame,mug\n" + "".join(f"x/{number},1\n" for number in range(50)))
    monkeypatch.setenv("DEAL_LIMITS", "listed_images=40")
    with pytest.raises(
        DatasetError, match=r"tags\.csv: 41 frames that are not in the dataset are over the limit of 40"
    ):
        read(path, TagFormat.CSV)
