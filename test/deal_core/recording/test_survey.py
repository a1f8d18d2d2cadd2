"""Pairing whole files: random streams against a slow pairing, in any order and any file, and counts that add up."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deal_core.recording import survey as survey_room
from deal_core.recording.image_messages import MessageDecoder
from deal_core.recording.pairing import pair_stamps
from deal_core.recording.reader import open_recording
from deal_core.recording.tagged_frames import FrameReader
from deal_core.recording.tags import Skip, TagTimeline
from deal_core.recording.topics import find_topics
from deal_core.structures import TagState

COLOR = "/camera/camera/color/image_raw"
DEPTH = "/camera/camera/aligned_depth_to_color/image_raw"
MS = 1_000_000
START = 1_750_000_000_000_000_000
EVERYTHING = TagTimeline.constant(TagState())


def pair_slowly(colors: list[int], depths: list[int], slop: int) -> dict[int, int]:
    """Take the closest two of all stamps, again and again."""
    pairs: dict[int, int] = {}
    while True:
        near = [
            (abs(color - depth), color, depth)
            for color in set(colors) - pairs.keys()
            for depth in set(depths) - set(pairs.values())
            if abs(color - depth) <= slop
        ]
        if not near:
            return pairs
        _, color, depth = min(near)
        pairs[color] = depth


stamps = st.lists(st.integers(0, 60), max_size=14)


@given(stamps, stamps, st.integers(0, 12))
def test_pairs_are_those_of_the_slow_pairing(colors: list[int], depths: list[int], slop: int) -> None:
    assert pair_stamps(colors, depths, slop) == pair_slowly(colors, depths, slop)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Return the stamps of two streams in file order, with rates, an offset, jitter, losses and repeats."""
    offset = draw(st.sampled_from([0, 0, 4 * MS, -7 * MS]))
    found = []
    for shift in (0, offset):
        period = draw(st.sampled_from([33 * MS, 66 * MS, 17 * MS]))
        count = draw(st.integers(0, 12))
        jitter = draw(st.lists(st.integers(-2, 2), min_size=count, max_size=count))
        kept = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        made = [
            START + shift + index * period + jitter[index] * MS * bool(offset) for index in range(count) if kept[index]
        ]
        made += draw(st.lists(st.sampled_from(made), max_size=2)) if made else []
        found.append(draw(st.permutations(made)) if draw(st.booleans()) else made)
    return found[0], found[1]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    both=streams(),
    slop=st.sampled_from([0, 5 * MS, 12 * MS]),
    layout=st.sampled_from(["together", "colour first", "a file each", "split"]),
    held=st.sampled_from([64 * 2**20, 300]),
    storage=st.sampled_from(["mcap", "sqlite3"]),
)
def test_a_recording_gives_the_pairs_of_the_slow_pairing_from_any_files(
    both: tuple[list[int], list[int]],
    slop: int,
    layout: str,
    held: int,
    storage: str,
    new_bag: Callable[[], Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    colors, depths = both
    if not colors or not depths:
        return
    images = [(COLOR, stamp) for stamp in colors], [(DEPTH, stamp) for stamp in depths]
    in_order = [image for pair in zip(*images, strict=False) for image in pair]
    in_order += [image for stream in images for image in stream[min(map(len, images)) :]]
    half = len(in_order) // 2
    files = {
        "together": [in_order],
        "colour first": [[*images[0], *images[1]]],
        "a file each": list(images),
        "split": [in_order[:half], in_order[half:]],
    }[layout]
    folder = tmp_path_factory.mktemp("bag")
    for number, messages in enumerate(messages for messages in files if messages):
        bag = new_bag()
        for place, (topic, stamp) in enumerate(messages):
            is_color = topic == COLOR
            pixels = bag.color_of(stamp % 97, (2, 3)) if is_color else bag.depth_of(stamp % 89, (2, 3))
            bag.image(topic, stamp, pixels, "rgb8" if is_color else "16UC1", log_time=START + place)
        written = bag.save(folder / f"part_{number}", storage)
        for file in written.glob("part*.*"):
            shutil.move(file, folder / file.name)
        shutil.rmtree(written)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey_room, "_HELD_BYTES", held)
        with open_recording(folder) as recording:
            decoder = MessageDecoder()
            reader = FrameReader(recording, find_topics(recording, decoder), EVERYTHING, decoder, slop_ns=slop)
            frames = list(reader)
    expected = pair_slowly(colors, depths, slop)
    assert sorted(frame.pair.stamp_ns for frame in frames) == sorted(expected)
    bag = new_bag()
    for frame in frames:
        color, depth = frame.pair.stamp_ns, expected[frame.pair.stamp_ns]
        np.testing.assert_array_equal(frame.pair.color, bag.color_of(color % 97, (2, 3)))
        np.testing.assert_array_equal(frame.pair.depth_mm, bag.depth_of(depth % 89, (2, 3)))
    counts = reader.counts
    assert counts.pairing.paired == counts.frames + counts.skipped.total()
    assert set(counts.skipped) <= {Skip.REPEATED}
    assert counts.pairing.received_color == len(colors) == counts.pairing.paired + counts.pairing.unpaired_color.total()
    assert counts.pairing.received_depth == len(depths) == counts.pairing.paired + counts.pairing.unpaired_depth.total()
    shutil.rmtree(folder)


def read(path: Path, **options: Any) -> tuple[list[int], Counter[Skip], FrameReader]:
    with open_recording(path) as recording:
        decoder = MessageDecoder()
        reader = FrameReader(recording, find_topics(recording, decoder), EVERYTHING, decoder, **options)
        found = sorted(frame.pair.stamp_ns for frame in reader)
    return found, reader.counts.skipped, reader


def test_the_majority_decides_which_pair_is_odd(new_bag: Callable[[], Any], tmp_path: Path) -> None:
    bag = new_bag()
    for stamp in range(100, 1000, 100):
        bag.pair(stamp, (3, 4) if stamp in (100, 500) else (6, 8))
    found, skipped, reader = read(bag.save(tmp_path / "bag"))
    assert found == [200, 300, 400, 600, 700, 800, 900] and skipped == {Skip.SIZE_CHANGED: 2}
    assert reader.size == (6, 8)


def test_depth_of_another_camera_in_between_is_left_out(new_bag: Callable[[], Any], tmp_path: Path) -> None:
    bag = new_bag()
    for stamp in range(100, 1000, 100):
        bag.image(COLOR, stamp, bag.color_of(stamp), "rgb8", frame_id="/optical")
        frame = "rear_optical" if stamp in (100, 400) else "optical"
        bag.image(DEPTH, stamp, bag.depth_of(stamp), "16UC1", frame_id=frame)
    path = bag.save(tmp_path / "bag")
    found, skipped, _ = read(path)
    assert found == [200, 300, 500, 600, 700, 800, 900] and skipped == {Skip.NOT_ALIGNED: 2}
    assert len(read(path, aligned=True)[0]) == 9


def test_infrared_in_the_depth_topic_is_left_out(new_bag: Callable[[], Any], tmp_path: Path) -> None:
    bag = new_bag()
    for stamp in range(100, 700, 100):
        bag.image(COLOR, stamp, bag.color_of(stamp), "rgb8")
        bag.image(DEPTH, stamp, bag.depth_of(stamp), "mono16" if stamp == 100 else "16UC1")
    found, skipped, _ = read(bag.save(tmp_path / "bag"))
    assert found == [200, 300, 400, 500, 600] and skipped == {Skip.ENCODING_CHANGED: 1}


def test_stamps_of_a_clock_that_was_not_set_are_not_used(new_bag: Callable[[], Any], tmp_path: Path) -> None:
    bag = new_bag()
    for index in range(8):
        stamp = 5_000 + index if index < 2 else START + index * 33 * MS  # the first ones count from the start
        if index == 7:
            stamp = START + 400 * 86_400 * 10**9  # a year ahead
        for topic, pixels, encoding in ((COLOR, bag.color_of(1), "rgb8"), (DEPTH, bag.depth_of(1), "16UC1")):
            bag.image(topic, stamp, pixels, encoding, log_time=START + index * 33 * MS)
    found, _, reader = read(bag.save(tmp_path / "bag"))
    assert found == [START + index * 33 * MS for index in range(2, 7)]
    unpaired = reader.counts.pairing.unpaired
    assert unpaired == {f"{name}: stamp far from the time of recording": 3 for name in ("color", "depth")}


def test_compressed_images_are_surveyed_by_their_bytes(new_bag: Callable[[], Any], tmp_path: Path) -> None:
    import cv2

    bag = new_bag()
    for stamp in range(100, 600, 100):
        size = (3, 4) if stamp == 100 else (6, 8)
        bag.compressed(f"{COLOR}/compressed", stamp, "", cv2.imencode(".png", bag.color_of(stamp, size))[1].tobytes())
        bag.image(DEPTH, stamp, bag.depth_of(stamp), "16UC1")
    found, skipped, _ = read(bag.save(tmp_path / "bag"))
    assert found == [200, 300, 400, 500] and skipped == {Skip.NOT_ALIGNED: 1}


def test_the_held_memory_is_what_waits_for_its_partner(new_bag: Callable[[], Any], tmp_path: Path) -> None:
    bag = new_bag()
    for stamp in (100, 200, 300):
        bag.image(COLOR, stamp, bag.color_of(stamp), "rgb8", log_time=stamp)
        bag.image(DEPTH, stamp, bag.depth_of(stamp), "16UC1", log_time=1000 + stamp)
    _, _, reader = read(bag.save(tmp_path / "bag"))
    lengths = reader.survey.color.lengths
    assert reader.survey.held_bytes({100: 100, 200: 200, 300: 300}) == sum(lengths)
    assert reader.survey.held_bytes({200: 200}) == lengths[1]
