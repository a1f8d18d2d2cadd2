"""`deal check`: report on the content of a recording or dataset, and on its errors.

deal check kitchen_1
deal check kitchen --json
deal check kitchen_1 --repair
deal check VOCdevkit --as voc --split train_aug --depth voc_depth
deal check kitchen --quality kitchen_masks --model runs/kitchen/model.safetensors
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deal_core.dataset.choices import ClassIds, Layout, OfficialLayout
from training.support.options import (
    AlignedOption,
    ClassIdsOption,
    ColorTopicOption,
    DepthTopicOption,
    DepthUnitOption,
    MaxDepthOption,
    SlopOption,
    SplitOption,
)

if TYPE_CHECKING:
    from deal_core.dataset.check import DatasetReport
    from deal_core.dataset.settings import SourceSettings
    from deal_core.recording.repair import Repair
    from deal_core.recording.report import RecordingReport


def check(
    path: Annotated[Path, typer.Argument(help="A recording (folder, .mcap or .db3) or a dataset folder.")],
    layout: Annotated[
        OfficialLayout | None, typer.Option("--as", help="Layout of the dataset folder, if it is a published dataset.")
    ] = None,
    split: SplitOption = "",
    class_ids: ClassIdsOption = "contiguous",
    depth: Annotated[
        Path | None, typer.Option(help="For a dataset: folder of estimated depth maps to check with it.")
    ] = None,
    color_topic: ColorTopicOption = None,
    depth_topic: DepthTopicOption = None,
    slop_ms: SlopOption = 0,
    aligned: AlignedOption = False,
    depth_unit: DepthUnitOption = None,
    max_depth: MaxDepthOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Write everything readable of a damaged recording to a new one.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="With --repair: the new recording. Default: <path>_repaired beside the old one.")
    ] = None,
    quality: Annotated[
        Path | None,
        typer.Option(help="For a dataset: folder of its pseudo masks (`deal cams`) to judge, without drawn masks."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="With --quality: the model behind the masks, to judge its training, too."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Report counts, losses by cause, gaps, depth, tags and errors of a recording or dataset.

    The command reads and decodes everything. Exit code 0: there are no errors. 1: there are errors.

    With --repair, every complete message of a damaged recording (recorder killed, power lost, disk full) is written
    to a new recording, which is then checked; the damaged one is not changed, and a complete one is not copied.
    Exit code 0: the recording was complete, or the new one was written. 1: nothing could be saved or written.

    With --quality, the command judges the pseudo masks of a dataset, class by class, from figures that need no drawn
    mask. Exit code 0: the verdict is good or doubtful. 1: it is bad.

    Example: deal check kitchen_1
    """
    from deal_core.dataset.check import check_dataset, check_recording, is_dataset
    from deal_core.recording.repair import repair_recording
    from training.support.console import progress

    _refuse_unused(path, layout, split, depth, repair=repair, out=out, quality=quality, model=model)
    of_recordings = {"--aligned": aligned, "--depth-unit": depth_unit, "--max-depth": max_depth is not None}
    _refuse_of_recordings(path, layout, [name for name, given in of_recordings.items() if given])
    if quality:
        _check_quality(_source(path, layout, split, class_ids, depth), quality, model, as_json=as_json)
        return
    with progress(quiet=as_json) as bar:

        def start(total: int | None) -> None:
            bar.add_task(path.name, total=total)

        def advance() -> None:
            bar.advance(bar.task_ids[-1])

        checker: Callable[..., DatasetReport | RecordingReport]
        repaired: Repair | None = None
        if repair:
            start(None)
            repaired = repair_recording(path, out, on_message=advance)
            path = Path(repaired.out or path)
        if layout:
            checker = _published_checker(path, layout, split, class_ids, depth)
        elif is_dataset(path):
            checker = partial(check_dataset, path, depth=depth)
        else:
            checker = partial(
                check_recording,
                path,
                color_topic=color_topic,
                depth_topic=depth_topic,
                slop_ns=round(slop_ms * 1e6),
                aligned=aligned,
                depth_unit=depth_unit,
                max_depth_m=max_depth,
            )
        report = checker(on_start=start, on_frame=advance)
    _print(report, repaired, as_json=as_json)
    if report.errors and not repaired:
        raise typer.Exit(1)


def _refuse_unused(
    path: Path,
    layout: str | None,
    split: str,
    depth: Path | None,
    *,
    repair: bool,
    out: Path | None,
    quality: Path | None,
    model: Path | None,
) -> None:
    """Refuse options that do not apply to what `path` is."""
    from deal_core.dataset.check import is_dataset
    from deal_core.errors import UsageError

    if layout is None and split:
        raise UsageError(f"--split {split} needs --as: recordings and deal datasets have no splits")
    if layout is None and depth and not is_dataset(path):
        raise UsageError(f"--depth {depth} is for datasets, and {path} is not one: give its layout with --as")
    if quality and layout is None and not is_dataset(path):
        raise UsageError(f"--quality {quality} is for the masks of a dataset, and {path} is not one")
    if repair and quality:
        raise UsageError("--repair is for recordings and --quality for the masks of a dataset: use one of them")
    if repair and (layout or is_dataset(path)):
        raise UsageError(f"--repair is for recordings, and {path} is a dataset: extract its recordings again")
    if model and not quality:
        raise UsageError(f"--model {model} needs --quality: without it, the dataset itself is checked")
    if out and not repair:
        raise UsageError(f"--out {out} needs --repair: the command writes nothing else")


def _check_quality(source: SourceSettings, masks: Path, model: Path | None, *, as_json: bool) -> None:
    """Print the verdict on the masks of a folder; raise `typer.Exit` with 1 if it is bad."""
    from deal_core.dataset.open import open_dataset
    from deal_core.models.model_file import read_info
    from deal_core.quality.training_facts import facts_of_training
    from deal_core.quality.verdict import judge
    from deal_core.structures import require_same_classes
    from training.support.console import print_json, undefined_as_null
    from training.support.quality import count_masks, print_verdict

    dataset = open_dataset(source)
    info = read_info(model) if model else None
    if info:
        require_same_classes(info.classes, str(model), dataset.classes, str(dataset.path))
    figures = count_masks(masks, dataset, quiet=as_json)
    training = facts_of_training(info, model.parent) if info and model else None
    verdict = judge(figures, training)
    if as_json:
        measured = {"masks": figures, "training": training}
        from_figures = {name: undefined_as_null(asdict(one)) for name, one in measured.items() if one}
        print_json({"kind": "quality", **verdict.to_json(), "figures": from_figures})
    else:
        print_verdict(verdict)
    if verdict.grade == "bad":
        raise typer.Exit(1)


def _refuse_of_recordings(path: Path, layout: str | None, given: list[str]) -> None:
    """Refuse options that say how to read a recording, if `path` is a dataset."""
    from deal_core.dataset.check import is_dataset
    from deal_core.errors import UsageError

    if given and (layout or is_dataset(path)):
        raise UsageError(f"{', '.join(given)}: for recordings, and {path} is a dataset, whose depth was read already")


def _published_checker(
    path: Path, layout: OfficialLayout, split: str, class_ids: ClassIds, depth: Path | None
) -> Callable[..., DatasetReport]:
    from deal_core.dataset.check import check_source

    return partial(check_source, _source(path, layout, split, class_ids, depth), as_hope=layout == "hope")


def _source(
    path: Path, layout: OfficialLayout | None, split: str, class_ids: ClassIds, depth: Path | None
) -> SourceSettings:
    from deal_core.dataset.settings import SourceSettings

    name: Layout = "bop" if layout == "hope" else layout or "deal"
    return SourceSettings(path=path, format=name, split=split, depth=depth, class_ids=class_ids)


def _print(report: DatasetReport | RecordingReport, repair: Repair | None, *, as_json: bool) -> None:
    from deal_core.dataset.check import DatasetReport
    from training.support.console import print_json
    from training.support.tables import print_dataset, print_recording, print_repair

    if as_json:
        kind = "dataset" if isinstance(report, DatasetReport) else "recording"
        print_json({"kind": kind, **asdict(report), **({"repair": asdict(repair)} if repair else {})})
    elif isinstance(report, DatasetReport):
        print_dataset(report)
    else:
        print_recording(report)
        if repair:
            print_repair(repair, report.pairs)
