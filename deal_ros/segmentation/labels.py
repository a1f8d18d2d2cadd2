"""Publish the class names of mask ids: vision_msgs/LabelInfo if vision_msgs is installed, otherwise JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from std_msgs.msg import String

from deal_core.errors import DealError
from deal_core.structures import BACKGROUND, UNLABELLED, ClassList
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
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        kind, topic = (String, LABELS_JSON_TOPIC) if LabelInfo is None else (LabelInfo, LABEL_INFO_TOPIC)
        self._publisher = node.create_publisher(kind, f"~/{topic}", labels_qos())

    def publish(self, classes: ClassList, threshold: float, model_hash: str) -> None:
        """Publish the labels of a model; they replace the previous labels."""
        if LabelInfo is None:
            message = String(data=labels_to_json(classes, model_hash))
        else:
            message = label_info(classes, threshold)
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


def label_info(classes: ClassList, threshold: float) -> Any:
    """Return a vision_msgs/LabelInfo; unlabelled (255) is the highest id by convention and is not listed."""
    names = enumerate(["background", *classes.names], start=BACKGROUND)
    return LabelInfo(
        class_map=[VisionClass(class_id=id_, class_name=name) for id_, name in names], threshold=float(threshold)
    )


def labels_to_json(classes: ClassList, model_hash: str) -> str:
    """Return the names and colours of mask ids as JSON.

    `{"labels": [{"id": 0, "name": "background", "color": [0, 0, 0]}, ...], "unlabelled": 255, "model": "<sha256>"}`
    """
    palette = classes.palette()
    names = enumerate(["background", *classes.names], start=BACKGROUND)
    labels = [{"id": id_, "name": name, "color": palette[id_].tolist()} for id_, name in names]
    return json.dumps({"labels": labels, "unlabelled": UNLABELLED, "model": model_hash})


def names_from_json(text: str) -> dict[int, str]:
    """Return class names by mask id from the JSON of `labels_to_json`.

    Raises:
        DealError: the text is not the JSON of a labels topic.
    """
    try:
        return {int(label["id"]): str(label["name"]) for label in json.loads(text)["labels"]}
    except (KeyError, TypeError, ValueError) as error:
        raise DealError(f"expected the JSON of a labels topic, found {text[:80]!r} ({error})") from None


def _names(message: Any) -> dict[int, str]:
    return {int(entry.class_id): str(entry.class_name) for entry in message.class_map}
