"""`deal demo` at its smallest, as a process: it must end well, and every pair sent to the node must be answered."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from helpers.paths import PROJECT

from deal_core.errors import UsageError
from deal_core.models.model_file import read_info
from training.commands.demo import fresh_folder


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.ros
@pytest.mark.skipif(importlib.util.find_spec("rclpy") is None, reason="rclpy is not installed")
def test_the_demo_ends_well_and_accounts_for_every_pair(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "training.cli", "demo", "--out", str(out), "--scenes", "4", "--epochs", "1"],
        cwd=PROJECT,
        env={**os.environ, "ROS_LOG_DIR": str(tmp_path / "log"), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr
    for step in (
        "1/7 record",
        "2/7 extract",
        "3/7 train",
        "4/7 pseudo",
        "5/7 distil",
        "6/7 eval",
        "7/7 run",
        "done in",
    ):
        assert step in done.stderr
    for row in (
        "mIoU on held-out scenes",
        "baseline",
        "DEAL",
        "pseudo masks",
        "distilled",
        "drawn masks",
        "through the node",
    ):
        assert row in done.stdout
    sent = re.search(r"node: (\d+) pairs sent, (\d+) masks received", done.stdout)
    assert sent and sent[1] == sent[2] == "10", done.stdout
    assert len(list((out / "node" / "masks").glob("*.png"))) == 10

    page = (out / "report.html").read_text()
    assert "<html" in page and "DEAL" in page and "baseline" in page
    assert cv2.imread(str(out / "summary.png")) is not None
    for run, weight in (("baseline", 0.0), ("deal", 1.0)):
        assert read_info(out / "runs" / run / "model.safetensors").training["deal_weight"] == weight
    for run, masks in (("distilled", str(out / "masks")), ("drawn_masks", "drawn")):
        assert read_info(out / "runs" / run / "model.safetensors").training["masks"] == masks
    for run in ("baseline", "deal", "pseudo_masks", "distilled", "drawn_masks"):
        assert json.loads((out / "runs" / run / "evaluation.json").read_text())["num_frames"] == 10


def test_only_what_a_demo_made_is_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    with pytest.raises(UsageError, match="was not made by the demo"):
        fresh_folder(mine)
    assert (mine / "thesis.tex").exists()
    made = fresh_folder(tmp_path / "new" / "demo")
    (made / "left_over").touch()
    assert "left_over" not in {p.name for p in fresh_folder(made).iterdir()}
    (tmp_path / "empty").mkdir()
    assert fresh_folder(tmp_path / "empty").is_dir()
