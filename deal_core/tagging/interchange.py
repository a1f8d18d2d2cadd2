"""Exchange tags, taps and boxes with other tools: CSV, COCO, the lists of VOC, Label Studio.

All four formats keep the three states. A file with less information is read by the rules of its format:

    csv           frame, then a column for each class: 1 present, 0 absent, empty unknown; classes without a column
                  do not change
    coco          an annotation: present; neg_category_ids of an image (as in LVIS): absent; without them the image
                  is fully annotated, and the other classes are absent
    voc           a folder of <class>_<list>.txt with lines `<frame> 1` present, -1 absent, 0 unknown
    labelstudio   choices, and the labels of boxes, polygons, brushes and other regions: present; those of a control
                  named `absent`: absent; where there are choices, the other classes are unknown

COCO and Label Studio have taps and boxes, too; those of a file are added to what is there:

    coco          bbox of an annotation: a box; its keypoints, where visible: taps; neg_points of an image, like
                  {"category_id": 1, "x": 5, "y": 7}: taps on something else
    labelstudio   rectanglelabels: boxes; keypointlabels: taps; those of a control named `not`: on something else

What a file says nothing of stays as it is: a task that was skipped or not annotated, an image without annotation and
without neg_category_ids, and the classes that the regions of a task do not name.

A frame is named `<recording>/<stamp>`, or by its colour image's path in the dataset.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from deal_core.dataset.dataset import FolderLoader, FrameRecord
from deal_core.dataset.image_files import first_few
from deal_core.dataset.taps import Box, Mark, Tap
from deal_core.errors import DatasetError, UsageError, nearest_hint
from deal_core.files import os_errors_as, read_lines, read_text, replacing, replacing_folder
from deal_core.limits import refuse_over
from deal_core.ownership import remove_left_of
from deal_core.structures import ClassList
from deal_core.tagging.choices import TagFormat
from deal_core.tagging.store import ABSENT, PRESENT, UNKNOWN, Change, MarkChange
from deal_core.text_formats import FormatError, parse_json

_VOC_LIST = "trainval"


@dataclass(frozen=True)
class Imported:
    """The content of a file of tags.

    Attributes:
        changes: states of classes in frames of the dataset.
        frames: how many frames of the dataset the file names.
        strangers: names in the file that are not frames of the dataset.
        silent: how many of the frames the file names without saying anything of their tags.
        not_understood: number of results by their type, as in `{"textarea": 3}`.
        marks: taps and boxes in frames of the dataset.
    """

    changes: tuple[Change, ...]
    frames: int
    strangers: tuple[str, ...]
    silent: int = 0
    not_understood: Mapping[str, int] = field(default_factory=dict)
    marks: tuple[MarkChange, ...] = ()

    def changed(self, states: npt.NDArray[np.int8]) -> int:
        """Return how many frames the changes give other states than these, (N, K)."""
        return len({frame for frame, label, state in self.changes if states[frame, label] != state})


def import_tags(path: Path, form: TagFormat, root: Path, frames: Sequence[FrameRecord], classes: ClassList) -> Imported:
    """Read a file of tags (for VOC: a folder).

    Args:
        path: file to read.
        form: format of the file.
        root: folder of the dataset.
        frames: all frames of the dataset; `Change.frame` is an index into them.
        classes: classes of the dataset.

    Raises:
        DatasetError: the file cannot be read, has another form, names an unknown class (the message names file, line
            and the nearest class), or names no frame of the dataset.
    """
    reader = _Reader(path, _names(root, frames), classes)
    try:
        _READERS[form](reader)
    except OSError as error:
        raise DatasetError(f"{error.filename or path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} cannot be read: expected UTF-8 text ({error.reason})") from None
    changes = tuple(Change(frame, label, state) for (frame, label), state in reader.states.items())
    silent = len(reader.found - {change.frame for change in changes})
    if reader.strangers and not reader.found:
        raise DatasetError(
            f"{path}: no frame of this file is in {root}: expected names like {frames[0].key}, "
            f"found {first_few(list(reader.strangers))}"
        )
    marks = tuple(MarkChange(frame, mark) for frame, mark in reader.marks)
    return Imported(changes, len(reader.found), tuple(reader.strangers), silent, reader.not_understood, marks)


def export_tags(
    path: Path,
    form: TagFormat,
    root: Path,
    frames: Sequence[FrameRecord],
    states: npt.NDArray[np.int8],
    classes: ClassList,
) -> None:
    """Write tags for another tool: a new folder for VOC, else a file, which is replaced.

    COCO and Label Studio get the marks of the frames, too, except those of classes that are tagged absent.

    Args:
        path: file or folder to write.
        form: format to write.
        root: folder of the dataset.
        frames: N frames of the dataset.
        states: (N, K) states of the classes in the frames.
        classes: K classes.

    Raises:
        DatasetError: the file cannot be written, or the folder for VOC is not empty.
    """
    with os_errors_as(DatasetError, f"{path} cannot be written"):
        if form is TagFormat.VOC:
            _write_voc(path, frames, states, classes)
            return
        write = {TagFormat.CSV: _to_csv, TagFormat.COCO: _to_coco, TagFormat.LABELSTUDIO: _to_labelstudio}[form]
        with replacing(path) as temporary:
            temporary.write_text(write(root, frames, states, classes), encoding="utf-8", newline="")


@dataclass
class _Reader:
    """The content of one file, read so far."""

    path: Path
    names: Mapping[str, int]
    classes: ClassList
    states: dict[tuple[int, int], int] = field(default_factory=dict)
    found: set[int] = field(default_factory=set)
    strangers: dict[str, None] = field(default_factory=dict)
    not_understood: Counter[str] = field(default_factory=Counter)
    marks: list[tuple[int, Mark]] = field(default_factory=list)

    def frame(self, name: str) -> int | None:
        """Return the index of a frame, or None (and remember the name) if the dataset does not have it."""
        index = self.names.get(name)
        if index is None:
            # Label Studio prefixes the path of its file server.
            index = self.names.get(unquote(name.rpartition("?d=")[2]))
        if index is None:
            self.strangers[name] = None
            refuse_over("listed_images", len(self.strangers), "frames that are not in the dataset", self._refused)
        else:
            self.found.add(index)
        return index

    def _refused(self, sentence: str) -> DatasetError:
        return DatasetError(f"{self.path}: {sentence}")

    def label(self, name: Any, file: Path, line: Callable[[], int | None]) -> int:
        """Return the index of a class, or refuse its name; `line` tells where it is in the file."""
        if name in self.classes.names:
            return self.classes.names.index(name)
        place = f"{file} line {number}" if (number := line()) else str(file)
        raise DatasetError(
            f"{place}: unknown class '{str(name)[:80]}': expected one of {', '.join(self.classes.names)}."
            f"{nearest_hint(str(name)[:80], self.classes.names)}"
        )

    def say(self, frame: int, label: int, state: int) -> None:
        """Store a state; present wins over other states of the same class."""
        if self.states.get((frame, label)) != PRESENT:
            self.states[frame, label] = state

    def tap(self, frame: int, label: int, x: float, y: float, *, is_on: bool = True) -> None:
        """Store a tap at a pixel."""
        self.marks.append((frame, Tap(self.classes.names[label], max(int(x), 0), max(int(y), 0), is_on)))

    def box(self, frame: int, label: int, left: float, top: float, width: float, height: float) -> None:
        """Store a box, unless it is empty, given by its corner and size in pixels."""
        sides = (max(round(side), 0) for side in (left, top, left + width, top + height))
        box = Box(self.classes.names[label], *sides)
        if box.has_pixels:
            self.marks.append((frame, box))


def _read_csv(reader: _Reader) -> None:
    with io.StringIO(read_text(reader.path)) as file:
        # A spreadsheet separates by what its country uses.
        head = re.match(r"\W*frame\W*?([,;\t])", file.readline())
        file.seek(0)
        rows = csv.reader(file, delimiter=head[1] if head else ",")
        try:
            header = [name.strip() for name in next(rows, [])]
        except csv.Error as error:
            raise DatasetError(f"{reader.path} line 1: {error}") from None
        if len(header) < 2 or header[0] != "frame":
            raise DatasetError(f"{reader.path} line 1: expected `frame,<class>,…`, found {','.join(header)[:80]!r}")
        labels = [reader.label(name, reader.path, lambda: 1) for name in header[1:]]
        meaning = {"1": PRESENT, "0": ABSENT, "": UNKNOWN}
        try:
            for row in rows:
                place = f"{reader.path} line {rows.line_num}"
                if not row:
                    continue
                if len(row) != len(header):
                    raise DatasetError(f"{place}: expected {len(header)} values, found {len(row)}")
                if wrong := [cell for cell in row[1:] if cell.strip() not in meaning]:
                    raise DatasetError(
                        f"{place}: expected 1, 0 or an empty cell for each class, found '{wrong[0][:80]}'"
                    )
                frame = reader.frame(row[0])
                if frame is not None:
                    for label, cell in zip(labels, row[1:], strict=True):
                        reader.say(frame, label, meaning[cell.strip()])
        except csv.Error as error:
            raise DatasetError(f"{reader.path} line {rows.line_num}: {error}") from None


def _to_csv(root: Path, frames: Sequence[FrameRecord], states: npt.NDArray[np.int8], classes: ClassList) -> str:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["frame", *classes.names])
    cells = {PRESENT: "1", ABSENT: "0", UNKNOWN: ""}
    rows.writerows([f.key, *(cells[s] for s in row)] for f, row in zip(frames, states.tolist(), strict=True))
    return text.getvalue()


def _read_coco(reader: _Reader) -> None:
    text, content = _read_json(reader.path)
    try:
        labels = {
            c["id"]: reader.label(c["name"], reader.path, partial(_line, text, c["name"]))
            for c in content["categories"]
        }
        annotated = {annotation["image_id"] for annotation in content["annotations"]}
        images: dict[Any, int | None] = {}
        for image in content["images"]:
            frame = images[image["id"]] = reader.frame(image["file_name"])
            if frame is None:
                continue
            absent = image.get("neg_category_ids")
            if absent is None and image["id"] not in annotated:
                continue  # nobody annotated it
            for number, label in labels.items():
                reader.say(frame, label, ABSENT if absent is None or number in absent else UNKNOWN)
        for annotation in content["annotations"]:
            frame, label = images[annotation["image_id"]], labels[annotation["category_id"]]
            if frame is not None:
                reader.say(frame, label, PRESENT)
                _read_coco_marks(reader, frame, label, annotation)
        for image in content["images"]:
            frame = images[image["id"]]
            if frame is None:
                continue
            for point in image.get("neg_points", ()):
                reader.tap(frame, labels[point["category_id"]], point["x"], point["y"], is_on=False)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _other_form(
            reader.path, '{"images": […], "categories": […], "annotations": […]} of COCO', error
        ) from None


def _read_coco_marks(reader: _Reader, frame: int, label: int, annotation: Mapping[str, Any]) -> None:
    if annotation.get("bbox"):
        left, top, width, height = annotation["bbox"]
        reader.box(frame, label, left, top, width, height)
    points = annotation.get("keypoints") or []
    for x, y, visible in zip(points[::3], points[1::3], points[2::3], strict=True):
        if visible:
            reader.tap(frame, label, x, y)


def _to_coco(root: Path, frames: Sequence[FrameRecord], states: npt.NDArray[np.int8], classes: ClassList) -> str:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (frame, row) in enumerate(zip(frames, states.tolist(), strict=True), 1):
        absent = [label + 1 for label, state in enumerate(row) if state == ABSENT]
        images.append({"id": number, "file_name": _color_path(root, frame), "neg_category_ids": absent})
        marks = _told(frame, row, classes)
        if wrong := [mark for mark in marks if isinstance(mark, Tap) and not mark.is_on]:
            images[-1]["neg_points"] = [{"category_id": classes.id_of(t.name), "x": t.x, "y": t.y} for t in wrong]
        things = [(classes.id_of(mark.name), _coco_mark(mark)) for mark in marks if mark not in wrong]
        marked = {number for number, _ in things}
        things += [(k + 1, {}) for k, state in enumerate(row) if state == PRESENT and k + 1 not in marked]
        for category, drawn in things:
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": category, **drawn})
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(classes.names)]
    return json.dumps({"images": images, "categories": categories, "annotations": annotations}, indent=1) + "\n"


def _told(frame: FrameRecord, states: Sequence[int], classes: ClassList) -> list[Mark]:
    """Return the marks of a frame that its tags do not contradict: a mark of an absent class has no effect."""
    return [mark for mark in frame.marks if states[classes.id_of(mark.name) - 1] != ABSENT]


def _coco_mark(mark: Mark) -> dict[str, Any]:
    if isinstance(mark, Tap):
        return {"keypoints": [mark.x, mark.y, 2], "num_keypoints": 1}
    return {"bbox": [mark.left, mark.top, mark.right - mark.left, mark.bottom - mark.top]}


def _read_labelstudio(reader: _Reader) -> None:
    text, content = _read_json(reader.path)
    expected = 'a list of tasks like [{"data": {"image": "…"}, "annotations": [{"result": […]}]}] of Label Studio'
    if not isinstance(content, list):
        raise _other_form(reader.path, expected, f"found {type(content).__name__}")
    try:
        for task in content:
            frame = reader.frame(task["data"].get("frame") or task["data"]["image"])
            said: list[tuple[int, int]] = []
            of_whole_image = False
            for result in (r for a in task.get("annotations", []) if not a.get("was_cancelled") for r in a["result"]):
                names = _named(result)
                if names is None:
                    reader.not_understood[str(result.get("type"))[:80]] += 1
                    continue
                of_whole_image |= "choices" in result["value"]
                for name in names:
                    label = reader.label(name, reader.path, partial(_line, text, name))
                    if result["from_name"] != "not":
                        said.append((label, ABSENT if result["from_name"] == "absent" else PRESENT))
                    if frame is not None:
                        _read_labelstudio_mark(reader, frame, label, result)
            if frame is not None:
                for label in range(len(reader.classes)) if of_whole_image else ():
                    reader.say(frame, label, UNKNOWN)
                for label, state in said:
                    reader.say(frame, label, state)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _other_form(reader.path, expected, error) from None


def _read_labelstudio_mark(reader: _Reader, frame: int, label: int, result: Mapping[str, Any]) -> None:
    """Store the mark of a result, whose numbers are percent of the image; a turned rectangle has no box."""
    value, width, height = result["value"], result.get("original_width"), result.get("original_height")
    if not width or not height:
        return
    if "keypointlabels" in value:
        x, y = value["x"] / 100 * width, value["y"] / 100 * height
        reader.tap(frame, label, x, y, is_on=result["from_name"] != "not")
    elif "rectanglelabels" in value and not value.get("rotation"):
        left, top, wide, high = (
            value[key] / 100 * of for key, of in (("x", width), ("y", height), ("width", width), ("height", height))
        )
        reader.box(frame, label, left, top, wide, high)


def _named(result: Mapping[str, Any]) -> list[Any] | None:
    """Return the names in a result of Label Studio: choices, or labels of a region; None if it has neither.

    The key of the labels is named after the kind of the region: `rectanglelabels`, `brushlabels`, `labels`, …
    """
    lists = [names for key, names in (result.get("value") or {}).items() if key == "choices" or key.endswith("labels")]
    return [name for names in lists for name in names] if lists else None


def _to_labelstudio(root: Path, frames: Sequence[FrameRecord], states: npt.NDArray[np.int8], classes: ClassList) -> str:
    tasks = []
    results: list[dict[str, Any]]
    for frame, row in zip(frames, states.tolist(), strict=True):
        results = []
        for control, state in (("present", PRESENT), ("absent", ABSENT)):
            names = [name for name, s in zip(classes.names, row, strict=True) if s == state]
            if names or control == "present":  # without any choice, the task would count as not annotated
                value = {"choices": names}
                results.append({"from_name": control, "to_name": "image", "type": "choices", "value": value})
        if marks := _told(frame, row, classes):
            height, width = FolderLoader(root).image(frame).shape[:2]
            results += [_labelstudio_mark(mark, width, height) for mark in marks]
        data = {"image": _color_path(root, frame), "frame": frame.key}
        tasks.append({"data": data, "annotations": [{"result": results}]})
    return json.dumps(tasks, indent=1, ensure_ascii=False) + "\n"


def _labelstudio_mark(mark: Mark, width: int, height: int) -> dict[str, Any]:
    size = {"to_name": "image", "original_width": width, "original_height": height, "image_rotation": 0}
    across, down = 100 / width, 100 / height
    if isinstance(mark, Tap):
        place = {"x": (mark.x + 0.5) * across, "y": (mark.y + 0.5) * down, "width": 0.5}
        control = "tap" if mark.is_on else "not"
        return {
            "from_name": control,
            "type": "keypointlabels",
            **size,
            "value": {**place, "keypointlabels": [mark.name]},
        }
    place = {"x": mark.left * across, "y": mark.top * down, "rotation": 0}
    place |= {"width": (mark.right - mark.left) * across, "height": (mark.bottom - mark.top) * down}
    return {"from_name": "box", "type": "rectanglelabels", **size, "value": {**place, "rectanglelabels": [mark.name]}}


def _read_voc(reader: _Reader) -> None:
    if not reader.path.is_dir():
        raise DatasetError(f"{reader.path}: expected a folder of <class>_{_VOC_LIST}.txt, as ImageSets/Main of VOC")
    files = [f for f in sorted(reader.path.glob("*_*.txt")) if f.is_file() and not f.name.startswith(".")]
    if not files:
        raise DatasetError(f"{reader.path} contains no list of tags: expected files like <class>_{_VOC_LIST}.txt")
    meaning = {"1": PRESENT, "-1": ABSENT, "0": UNKNOWN}
    for file in files:
        label = reader.label(file.stem.rpartition("_")[0], file, lambda: 1)
        for number, line in enumerate(read_lines(file), 1):
            name, _, value = line.strip().rpartition(" ")
            if not line.strip():
                continue
            if not name or value not in meaning:
                raise DatasetError(f"{file} line {number}: expected `<frame> 1`, -1 or 0, found {line.strip()[:80]!r}")
            frame = reader.frame(name.rstrip())
            if frame is not None:
                reader.say(frame, label, meaning[value])


def _write_voc(path: Path, frames: Sequence[FrameRecord], states: npt.NDArray[np.int8], classes: ClassList) -> None:
    if bad := [name for name in classes.names if "/" in name or "\0" in name]:
        raise UsageError(f"class '{bad[0]}' cannot be a file name, which VOC needs: choose another format")
    remove_left_of(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DatasetError(f"{path} exists: the lists of VOC are written to a new folder; choose another name")
    values = {PRESENT: " 1", ABSENT: "-1", UNKNOWN: " 0"}
    with replacing_folder(path) as folder:
        for name, column in zip(classes.names, states.T.tolist(), strict=True):
            lines = [f"{f.key} {values[state]}\n" for f, state in zip(frames, column, strict=True)]
            (folder / f"{name}_{_VOC_LIST}.txt").write_text("".join(lines), encoding="utf-8")


_READERS: dict[TagFormat, Callable[[_Reader], None]] = {
    TagFormat.CSV: _read_csv,
    TagFormat.COCO: _read_coco,
    TagFormat.VOC: _read_voc,
    TagFormat.LABELSTUDIO: _read_labelstudio,
}


def _names(root: Path, frames: Iterable[FrameRecord]) -> dict[str, int]:
    """Return the index of a frame by each of its names."""
    names: dict[str, int] = {}
    for index, frame in enumerate(frames):
        names[_color_path(root, frame)] = names[frame.key] = index
    return names


def _color_path(root: Path, frame: FrameRecord) -> str:
    return frame.color.relative_to(root).as_posix()


def _read_json(path: Path) -> tuple[str, Any]:
    text = read_text(path)
    try:
        return text, parse_json(text)
    except FormatError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from None


def _line(text: str, name: Any) -> int | None:
    """Return the first line of a JSON text that contains a string."""
    for written in (json.dumps(name), json.dumps(name, ensure_ascii=False)):
        if (position := text.find(written)) >= 0:
            return text.count("\n", 0, position) + 1
    return None


def _other_form(path: Path, expected: str, error: object) -> DatasetError:
    found = f"{str(error)[:200]} is missing" if isinstance(error, KeyError) else str(error)[:200]
    return DatasetError(f"{path}: expected {expected}: {found}")
