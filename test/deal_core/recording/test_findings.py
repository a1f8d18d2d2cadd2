"""A loss is a finding with its likely cause, and odd stamps are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deal_core.dataset.check import check_recording

COLOR = "/camera/camera/color/image_raw"
DEPTH = "/camera/camera/aligned_depth_to_color/image_raw"
MS = 1_000_000
START = 1_750_000_000_000_000_000
PERIOD = 33 * MS


def color(bag: Any, stamp: int, **options: Any) -> None:
    bag.image(COLOR, stamp, bag.color_of(1), "rgb8", **options)


def depth(bag: Any, stamp: int, **options: Any) -> None:
    bag.image(DEPTH, stamp, bag.depth_of(1), "16UC1", **options)


@pytest.mark.parametrize(("missing", "notes", "errors"), [(0, 0, 0), (1, 0, 0), (6, 1, 0), (30, 0, 1)])
def test_a_loss_is_noted_above_a_few_per_cent_and_an_error_above_half(
    new_bag: Callable[[], Any], tmp_path: Path, missing: int, notes: int, errors: int
) -> None:
    bag = new_bag()
    lost = set(np.random.default_rng(0).permutation(40)[:missing].tolist())
    for index in range(40):
        color(bag, START + index * PERIOD)
        # What takes the place of a lost depth image has another stamp.
        depth(bag, START + index * PERIOD + (11 * MS if index in lost else 0))
    report = check_recording(bag.save(tmp_path / "bag"))
    found = [text for text in report.notes if "no sound pair" in text]
    assert (len(found), len(report.errors)) == (notes, errors)
    said = [*found, *report.errors]
    assert all(f"{missing} of 40 colour images" in text and "--slop-ms 17" in text for text in said)


def test_a_slower_stream_is_no_loss(new_bag: Callable[[], Any], tmp_path: Path) -> None:
    bag = new_bag()
    for index in range(40):
        color(bag, START + index * PERIOD)
        if index % 3 == 0:
            depth(bag, START + index * PERIOD)
    report = check_recording(bag.save(tmp_path / "bag"))
    assert report.pairs == report.frames == 14 and report.errors == []
    assert not any("no sound pair" in note for note in report.notes)


@pytest.mark.parametrize(
    ("fill", "said"),
    [
        # The two streams were recorded one after the other.
        (lambda b, i: (color(b, START + i * PERIOD), depth(b, START + (i + 30) * PERIOD)), "overlap for 0.3 s of"),
        # A driver sets stamps of whole seconds.
        (
            lambda b, i: (
                color(b, START + i // 10 * 10**9, log_time=START + i * PERIOD),
                depth(b, START + i // 10 * 10**9 + 1, log_time=START + i * PERIOD),
                color(b, START + i // 10 * 10**9 + 1, log_time=START + i * PERIOD) if i == 5 else None,
            ),
            "stamps repeat",
        ),
        # No stamps, but for the first pair.
        (
            lambda b, i: (
                color(b, START if not i else 0, log_time=START + i * PERIOD),
                depth(b, START if not i else 0, log_time=START + i * PERIOD),
            ),
            "must set the stamps",
        ),
    ],
)
def test_the_likely_cause_is_named(
    new_bag: Callable[[], Any], tmp_path: Path, fill: Callable[[Any, int], Any], said: str
) -> None:
    bag = new_bag()
    for index in range(40):
        fill(bag, index)
    report = check_recording(bag.save(tmp_path / "bag"))
    assert any("no sound pair" in error and said in error for error in report.errors), report.errors


def test_stamps_that_go_back_or_lie_in_the_future_are_noted(new_bag: Callable[[], Any], tmp_path: Path) -> None:
    bag = new_bag()
    for index in range(20):
        stamp = START + index * PERIOD - (10**9 if index >= 10 else 0)  # the clock was set back by a second
        for add in (color, depth):
            add(bag, stamp, log_time=START + index * PERIOD - 5 * 10**9)  # by a recorder whose clock is behind
    report = check_recording(bag.save(tmp_path / "bag"))
    assert report.frames == 20 and report.errors == []
    assert any("1 colour images" in note and "earlier stamp" in note for note in report.notes)
    assert any("in the future of their recording, by up to 5 s" in note for note in report.notes)


def test_a_repaired_loop_of_a_bag_is_told(new_bag: Callable[[], Any], tmp_path: Path) -> None:
    bag = new_bag()
    for loop in range(3):
        for index in range(10):
            for add in (color, depth):
                add(bag, START + index * PERIOD, log_time=START + (10 * loop + index) * PERIOD)
    report = check_recording(bag.save(tmp_path / "bag"))
    assert report.frames == 10 and any("played in a loop" in error for error in report.errors)
