"""Recordings, datasets, masks, model files, checkpoints and run folders of version 0.1.0 still open.

Everything goes through the command line: modules may move, files may not stop opening.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

FILES = Path(__file__).with_name("written_by_0_1_0")
Deal = Callable[..., str]


@pytest.fixture
def run(deal: Callable[..., Any]) -> Deal:
    """Run a command that must succeed; return what it printed on stdout and stderr."""

    def call(*arguments: str | Path) -> str:
        done = deal(*arguments)
        assert done.returncode == 0, done.stderr
        return str(done.stdout or done.stderr)

    return call


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files, in which the working folder is."""
    copy = tmp_path / "files"
    shutil.copytree(FILES, copy)
    monkeypatch.chdir(copy)
    return copy


def test_a_recording_opens_and_its_dataset_is_up_to_date(run: Deal, files: Path) -> None:
    before = {file: file.read_bytes() for file in (files / "dataset").rglob("*") if file.is_file()}
    run("check", "recording")
    run("extract", "recording", "--out", "dataset")
    assert {file: file.read_bytes() for file in (files / "dataset").rglob("*") if file.is_file()} == before
    run("extract", "recording", "--out", "anew")
    for file in sorted((files / "dataset" / "recordings").rglob("*.png")):
        again = cv2.imread(str(files / "anew" / file.relative_to(files / "dataset")), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(again, cv2.imread(str(file), cv2.IMREAD_UNCHANGED)), file


def test_a_training_goes_on_from_its_checkpoint(run: Deal, files: Path) -> None:
    result = json.loads(run("train", "train.yaml", "output=interrupted_run", "--json"))
    assert (result["steps"], result["resumed_from"]) == (3, 2)
    steps = [json.loads(line) for line in (files / "interrupted_run" / "history.jsonl").read_text().splitlines()]
    whole = [json.loads(line) for line in (files / "cam_run" / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps] == [line["step"] for line in whole]
    # The same training: the machine's arithmetic may differ in the last digits, no more.
    for ours, theirs in zip(steps, whole, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)


def test_settings_files_of_0_1_0_are_read(run: Deal, files: Path) -> None:
    for name in ("cam_run", "distill_run"):
        shutil.copy(files / name / "settings.yaml", files / f"{name}.yaml")
    train = json.loads(run("train", "cam_run.yaml", "output=trained", "--json"))
    distil = json.loads(run("distill", "distill_run.yaml", "output=distilled", "--json"))
    assert train["steps"] == 3 and distil["steps"] > 0


def test_scores_and_masks_of_a_model_file_are_the_same(run: Deal, files: Path) -> None:
    options = ("cam_run/model.safetensors", "dataset", "--refine", "par", "--device", "cpu")
    assert "0 frames written, 6 existed already" in run("cams", *options, "--out", "masks")
    run("cams", *options, "--out", "anew")
    for file in sorted((files / "masks" / "recording").glob("*.npz")):
        theirs, ours = np.load(file), np.load(files / "anew" / "recording" / file.name)
        assert np.array_equal(theirs["classes"], ours["classes"])
        np.testing.assert_allclose(ours["scores"].astype(int), theirs["scores"].astype(int), atol=2)


def test_a_segmenter_and_its_report_open(run: Deal, files: Path) -> None:
    color = sorted((files / "dataset" / "recordings" / "recording" / "color").iterdir())[0]
    assert run("segment", "distill_run/model.safetensors", color, "--out", "segmented") is not None
    result = json.loads(
        run("evaluate", "distill_run/model.safetensors", "dataset", "--out", "distill_run", "--device", "cpu", "--json")
    )
    assert result["num_frames"] == 6
    run("report", "cam_run", "distill_run", "--out", "report.html")
    page = (files / "report.html").read_text()
    assert "cam_run" in page and "distill_run" in page


def test_an_evaluation_is_made_again_with_the_same_figures(run: Deal, files: Path) -> None:
    theirs = json.loads((files / "cam_run" / "evaluation.json").read_text())
    ours = json.loads(
        run("evaluate", "cam_run/model.safetensors", "dataset", "--out", "anew", "--device", "cpu", "--json")
    )
    assert ours["auto"]["miou"] == pytest.approx(theirs["auto"]["miou"], abs=0.01)
    assert ours["oracle"]["miou"] == pytest.approx(theirs["oracle"]["miou"], abs=0.02)
    assert ours["classes"] == theirs["classes"] and ours["num_frames"] == theirs["num_frames"]
