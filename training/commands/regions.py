"""`deal regions`: train a region model, the second way from tags to masks.

deal regions config/regions.yaml data.path=kitchen output=runs/kitchen_regions
deal cams runs/kitchen_regions/model.safetensors kitchen --out kitchen_masks
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deal_core.dataset.dataset import Dataset
    from deal_core.regions.bags import FindThings
    from deal_core.regions.figures import RegionFigures
    from deal_core.regions.settings import RegionTrainSettings
    from deal_core.regions.training import RegionResult


def regions(
    config: Annotated[Path, typer.Argument(help="YAML file of settings; config/regions.yaml lists all of them.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings as key=value: data.path=kitchen head.links=1")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a model that names regions of the depth image, from tags, and from taps and boxes where there are some.

    Training reads no masks.

    The backbone stays frozen, and its features are kept in the run folder, so another run in it takes seconds. The
    model file works as that of a CAM network in deal cams, deal evaluate and deal report, but not on a robot.

    Example: deal regions config/regions.yaml data.path=kitchen output=runs/kitchen_regions
    """
    from deal_core.regions.settings import RegionTrainSettings
    from deal_core.settings_file import load_settings
    from training.support.console import console, print_json
    from training.support.fine_tuning import print_report

    result = run_region_training(load_settings(RegionTrainSettings, config, overrides or []), quiet=as_json)
    if as_json:
        changes = {"fine_tune": result.report.to_json()} if result.report else {}
        print_json({"model": result.model, **result.figures.to_json(), "warnings": result.figures.warnings, **changes})
        return
    for warning in result.figures.warnings:
        console().print(f"warning: {warning}", style="yellow", markup=False)
    levels = ", ".join(map(str, result.figures.levels))
    console().print(f"model: {result.model} (feature levels {levels})", markup=False)
    _print_figures(result.figures)
    if result.report:
        print_report(result.report)


def run_region_training(settings: RegionTrainSettings, *, quiet: bool = False) -> RegionResult:
    """Train under a progress bar over the frames whose features are made."""
    from deal_core.regions.training import train_regions
    from training.support.console import progress
    from training.support.taps import tap_masks

    def find_things(dataset: Dataset) -> FindThings | None:
        taps = tap_masks(dataset)
        return taps.of if taps else None

    with progress(quiet=quiet) as bar:
        task = bar.add_task("features", total=None)
        return train_regions(settings, lambda done, total: bar.update(task, completed=done, total=total), find_things)


def _print_figures(figures: RegionFigures) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{figures.frames} frames, {figures.regions_per_frame:.0f} regions a frame")
    for column in ("class", "segments with", "segments without", "found", "spread", "unseen"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for one in figures.classes:
        shares = ("-" if value is None else f"{value:.2f}" for value in (one.found, one.spread, one.ranking))
        table.add_row(one.name, str(one.present_segments), str(one.absent_segments), *shares)
    Console().print(table)
