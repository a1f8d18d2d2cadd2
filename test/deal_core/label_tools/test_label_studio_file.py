"""Label Studio's JSON: brushes, polygons, ellipses and rectangles, and which annotation counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deal_core.dataset.dataset import Dataset
from deal_core.errors import DatasetError
from deal_core.label_tools.label_studio_file import open_label_studio
from deal_core.label_tools.outlines import pack_brush

IMAGE = "/data/upload/3/0a1b2c3d-1000000000.png"
SIZE = (36, 48)


def region(kind: str, label: str, **value: Any) -> dict[str, Any]:
    size = {"original_width": 48, "original_height": 36, "image_rotation": 0}
    return {"type": kind, "from_name": "label", "to_name": "image", **size, "value": {**value, kind: [label]}}


def brush(covered: np.ndarray, label: str) -> dict[str, Any]:
    values = np.repeat(np.where(covered, np.uint8(255), np.uint8(0)).ravel(), 4)
    return region("brushlabels", label, format="rle", rle=list(pack_brush(values)))


def task(*results: dict[str, Any], image: str = IMAGE) -> dict[str, Any]:
    return {"data": {"image": image}, "annotations": [{"result": list(results)}]}


def write(folder: Path, content: Any) -> Path:
    file = folder / "project.json"
    file.write_text(json.dumps(content))
    return file


POLYGON = region("polygonlabels", "jar", points=[[12.5, 100 / 9], [50, 100 / 9], [50, 350 / 9], [12.5, 350 / 9]])


def test_regions_cover_their_pixels_and_later_ones_cover_earlier_ones(dataset: Dataset, tmp_path: Path) -> None:
    covered = np.zeros(SIZE, bool)
    covered[3:9, 5:11] = True
    circle = region("ellipselabels", "box", x=50, y=50, radiusX=10, radiusY=10, rotation=0)
    source = open_label_studio(write(tmp_path, [task(brush(covered, "mug"), POLYGON, circle)]))
    layers = source.layers(IMAGE, dataset.frames[0], SIZE)
    assert source.images == [IMAGE] and [layer.label for layer in layers] == ["mug", "jar", "box"]
    assert layers[0].place == (slice(3, 9), slice(5, 11)) and layers[0].part.all()
    assert layers[1].place == (slice(4, 14), slice(6, 24)) and layers[1].part.all()
    assert abs(layers[2].pixels - np.pi * 4.8 * 3.6) < 6


def test_rectangles_turn_about_their_corner_where_they_are_drawn(dataset: Dataset, tmp_path: Path) -> None:
    turned = region("rectanglelabels", "mug", x=50, y=50, width=25, height=100 / 9, rotation=90)
    file = write(tmp_path, [task(turned)])
    with pytest.raises(DatasetError, match="is a box"):
        open_label_studio(file)
    (layer,) = open_label_studio(file, "draw").layers(IMAGE, dataset.frames[0], SIZE)
    assert layer.place == (slice(18, 30), slice(20, 24)) and layer.part.all()


def test_the_ground_truth_or_else_the_last_annotation_counts(tmp_path: Path) -> None:
    mug, jar = (region("polygonlabels", name, points=[[0, 0], [9, 0], [9, 9]]) for name in ("mug", "jar"))
    cancelled = {"result": [], "was_cancelled": True}
    tasks = [
        {"data": {"image": "a.png"}, "annotations": [{"result": [mug]}, {"result": [jar]}, cancelled]},
        {"data": {"image": "b.png"}, "annotations": [{"result": [mug], "ground_truth": True}, {"result": [jar]}]},
        {"data": {"image": "c.png"}, "annotations": [{"result": []}]},
        {"data": {"image": "d.png"}, "annotations": [cancelled]},
        {"data": {"image": "e.png"}, "predictions": [{"result": [mug]}]},
        {"data": {"picture": "f.png", "note": "dark"}, "annotations": [{"result": [mug]}]},
        {"data": {"image": "https://x/0", "frame": "hall/1"}, "annotations": [{"result": [mug]}]},
    ]
    source = open_label_studio(write(tmp_path, tasks))
    labels = {image: source.labels(image) for image in source.images}
    assert labels == {"a.png": {"jar"}, "b.png": {"mug"}, "c.png": set(), "f.png": {"mug"}, "hall/1": {"mug"}}
    assert any(note.startswith("2 tasks have several annotations") for note in source.notes)
    assert "2 tasks have no annotation, and so no mask" in source.notes
    assert open_label_studio(tmp_path / "project.json", predictions=True).images == ["e.png"]


def test_what_has_no_area_is_counted(tmp_path: Path) -> None:
    point = region("keypointlabels", "mug", x=1, y=1, width=1)
    choice = {"type": "choices", "from_name": "c", "to_name": "image", "value": {"choices": ["mug"]}}
    source = open_label_studio(write(tmp_path, [task(point, choice)]))
    assert source.labels(IMAGE) == set()
    assert set(source.notes) == {
        "1 results of the type 'keypointlabels' have no area",
        "1 results of the type 'choices' have no area",
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "expected a list of tasks"),
        ([{}], "'data' is missing"),
        ([{"data": {}}], "no image in the data"),
        ([task({**POLYGON, "image_rotation": 90})], "turned in Label Studio"),
        ([task({**POLYGON, "original_width": "48"})], "original_width and original_height"),
        ([task(region("polygonlabels", "mug", points=[[0, 0], [1, 1]]))], "2 corners"),
        ([task(region("brushlabels", "mug", rle=10**9))], "a list of bytes"),
        ([task(POLYGON), task(POLYGON)], "two tasks are annotated for the image"),
        ([{"data": {"image": "a.png"}, "annotations": [{"result": 3}]}], "a list as result"),
    ],
)
def test_other_content_is_refused(content: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=rf"project.json: .*{reason}"):
        open_label_studio(write(tmp_path, content))


def test_a_brush_for_another_size_is_refused_when_it_is_drawn(dataset: Dataset, tmp_path: Path) -> None:
    source = open_label_studio(write(tmp_path, [task(brush(np.zeros((5, 5), bool), "mug"))]))
    with pytest.raises(DatasetError, match="a brush of image 1000000000 cannot be read"):
        source.layers(IMAGE, dataset.frames[0], SIZE)
