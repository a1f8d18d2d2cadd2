"""`deal extract` by what it prints, what it leaves, and its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import PROJECT

COMMAND = [sys.executable, "-m", "training.cli"]


def test_several_recordings_one_of_them_broken(deal: Callable[..., Any], kitchen: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mcap").write_bytes(b"")
    done = deal("extract", tmp_path / "broken.mcap", kitchen, "--out", tmp_path / "dataset", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 1
    assert [r["name"] for r in result["recordings"]] == ["kitchen"]
    assert len(result["failed"]) == 1 and "0 bytes" in result["failed"][0]["error"]


def test_truncated_recording_is_saved_and_exits_with_1_every_time(
    deal: Callable[..., Any], kitchen: Path, tmp_path: Path
) -> None:
    file = kitchen / "kitchen.mcap"
    file.write_bytes(file.read_bytes()[:2500])
    for _ in range(2):
        done = deal("extract", kitchen, "--out", tmp_path / "dataset")
        assert done.returncode == 1 and "damaged file" in done.stderr and "Traceback" not in done.stderr
        assert list((tmp_path / "dataset" / "recordings" / "kitchen" / "color").iterdir())
    assert deal("check", kitchen).returncode == 1


def test_plain_recording_needs_classes_and_tags(
    deal: Callable[..., Any], new_bag: Callable[[], Any], tmp_path: Path
) -> None:
    bag = new_bag()
    bag.pair(100)
    path = bag.save(tmp_path / "plain")
    assert deal("check", path).returncode == 0
    done = deal("extract", path, "--out", tmp_path / "dataset")
    assert done.returncode == 2 and "--classes" in done.stderr and "Traceback" not in done.stderr
    done = deal(
        *("extract", path, "--out", tmp_path / "dataset", "--classes", "mug, drill", "--tags", "mug"),
        *("--marker", "complete", "--json"),
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["recordings"][0]["report"]["tags"]["drill"]["absent"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--classes", "mug,mug"], "--classes"),
        (["--classes", "mug", "--tags", "mugg"], "Did you mean 'mug'"),
        (["--name", "../x"], "cannot name a recording"),
        (["--slop-ms", "-1"], "slop"),
        (["--color-format", "webp"], "webp"),
    ],
)
def test_wrong_use_exits_with_2(
    deal: Callable[..., Any], kitchen: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = deal("extract", kitchen, "--out", tmp_path / "dataset", *arguments)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "dataset").exists()


def test_recordings_of_one_name_are_refused_before_anything_is_done(
    deal: Callable[..., Any], kitchen: Path, tmp_path: Path
) -> None:
    done = deal("extract", kitchen, kitchen / "kitchen.mcap", "--out", tmp_path / "dataset")
    assert done.returncode == 2 and "--name" in done.stderr
    done = deal("extract", kitchen, tmp_path / "other", "--out", tmp_path / "dataset", "--name", "x")
    assert done.returncode == 2 and "one recording" in done.stderr


def test_what_does_not_exist_is_one_sentence(deal: Callable[..., Any], tmp_path: Path) -> None:
    done = deal("extract", tmp_path / "no", "--out", tmp_path / "d")
    assert done.returncode == 1 and "does not exist" in done.stderr and "Traceback" not in done.stderr


def test_interrupt_leaves_nothing_half_written(new_bag: Callable[[], Any], tmp_path: Path) -> None:
    bag = new_bag()
    bag.session("mug")
    bag.tags(0, "mug")
    for stamp in range(100, 130):
        bag.pair(stamp, (480, 640))
    path = bag.save(tmp_path / "long")
    process = subprocess.Popen(
        [*COMMAND, "extract", path, "--out", tmp_path / "dataset"], cwd=PROJECT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("dataset/recordings/.long.tmp/new/color/*")):
        assert process.poll() is None and time.monotonic() < deadline, "it did not start to write"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said
    assert not (tmp_path / "dataset").exists()
