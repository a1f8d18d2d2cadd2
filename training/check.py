"""`deal check`: what is in a recording or a dataset, and what is wrong with it.

deal check kitchen_1
deal check kitchen --json
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def check(
    path: Annotated[Path, typer.Argument(help="A recording (folder, .mcap, .db3) or a dataset folder.")],
    color_topic: Annotated[str | None, typer.Option(help="Where there are several colour topics.")] = None,
    depth_topic: Annotated[str | None, typer.Option(help="Where there are several depth topics.")] = None,
    slop_ms: Annotated[float, typer.Option(min=0, help="Largest offset of colour and depth; 0: equal stamps.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Say what is in a recording or a dataset: counts, losses by cause, gaps, depth, tags, and what is wrong.

    Everything is read and decoded. Exit code 0 if it can be used as it is, 1 if there are errors.

    Example: deal check kitchen_1
    """
    from deal_core.data.check import DatasetReport, check_dataset, check_recording, is_dataset
    from deal_core.data.recording_report import RecordingReport
    from training.console import print_json, progress
    from training.recording_view import print_dataset, print_recording

    with progress(quiet=as_json) as bar:

        def start(total: int) -> None:
            bar.add_task(path.name, total=total)

        def advance() -> None:
            bar.advance(bar.task_ids[0])

        report: DatasetReport | RecordingReport
        if is_dataset(path):
            report = check_dataset(path, on_start=start, on_frame=advance)
        else:
            report = check_recording(
                path,
                color_topic=color_topic,
                depth_topic=depth_topic,
                slop_ns=round(slop_ms * 1e6),
                on_start=start,
                on_frame=advance,
            )
    if as_json:
        print_json({"kind": "dataset" if isinstance(report, DatasetReport) else "recording", **asdict(report)})
    elif isinstance(report, DatasetReport):
        print_dataset(report)
    else:
        print_recording(report)
    if report.errors:
        raise typer.Exit(1)
