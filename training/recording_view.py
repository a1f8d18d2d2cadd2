"""How a recording's report looks on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deal_core.data.recording_report import RecordingReport


def summary_line(report: RecordingReport) -> str:
    """Return one line: frames, and what became of the rest."""
    parts = [f"{report.frames} frames from {report.pairs} pairs"]
    parts += [f"{n} skipped ({cause})" for cause, n in report.skipped.items()]
    parts += [f"{n} unpaired ({cause})" for cause, n in report.unpaired.items()]
    return ", ".join(parts)


def escaped(text: str) -> str:
    """Return text that rich prints as it is."""
    from rich.markup import escape

    return escape(text)
