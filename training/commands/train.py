"""`deal train`: train a CAM network from tags and depth.

deal train config/train.yaml data.path=kitchen output=runs/kitchen
deal train config/train.yaml data.path=kitchen output=runs/baseline deal.weight=0
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deal_core.quality.verdict import Verdict
    from deal_core.trainer.cam_training import TrainResult
    from deal_core.trainer.settings import TrainSettings


def train(
    config: Annotated[Path, typer.Argument(help="YAML file of settings; config/train.yaml lists all of them.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings as key=value: data.path=kitchen deal.weight=0.3")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a CAM network from tags and depth. Training reads no masks.

    The run folder contains settings.yaml, history.jsonl, tensorboard/, checkpoint.pt and, at the end,
    model.safetensors and quality.json: a verdict without masks, whose warnings are printed, too. The same command
    continues an interrupted run. To use several GPUs or processes:
    torchrun --nproc-per-node 2 -m deal_ros train ...

    Example: deal train config/train.yaml data.path=kitchen output=runs/kitchen
    """
    from deal_core.settings_file import load_settings
    from deal_core.trainer.settings import TrainSettings
    from training.support.console import console, is_first_process, print_json
    from training.support.fine_tuning import print_report
    from training.support.quality import print_warnings

    result = run_training(load_settings(TrainSettings, config, overrides or []), quiet=as_json)
    if not is_first_process():
        return
    threshold = result.threshold
    verdict = judge_training(result)
    verdict.write(result.model.parent)
    if as_json:
        print_json(
            {
                "model": result.model,
                "threshold": threshold.value,
                "threshold_rule": threshold.rule,
                "steps": result.steps,
                "resumed_from": result.resumed_from,
                "quality": verdict.to_json(),
                **({"fine_tune": result.report.to_json()} if result.report else {}),
            }
        )
    else:
        console().print(
            f"model: {result.model} (background threshold {threshold.value:.2f}, {threshold.rule})", markup=False
        )
        if result.report:
            print_report(result.report)
        print_warnings(verdict)


def judge_training(result: TrainResult) -> Verdict:
    """Return the verdict on a training, from its losses, its threshold and its tags."""
    from deal_core.models.model_file import read_info
    from deal_core.quality.training_facts import facts_of_training
    from deal_core.quality.verdict import judge

    return judge(training=facts_of_training(read_info(result.model), result.model.parent))


def run_training(settings: TrainSettings, *, quiet: bool = False) -> TrainResult:
    """Train under a progress bar, which only the first of several processes shows."""
    from deal_core.trainer.cam_training import train as train_model
    from training.support.console import console, is_first_process, training_progress

    def losses(now: Mapping[str, float]) -> str:
        return f"tags {now['loss_tags']:.3f} · deal {now['loss_deal']:+.3f}"

    with training_progress("training", losses, quiet=quiet) as report:
        result = train_model(settings, report)
    if is_first_process() and not quiet:
        console().print(f"started from {result.initial_weights}", markup=False)
    return result
