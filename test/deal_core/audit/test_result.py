"""The file of an audit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deal_core.audit.result import Audit, ClassFacts, NextFrame, PlaceShortcut, WrongTag, WrongTags
from deal_core.errors import EvaluationError

AUDIT = Audit(
    dataset="kitchen",
    frames=20,
    visits=4,
    classes=(ClassFacts("mug", 3, 1, 0.9, None),),
    wrong_tags=WrongTags((WrongTag("mug", "present", "a", 2, ("a/1", "a/2"), 0.9),), 40, 2.5, 0.9, 0.36),
    shortcuts=(PlaceShortcut("mug", 0.97, ("a/1",)),),
    notes=("note",),
    record_next=("mug: more",),
    next_frames=(NextFrame("a/3", "a", 0, ("mug",), False),),
)


def test_a_file_gives_the_same_audit(tmp_path: Path) -> None:
    AUDIT.write(tmp_path / "audit.json")
    assert Audit.read(tmp_path / "audit.json") == AUDIT
    assert json.loads((tmp_path / "audit.json").read_text())["version"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "expected an audit of version 1, found 2"),
        ({"frames": "many"}, "frames"),
        ({"extra": 1}, "extra"),
        ({"wrong_tags": {}}, "wrong_tags"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    file = tmp_path / "audit.json"
    file.write_text(json.dumps({**AUDIT.to_json(), **change}))
    with pytest.raises(EvaluationError, match=said) as error:
        Audit.read(file)
    assert str(file) in str(error.value) and "deal audit" in str(error.value)


def test_what_is_no_audit_is_refused(tmp_path: Path) -> None:
    for content in ("[1]", "{", ""):
        (tmp_path / "audit.json").write_text(content)
        with pytest.raises(EvaluationError, match=r"audit\.json"):
            Audit.read(tmp_path / "audit.json")
    with pytest.raises(EvaluationError, match="missing"):
        Audit.read(tmp_path / "missing.json")


def test_a_shortcut_says_what_to_record() -> None:
    said = str(AUDIT.shortcuts[0])
    assert "without mug" in said and "a/1" in said and "97%" in said
