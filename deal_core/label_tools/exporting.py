"""Write masks for correction in other tools, with their images: CVAT, Label Studio, COCO, or PNGs of ids.

Every format keeps each pixel: objects are written as run lengths, one for each connected part of a class, so that a
person can delete or rename it. Unlabelled pixels (255) are objects of the name `unlabelled`. Images are named by their
frame, `<recording>/<frame>`, by which `deal_core.label_tools.importing` finds them again.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from PIL import Image

from deal_core.dataset.dataset import Dataset
from deal_core.errors import DatasetError
from deal_core.files import os_errors_as, replacing_folder
from deal_core.label_tools.choices import ExportFormat
from deal_core.label_tools.layers import UNLABELLED_NAME, Layer
from deal_core.label_tools.outlines import pack_brush
from deal_core.masks.mask_folder import check_masks, read_mask
from deal_core.ownership import remove_left_of
from deal_core.structures import BACKGROUND, UNLABELLED, BoolArray, ClassList, UInt8Array

IMAGES, MASKS = "images", "masks"
"""Folders of an export: the images, and for the format png the masks."""
COCO_FILE = "annotations/instances_default.json"
"""Where CVAT and datumaro expect the file of COCO."""
LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves files of its own machine."""


@dataclass(frozen=True, eq=False)
class _Frame:
    """A frame to write: its name in the tool, its mask, and its objects."""

    name: str
    key: str
    mask: UInt8Array
    objects: tuple[Layer, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return self.mask.shape[0], self.mask.shape[1]


def export_masks(
    folder: Path,
    dataset: Dataset,
    form: ExportFormat,
    out: Path,
    keys: Sequence[str],
    *,
    images: bool = True,
    advance: Callable[[int], None] = lambda frames: None,
) -> Path:
    """Write the masks of some frames for another tool, and return the file (png: the folder) that the tool imports.

    Args:
        folder: Folder of masks.
        dataset: Frames of the masks.
        form: Format to write.
        out: Folder to write.
        keys: Keys of the frames, in the order in which the tool shows them.
        images: Whether to copy the images into the folder.
        advance: Function to call with the number of written frames.

    Raises:
        DatasetError: the masks are for other classes or lack a frame, the folder is not empty, or a file cannot be
            read or written.
    """
    records = {frame.key: frame for frame in dataset.frames}
    chosen = [records[key] for key in keys]
    check_masks(folder, dataset.subset(predicate=lambda frame: frame.key in set(keys)))
    dataset.refuse_output(out)
    remove_left_of(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(f"{out} exists: masks are exported to a new folder; choose another name")
    write = {"coco": _write_coco, "cvat": _write_cvat, "label-studio": _write_label_studio, "png": _write_png}[form]

    def frames() -> Iterator[_Frame]:
        for done, record in enumerate(chosen, 1):
            image = dataset.load_image(record)
            mask = read_mask(folder, record.key, image.shape[:2], len(dataset.classes))
            name = f"{record.key}{record.color.suffix}"
            if images:
                file = new / IMAGES / name
                file.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(record.color, file)
            yield _Frame(name, record.key, mask, tuple(_objects(mask, dataset.classes)))
            advance(done)

    with os_errors_as(DatasetError, f"{out} cannot be written"), replacing_folder(out, overwrite=True) as new:
        made = write(new, frames(), dataset.classes)
    return out / made


def _objects(mask: UInt8Array, classes: ClassList) -> Iterator[Layer]:
    """Yield the connected parts of each class, and those of the unlabelled pixels."""
    names = {**dict(enumerate(classes.names, 1)), UNLABELLED: UNLABELLED_NAME}
    for number in np.unique(mask).tolist():
        if number == BACKGROUND:
            continue
        count, parts = cv2.connectedComponents((mask == number).astype(np.uint8), connectivity=8)
        for part in range(1, count):
            yield Layer.of(names[number], parts == part)


def _label_names(classes: ClassList) -> tuple[str, ...]:
    return classes.names if UNLABELLED_NAME in classes.names else (*classes.names, UNLABELLED_NAME)


def _hex(classes: ClassList, name: str) -> str:
    color = classes.palette()[classes.id_of(name) if name in classes.names else UNLABELLED]
    return "#" + "".join(f"{value:02x}" for value in color.tolist())


def _write_coco(new: Path, frames: Iterator[_Frame], classes: ClassList) -> str:
    from pycocotools import mask as coder

    names = _label_names(classes)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, frame in enumerate(frames, 1):
        height, width = frame.size
        images.append({"id": number, "file_name": frame.name, "width": width, "height": height})
        for layer in frame.objects:
            coded = coder.encode(np.asfortranarray(_whole(layer, frame.size).astype(np.uint8)))
            rows, columns = layer.place
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": names.index(layer.label) + 1,
                    "segmentation": {"size": [height, width], "counts": _column_runs(layer, frame.size)},
                    "area": int(coder.area(coded)),
                    "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": k, "name": name, "supercategory": ""} for k, name in enumerate(names, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file = new / COCO_FILE
    file.parent.mkdir()
    file.write_text(json.dumps(content) + "\n", encoding="utf-8")
    return COCO_FILE


def _write_cvat(new: Path, frames: Iterator[_Frame], classes: ClassList) -> str:
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    for name in _label_names(classes):
        label = ElementTree.SubElement(labels, "label")
        for key, value in (("name", name), ("color", _hex(classes, name)), ("type", "any"), ("attributes", "")):
            ElementTree.SubElement(label, key).text = value
    for number, frame in enumerate(frames):
        height, width = frame.size
        image = ElementTree.SubElement(
            root, "image", {"id": str(number), "name": frame.name, "width": str(width), "height": str(height)}
        )
        for layer in frame.objects:
            rows, columns = layer.place
            place = {
                "left": columns.start,
                "top": rows.start,
                "width": columns.stop - columns.start,
                "height": rows.stop - rows.start,
            }
            runs = ", ".join(map(str, _runs(layer.part.ravel())))
            about = {"label": layer.label, "source": "auto", "occluded": "0", "rle": runs, "z_order": "0"}
            ElementTree.SubElement(image, "mask", {**about, **{key: str(value) for key, value in place.items()}})
    ElementTree.indent(root)
    (new / "annotations.xml").write_bytes(ElementTree.tostring(root, "utf-8", xml_declaration=True))
    return "annotations.xml"


def _write_label_studio(new: Path, frames: Iterator[_Frame], classes: ClassList) -> str:
    tasks = []
    for frame in frames:
        height, width = frame.size
        size = {"original_width": width, "original_height": height, "image_rotation": 0}
        result = [
            {
                "id": f"object{number}",
                "type": "brushlabels",
                "from_name": "brush",
                "to_name": "image",
                **size,
                "value": {"format": "rle", "rle": _brush(layer, frame.size), "brushlabels": [layer.label]},
            }
            for number, layer in enumerate(frame.objects)
        ]
        data = {"image": f"{LOCAL_FILES}{IMAGES}/{frame.name}", "frame": frame.key}
        tasks.append({"data": data, "predictions": [{"model_version": "deal", "result": result}]})
    (new / "tasks.json").write_text(json.dumps(tasks, ensure_ascii=False) + "\n", encoding="utf-8")
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", {"name": "image", "value": "$image"})
    labels = ElementTree.SubElement(view, "BrushLabels", {"name": "brush", "toName": "image"})
    for name in _label_names(classes):
        ElementTree.SubElement(labels, "Label", {"value": name, "background": _hex(classes, name)})
    ElementTree.indent(view)
    (new / "label_config.xml").write_bytes(ElementTree.tostring(view, "utf-8") + b"\n")
    return "tasks.json"


def _write_png(new: Path, frames: Iterator[_Frame], classes: ClassList) -> str:
    palette = classes.palette().tobytes()
    for frame in frames:
        image = Image.fromarray(frame.mask)
        image.putpalette(palette)
        content = io.BytesIO()
        image.save(content, "PNG")
        file = new / MASKS / f"{frame.key}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.getvalue())
    return MASKS


def _whole(layer: Layer, size: tuple[int, int]) -> BoolArray:
    """Return the pixels (H, W) of a layer."""
    covered = np.zeros(size, np.bool_)
    covered[layer.place] = layer.part
    return covered


def _column_runs(layer: Layer, size: tuple[int, int]) -> list[int]:
    """Return the run lengths of COCO: down the columns, pixels outside first."""
    return _runs(_whole(layer, size).ravel(order="F"))


def _runs(covered: BoolArray) -> list[int]:
    """Return the lengths of the runs of (N,) pixels, those outside first.

    >>> _runs(np.array([True, True, False]))
    [0, 2, 1]
    """
    changes = np.flatnonzero(np.diff(covered.astype(np.int8), prepend=0))
    return [int(length) for length in np.diff(np.concatenate([[0], changes, [covered.size]]))]


def _brush(layer: Layer, size: tuple[int, int]) -> list[int]:
    """Return the bytes of a brush: each pixel has four equal values."""
    values = np.where(_whole(layer, size), np.uint8(UNLABELLED), np.uint8(0))
    return list(pack_brush(np.repeat(values.ravel(), 4)))
