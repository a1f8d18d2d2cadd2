"""`deal check`: what is in a recording or a dataset, and what is wrong with it.

deal check kitchen_1
deal check kitchen --json
deal check VOCdevkit --as voc --split train_aug --depth voc_depth
"""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from training.source import ClassIds, ClassIdsOption, SplitOption


class Layout(str, Enum):
    """Official layouts of public datasets; HOPE's is BOP's."""

    VOC = "voc"
    COCO = "coco"
    BOP = "bop"
    HOPE = "hope"


def check(
    path: Annotated[Path, typer.Argument(help="A recording (folder, .mcap, .db3) or a dataset folder.")],
    layout: Annotated[Layout | None, typer.Option("--as", help="The official layout that a dataset has.")] = None,
    split: SplitOption = "",
    class_ids: ClassIdsOption = ClassIds.CONTIGUOUS,
    depth: Annotated[Path | None, typer.Option(help="Of a dataset: folder of estimated depth maps to check.")] = None,
    color_topic: Annotated[str | None, typer.Option(help="Where there are several colour topics.")] = None,
    depth_topic: Annotated[str | None, typer.Option(help="Where there are several depth topics.")] = None,
    slop_ms: Annotated[float, typer.Option(min=0, help="Largest offset of colour and depth; 0: equal stamps.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Say what is in a recording or a dataset: counts, losses by cause, gaps, depth, tags, and what is wrong.

    Everything is read and decoded. Exit code 0 if it can be used as it is, 1 if there are errors.

    Example: deal check kitchen_1
    """
    from deal_core.config import SourceSettings
    from deal_core.data.check import DatasetReport, check_dataset, check_recording, check_source, is_dataset
    from deal_core.data.recording_report import RecordingReport
    from deal_core.errors import UsageError
    from training.console import print_json, progress
    from training.recording_view import print_dataset, print_recording

    if layout is None and split:
        raise UsageError(f"--split {split} goes with --as: recordings and deal datasets have no splits")
    if layout is None and depth and not is_dataset(path):
        raise UsageError(f"--depth {depth} is for datasets, and {path} is none: give its layout with --as")
    with progress(quiet=as_json) as bar:

        def start(total: int) -> None:
            bar.add_task(path.name, total=total)

        def advance() -> None:
            bar.advance(bar.task_ids[0])

        report: DatasetReport | RecordingReport
        if layout:
            report = check_source(
                SourceSettings(
                    path=path,
                    format="bop" if layout is Layout.HOPE else layout.value,
                    split=split,
                    depth=depth,
                    class_ids=class_ids.value,
                ),
                as_hope=layout is Layout.HOPE,
                on_start=start,
                on_frame=advance,
            )
        elif is_dataset(path):
            report = check_dataset(path, depth=depth, on_start=start, on_frame=advance)
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
