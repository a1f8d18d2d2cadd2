"""`deal report`: one HTML page about any number of evaluated runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from deal_core.evaluation import MaskScore
    from deal_core.report import Run


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of evaluated runs; the first is compared with.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Title of the page; made from the dataset's name if empty.")] = "",
    json_: Annotated[bool, typer.Option("--json", help="Print the headline figures as JSON on stdout.")] = False,
) -> None:
    """Write one page about evaluated runs: figures, curves and pictures, side by side.

    The page is a single file without any address in it: send it, open it on a phone. Runs of one name that
    differ in their seed are also shown as mean and spread.

    Example:
      deal report runs/baseline runs/deal --out report.html
    """
    from deal_core.report import read_run, write_report
    from training.console import console, print_json, track

    read = [read_run(folder) for folder in track(runs, "reading", len(runs), quiet=json_)]
    write_report(read, out, title=title)
    if json_:
        print_json({"report": str(out), "runs": [_figures(run) for run in read]})
    else:
        console().print(f"{out}: {len(read)} run{'s' if len(read) != 1 else ''}", markup=False)


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
