"""`deal check` and `deal extract` by what they print, what they leave, and their exit code."""

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


@pytest.fixture
def kitchen(new_bag: Callable[[], Any], tmp_path: Path) -> Path:
    bag = new_bag()
    bag.session("mug", "drill")
    bag.tags(0, "mug")
    for stamp in range(100, 600, 100):
        bag.pair(stamp)
    return bag.save(tmp_path / "kitchen")


def test_check_extract_check(deal: Callable[..., Any], kitchen: Path, tmp_path: Path) -> None:
    done = deal("check", kitchen, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["kind"] == "recording" and report["frames"] == 5
    assert report["tags"]["mug"] == {"present": 5, "absent": 0, "unknown": 0}

    done = deal("extract", kitchen, "--out", tmp_path / "dataset")
    assert done.returncode == 0 and "5 frames from 5 pairs" in done.stderr.replace("\n", " ")
    done = deal("extract", kitchen, "--out", tmp_path / "dataset", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["recordings"][0]["was_there"] is True

    done = deal("check", tmp_path / "dataset", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["kind"] == "dataset" and report["recordings"][0]["frames"] == 5
    done = deal("check", tmp_path / "dataset")
    assert done.returncode == 0 and "kitchen" in done.stdout and "never tagged present" in done.stderr


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


def test_repair_makes_a_recording_that_checks_and_extracts(
    deal: Callable[..., Any], kitchen: Path, tmp_path: Path
) -> None:
    whole = deal("check", kitchen, "--repair", "--json")
    assert whole.returncode == 0 and json.loads(whole.stdout)["repair"]["out"] is None
    assert "is complete, 12 messages: nothing to repair" in deal("check", kitchen, "--repair").stderr
    assert [p.name for p in tmp_path.iterdir()] == ["kitchen"]

    file = kitchen / "kitchen.mcap"
    file.write_bytes(file.read_bytes()[:2500])
    (kitchen / "metadata.yaml").unlink()
    assert "--repair" in deal("check", kitchen).stderr
    done = deal("check", kitchen, "--repair", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["kind"] == "recording" and report["errors"] == []
    repaired = tmp_path / "kitchen_repaired"
    assert report["path"] == report["repair"]["out"] == str(repaired)
    assert report["repair"]["path"] == str(kitchen) and report["repair"]["lost_messages"] == 1
    assert report["pairs"] >= 1 and report["topics"] == report["repair"]["messages"]
    assert any("truncated or unreadable from byte" in problem for problem in report["repair"]["problems"])

    assert deal("check", repaired).returncode == 0
    done = deal("extract", repaired, "--out", tmp_path / "dataset", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["recordings"][0]["report"]["pairs"] == report["pairs"]

    done = deal("check", kitchen, "--repair")
    assert done.returncode == 1 and "exists already" in done.stderr and "--out" in done.stderr
    done = deal("check", kitchen, "--repair", "--out", tmp_path / "again")
    assert done.returncode == 0 and f"{report['pairs']} complete pairs" in done.stderr
    assert "lost: 1 messages" in done.stderr and str(tmp_path / "again") in done.stderr
    assert deal("check", tmp_path / "again").returncode == 0


def test_what_cannot_be_repaired(deal: Callable[..., Any], kitchen: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mcap").write_bytes(b"\x89MCAP0\r\n")
    done = deal("check", tmp_path / "broken.mcap", "--repair")
    assert done.returncode == 1 and "nothing can be saved" in done.stderr and "Traceback" not in done.stderr
    assert deal("extract", kitchen, "--out", tmp_path / "dataset").returncode == 0
    for arguments, said in (
        ((kitchen, "--out", tmp_path / "x"), "needs --repair"),
        ((tmp_path / "dataset", "--repair"), "is a dataset"),
        ((tmp_path, "--as", "voc", "--repair"), "is a dataset"),
        ((kitchen, "--repair", "--depth", tmp_path), "--depth"),
    ):
        done = deal("check", *arguments)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"kitchen", "broken.mcap", "dataset"}


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
    for arguments in (["check", tmp_path / "no"], ["extract", tmp_path / "no", "--out", tmp_path / "d"]):
        done = deal(*arguments)
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
    while not list(tmp_path.glob("dataset/recordings/.long.*/color/*")):
        assert process.poll() is None and time.monotonic() < deadline, "it did not start to write"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said
    assert not (tmp_path / "dataset").exists()
