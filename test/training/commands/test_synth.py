"""`deal synth` as a person calls it."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

pytest.importorskip("embreex", reason="embreex (extra 'train') renders the scenes")
pytest.importorskip("trimesh", reason="trimesh (extra 'train') makes the meshes")

from training.cli import main
from training.commands.synth import synth


def deal(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["deal", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
        sys.exit(0)
    code = stopped.value.code
    return code if isinstance(code, int) else 0


SMALL = ("--scenes", 1, "--frames-per-scene", 2, "--size", "64x48")


@pytest.mark.parametrize(("number", "files"), [(0, 20), (1, 21)])
def test_the_examples_in_the_help_run(monkeypatch, tmp_path, number, files):
    words = shlex.split(re.findall(r"^\s*deal (synth .*)$", synth.__doc__ or "", re.MULTILINE)[number])
    words[1] = str(tmp_path / "example")
    assert deal(monkeypatch, *words) == 0
    assert (tmp_path / "example" / "metadata.yaml").is_file()
    assert len(list((tmp_path / "example" / "ground_truth").iterdir())) == files


def test_rooms_are_recordings_that_check_and_extract_take(monkeypatch, tmp_path, capsys):
    options = ("--world", "rooms", "--difficulty", "flat,stacked", "--tag-faults", "partial=0.5", "--split", "final")
    assert deal(monkeypatch, "synth", tmp_path / "room", *SMALL, *options) == 0
    assert deal(monkeypatch, "check", tmp_path / "room") == 0
    assert deal(monkeypatch, "extract", tmp_path / "room", "--out", tmp_path / "dataset") == 0
    poses = json.loads((tmp_path / "room" / "ground_truth" / "poses.json").read_text())
    assert len(poses) == 2
    assert not list((tmp_path / "dataset").rglob("poses.json"))  # training never sees them


def test_json_is_one_document_on_stdout(monkeypatch, tmp_path, capsys):
    path = tmp_path / "table"
    assert deal(monkeypatch, "synth", path, *SMALL, "--classes", 2, "--seed", 4, "--json") == 0
    out = json.loads(capsys.readouterr().out)
    assert out == {"recording": str(path), "frames": 2, "classes": ["mug", "jar"], "size": [64, 48], "seed": 4}


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--size", "big"), 2, "--size: expected two whole numbers like 320x240, found 'big'"),
        (("--size", "640"), 2, "--size"),
        (("--size", "8x8"), 2, "width: expected 32 to 1920, found 8"),
        (("--objects", "4-2"), 2, "objects_per_scene"),
        (("--prints", "-3"), 2, "--prints"),
        (("--classes", "40"), 2, "num_classes: expected 1 to 12, found 40"),
        (("--scenes", "0"), 2, "scenes"),
        (("--seed", "-1"), 2, "seed"),
        (("--world", "moon"), 2, "moon"),
        (("--world", "rooms", "--objects", "2-4"), 2, "--objects is only for --world tabletops"),
        (("--world", "rooms", "--prints", "1-3"), 2, "--prints is only for --world tabletops"),
        (("--difficulty", "holes"), 2, "--difficulty is only for --world rooms"),
        (("--tag-faults", "one"), 2, "--tag-faults is only for --world rooms"),
        (("--split", "final"), 2, "--split is only for --world rooms"),
        (("--world", "rooms", "--difficulty", "hole"), 2, "Did you mean 'holes'?"),
        (("--world", "rooms", "--difficulty", "holes,holes"), 2, "expected each at most once, found holes, holes"),
        (("--world", "rooms", "--tag-faults", "wrong=2"), 2, "expected wrong from 0 to 1, found 2.0"),
        (("--world", "rooms", "--split", "test"), 2, "test"),
        (("--world", "rooms", "--classes", "13"), 2, "num_classes: expected 1 to 12, found 13"),
    ],
)
def test_wrong_options_are_named(monkeypatch, tmp_path, capsys, options, code, said):
    assert deal(monkeypatch, "synth", tmp_path / "table", *options) == code
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_existing_path_needs_overwrite(monkeypatch, tmp_path, capsys):
    path = tmp_path / "table"
    assert deal(monkeypatch, "synth", path, *SMALL) == 0
    assert deal(monkeypatch, "synth", path, *SMALL) == 1
    assert "exists already" in capsys.readouterr().err
    assert deal(monkeypatch, "synth", path, *SMALL, "--seed", 8, "--overwrite") == 0
    other: Path = tmp_path / "notes"
    other.mkdir()
    assert deal(monkeypatch, "synth", other, *SMALL, "--overwrite") == 1
    assert "is not a recording" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes", "table"]
