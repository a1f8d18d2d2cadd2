"""`deal fine-tune`: start from an earlier model and learn a new domain from few frames.

deal fine-tune new_kitchen --from runs/kitchen/model.safetensors --out runs/new_kitchen --rehearse kitchen
deal fine-tune new_kitchen --from runs/robot/model.safetensors --masks new_masks --out runs/new_robot --rehearse kitchen
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.support.options import DatasetArgument

if TYPE_CHECKING:
    from deal_core.regions.training import RegionResult
    from deal_core.trainer.cam_training import TrainResult
    from deal_core.trainer.distillation import DistillResult


def fine_tune(
    dataset: DatasetArgument,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings as key=value: optimizer.learning_rate=0.0005")
    ] = None,
    *,
    model: Annotated[Path, typer.Option("--from", help="Model file (.safetensors) to start from.")],
    out: Annotated[Path, typer.Option(help="Run folder.")],
    rehearse: Annotated[
        Path | None,
        typer.Option(help="Earlier dataset, frames of which are shown again, so that little of it is lost."),
    ] = None,
    share: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of the training for these frames; 0 only measures the loss.")
    ] = 0.3,
    masks: Annotated[
        str | None,
        typer.Option(help="For a segmenter: folder of pseudo masks (deal cams) of the new dataset, or drawn."),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Largest fall of the figure on the earlier dataset; a larger one is an error."),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(help="Folder of feature maps (deal features): freeze the backbone, and train in minutes."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Number of steps, about. Default: 400.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train an earlier model on a new dataset: a CAM network or region model from tags, a segmenter from masks.

    Classes are mapped by name; those that the model does not know start fresh, and those that the dataset does not have
    are dropped. Settings are those beside the model, in settings.yaml. At the end, fine_tune.json in the run folder
    and a table say what was gained on the new data and lost on the earlier.

    Example: deal fine-tune new_kitchen --from runs/kitchen/model.safetensors --out runs/new_kitchen --rehearse kitchen
    """
    from deal_core.errors import UsageError
    from deal_core.regions.settings import RegionTrainSettings
    from deal_core.trainer.fine_tune_request import FineTuneRequest, fine_tune_settings
    from deal_core.trainer.settings import DistillSettings
    from training.commands.distill import run_distillation
    from training.commands.regions import run_region_training
    from training.commands.train import judge_training, run_training
    from training.support.console import console, is_first_process, print_json
    from training.support.fine_tuning import print_report
    from training.support.quality import print_warnings

    if max_loss is not None and rehearse is None:
        raise UsageError("--max-loss needs --rehearse, the dataset on which the loss is measured")
    request = FineTuneRequest(dataset, model, out, rehearse, share, masks, max_loss, features, steps, overrides or ())
    settings = fine_tune_settings(request)
    verdict = None
    result: DistillResult | TrainResult | RegionResult
    if isinstance(settings, DistillSettings):
        result = run_distillation(settings, quiet=as_json)
    elif isinstance(settings, RegionTrainSettings):
        result = run_region_training(settings, quiet=as_json)
    else:
        result = run_training(settings, quiet=as_json)
        verdict = judge_training(result)
    if not is_first_process():
        return
    if verdict:
        verdict.write(out)
    if as_json:
        changes = result.report.to_json() if result.report else None
        print_json({"model": result.model, "fine_tune": changes})
        return
    console().print(f"model: {result.model}", markup=False)
    if result.report:
        print_report(result.report)
    if verdict:
        print_warnings(verdict)
