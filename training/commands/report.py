"""`deal report`: one HTML page about any number of runs, models and pseudo masks.

deal report runs/baseline runs/deal --out report.html
deal report runs/deal kitchen_cams runs/robot --dataset kitchen --recording held_out
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from training.commands.cams import DeviceOption, Tags, TagsOption
from training.support.dataset_options import (
    ClassIds,
    ClassIdsOption,
    DepthOption,
    FramesOption,
    Layout,
    LayoutOption,
    RecordingsOption,
    SplitOption,
    open_frames,
)

if TYPE_CHECKING:
    from deal_core.dataset.dataset import Dataset
    from deal_core.evaluation.metrics import MaskScore
    from deal_core.masks.score_dataset import CamSettings
    from deal_core.report.compare import Comparison
    from deal_core.report.page import Run


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of evaluated runs; with --dataset model files, run folders and folders of pseudo masks. "
            "The first is compared with.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Title of the page; made from the dataset's name if empty.")] = "",
    name: Annotated[
        list[str] | None, typer.Option(help="Name of a run on the page; repeated, one for each run in order.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Frames to show, worst first.")] = 12,
    dataset: Annotated[
        Path | None, typer.Option(help="Compare on these frames, now, in place of earlier evaluations.")
    ] = None,
    layout: LayoutOption = Layout.DEAL,
    split: SplitOption = "",
    depth: DepthOption = None,
    class_ids: ClassIdsOption = ClassIds.CONTIGUOUS,
    recordings: RecordingsOption = None,
    frames: FramesOption = None,
    tags: TagsOption = Tags.GIVEN,
    device: DeviceOption = "auto",
    json_: Annotated[bool, typer.Option("--json", help="Print the headline figures as JSON on stdout.")] = False,
) -> None:
    """Write one page about any number of runs: figures, curves and pictures, side by side, worst frames first.

    Of folders that `deal evaluate` wrote it shows what was found then. With --dataset, models and pseudo masks are
    compared anew on the same frames: with drawn masks, or where nobody drew any, with each other. The page is a
    single file without any address in it: send it, open it on a phone. Runs of one name that differ in their seed
    are also shown as mean and spread.

    Examples:
      deal report runs/baseline runs/deal --out report.html
      deal report runs/deal kitchen_cams runs/robot --dataset kitchen --recording held_out
    """
    from deal_core.errors import UsageError
    from deal_core.report.page import read_run, write_report
    from training.support.console import console, print_json, track

    if name and len(name) != len(runs):
        raise UsageError(f"--name: expected one for each of the {len(runs)} runs, found {len(name)}")
    if dataset is None:
        settings = (layout, split, depth, class_ids, recordings, frames, tags, device)
        if settings != (Layout.DEAL, "", None, ClassIds.CONTIGUOUS, None, None, Tags.GIVEN, "auto"):
            raise UsageError(
                "options that choose frames, tags or device go with --dataset: without it, evaluations "
                "are shown as `deal evaluate` found them"
            )
        read = [read_run(folder) for folder in track(runs, "reading", len(runs), quiet=json_)]
        read = [_renamed(run, name[i]) for i, run in enumerate(read)] if name else read
        write_report(read, out, title=title, num_pictures=pictures)
    else:
        from deal_core.masks.score_dataset import CamSettings

        chosen = open_frames(dataset, layout, split, depth, class_ids, recordings, frames)
        scoring = CamSettings(tags=tags.value, device=device)
        with tempfile.TemporaryDirectory(prefix="deal_report_") as work:
            found = _compare(runs, name or [""] * len(runs), chosen, Path(work), scoring, pictures, quiet=json_)
            read = list(found.runs)
            write_report(read, out, title=title, num_pictures=pictures, pairs=found.pairs)
    if json_:
        print_json({"report": str(out), "runs": [_figures(run) for run in read]})
    else:
        console().print(f"{out}: {len(read)} run{'s' if len(read) != 1 else ''}", markup=False)


def _compare(
    paths: list[Path],
    names: list[str],
    dataset: Dataset,
    work: Path,
    settings: CamSettings,
    pictures: int,
    *,
    quiet: bool,
) -> Comparison:
    from deal_core.report.compare import compare, num_steps, open_candidate
    from training.support.console import progress

    candidates = [open_candidate(path, name) for path, name in zip(paths, names, strict=True)]
    with progress(quiet=quiet) as bar:
        task = bar.add_task("comparing", total=num_steps(candidates, dataset))
        return compare(
            candidates,
            dataset,
            work,
            settings,
            num_pictures=pictures,
            advance=lambda done: bar.update(task, completed=done),
        )


def _renamed(run: Run, name: str) -> Run:
    return replace(run, evaluation=replace(run.evaluation, name=name))


def _figures(run: Run) -> dict[str, Any]:
    evaluation = run.evaluation
    return {
        "folder": str(run.folder),
        "name": evaluation.name,
        "dataset": evaluation.dataset,
        "frames": evaluation.num_frames,
        "auto": _score(evaluation.auto),
        "oracle": _score(evaluation.oracle),
    }


def _score(score: MaskScore | None) -> dict[str, Any] | None:
    if score is None:
        return None
    figures = {"miou": score.miou, "boundary_f": score.boundary_f, "threshold": score.threshold}
    return {"rule": score.rule, **{name: None if value != value else value for name, value in figures.items()}}
