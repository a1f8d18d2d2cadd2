"""Masks in one file of COCO: polygons, and run lengths in both forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deal_core.dataset.coco import read_annotations, whole_pair
from deal_core.errors import DatasetError, short
from deal_core.label_tools.choices import BoxUse
from deal_core.label_tools.outlines import CocoOutline, Shape, ShapeSource, box, with_boxes


def open_coco_masks(path: Path, boxes: BoxUse = "refuse") -> ShapeSource:
    """Read a file with the lists images, annotations and categories.

    A smaller object covers a larger one, and a crowd counts as an object of its category. A listed image without
    annotations has an empty mask.

    Args:
        path: The file.
        boxes: Use of annotations that have a bbox and no segmentation.

    Raises:
        DatasetError: the file cannot be read, is of another form, or has a box where boxes are refused.
    """
    content = read_annotations(path)
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    if wrong := [name for name in names.values() if not isinstance(name, str) or not name.strip()]:
        raise DatasetError(f"{path}: expected texts as names of categories, found {short(wrong[0])}")
    images: dict[Any, str] = {}
    sizes: dict[Any, tuple[int, int] | None] = {}
    for entry in content["images"]:
        name = entry["file_name"]
        if not isinstance(name, str) or entry["id"] in images:
            raise DatasetError(f"{path}: expected an id and a file_name of its own of each image, found {short(entry)}")
        images[entry["id"]], sizes[entry["id"]] = name, whole_pair([entry.get("height"), entry.get("width")])
    shapes: dict[Any, list[Shape]] = {number: [] for number in images}
    without = 0
    for entry in content["annotations"]:
        number, category = entry["image_id"], entry["category_id"]
        if number not in images or category not in names:
            lacking = "image" if number not in images else "category"
            raise DatasetError(f"{path}: annotation {short(entry.get('id'))} names an {lacking} id that is not listed")
        outline = _outline(entry, sizes[number])
        if outline is None:
            without += 1
            continue
        shapes[number].append(Shape(names[category], outline))
    found: dict[str, tuple[Shape, ...]] = {}
    for number, name in images.items():
        found[name] = found.get(name, ()) + with_boxes(shapes[number], boxes, path, name)
    notes = [f"{without} annotations have neither a segmentation nor a box"] if without else []
    return ShapeSource(path, found, tuple(notes), smaller_on_top=True)


def _outline(entry: dict[str, Any], stated: tuple[int, int] | None) -> CocoOutline | None:
    if segmentation := entry.get("segmentation"):
        return CocoOutline(segmentation, stated)
    sides = entry.get("bbox")
    if isinstance(sides, list) and len(sides) == 4 and all(type(n) in (int, float) for n in sides):
        left, top, width, height = sides
        return box(left, top, left + width, top + height, stated=stated)
    return None
