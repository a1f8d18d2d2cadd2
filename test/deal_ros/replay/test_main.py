"""The executable `replay_node`: errors and exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_ros.replay.main import main

pytestmark = pytest.mark.ros


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["/nowhere/kitchen"], 1, "/nowhere/kitchen"),
        (["{recording}", "--ready-timeout", "0.2"], 1, "the segmentation node was not ready"),
        (["{recording}", "--recorded-color-topic", "/x"], 1, "has no images on '/x'"),
    ],
)
def test_the_executable_says_what_is_wrong(
    arguments: list[str],
    code: int,
    said: str,
    real_recording: Path,
    new_domain: Callable[[], int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(new_domain()))
    assert main(["replay_node", *(a.format(recording=real_recording) for a in arguments)]) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error


@pytest.mark.parametrize("arguments", [[], ["bag", "--rate", "-1"], ["bag", "--limit", "few"]])
def test_wrong_use_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["replay_node", *arguments])
    assert caught.value.code == 2 and "usage: replay_node" in capsys.readouterr().err
