"""`deal check`: what is in a recording or a dataset, and what is wrong with it.

deal check kitchen_1
deal check kitchen --json
deal check kitchen_1 --repair
deal check VOCdevkit --as voc --split train_aug --depth voc_depth
"""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.support.dataset_options import ClassIds, ClassIdsOption, SplitOption

if TYPE_CHECKING:
    from deal_core.recording.repair import Repair


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
    repair: Annotated[
        bool, typer.Option("--repair", help="Write what can be read of a damaged recording as a new, whole one.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="With --repair: the new recording; NAME_repaired beside the other if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Say what is in a recording or a dataset: counts, losses by cause, gaps, depth, tags, and what is wrong.

    Everything is read and decoded. Exit code 0 if it can be used as it is, 1 if there are errors.

    With --repair, a recording that was cut off (recorder killed, power lost, disk full) is left as it is, and every
    complete message of it is written to a new recording, which is then checked; a whole recording is not copied.
    Exit code 0 if the recording was whole or the new one is there, 1 if nothing could be saved or written.

    Example: deal check kitchen_1
    """
    from deal_core.dataset.check import DatasetReport, check_dataset, check_recording, check_source, is_dataset
    from deal_core.dataset.settings import SourceSettings
    from deal_core.errors import UsageError
    from deal_core.recording.repair import repair_recording
    from deal_core.recording.report import RecordingReport
    from training.support.console import print_json, progress
    from training.support.recording_tables import print_dataset, print_recording, print_repair

    if layout is None and split:
        raise UsageError(f"--split {split} goes with --as: recordings and deal datasets have no splits")
    if layout is None and depth and not is_dataset(path):
        raise UsageError(f"--depth {depth} is for datasets, and {path} is none: give its layout with --as")
    if repair and (layout or is_dataset(path)):
        raise UsageError(f"--repair is for recordings, and {path} is a dataset: extract its recordings again")
    if out and not repair:
        raise UsageError(f"--out {out} goes with --repair: nothing else is written")
    with progress(quiet=as_json) as bar:

        def start(total: int | None) -> None:
            bar.add_task(path.name, total=total)

        def advance() -> None:
            bar.advance(bar.task_ids[-1])

        repaired: Repair | None = None
        if repair:
            start(None)
            repaired = repair_recording(path, out, on_message=advance)
            path = Path(repaired.out or path)

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
        kind = "dataset" if isinstance(report, DatasetReport) else "recording"
        print_json({"kind": kind, **asdict(report), **({"repair": asdict(repaired)} if repaired else {})})
    elif isinstance(report, DatasetReport):
        print_dataset(report)
    else:
        print_recording(report)
        if repaired:
            print_repair(repaired, report.pairs)
    if report.errors and not repaired:
        raise typer.Exit(1)
