"""`deal report`: one HTML page that compares runs, models and pseudo masks.

deal report runs/baseline runs/deal --out report.html
deal report runs/deal kitchen_cams runs/robot --dataset kitchen --recording held_out
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from training.support.options import DeviceOption, PicturesOption, SourceOptions, TagsOption

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
            help="Folders of evaluated runs; with --dataset, model files, run folders and folders of pseudo masks. "
            "The others are compared with the first.",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Title of the page. Default: a title with the dataset's name.")] = "",
    name: Annotated[
        list[str] | None, typer.Option(help="Name of a run on the page; repeat it for each run, in their order.")
    ] = None,
    pictures: PicturesOption = 12,
    audit: Annotated[
        Path | None, typer.Option(help="Show this audit of the tags, a file of deal audit --out, on the page, too.")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Evaluate all runs on this dataset instead of reading their evaluations.")
    ] = None,
    source: SourceOptions,
    tags: TagsOption = "given",
    device: DeviceOption = "auto",
    json_: Annotated[bool, typer.Option("--json", help="Print the main scores as JSON.")] = False,
) -> None:
    """Write one page that compares runs: scores, curves and pictures side by side, worst frames first.

    Folders written by `deal evaluate` are shown with their recorded scores. With --dataset, models and pseudo masks
    are evaluated on the same frames: against drawn masks or, without drawn masks, against each other. The page is a
    single file that loads nothing from the network, so it can be sent and opened on a phone. Runs of one name that
    differ in their seed are also shown as mean and standard deviation.

    Examples:
      deal report runs/baseline runs/deal --out report.html
      deal report runs/deal kitchen_cams runs/robot --dataset kitchen --recording held_out
      deal report runs/deal --audit kitchen_audit.json
    """
    from deal_core.errors import UsageError
    from deal_core.files import refuse_output_on_input
    from deal_core.report.page import read_run, write_report
    from training.support.console import console, print_json, track

    audited = _audited(audit, source.open(dataset) if dataset and audit else None) if audit else ""
    if name and len(name) != len(runs):
        raise UsageError(f"--name: expected one for each of the {len(runs)} runs, found {len(name)}")
    refuse_output_on_input([out], _files([*runs, *(path for path in (dataset, audit) if path)]), UsageError)
    if dataset is None:
        if (source, tags, device) != (SourceOptions(), "given", "auto"):
            raise UsageError(
                "options that choose frames, tags or device go with --dataset: without it, the recorded evaluations "
                "are shown"
            )
        read = [read_run(folder) for folder in track(runs, "reading", len(runs), quiet=json_)]
        read = [_renamed(run, name[i]) for i, run in enumerate(read)] if name else read
        write_report(read, out, title=title, num_pictures=pictures, audit=audited)
    else:
        from deal_core.masks.score_dataset import CamSettings

        chosen = source.open(dataset)
        scoring = CamSettings(tags=tags, device=device)
        with tempfile.TemporaryDirectory(prefix="deal_report_") as work:
            found = _compare(runs, name or [""] * len(runs), chosen, Path(work), scoring, pictures, quiet=json_)
            read = list(found.runs)
            write_report(read, out, title=title, num_pictures=pictures, pairs=found.pairs, audit=audited)
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
    from training.support.console import counting

    candidates = [open_candidate(path, name) for path, name in zip(paths, names, strict=True)]
    with counting("comparing", num_steps(candidates, dataset), quiet=quiet) as advance:
        return compare(candidates, dataset, work, settings, num_pictures=pictures, advance=advance)


def _audited(path: Path, dataset: Dataset | None) -> str:
    """Return the section about an audit; without a dataset, its pictures come from that of the audit."""
    from deal_core.audit.result import Audit
    from deal_core.dataset.dataset import Dataset
    from deal_core.errors import DatasetError
    from deal_core.report.audit_page import render_audit
    from training.support.console import console

    found = Audit.read(path)
    if dataset is None:
        try:
            dataset = Dataset.open(found.dataset)
        except DatasetError as error:
            console().print(f"{path} is shown without pictures: {error}", style="yellow", markup=False)
    return render_audit(found, dataset)


def _files(paths: list[Path]) -> Iterator[Path]:
    """Yield the files among the paths and in the folders among them, but for earlier pages."""
    for path in paths:
        yield from (file for file in (path.rglob("*") if path.is_dir() else [path]) if file.suffix != ".html")


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
        "quality": run.verdict.to_json() if run.verdict else None,
    }


def _score(score: MaskScore | None) -> dict[str, Any] | None:
    if score is None:
        return None
    figures = {"miou": score.miou, "boundary_f": score.boundary_f, "threshold": score.threshold}
    return {"rule": score.rule, **{name: None if value != value else value for name, value in figures.items()}}
