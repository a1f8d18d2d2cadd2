"""Outlines cover the pixels that they say, and refuse what they cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.dataset.dataset import Dataset, FrameRecord
from deal_core.errors import DatasetError
from deal_core.label_tools.outlines import (
    Brush,
    RowRuns,
    Shape,
    box,
    ellipse,
    pack_brush,
    polygon,
    unpack_brush,
    with_boxes,
)

SIZE = (36, 48)


@pytest.fixture
def frame(dataset: Dataset) -> FrameRecord:
    return replace(dataset.frames[0], mask=Path("source.json"))


def brush_by_hand(data: bytes) -> list[int]:
    """The values of a brush, read bit by bit from a text of ones and zeros, as Label Studio's page does."""
    bits = "".join(f"{byte:08b}" for byte in data)
    at = 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    number, word = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < number:
        is_run, kind = read(1), read(2)
        length = read(lengths[kind]) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    return values


runs = st.lists(
    st.tuples(st.integers(0, 255), st.sampled_from([1, 2, 8, 9, 16, 17, 255, 257, 65536, 65537])),
    min_size=1,
    max_size=8,
)


@given(runs)
def test_a_brush_is_packed_and_unpacked(parts: list[tuple[int, int]]) -> None:
    values = np.array([value for value, length in parts for _ in range(length)], np.uint8)
    data = pack_brush(values)
    np.testing.assert_array_equal(unpack_brush(data, len(values)), values)
    if len(values) < 3000:
        assert brush_by_hand(data) == values.tolist()


def test_runs_of_different_values_are_unpacked() -> None:
    head = f"{5:032b}{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    bits = (
        head + "0" + "00" + f"{2:03b}" + "".join(f"{v:08b}" for v in (9, 8, 7)) + "1" + "00" + f"{1:03b}" + f"{6:08b}"
    )
    bits += "0" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    assert unpack_brush(data, 5).tolist() == [9, 8, 7, 6, 6] == brush_by_hand(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends too early"),
        (pack_brush(np.zeros(8, np.uint8))[:-1], "ends too early"),
        (pack_brush(np.zeros(7, np.uint8)), "7 values, expected 8"),
        (bytes([255] * 40), "4294967295 values"),
        (
            (8).to_bytes(4, "big") + bytes([0b00111_001, 0b0_0011_011, 0b1_1111_1_11, 255, 255, 255]),
            "behind the last of 8",
        ),
        ((8).to_bytes(4, "big") + bytes([255] * 9), "values of 32 bits"),
    ],
)
def test_a_damaged_brush_is_refused(data: bytes, reason: str, frame: FrameRecord) -> None:
    with pytest.raises(ValueError, match=reason):
        unpack_brush(data, 8)
    with pytest.raises(DatasetError, match=r"source.json: a brush of image 1000000000 cannot be read"):
        Brush(list(data), (1, 2)).pixels(frame, SIZE)


def test_row_runs_go_along_the_rows_of_their_box(frame: FrameRecord) -> None:
    covered = RowRuns([1, 2, 0, 3], 4, 5, 3, 2, SIZE).pixels(frame, SIZE)
    expected = np.zeros(SIZE, bool)
    expected[5, 5:7] = expected[6, 4:7] = True
    np.testing.assert_array_equal(covered, expected)
    # Of an image half as large, each pixel becomes four.
    small = RowRuns([0, 1], 2, 3, 1, 1, (18, 24)).pixels(frame, SIZE)
    assert small[6:8, 4:6].all() and small.sum() == 4


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        (RowRuns([6], 46, 0, 3, 2, SIZE), "outside the image"),
        (RowRuns([6], 0, -1, 3, 2, SIZE), "outside the image"),
        (RowRuns([0], 0, 0, 0, 2, SIZE), "outside the image"),
        (RowRuns([5], 0, 0, 3, 2, SIZE), "have 5 pixels, expected 3 x 2"),
        (RowRuns([-1, 7], 0, 0, 3, 2, SIZE), "have 6 pixels"),
        (RowRuns([6], 0, 0, 3, 2, (10, 50)), "has size"),
        (RowRuns([6], 0, 0, 3, 2, (10**5, 10**5)), "over the limit"),
    ],
)
def test_row_runs_that_do_not_fit_are_refused(runs: RowRuns, reason: str, frame: FrameRecord) -> None:
    with pytest.raises(DatasetError, match=reason):
        runs.pixels(frame, SIZE)


def test_polygons_boxes_and_ellipses_cover_their_area(frame: FrameRecord) -> None:
    rectangle = box(10, 5, 20, 15).pixels(frame, SIZE)
    assert rectangle[5:15, 10:20].all() and rectangle.sum() == 100
    same = polygon([(10, 5), (20, 5), (20, 15), (10, 15)]).pixels(frame, SIZE)
    np.testing.assert_array_equal(same, rectangle)
    np.testing.assert_array_equal(box(10, 5, 20, 15, 180).pixels(frame, SIZE), rectangle)
    # Turned clockwise by a right angle about its corner, it lies on the left of it.
    turned = box(20, 5, 30, 9, 90, (20, 5)).pixels(frame, SIZE)
    assert turned[5:15, 16:20].all() and turned.sum() == 40
    rows, columns = np.indices(SIZE)
    inside = ((columns + 0.5 - 24) / 12) ** 2 + ((rows + 0.5 - 18) / 6) ** 2 <= 1
    assert (ellipse(24, 18, 12, 6).pixels(frame, SIZE) != inside).sum() <= 12
    with pytest.raises(ValueError, match="2 corners, expected at least 3"):
        polygon([(0, 0), (1, 1)])


def test_boxes_are_refused_drawn_or_left_out() -> None:
    shapes = [Shape("mug", box(1, 1, 5, 5)), Shape("jar", polygon([(0, 0), (4, 0), (4, 4)]))]
    with pytest.raises(DatasetError, match=r"f: 'mug' in image 'x.png' is a box without an outline.*--boxes draw"):
        with_boxes(shapes, "refuse", Path("f"), "x.png")
    assert with_boxes(shapes, "draw", Path("f"), "x.png") == tuple(shapes)
    assert [shape.label for shape in with_boxes(shapes, "skip", Path("f"), "x.png")] == ["jar"]
    assert len(with_boxes(shapes[1:], "refuse", Path("f"), "x.png")) == 1
