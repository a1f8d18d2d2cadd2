"""The unit for systemd: what it starts is there, and it stops `ros2 launch` so that nothing is left behind."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from types import ModuleType

import pytest
from helpers.paths import CONFIG, PROJECT

UNIT = CONFIG / "deal_segmentation.service"


def settings() -> dict[str, str]:
    return dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if re.match(r"\w+=", line))


def test_launch_alone_gets_sigint_and_the_rest_is_killed() -> None:
    found = settings()
    assert (found["KillSignal"], found["KillMode"]) == ("SIGINT", "mixed")
    # launch itself takes 5 s for SIGINT and 10 s for SIGTERM before it kills a node.
    assert int(found["TimeoutStopSec"]) > 15


def test_what_it_starts_is_a_launch_file_with_arguments_that_it_has(stand_in: ModuleType) -> None:
    shell, option, script = shlex.split(settings()["ExecStart"])
    assert (shell, option) == ("/bin/bash", "-c") and " && exec ros2 launch deal_ros " in script
    name, *words = shlex.split(script.partition(" deal_ros ")[2])
    entities = stand_in.describe(PROJECT / "launch" / name).entities
    declared = {entity.name for entity in entities if isinstance(entity, stand_in.DeclareLaunchArgument)}
    assert {word.partition(":=")[0] for word in words} <= declared


def test_systemd_takes_it() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run(["systemd-analyze", "verify", UNIT], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and str(UNIT) not in done.stderr, done.stderr
