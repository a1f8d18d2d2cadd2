"""The executable `replay_node`: errors and exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_ros.replay.main import main, sentence, summary
from deal_ros.replay.player import RecordedPairs, ReplayResult

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


def test_nothing_lost_on_the_way_is_told_beside_what_the_recording_lacks() -> None:
    recorded = RecordedPairs(
        pairs=60,
        skipped={"its depth is not aligned to its colour": 20},
        unpaired={"color: no partner within slop": 60},
        findings=("80 of 120 colour images (67%) are in no sound pair; …",),
        has_lost_most=True,
    )
    result = ReplayResult((1, 2), (1, 2), 0, {}, (5.0, 6.0), None, recorded)
    text = sentence(result)
    assert text.startswith("sent 2 of the recording's 60 pairs, received 2 masks, lost 0")
    assert "20 pairs skipped: its depth is not aligned" in text and "60 images without a partner" in text
    assert "80 of 120 colour images" in text
    assert summary(result)["recorded"]["pairs"] == 60
