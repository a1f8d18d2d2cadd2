"""`deal doctor` by what it prints."""

from __future__ import annotations

from pathlib import Path

from helpers.made_up_machine import MISSING, sound_machine


def test_the_text_has_every_finding_and_whole_commands(tmp_path: Path) -> None:
    machine = sound_machine(tmp_path)
    machine.module("rclpy", MISSING)
    report, text = machine.report(), machine.doctor().stdout
    for name, finding in report.findings.items():
        assert any(line.split()[:1] == [finding["state"]] and name in line for line in text.splitlines())
        assert finding["fix"] in text
    last = [line.split()[:2] for line in text.splitlines()[-len(report.lacks) :]]
    assert last == [[job, "lacks" if names else "ready"] for job, names in report.lacks.items()]
