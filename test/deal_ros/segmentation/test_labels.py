"""What a mask's ids mean, in both forms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_core.errors import DealError
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
        ],
        "unlabelled": 255,
        "model": "ab" * 32,
    }
    assert labels.names_from_json(text) == {0: "background", 1: "mug", 2: "drill"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"labels": [{"id": 1}]}', '{"labels": [{"id": "x", "name": "y"}]}'])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(DealError, match="expected the JSON of a labels topic"):
        labels.names_from_json(text)


def test_label_info_lists_every_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real messages where vision_msgs is installed, else with classes of the same fields."""

    @dataclass
    class VisionClass:
        class_id: int
        class_name: str

    @dataclass
    class LabelInfo:
        class_map: list[Any] = field(default_factory=list)
        threshold: float = 0.0

    if labels.LabelInfo is None:
        monkeypatch.setattr(labels, "LabelInfo", LabelInfo)
        monkeypatch.setattr(labels, "VisionClass", VisionClass)
    message = labels.label_info(CLASSES, 0.25)
    assert [(c.class_id, c.class_name) for c in message.class_map] == [(0, "background"), (1, "mug"), (2, "drill")]
    assert message.threshold == 0.25
