"""Commands on an output that another process writes: refused with its number, and done after it was killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import PROJECT

from deal_core.files import replacing, replacing_folder

CONFIG = PROJECT / "config"
HOLD = """
import sys, time
from pathlib import Path
from deal_core.errors import DatasetError
from deal_core.files import owning
with owning(Path(sys.argv[1]), DatasetError):
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def words(kitchen: Path, tiny_dataset: Path, segmenter: Path, tmp_path: Path) -> dict[str, list[object]]:
    """The words of each command that fills a folder `out`."""
    folder, dataset, model = tmp_path, tiny_dataset, segmenter / "model.safetensors"
    tiny = ["epochs=1", "batch_size=3", "device=cpu", f"data.path={dataset}", f"output={folder / 'out'}"]
    return {
        "extract": ["extract", kitchen, "--out", folder / "out"],
        "train": ["train", CONFIG / "train.yaml", *tiny, "model.arguments={backbone: test_resnet}", "deal.weight=0"],
        "distill": ["distill", CONFIG / "distill.yaml", *tiny, "masks=drawn", "model.arguments={encoder: test_resnet}"],
        "cams": ["cams", model, dataset, "--out", folder / "out", "--device", "cpu"],
        "evaluate": ["evaluate", model, dataset, "--out", folder / "out", "--device", "cpu"],
        "segment": ["segment", model, dataset / "recordings" / "tiny" / "color", "--out", folder / "out"],
        "experiments": ["experiments", "synthetic", "--out", folder / "out", "--scenes", "2", "--test-scenes", "2"],
    }


@pytest.mark.parametrize("name", ["extract", "train", "distill", "cams", "evaluate", "segment", "experiments"])
def test_the_second_is_refused_with_the_number_of_the_first(
    deal: Callable[..., Any], words: dict[str, list[object]], tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    first = subprocess.Popen([sys.executable, "-c", HOLD, out], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None and first.stdout.readline() == "ready\n"
        done = deal(*words[name])
        said = " ".join(done.stderr.split())
        assert done.returncode == 1 and "Traceback" not in said
        assert f"is being written by process {first.pid}: wait until it ends, or end it" in said
        assert [path.name for path in out.iterdir()] == [".owner"]
    finally:
        first.kill()
        first.wait()
    if name == "extract":
        assert deal(*words[name]).returncode == 0 and not list(out.rglob(".*")), "the lock of a dead process is no lock"


def test_two_that_write_one_file_or_folder(deal: Callable[..., Any], kitchen: Path, tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "out") as new:
        done = deal("synth", tmp_path / "out", "--scenes", "1", "--frames-per-scene", "1", "--size", "64x48")
        assert done.returncode == 1 and f"written by process {os.getpid()}" in " ".join(done.stderr.split())
        new.joinpath("file").touch()
    assert deal("extract", kitchen, "--out", tmp_path / "dataset").returncode == 0
    with replacing(tmp_path / "tags.csv") as file:
        file.touch()
        done = deal("tag", tmp_path / "dataset", "--export", tmp_path / "tags.csv")
        assert done.returncode == 1 and f"written by process {os.getpid()}" in " ".join(done.stderr.split())


def test_a_dataset_in_every_state_that_a_kill_leaves(deal: Callable[..., Any], kitchen: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert deal("extract", kitchen, "--out", whole).returncode == 0
    expected = {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    work = out / "recordings" / ".kitchen.tmp"
    states: list[Callable[[], object]] = [
        lambda: out.mkdir(),
        lambda: (out.mkdir(), (out / ".owner").touch()),
        lambda: work.mkdir(parents=True),
        lambda: (work.mkdir(parents=True), (work / ".owner").write_text("1 vm\n"), (work / "new").mkdir()),
        lambda: ((work / "new" / "color").mkdir(parents=True), (work / ".owner").touch(), (work / "new" / "x").touch()),
        lambda: ((out / ".dataset.yaml.tmp").mkdir(parents=True), (out / ".dataset.yaml.tmp" / ".owner").touch()),
        lambda: (out / "recordings" / ".kitchen.1a2b3c4d.tmp" / "color").mkdir(parents=True),  # of version 0.1.0
        lambda: (work.mkdir(parents=True), (out / "dataset.yaml").write_bytes(expected[Path("dataset.yaml")])),
    ]
    for number, make in enumerate(states):
        make()
        checked = json.loads(deal("check", out, "--json").stdout)
        assert number == 0 or any("killed left it" in note for note in checked["notes"])
        done = deal("extract", kitchen, "--out", out)
        assert done.returncode == 0, done.stderr
        assert {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} == expected
        assert not list(out.rglob(".*"))
        for path in sorted(out.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        out.rmdir()


def test_a_folder_of_somebody_is_still_refused(deal: Callable[..., Any], kitchen: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "recordings" / ".kitchen.tmp").mkdir(parents=True)
    (tmp_path / "out" / "notes.txt").touch()
    done = deal("extract", kitchen, "--out", tmp_path / "out")
    assert done.returncode == 1 and "exists and is not a dataset" in done.stderr
    assert (tmp_path / "out" / "recordings" / ".kitchen.tmp").is_dir(), (
        "in a folder of another kind, nothing is removed"
    )


def test_a_full_disk_has_a_name_and_leaves_nothing(
    deal: Callable[..., Any], kitchen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path.write_bytes
    room = [3]

    def write_bytes(file: Path, data: Any) -> int:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(28, "No space left on device", str(file))
        return whole(file, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    done = deal("extract", kitchen, "--out", tmp_path / "out")
    assert done.returncode == 1 and "cannot be written: the disk is full" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()
    room[0] = 1000
    assert deal("extract", kitchen, "--out", tmp_path / "out").returncode == 0
