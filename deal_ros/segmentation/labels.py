"""Publish the class names of mask ids: vision_msgs/LabelInfo if vision_msgs is installed, otherwise JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from std_msgs.msg import String

from deal_core.errors import DealError
from deal_core.runtime.class_filter import OTHER_LABELS
from deal_core.runtime.objects import OBJECTS_PER_CLASS, object_id
from deal_core.structures import BACKGROUND, UNLABELLED, ClassList
from deal_core.text_formats import parse_json
from deal_ros.input.qos import labels_qos

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:  # not among the wheels on PyPI
    LabelInfo = VisionClass = None

LABEL_INFO_TOPIC = "label_info"
LABELS_JSON_TOPIC = "labels"


class LabelPublisher:
    """Publish the class names of mask ids; late subscribers receive the last message.

    The topic is `~/label_info` (vision_msgs/LabelInfo), or `~/labels` (std_msgs/String with the JSON of
    `labels_to_json`) if vision_msgs is not installed.

    Args:
        node: the node that publishes.
        mask_encoding: encoding of the masks, see `mask_labels`.
    """

    def __init__(self, node: Node, mask_encoding: str = "mono8") -> None:
        self._node, self._encoding = node, mask_encoding
        kind, topic = (String, LABELS_JSON_TOPIC) if LabelInfo is None else (LabelInfo, LABEL_INFO_TOPIC)
        self._publisher = node.create_publisher(kind, f"~/{topic}", labels_qos())

    def publish(self, classes: ClassList, threshold: float, model_hash: str) -> None:
        """Publish the labels of a model; they replace the previous labels."""
        if LabelInfo is None:
            message = String(data=labels_to_json(classes, model_hash, self._encoding))
        else:
            message = label_info(classes, threshold, self._encoding)
            message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def close(self) -> None:
        """Destroy the publisher; late subscribers no longer receive the labels."""
        self._node.destroy_publisher(self._publisher)


def subscribe_labels(node: Node, namespace: str, on_names: Callable[[dict[int, str]], None]) -> None:
    """Subscribe to the labels of the node with topics in `namespace`; `on_names` gets the class names by mask id."""
    if LabelInfo is not None:
        node.create_subscription(
            LabelInfo, f"{namespace}/{LABEL_INFO_TOPIC}", lambda found: on_names(_names(found)), labels_qos()
        )
    node.create_subscription(
        String, f"{namespace}/{LABELS_JSON_TOPIC}", lambda found: on_names(names_from_json(found.data)), labels_qos()
    )


def mask_labels(classes: ClassList, mask_encoding: str = "mono8") -> list[tuple[int, str, int]]:
    """Return every id that a mask can contain, its name, and the class id that has its colour.

    Args:
        classes: the classes of the model.
        mask_encoding: "mono8" for class ids with 255 for unlabelled, or "16SC1" for the ids of `object_mask`, where
            several ids have the name of one class.
    """
    ids = list(enumerate(classes.names, start=BACKGROUND + 1))
    background, unlabelled = OTHER_LABELS
    labels = [(BACKGROUND, background, BACKGROUND)]
    if mask_encoding == "mono8":
        labels += [(id_, name, id_) for id_, name in ids]
        return [*labels, (UNLABELLED, unlabelled, UNLABELLED)]
    numbers = range(1, OBJECTS_PER_CLASS + 1)
    return labels + [(object_id(id_, number), name, id_) for id_, name in ids for number in numbers]


def label_info(classes: ClassList, threshold: float, mask_encoding: str = "mono8") -> Any:
    """Return a vision_msgs/LabelInfo with every id that a mask can contain."""
    labels = mask_labels(classes, mask_encoding)
    return LabelInfo(
        class_map=[VisionClass(class_id=id_, class_name=name) for id_, name, _ in labels], threshold=float(threshold)
    )


def labels_to_json(classes: ClassList, model_hash: str, mask_encoding: str = "mono8") -> str:
    """Return the names and colours of mask ids as JSON.

    `{"labels": [{"id": 0, "name": "background", "color": [0, 0, 0]}, ...], "unlabelled": 255, "model": "<sha256>"}`;
    "unlabelled" is missing if the mask has ids of objects.
    """
    palette = classes.palette()
    labels = [
        {"id": id_, "name": name, "color": palette[like].tolist()}
        for id_, name, like in mask_labels(classes, mask_encoding)
    ]
    unlabelled = {"unlabelled": UNLABELLED} if mask_encoding == "mono8" else {}
    return json.dumps({"labels": labels, **unlabelled, "model": model_hash})


def names_from_json(text: str) -> dict[int, str]:
    """Return class names by mask id from the JSON of `labels_to_json`.

    Raises:
        DealError: the text is not the JSON of a labels topic.
    """
    try:
        return {int(label["id"]): str(label["name"]) for label in parse_json(text)["labels"]}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DealError(f"expected the JSON of a labels topic, found {text[:80]!r} ({error})") from None


def _names(message: Any) -> dict[int, str]:
    return {int(entry.class_id): str(entry.class_name) for entry in message.class_map}
