"""Layouts of RViz and Foxglove show topics that the nodes publish."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from helpers.paths import CONFIG, PROJECT

PAGE = PROJECT / "docs" / "reference" / "segmentation_node.md"
CAMERA_TOPICS = {"/camera/camera/color/image_raw", "/camera/camera/color/camera_info", "/diagnostics"}


def topics(found: Any) -> set[str]:
    """Return everything in a layout that looks like a topic."""
    if isinstance(found, dict):
        return set().union(*(topics(part) for item in found.items() for part in item))
    if isinstance(found, list):
        return set().union(*map(topics, found))
    return {found} if isinstance(found, str) and re.fullmatch(r"(/\w+)+", found) else set()


@pytest.mark.parametrize("name", ["deal.rviz", "foxglove.json"])
def test_a_layout_shows_topics_of_the_node(name: str) -> None:
    text = (CONFIG / name).read_text()
    shown = topics(json.loads(text) if name.endswith("json") else yaml.safe_load(text)) - CAMERA_TOPICS
    documented = {f"/deal_segmentation/{topic}" for topic in re.findall(r"`~/([\w/]+)`", PAGE.read_text())}
    assert shown and shown <= documented


def test_every_panel_of_foxglove_has_its_place() -> None:
    layout = json.loads((CONFIG / "foxglove.json").read_text())

    def places(part: Any) -> set[str]:
        return {part} if isinstance(part, str) else places(part["first"]) | places(part["second"])

    assert places(layout["layout"]) == set(layout["configById"])
