"""Taps and boxes in frames.jsonl: what is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.taps import Box, BoxLine, Tap, TapLine, marks_to_json
from deal_core.dataset.writer import DatasetWriter
from deal_core.errors import DatasetError
from deal_core.structures import ClassList, RgbdPair, TagState

CLASSES = ClassList(("mug", "jar"))
NUMBERS = st.integers(0, 5000)


def write(path: Path, **keys: Any) -> None:
    """One frame whose line has additional keys."""
    with DatasetWriter(path, CLASSES).recording("a") as folder:
        folder.write(RgbdPair(0, np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint16)), TagState(), 0)
    file = path / "recordings" / "a" / "frames.jsonl"
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}) + "\n")


def test_marks_are_read_from_the_line_of_their_frame(tmp_path: Path) -> None:
    points = [{"class": "mug", "x": 5, "y": 0}, {"class": "jar", "x": 1, "y": 2, "is": False}]
    write(tmp_path, points=points, boxes=[{"class": "jar", "left": 0, "top": 1, "right": 6, "bottom": 4}])
    marks = Dataset.open(tmp_path).frames[0].marks
    assert marks == (Tap("mug", 5, 0), Tap("jar", 1, 2, False), Box("jar", 0, 1, 6, 4))


def test_a_line_without_marks_has_none(tmp_path: Path) -> None:
    write(tmp_path)
    assert Dataset.open(tmp_path).frames[0].marks == ()
    assert marks_to_json(()) == {}


@given(
    st.builds(Tap, st.sampled_from(CLASSES.names), NUMBERS, NUMBERS, st.booleans()),
    st.builds(
        lambda name, x, y, w, h: Box(name, x, y, x + w + 1, y + h + 1),
        st.sampled_from(CLASSES.names),
        *[NUMBERS] * 4,
    ),
)
def test_what_is_written_is_read_again(tap: Tap, box: Box) -> None:
    line = json.loads(json.dumps(marks_to_json((tap, box))))
    assert TapLine.model_validate(line["points"][0]).tap() == tap
    assert BoxLine.model_validate(line["boxes"][0]).box() == box


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"points": [{"class": "mugg", "x": 1, "y": 1}]}, r"line 1: unknown class 'mugg'.*Did you mean 'mug'"),
        ({"points": [{"class": "mug", "x": -1, "y": 1}]}, r"line 1: 'points.*x"),
        ({"points": [{"class": "mug", "x": 1.5, "y": 1}]}, r"line 1: 'points.*x"),
        ({"points": {"class": "mug"}}, r"line 1: 'points"),
        ({"boxes": [{"class": "mug", "left": 3, "top": 1, "right": 3, "bottom": 2}]}, r"line 1: 'boxes.*left below"),
        ({"boxes": [{"class": "mug", "left": 3, "top": 1, "right": 5}]}, r"line 1: 'boxes.*bottom"),
    ],
)
def test_a_wrong_mark_is_refused_by_file_and_line(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    write(tmp_path, **keys)
    with pytest.raises(DatasetError, match=r"frames\.jsonl " + message):
        Dataset.open(tmp_path)
