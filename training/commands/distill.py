"""`deal distill`: train a segmenter for the robot from pseudo masks.

deal distill config/distill.yaml data.path=kitchen masks=kitchen_masks output=runs/student
deal distill config/distill.yaml data.path=kitchen masks=drawn output=runs/supervised
deal distill config/distill.yaml data.path=kitchen masks=kitchen_masks output=runs/rgbd model.arguments.inputs=rgbd
deal distill config/distill.yaml data.path=kitchen "masks=[corrected, kitchen_masks]" output=runs/mixed
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deal_core.trainer.distillation import DistillResult
    from deal_core.trainer.settings import DistillSettings

_COLUMNS = {
    "agreement": "training masks",
    "drawn": "drawn masks",
    "agreement_without_depth": "training masks, without depth",
    "drawn_without_depth": "drawn masks, without depth",
}


def distill(
    config: Annotated[Path, typer.Argument(help="YAML file of settings; config/distill.yaml lists all of them.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings as key=value: data.path=kitchen masks=kitchen_masks")
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many rounds (setting rounds): the student's masks teach again if better."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a segmenter for the robot on masks of `deal cams` or `deal masks import`, on drawn masks, or on several.

    Before the training, the pseudo masks are judged, and warnings say what is wrong with them and what to do. At the
    end the segmenter is compared with the masks of held-out frames, class by class; distill.json holds the
    same figures. The run folder has the layout of `deal train`, and the same command continues an interrupted run.

    Examples:
      deal distill config/distill.yaml data.path=kitchen masks=kitchen_masks output=runs/student
      deal distill config/distill.yaml data.path=kitchen masks=kitchen_masks output=runs/student --rounds 2
    """
    from deal_core.settings_file import load_settings
    from deal_core.trainer.settings import DistillSettings
    from training.support.console import console, is_first_process, print_json
    from training.support.fine_tuning import print_report

    given = [] if rounds is None else [f"rounds={rounds}"]
    settings = load_settings(DistillSettings, config, [*(overrides or []), *given])
    if is_first_process():
        _judge_masks(settings, quiet=as_json)
    result = run_distillation(settings, quiet=as_json)
    if not is_first_process():
        return
    if as_json:
        print_json(result.to_json())
        return
    for one in result.rounds:
        console().print(
            f"round {one.number}: learnt from masks of score {one.taught:.2f}, makes masks of score {one.own:.2f}"
            f"{' (kept)' if one.number == result.kept_round else ''}"
        )
    console().print(f"model: {result.model} (each pixel takes its strongest class or background)", markup=False)
    if result.report:
        print_report(result.report)
    _print_scores(result)


def _judge_masks(settings: DistillSettings, *, quiet: bool) -> None:
    """Print what is wrong with the pseudo masks before a segmenter learns them."""
    from deal_core.dataset.open import open_dataset
    from deal_core.quality.verdict import judge
    from training.support.console import console
    from training.support.quality import count_masks, print_outcome

    folders = [folder for folder in settings.mask_sources if folder is not None]
    for folder in folders:
        figures = count_masks(folder, open_dataset(settings.data), quiet=quiet)
        if len(folders) > 1:
            console().print(f"{folder}:", markup=False)
        print_outcome(judge(figures))


def run_distillation(settings: DistillSettings, *, quiet: bool = False) -> DistillResult:
    """Train under a progress bar, which only the first of several processes shows."""
    from deal_core.trainer.rounds import distill as distill_model
    from training.support.console import console, is_first_process, training_progress

    def losses(now: Mapping[str, float]) -> str:
        return f"loss {now['loss']:.3f} · clipped {now['clipped']:.0%}"

    with training_progress("distilling", losses, quiet=quiet) as report:
        result = distill_model(settings, report)
    if is_first_process() and not quiet:
        console().print(f"started from {result.initial_weights}", markup=False)
    return result


def _print_scores(result: DistillResult) -> None:
    """Print a table with a row for each class and a column for each kind of masks that held-out frames have."""
    from rich.console import Console

    from training.support.tables import score_table

    scores = {_COLUMNS[name]: score for name, score in result.scores().items()}
    if scores:
        Console().print(
            score_table(f"segmenter compared with the masks of {result.held_out_frames} held-out frames", scores)
        )
