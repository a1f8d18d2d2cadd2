"""What people can do to a recorder: keys, names and tags, whoever says them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deal_core.errors import RecordingError, UsageError
from deal_core.recorder.controls import Control, RecorderControls
from deal_core.recorder.pair_recorder import PairRecorder, RecorderSettings
from deal_core.recording.image_encodings import RawImage
from deal_core.structures import ClassList, TagMarker, TagState

CLASSES = ClassList(("mug", "drill", *(f"class {n}" for n in range(3, 12))))


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def controls(said: list[str]) -> RecorderControls:
    recorder = PairRecorder(RecorderSettings(CLASSES, rate_hz=0, planned_minutes=0))
    end = Control("end", "q", "end the recording", lambda source: f"ended by {source}")
    return RecorderControls(recorder, [end], said.append)


@pytest.mark.parametrize(
    ("keys", "present", "marker"),
    [
        ("1", ("mug",), "partial"),
        ("121", ("drill",), "partial"),
        ("0", ("class 10",), "partial"),
        ("12c", (), "partial"),
        ("1m", ("mug",), "complete"),
        ("1mm", ("mug",), "partial"),
        ("1mi", ("mug",), "ignore"),
        ("1mii", ("mug",), "complete"),
    ],
)
def test_keys_set_tags(
    controls: RecorderControls, said: list[str], keys: str, present: tuple[str, ...], marker: str
) -> None:
    answers = [controls.press(key, "keyboard") for key in keys]
    assert controls.recorder.state.tags == TagState(present, marker=TagMarker(marker))
    assert answers == said and said[-1] == f"tags: {', '.join(present) or 'none'} ({marker})"


def test_what_changes_nothing_is_answered_and_not_told(controls: RecorderControls, said: list[str]) -> None:
    assert controls.set_tags("+mug", "page") == controls.set_tags("+mug", "page") == "tags: mug (partial)"
    assert controls.switch_marker(TagMarker.COMPLETE, True, "service") == "tags: mug (complete)"
    assert controls.switch_marker(TagMarker.COMPLETE, True, "service") == "tags: mug (complete)"
    assert controls.switch_marker(TagMarker.IGNORE, False, "service") == "tags: mug (complete)"
    assert said == ["tags: mug (partial)", "tags: mug (complete)"]
    with pytest.raises(UsageError, match="Did you mean 'mug'"):
        controls.set_tags("+mugg", "page")


def test_every_other_thing_has_a_key_and_a_name(controls: RecorderControls, said: list[str], tmp_path: Path) -> None:
    assert controls.press("q", "keyboard") == "ended by keyboard" and controls.do("end", "page") == "ended by page"
    assert controls.press("x", "keyboard") is None and said == []
    with pytest.raises(UsageError, match=r"found 'discard'.*Did you mean 'discard_last'"):
        controls.do("discard", "page")
    for control in controls.offered[:3]:
        with pytest.raises(RecordingError, match="no recording is running"):
            controls.press(control.key, "keyboard")
    recorder = controls.recorder
    for stamp in (1, 2):
        recorder.add_color(RawImage.of(np.zeros((6, 8, 3), np.uint8), stamp, "optical", "rgb8"))
        recorder.add_depth(RawImage.of(np.ones((6, 8), np.uint16), stamp, "optical", "16UC1"))
        if stamp == 1:
            recorder.start(tmp_path / "kitchen", with_latest=True)
    assert [controls.do(control.name, "page") for control in controls.offered[:3]] == said
    assert said[:2] == ["a new segment begins; tags: none (partial)", "the next pair is kept"]
    assert said[2] == "discarded the last segment: 2 pairs"
    recorder.stop()


def test_the_help_names_every_key(controls: RecorderControls) -> None:
    text = controls.key_help()
    assert text.startswith("keys: 1 mug, 2 drill, ") and "0 class 10" in text and "class 11" not in text
    assert text.endswith("n next segment, k keep the next pair, u undo the last segment, q end the recording")
