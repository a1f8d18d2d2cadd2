"""What a mask's ids mean, in both forms."""

from __future__ import annotations

from types import ModuleType

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from helpers.interface_packages import BUILD_S

from deal_core.errors import DealError
from deal_core.runtime.objects import OBJECTS_PER_CLASS, object_id
from deal_core.structures import ClassList
from deal_ros.segmentation import labels

CLASSES = ClassList(("mug", "drill"), ((255, 0, 0), (0, 255, 0)))


def test_json_names_every_id_and_survives_the_way_back() -> None:
    import json

    text = labels.labels_to_json(CLASSES, "ab" * 32)
    assert json.loads(text) == {
        "labels": [
            {"id": 0, "name": "background", "color": [0, 0, 0]},
            {"id": 1, "name": "mug", "color": [255, 0, 0]},
            {"id": 2, "name": "drill", "color": [0, 255, 0]},
            {"id": 255, "name": "unlabelled", "color": [128, 128, 128]},
        ],
        "unlabelled": 255,
        "model": "ab" * 32,
    }
    assert labels.names_from_json(text) == {0: "background", 1: "mug", 2: "drill", 255: "unlabelled"}


def test_an_id_of_an_object_has_the_name_and_colour_of_its_class() -> None:
    """Every id that a mask of objects can contain is listed, and no other."""
    import json

    found = labels.mask_labels(CLASSES, "16SC1")
    ids = {0} | {object_id(label, number) for label in (1, 2) for number in range(1, OBJECTS_PER_CLASS + 1)}
    assert {id_ for id_, _, _ in found} == ids and len(found) == len(ids)
    text = labels.labels_to_json(CLASSES, "ab" * 32, "16SC1")
    names = labels.names_from_json(text)
    assert names[0] == "background" and names[object_id(1, 1)] == "mug" and names[object_id(2, 127)] == "drill"
    assert "unlabelled" not in json.loads(text)
    colors = {label["id"]: label["color"] for label in json.loads(text)["labels"]}
    assert colors[object_id(2, 3)] == [0, 255, 0]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"labels": [{"id": 1}]}', '{"labels": [{"id": "x", "name": "y"}]}'])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(DealError, match="expected the JSON of a labels topic"):
        labels.names_from_json(text)


@pytest.mark.timeout(BUILD_S)
def test_label_info_lists_every_id(vision: ModuleType) -> None:
    message = labels.label_info(CLASSES, 0.25)
    assert [(c.class_id, c.class_name) for c in message.class_map] == [
        (0, "background"), (1, "mug"), (2, "drill"), (255, "unlabelled")
    ]  # fmt: skip
    assert message.threshold == 0.25
    of_objects = {c.class_id: c.class_name for c in labels.label_info(CLASSES, 0.25, "16SC1").class_map}
    assert of_objects[0] == "background" and of_objects[object_id(2, 1)] == "drill"
    assert all(0 <= id_ < 2**15 for id_ in of_objects)
