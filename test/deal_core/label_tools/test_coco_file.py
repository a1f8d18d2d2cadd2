"""COCO files of any tool: polygons, both run lengths, boxes, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coder

from deal_core.dataset.dataset import Dataset
from deal_core.errors import DatasetError
from deal_core.label_tools.coco_file import open_coco_masks

NAME = "hall/1000000000.png"
SIZE = (36, 48)


def write(folder: Path, annotations: list[dict[str, Any]], **changes: Any) -> Path:
    content = {
        "images": [{"id": 7, "file_name": NAME, "height": 36, "width": 48}],
        "categories": [{"id": 3, "name": "mug"}, {"id": 5, "name": "jar"}],
        "annotations": [{"id": n, "image_id": 7, "category_id": 3, **each} for n, each in enumerate(annotations)],
        **changes,
    }
    file = folder / "instances.json"
    file.write_text(json.dumps(content))
    return file


def square() -> np.ndarray:
    covered = np.zeros(SIZE, np.uint8)
    covered[4:14, 6:26] = 1
    return covered


def compressed() -> dict[str, Any]:
    coded = coder.encode(np.asfortranarray(square()))
    return {"size": coded["size"], "counts": coded["counts"].decode()}


SEGMENTATIONS = {
    "polygons": [[6, 4, 26, 4, 26, 14, 6, 14]],
    "run lengths": {"size": [36, 48], "counts": [6 * 36 + 4, *([10, 26] * 19), 10, 22 * 36 + 22]},
    "compressed": compressed(),
}


@pytest.mark.parametrize("kind", SEGMENTATIONS)
def test_all_forms_of_a_segmentation_cover_the_same_pixels(kind: str, dataset: Dataset, tmp_path: Path) -> None:
    source = open_coco_masks(write(tmp_path, [{"segmentation": SEGMENTATIONS[kind]}]))
    (layer,) = source.layers(NAME, dataset.frames[0], SIZE)
    assert source.images == [NAME] and source.labels(NAME) == {"mug"} and layer.label == "mug"
    assert layer.place == (slice(4, 14), slice(6, 26)) and layer.part.all()


def test_smaller_objects_lie_above_larger_ones_and_crowds_count(dataset: Dataset, tmp_path: Path) -> None:
    small = [[8, 6, 12, 6, 12, 10, 8, 10]]
    entries = [
        {"segmentation": small, "category_id": 5, "iscrowd": 1},
        {"segmentation": SEGMENTATIONS["polygons"]},
    ]
    layers = open_coco_masks(write(tmp_path, entries)).layers(NAME, dataset.frames[0], SIZE)
    assert [layer.label for layer in layers] == ["mug", "jar"]


def test_a_box_is_used_as_it_is_said_and_nothing_is_told(dataset: Dataset, tmp_path: Path) -> None:
    file = write(tmp_path, [{"bbox": [6, 4, 20, 10]}, {"segmentation": []}])
    with pytest.raises(DatasetError, match="is a box without an outline"):
        open_coco_masks(file)
    source = open_coco_masks(file, "draw")
    (layer,) = source.layers(NAME, dataset.frames[0], SIZE)
    assert layer.pixels == 200 and source.notes == ("1 annotations have neither a segmentation nor a box",)
    assert open_coco_masks(file, "skip").layers(NAME, dataset.frames[0], SIZE) == []


def test_a_listed_image_without_annotations_is_empty(tmp_path: Path) -> None:
    assert open_coco_masks(write(tmp_path, [])).labels(NAME) == set()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"categories": [{"id": 5, "name": "jar"}]}, "category id that is not listed"),
        ({"images": []}, "image id that is not listed"),
        ({"categories": [{"id": 3, "name": 4}]}, "names of categories"),
        ({"images": [{"id": 7, "file_name": None}]}, "a file_name of its own"),
        ({"images": [{"id": 7, "file_name": "a"}, {"id": 7, "file_name": "b"}]}, "a file_name of its own"),
        ({"images": 3}, "images is missing"),
    ],
)
def test_other_content_is_refused(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=rf"instances.json.*{reason}"):
        open_coco_masks(write(tmp_path, [{"segmentation": SEGMENTATIONS["polygons"]}], **changes))


def test_a_wrong_outline_is_refused_when_it_is_drawn(dataset: Dataset, tmp_path: Path) -> None:
    source = open_coco_masks(write(tmp_path, [{"segmentation": "everything"}]))
    with pytest.raises(
        DatasetError, match=r"instances.json: an annotation of image 1000000000 is neither polygons nor"
    ):
        source.layers(NAME, dataset.frames[0], SIZE)
