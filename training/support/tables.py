"""Reports and scores as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from training.support.console import console, print_error

if TYPE_CHECKING:
    from deal_core.dataset.check import DatasetReport
    from deal_core.evaluation.metrics import MaskScore
    from deal_core.recording.repair import Repair
    from deal_core.recording.report import Gaps, RecordingReport, TagBalance


def summary_line(report: RecordingReport) -> str:
    """Return one line: the number of frames, and the skipped and unpaired messages by cause."""
    parts = [f"{report.frames} frames from {report.pairs} pairs"]
    parts += [f"{n} skipped ({cause})" for cause, n in report.skipped.items()]
    parts += [f"{n} unpaired ({cause})" for cause, n in report.unpaired.items()]
    return ", ".join(parts)


def print_recording(report: RecordingReport) -> None:
    """Print the report on a recording to stdout."""
    out = Console(highlight=False, soft_wrap=True)
    table = _table(report.path, "topic", "messages")
    for name, count in report.topics.items():
        role = {report.color_topic: "  colour", report.depth_topic: "  depth"}.get(name, "")
        table.add_row(escape(name), f"{count}{role}")
    if report.topics:
        out.print(table)
    if report.color_topic:
        table = _table("frames", "", "")
        table.add_row("pairs", str(report.pairs))
        for cause, count in report.unpaired.items():
            table.add_row("  unpaired", f"{count}  {cause}")
        for stream, count in report.unreadable.items():
            table.add_row("  unreadable", f"{count}  {stream}")
        table.add_row("frames", str(report.frames))
        for cause, count in report.skipped.items():
            table.add_row("  skipped", f"{count}  {cause}")
        table.add_row("stamp offset", f"p50 {report.offset_p50_ms:.1f} ms, max {report.offset_max_ms:.1f} ms")
        table.add_row("gaps", _gaps(report.gaps))
        table.add_row("valid depth", _depth(report.valid_depth, report.without_depth))
        table.add_row("segments", str(report.segments))
        table.add_row("drawn masks", str(report.masks))
        out.print(table)
    if report.tags:
        out.print(_balance(report.tags))
    _print_findings(report.notes, report.errors)


def print_repair(repair: Repair, pairs: int) -> None:
    """Print what was saved of a damaged recording and what was lost.

    Args:
        repair: the result of the repair.
        pairs: number of complete pairs in the repaired recording.
    """
    said = console()
    total = sum(repair.messages.values())
    if repair.out is None:
        said.print(f"{escape(repair.path)} is complete, {total} messages: nothing to repair")
        return
    for problem in repair.problems:
        said.print(f"[yellow]was damaged:[/yellow] {escape(problem)}")
    known = {"messages": repair.lost_messages, "bytes": repair.lost_bytes, "damaged chunks": repair.broken_chunks}
    lost = ", ".join(f"{n} {what}" for what, n in known.items() if n) or "nothing known"
    said.print(f"saved: {total} messages, {pairs} complete pairs; lost: {lost}")
    said.print(f"[green]repaired:[/green] {escape(repair.out)} ({escape(repair.path)} is unchanged)")


def print_dataset(report: DatasetReport) -> None:
    """Print the report on a dataset to stdout."""
    out = Console(highlight=False, soft_wrap=True)
    timed = any(r.gaps for r in report.recordings)
    columns = ("recording", "frames", "segments", "masks", "valid depth", *(("longest gap", "camera") if timed else ()))
    table = _table(report.path, *columns)
    for r in report.recordings:
        camera = (f"{r.gaps.longest_s:.2f} s", "known" if r.has_camera else "unknown") if r.gaps else ()
        depth = _depth(r.valid_depth, r.without_depth)
        table.add_row(escape(r.name), str(r.frames), str(r.segments), str(r.masks), depth, *camera)
    if report.recordings:
        out.print(table)
    if report.tags:
        out.print(_balance(report.tags))
    _print_findings(report.notes, report.errors)


def score_table(title: str, scores: Mapping[str, MaskScore]) -> Table:
    """Return a table of IoU in percent: a row for each class and their mean, a column for each score."""
    table = Table(title=escape(title))
    table.add_column("IoU, %")
    for name in scores:
        table.add_column(escape(name), justify="right")
    for of_class in zip(*(score.classes for score in scores.values()), strict=True):
        table.add_row(escape(of_class[0].name), *(f"{100 * one.iou:.1f}" for one in of_class))
    table.add_section()
    table.add_row("mean", *(f"{100 * score.miou:.1f}" for score in scores.values()), style="bold")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=escape(title), title_justify="left", show_header=any(columns), box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _balance(tags: Mapping[str, TagBalance]) -> Table:
    table = _table("tags, frames", "class", "present", "absent", "unknown")
    for name, counts in tags.items():
        table.add_row(escape(name), str(counts.present), str(counts.absent), str(counts.unknown))
    return table


def _print_findings(notes: Sequence[str], errors: Sequence[str]) -> None:
    for note in notes:
        console().print(f"[yellow]note:[/yellow] {escape(note)}")
    for error in errors:
        print_error(error)


def _gaps(gaps: Gaps) -> str:
    return f"period {gaps.period_s:.3f} s, longest {gaps.longest_s:.3f} s, {gaps.over_3x} over 3 periods"


def _depth(share: float, without: int) -> str:
    return f"{share:.0%}" + (f", {without} frames without depth" if without else "")
