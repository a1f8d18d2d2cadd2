"""Masks in the JSON of Label Studio: brushes, polygons, ellipses and rectangles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deal_core.dataset.image_files import SUFFIXES
from deal_core.errors import DatasetError, short
from deal_core.label_tools.choices import BoxUse
from deal_core.label_tools.outlines import Brush, Outline, Shape, ShapeSource, box, ellipse, polygon, with_boxes
from deal_core.text_formats import read_json

_EXPECTED = 'a list of tasks like [{"data": {"image": "…"}, "annotations": [{"result": […]}]}] of Label Studio'


def open_label_studio(path: Path, boxes: BoxUse = "refuse", *, predictions: bool = False) -> ShapeSource:
    """Read tasks that were exported as JSON.

    A later region covers an earlier one. Of several annotations of a task, the one marked as ground truth counts, or
    else the last one that was not cancelled. A task without an annotation has no mask; one whose annotation has no
    region has an empty one.

    Args:
        path: The file.
        boxes: Use of rectangles.
        predictions: Whether to read the predictions of a model, and not what a person submitted.

    Raises:
        DatasetError: the file cannot be read, is of another form, or has a rectangle where boxes are refused.
    """
    try:
        content = read_json(path, "annotation_bytes")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): export the project as JSON") from None
    if not isinstance(content, list):
        raise DatasetError(f"{path}: expected {_EXPECTED}, found {short(content)}")
    shapes: dict[str, tuple[Shape, ...]] = {}
    counts: Counter[str] = Counter()
    for task in content:
        try:
            name = _image_name(task["data"])
            results = _results(task, "predictions" if predictions else "annotations", counts)
            if results is None:
                counts["tasks have no annotation, and so no mask"] += 1
                continue
            found = [shape for result in results for shape in _shapes(result, counts)]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise DatasetError(f"{path}: expected {_EXPECTED}: {what[:200]}") from None
        if name in shapes:
            raise DatasetError(f"{path}: two tasks are annotated for the image {short(name)}")
        shapes[name] = with_boxes(found, boxes, path, name)
    notes = [f"{count} {what}" for what, count in counts.items()]
    if not shapes and not predictions:
        notes.append("if a model made them, read its predictions (--predictions)")
    return ShapeSource(path, shapes, tuple(notes))


def _image_name(data: Mapping[str, Any]) -> str:
    """Return the frame or the image of a task: `frame`, `image`, or the only value that ends like an image."""
    for key in ("frame", "image"):
        if isinstance(data.get(key), str):
            return str(data[key])
    images = [value for value in data.values() if isinstance(value, str) and value.lower().endswith(SUFFIXES)]
    if len(images) != 1:
        raise ValueError(f"no image in the data {short(dict(data))}")
    return images[0]


def _results(task: Mapping[str, Any], kind: str, counts: Counter[str]) -> list[Any] | None:
    """Return the regions of the annotation of a task that counts; None without one."""
    made = [each for each in task.get(kind) or [] if not (each.get("was_cancelled") or each.get("skipped"))]
    if not made:
        return None
    if len(made) > 1:
        counts[f"tasks have several {kind}; the ground truth, or else the last, was taken"] += 1
    chosen = next((each for each in made if each.get("ground_truth")), made[-1])
    if not isinstance(chosen["result"], list):
        raise ValueError(f"expected a list as result, found {short(chosen['result'])}")
    return chosen["result"]


def _shapes(result: Mapping[str, Any], counts: Counter[str]) -> list[Shape]:
    """Return the objects of one region: one for each of its labels."""
    value = result.get("value")
    names = [each for key, each in (value or {}).items() if key.endswith("labels")]
    if value is None or not names or "choices" in value:
        counts[f"results of the type {short(result.get('type'))} have no area"] += 1
        return []
    if result.get("image_rotation"):
        raise ValueError("an image was turned in Label Studio, which is not read: turn it back there")
    width, height = result["original_width"], result["original_height"]
    if not all(type(side) is int and 0 < side < 2**31 for side in (width, height)):
        raise ValueError(f"expected original_width and original_height, found {short(width)} and {short(height)}")
    outline = _outline(value, (height, width))
    if outline is None:
        counts[f"results of the type {short(result.get('type'))} have no area"] += 1
        return []
    labels = [name for each in names for name in each]
    if not all(isinstance(name, str) for name in labels):
        raise ValueError(f"expected names of labels, found {short(labels)}")
    return [Shape(label, outline) for label in labels]


def _outline(value: Mapping[str, Any], stated: tuple[int, int]) -> Outline | None:
    """Return the outline of a region, whose numbers are per cent of the image; None for one without an area."""
    height, width = stated
    x_scale, y_scale = width / 100, height / 100
    if "rle" in value:
        if not isinstance(value["rle"], list):
            raise ValueError(f"expected a list of bytes as rle, found {short(value['rle'])}")
        return Brush(value["rle"], stated)
    if "points" in value:
        return polygon([(float(x) * x_scale, float(y) * y_scale) for x, y in value["points"]], stated)
    turn = float(value.get("rotation") or 0)
    if "radiusX" in value:
        axes = float(value["radiusX"]) * x_scale, float(value["radiusY"]) * y_scale
        return ellipse(float(value["x"]) * x_scale, float(value["y"]) * y_scale, *axes, turn, stated)
    if "height" in value:
        left, top = float(value["x"]) * x_scale, float(value["y"]) * y_scale
        right, bottom = left + float(value["width"]) * x_scale, top + float(value["height"]) * y_scale
        return box(left, top, right, bottom, turn, (left, top), stated)
    return None
