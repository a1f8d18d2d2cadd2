"""Verdicts on a terminal: what is wrong with tags, a training or masks, and what to do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from training.support.console import console, counting

if TYPE_CHECKING:
    from deal_core.dataset.dataset import Dataset
    from deal_core.quality.mask_figures import MaskFigures
    from deal_core.quality.verdict import Finding, Verdict

_STYLES = {"good": "green", "doubtful": "yellow", "bad": "red"}


def count_masks(folder: Path, dataset: Dataset, *, quiet: bool = False) -> MaskFigures:
    """Measure the pseudo masks of a folder under a progress bar."""
    from deal_core.quality.mask_figures import MEASURED_FRAMES, measure_masks

    with counting("quality of masks", min(len(dataset), MEASURED_FRAMES), quiet=quiet) as advance:
        return measure_masks(folder, dataset, advance=advance)


def print_warnings(verdict: Verdict) -> None:
    """Print on stderr what is not good, and what to do; nothing if all is good."""
    for found in verdict.warnings():
        console().print(_line(found))


def print_outcome(verdict: Verdict) -> None:
    """Print on stderr the verdict on masks in one line, then what is not good and what to do."""
    console().print(
        f"masks: {_styled(verdict.grade)}, score {_score(verdict.score)} (no drawn mask was read; "
        f"{verdict.frames} frames measured)"
    )
    print_warnings(verdict)


def print_verdict(verdict: Verdict) -> None:
    """Print the verdict on stdout, a row for each class, and on stderr what to do."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for column in ("class", "verdict", "score", "because"):
        table.add_column(column, overflow="fold")
    for one in verdict.classes:
        because = "; ".join(found.text for found in one.findings)
        table.add_row(escape(one.name), _styled(one.grade), _score(one.score), escape(because))
    table.add_section()
    table.add_row("all", _styled(verdict.grade), _score(verdict.score), f"{verdict.frames} frames measured")
    Console(highlight=False).print(table)
    print_warnings(verdict)


def _line(found: Finding) -> str:
    from rich.markup import escape

    what = "bad" if found.grade == "bad" else "warning"
    return f"[{_STYLES[found.grade]}]{what}:[/{_STYLES[found.grade]}] {escape(found.text)}: {escape(found.advice)}"


def _styled(grade: str) -> str:
    return f"[{_STYLES[grade]}]{grade}[/{_STYLES[grade]}]"


def _score(score: float) -> str:
    return "–" if math.isnan(score) else f"{score:.2f}"
