"""Which topics a recording's pairs come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from deal_core.errors import RecordingError
from deal_core.recording.image_messages import MessageDecoder
from deal_core.recording.reader import open_recording
from deal_core.recording.topics import ImageTopics, find_topics

RGB = np.zeros((6, 8, 3), np.uint8)
DEPTH = np.zeros((6, 8), np.uint16)
PIXELS = {"rgb8": RGB, "bgr8": RGB, "mono8": DEPTH.astype(np.uint8), "16UC1": DEPTH, "mono16": DEPTH}
RS = "/camera/camera"


@pytest.fixture
def find(new_bag: Callable[[], Any], tmp_path: Path) -> Callable[..., ImageTopics]:
    """Record one message on each of some topics (name -> encoding or compression format), then look for pairs."""

    def _find(topics: dict[str, str], **options: str) -> ImageTopics:
        bag = new_bag()
        for stamp, (name, encoding) in enumerate(topics.items()):
            if name.endswith(("/compressed", "/compressedDepth")):
                image = DEPTH if "16UC1" in encoding else RGB
                bag.compressed(name, stamp, encoding, cv2.imencode(".png", image)[1].tobytes())
            else:
                bag.image(name, stamp, PIXELS[encoding], encoding)
        with open_recording(bag.save(tmp_path / "bag")) as recording:
            return find_topics(recording, MessageDecoder(), **options)

    return _find


@pytest.mark.parametrize(
    ("topics", "color", "depth"),
    [
        # realsense-ros, everything switched on
        (
            {
                f"{RS}/color/image_raw": "rgb8",
                f"{RS}/color/image_raw/compressed": "rgb8; jpeg compressed bgr8",
                f"{RS}/depth/image_rect_raw": "16UC1",
                f"{RS}/aligned_depth_to_color/image_raw": "16UC1",
                f"{RS}/aligned_depth_to_color/image_raw/compressed": "16UC1; jpeg compressed ",
                f"{RS}/aligned_depth_to_color/image_raw/compressedDepth": "16UC1; compressedDepth",
                f"{RS}/infra1/image_rect_raw": "mono8",
                f"{RS}/infra2/image_rect_raw": "mono16",
            },
            f"{RS}/color/image_raw",
            f"{RS}/aligned_depth_to_color/image_raw",
        ),
        # before the second `camera` came into the name
        (
            {"/camera/color/image_raw": "bgr8", "/camera/aligned_depth_to_color/image_raw": "mono16"},
            "/camera/color/image_raw",
            "/camera/aligned_depth_to_color/image_raw",
        ),
        # compressed only
        (
            {
                f"{RS}/color/image_raw/compressed": "rgb8; jpeg compressed bgr8",
                f"{RS}/aligned_depth_to_color/image_raw/compressedDepth": "16UC1; compressedDepth png",
            },
            f"{RS}/color/image_raw/compressed",
            f"{RS}/aligned_depth_to_color/image_raw/compressedDepth",
        ),
        # depth painted by the colorizer filter is no colour, our own overlay neither if a camera is there
        (
            {
                f"{RS}/color/image_raw": "rgb8",
                f"{RS}/depth/color_map": "rgb8",
                "/deal_segmentation/overlay": "rgb8",
                "/registered/depth/image": "16UC1",
            },
            f"{RS}/color/image_raw",
            "/registered/depth/image",
        ),
        # unknown names: the encodings decide
        ({"/left": "mono8", "/right": "16UC1"}, "/left", "/right"),
    ],
)
def test_found_by_type_encoding_and_name(
    find: Callable[..., ImageTopics], topics: dict[str, str], color: str, depth: str
) -> None:
    found = find(topics)
    assert (found.color.name, found.depth.name) == (color, depth)


def test_two_cameras_are_ambiguous_until_one_is_named(find: Callable[..., ImageTopics]) -> None:
    topics = {"/front/color/image_raw": "rgb8", "/rear/color/image_raw": "rgb8", "/front/depth/image": "16UC1"}
    with pytest.raises(RecordingError, match=r"2 colour topics.*--color-topic.*/front/color.*/rear/color") as caught:
        find(topics)
    assert "rgb8, 1 messages" in str(caught.value)


def test_the_named_topics_are_taken(find: Callable[..., ImageTopics]) -> None:
    topics = {"/a": "rgb8", "/b": "rgb8", "/c": "16UC1", "/d": "16UC1"}
    found = find(topics, color_topic="/b", depth_topic="/d")
    assert (found.color.name, found.depth.name) == ("/b", "/d")


def test_two_depth_topics_are_ambiguous(find: Callable[..., ImageTopics]) -> None:
    with pytest.raises(RecordingError, match=r"2 depth topics.*--depth-topic"):
        find({"/a": "rgb8", "/c": "16UC1", "/d": "16UC1"})


def test_no_depth_names_the_driver_option(find: Callable[..., ImageTopics]) -> None:
    with pytest.raises(RecordingError, match=r"no depth topic.*/a .rgb8, 1 messages.*align_depth\.enable:=true"):
        find({"/a": "rgb8"})


def test_no_colour_lists_what_is_there(find: Callable[..., ImageTopics]) -> None:
    with pytest.raises(RecordingError, match=r"no colour topic.*/d .16UC1.*--color-topic"):
        find({"/d": "16UC1"})


def test_a_misspelt_topic_gets_a_hint(find: Callable[..., ImageTopics]) -> None:
    with pytest.raises(RecordingError, match=r"no images on '/camera/colour'.*Did you mean '/camera/color'"):
        find({"/camera/color": "rgb8", "/d": "16UC1"}, color_topic="/camera/colour")


def test_a_topic_of_another_type_is_told(new_bag: Callable[[], Any], tmp_path: Path) -> None:
    bag = new_bag()
    bag.pair(1)
    bag.text("/chatter", 1, "hello")
    with (
        open_recording(bag.save(tmp_path / "bag")) as recording,
        pytest.raises(RecordingError, match="the topic has type std_msgs/msg/String"),
    ):
        find_topics(recording, MessageDecoder(), depth_topic="/chatter")


def test_an_odd_first_message_does_not_decide_what_a_topic_is(new_bag: Callable[[], Any], tmp_path: Path) -> None:
    bag = new_bag()
    for stamp in range(1, 8):
        bag.image("/color", stamp, RGB, "rgb8")
        drawn = stamp == 1  # the colorizer was on when the recording began
        bag.image("/depth", stamp, RGB if drawn else DEPTH, "rgb8" if drawn else "16UC1")
    with open_recording(bag.save(tmp_path / "bag")) as recording:
        found = find_topics(recording, MessageDecoder())
    assert (found.color.name, found.depth.name) == ("/color", "/depth")
