"""`deal distill`: a segmenter for the robot from pseudo masks.

deal distill config/distill.yaml data.path=kitchen masks=kitchen_masks output=runs/student
deal distill config/distill.yaml data.path=kitchen masks=drawn output=runs/supervised
deal distill config/distill.yaml data.path=kitchen masks=kitchen_masks output=runs/rgbd model.arguments.inputs=rgbd
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.commands.train import is_first_process

if TYPE_CHECKING:
    from deal_core.trainer.distillation import DistillResult
    from deal_core.trainer.loop import Progress
    from deal_core.trainer.settings import DistillSettings

_COLUMNS = {
    "agreement": "masks trained on",
    "drawn": "drawn masks",
    "agreement_without_depth": "masks trained on, without depth",
    "drawn_without_depth": "drawn masks, without depth",
}


def distill(
    config: Annotated[Path, typer.Argument(help="Settings as YAML; config/distill.yaml names them all.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, dotted: data.path=kitchen masks=kitchen_masks")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a segmenter for the robot on the masks that `deal cams` made of the frames, or on drawn ones.

    At the end it tells how it agrees with the masks of held-out frames, a class at a time (in distill.json, too). The
    run folder is like that of `deal train`, and the same command again goes on where an interrupted run stopped.

    Example: deal distill config/distill.yaml data.path=kitchen masks=kitchen_masks output=runs/student
    """
    from deal_core.settings_file import load_settings
    from deal_core.trainer.settings import DistillSettings
    from training.support.console import console, print_json

    result = run_distillation(load_settings(DistillSettings, config, overrides or []), quiet=as_json)
    if not is_first_process():
        return
    if as_json:
        print_json(result.to_json())
        return
    console().print(f"model: {result.model} (a pixel goes to the strongest of classes and background)", markup=False)
    _print_scores(result)


def run_distillation(
    settings: DistillSettings, *, description: str = "distilling", quiet: bool = False
) -> DistillResult:
    """Train under a progress bar; only the first of several processes shows it."""
    from deal_core.trainer.distillation import distill as distill_model
    from training.support.console import progress

    with progress(quiet=quiet or not is_first_process()) as bar:
        task = bar.add_task(description, total=None)

        def report(now: Progress) -> None:
            text = f"{description} · loss {now.losses['loss']:.3f} · clipped {now.losses['clipped']:.0%}"
            bar.update(task, completed=now.step, total=now.total_steps, description=text)

        return distill_model(settings, report)


def _print_scores(result: DistillResult) -> None:
    """Print one table: a row a class, a column for each kind of masks that held-out frames have."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    told = {_COLUMNS[name]: score for name, score in result.scores().items()}
    if not told:
        return
    table = Table(title=f"segmenter against masks of {result.held_out_frames} held-out frames")
    table.add_column("IoU, %")
    for name in told:
        table.add_column(name, justify="right")
    for of_class in zip(*(score.classes for score in told.values()), strict=True):
        table.add_row(escape(of_class[0].name), *(f"{100 * one.iou:.1f}" for one in of_class))
    table.add_section()
    table.add_row("mean", *(f"{100 * score.miou:.1f}" for score in told.values()), style="bold")
    Console().print(table)
