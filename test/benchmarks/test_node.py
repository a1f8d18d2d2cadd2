"""The node benchmark runs, and what it adds up adds up."""

import json
import os
import sys
from pathlib import Path

import pytest
from helpers.paths import PROJECT
from helpers.scripts import load_script

from deal_ros.node.domains import unused_domains

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

pytestmark = pytest.mark.ros

NODE = load_script("node")


@pytest.mark.slow
def test_the_parts_make_up_the_overhead_and_every_pair_is_accounted_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next(unused_domains(os.getpid()))))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["node.py", "--quick", "--cases", "overhead_640x480_2", "--out", str(tmp_path)])
    NODE.main()
    row = json.loads((tmp_path / "node.json").read_text(encoding="utf-8"))["cases"]["overhead_640x480_2"]
    frames = json.loads((tmp_path / "times_640x480_2.json").read_text(encoding="utf-8"))
    for frame in frames:
        assert frame["forward"] >= 10.0 and frame["rest"] >= 0.0
        assert sum(frame[stage] for stage in NODE.STAGES) == pytest.approx(frame["total"] - frame["forward"])
    account = row["account"]
    assert account["published"] == account["masks_heard"] == len(frames) > NODE.UNCOUNTED
    assert account["unexplained"] == account["failed"] == 0
    assert account["sent"] == account["published"] + account["dropped"] + account["lost_before"]
    printed = capsys.readouterr().out
    assert row["title"] in printed and all(stage in printed for stage in NODE.STAGES)
    assert printed.strip() == (tmp_path / "node.md").read_text(encoding="utf-8").strip()


def test_cpu_and_memory_of_a_process_are_those_of_this_one() -> None:
    before = NODE.cpu_seconds(os.getpid())
    while os.times().user + os.times().system < before + 0.1:
        pass
    assert NODE.cpu_seconds(os.getpid()) > before
    kept = bytearray(64 * 2**20)
    with_it = NODE.resident_mib(os.getpid())
    kept.clear()
    assert with_it > 64


@pytest.mark.slow
def test_the_start_is_measured_in_turn_with_another_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra export)")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next(unused_domains(os.getpid()))))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path))
    words = ["--quick", "--cases", "start", "--before", str(PROJECT), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["node.py", *words])
    NODE.main()
    found = json.loads((tmp_path / "node.json").read_text(encoding="utf-8"))["cases"]["start"]["start"]
    exported, trained, exported_before, trained_before, by_hand = found.values()
    for row in found.values():
        assert row["cpu_s"] > 0 and row["time_s"] > 0 and row["resident_mib"] > row["shared_mib"]
    lightest = min(row["resident_mib"] for row in (trained, trained_before))
    assert max(row["resident_mib"] for row in (exported, exported_before, by_hand)) < lightest, "PyTorch holds the most"
    printed = capsys.readouterr().out
    assert all(title in printed for title in found)
