"""The benchmark of kills in small: extraction and training are killed, and their disks filled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import PROJECT
from helpers.scripts import load_script

KILLS = load_script("kills")


@pytest.mark.slow
def test_killed_commands_and_full_disks_end_as_ever(tmp_path: Path) -> None:
    words = ["--out", tmp_path, "--kills", "3", "--only", "extract,train"]
    done = subprocess.run(
        [sys.executable, PROJECT / "benchmarks" / "kills.py", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line[:22].strip(): line[22:].split() for line in done.stdout.splitlines()[1:]}
    assert list(rows) == ["extract", "train"]
    for _, kills, survived, full, refilled in rows.values():
        assert kills == survived and full == refilled
    if KILLS.can_mount():
        assert all(int(row[3]) >= 1 for row in rows.values())


def test_every_command_that_writes_is_killed(tmp_path: Path) -> None:
    """A new command that writes must be added; these write nothing, are made of others, or need a camera."""
    from training.cli import _COMMANDS

    others = {"collect", "demo", "doctor", "view"}
    named = {case.arguments[0].replace("-", "_") for case in KILLS.cases(tmp_path)}
    assert named | others == {command.__name__ for command in _COMMANDS}


def test_a_difference_and_a_leftover_are_faults(tmp_path: Path) -> None:
    work = tmp_path / "trial"
    work.mkdir()
    (work / "file").write_text("1")
    expected = {**KILLS.digests(work), "": "0"}
    case, result = KILLS.Case("x", ()), KILLS.Result("x", 1.0)
    assert KILLS.is_as_expected(case, work, expected, result, "kill 1", 0) and result.faults == []
    (work / "file").write_text("2")
    assert not KILLS.is_as_expected(case, work, expected, result, "kill 2", 0)
    (work / "file").write_text("1")
    (work / ".file.tmp").mkdir()
    assert not KILLS.is_as_expected(case, work, expected, result, "kill 3", 0)
    (work / ".file.tmp").rmdir()
    (tmp_path / "last.log").write_text("a traceback")
    assert not KILLS.is_as_expected(case, work, expected, result, "kill 4", 1)
    assert [fault.partition(":")[0] for fault in result.faults] == ["kill 2", "kill 3", "kill 4"]
    assert "['file']" in result.faults[0] and "a traceback" in result.faults[2]
