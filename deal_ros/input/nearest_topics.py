"""Image topics that exist, for a subscription whose topic nobody publishes."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

from rclpy.node import Node

_SHOWN = 3
_IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


def published_image_topics(node: Node, message_type: type) -> list[str]:
    """Return the topics on which other nodes publish images of a type; if there are none, images of any type.

    Args:
        node: node that looks; its own outputs are left out.
        message_type: `Image` or `CompressedImage`.
    """
    own = f"{node.get_fully_qualified_name()}/"
    found = [
        (name, kind)
        for name, kinds in node.get_topic_names_and_types()
        for kind in kinds
        if kind in _IMAGE_TYPES and not name.startswith(own) and node.count_publishers(name)
    ]
    wanted = f"sensor_msgs/msg/{message_type.__name__}"
    return sorted({name for name, kind in found if kind == wanted} or {name for name, _ in found})


def nearest_topics(wanted: str, existing: Iterable[str]) -> tuple[str, ...]:
    """Return up to three topic names, the one most like `wanted` first."""

    def similarity(name: str) -> float:
        # By tokens, so that color is not near to depth because both are in /camera/camera, and by letters.
        return sum(
            SequenceMatcher(None, one, other, autojunk=False).ratio()
            for one, other in ((wanted, name), (wanted.split("/"), name.split("/")))
        )

    return tuple(sorted(existing, key=lambda name: (-similarity(name), name))[:_SHOWN])


def describe_nearest(names: tuple[str, ...]) -> str:
    """Return a clause about the nearest topics, to follow one that says that a topic has no publisher."""
    if not names:
        return "no image topic has one"
    return f"the nearest image {'topic' if len(names) == 1 else 'topics'} with one: {', '.join(names)}"
