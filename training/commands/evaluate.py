"""`deal evaluate`: compare a model, or pseudo masks, with drawn masks."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.support.options import PicturesOption, ScoreOptions, SourceOptions, ThresholdRuleOption

if TYPE_CHECKING:
    from deal_core.dataset.dataset import Dataset
    from deal_core.evaluation.metrics import MaskScore
    from deal_core.evaluation.result import EvaluationResult
    from deal_core.evaluation.shards import Shard
    from deal_core.masks.score_dataset import CamSettings


def evaluate(
    model: Annotated[
        Path,
        typer.Argument(help="Model file (.safetensors, .onnx), or folder of pseudo masks written by deal cams."),
    ],
    dataset: Annotated[Path, typer.Argument(help="Dataset folder with drawn masks.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder for evaluation.json and pictures. Default: the folder of the model.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the run in reports. Default: the name of the folder.")] = "",
    source: SourceOptions,
    scores: ScoreOptions,
    threshold_rule: ThresholdRuleOption = None,
    depth_fails: Annotated[
        bool, typer.Option("--depth-fails", help="Give the model no depth, as if the depth sensor had failed.")
    ] = False,
    pictures: PicturesOption = 12,
    frames_of: Annotated[
        Path | None, typer.Option(help="Show the same frames as this evaluated run, to compare them in a report.")
    ] = None,
    shard: Annotated[
        str,
        typer.Option(
            help="Evaluate only this share of the frames, for example 2/4, into --out. The same command without it "
            "puts all shares together."
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json.")] = False,
) -> None:
    """Measure mIoU at the model's own threshold (auto) and at the best threshold for the drawn masks (oracle).

    Pseudo masks are measured as they are. An .onnx file, for example in int8, is measured with the masks that a robot
    would get from it.

    An interrupted evaluation of a .safetensors file continues where it stopped. Several processes may share it, with
    --shard or under torchrun; the result is exactly that of one process.

    Examples:
      deal evaluate runs/kitchen/model.safetensors kitchen --recording held_out
      deal evaluate kitchen_int8.onnx kitchen --recording held_out --out runs/kitchen_int8
      torchrun --nproc-per-node 2 -m deal_ros evaluate runs/kitchen/model.safetensors kitchen
    """
    from deal_core.errors import UsageError
    from deal_core.evaluation.shards import Shard
    from deal_core.masks.score_dataset import CamSettings
    from training.support.console import print_json

    settings = scores.settings()
    share = Shard.parse(shard) if shard else None
    if share and model.suffix != ".safetensors":
        raise UsageError(f"--shard: expected a .safetensors file, found {model}, whose masks take little time")
    changes_scores = settings != CamSettings(device=scores.device) or threshold_rule is not None
    settings = replace(settings, depth_fails=depth_fails)
    evaluation = Evaluation(source.open(dataset), name, Pictured(pictures, frames_of), quiet=as_json)
    if model.is_dir():
        if changes_scores or depth_fails:
            raise UsageError(
                f"{model} is a folder of finished masks: options that say how masks are made need a model file"
            )
        result = _evaluate_folder(model, evaluation, out or model)
    elif model.suffix == ".onnx":
        if changes_scores:
            raise UsageError(
                f"{model} is evaluated as the robot runs it, one image at a time without tags: options that say how "
                "scores are made need a .safetensors file"
            )
        if out is None:
            raise UsageError(f"{model} has no run folder: give a folder for evaluation.json and pictures with --out")
        result = _evaluate_on_robot(model, evaluation, out, scores.device, depth_fails=depth_fails)
    else:
        found = _evaluate_in_shards(model, evaluation, out or model.parent, settings, threshold_rule, share)
        if found is None:
            return
        result = found
    if as_json:
        print_json(result.to_json())
    else:
        _print_scores(result)


@dataclass(frozen=True)
class Pictured:
    """Which frames are drawn.

    Args:
        count: number of frames, starting with the worst.
        as_in: an evaluated run; the frames of its pictures are drawn instead of the worst.
    """

    count: int = 12
    as_in: Path | None = None


@dataclass(frozen=True)
class Evaluation:
    """What all evaluations need.

    Args:
        frames: frames with drawn masks.
        name: name of the run; the name of its folder if empty.
        pictured: which frames are drawn.
        quiet: show no progress bar.
    """

    frames: Dataset
    name: str = ""
    pictured: Pictured = Pictured()
    quiet: bool = False

    def make_shard(self, model: Path, settings: CamSettings, rule: str | None, shard: Shard, folder: Path) -> int:
        """Evaluate one share of the frames under a progress bar, and return its number of frames."""
        from deal_core.evaluation.evaluate import evaluate_shard
        from deal_core.models.model_file import load_model
        from training.support.console import counting

        share = -(-len(self.frames) // shard.count)
        with counting(f"evaluating {shard.number}/{shard.count}", share, quiet=self.quiet) as advance:
            return evaluate_shard(
                load_model(model), self.frames, settings, shard, folder, threshold_rule=rule, advance=advance
            )

    def run(self, evaluator: Callable[..., EvaluationResult], folder: Path, passes: int = 1) -> EvaluationResult:
        """Evaluate under a progress bar; write evaluation.json and pictures to the folder.

        Args:
            evaluator: takes the frames, and `name`, `pictures`, `num_pictures`, `show` and `advance` by keyword.
            folder: the run folder.
            passes: how often the evaluator goes through the frames.
        """
        from deal_core.errors import EvaluationError
        from deal_core.files import owning
        from training.support.console import counting

        total = passes * len(self.frames)
        with owning(folder, EvaluationError), counting("evaluating", total, quiet=self.quiet) as advance:
            result = evaluator(
                self.frames,
                name=self.name or folder.resolve().name,
                pictures=folder if self.pictured.count else None,
                num_pictures=self.pictured.count,
                show=_keys_of(self.pictured.as_in),
                advance=advance,
            )
            result.write(folder)
            advance(total)
        return result


def run_evaluation(
    model: Path,
    frames: Dataset,
    folder: Path,
    settings: CamSettings,
    *,
    name: str = "",
    pictured: Pictured = Pictured(),
) -> EvaluationResult:
    """Evaluate a model file under a progress bar; write evaluation.json and pictures to the run folder."""
    return _evaluate_model(model, Evaluation(frames, name, pictured), folder, settings, None)


def _evaluate_model(
    model: Path, evaluation: Evaluation, folder: Path, settings: CamSettings, rule: str | None
) -> EvaluationResult:
    from deal_core.evaluation.decisions import forget_decisions
    from deal_core.evaluation.evaluate import evaluate_model
    from deal_core.models.model_file import load_model

    evaluator = partial(evaluate_model, load_model(model), settings=settings, threshold_rule=rule, kept=folder)
    result = evaluation.run(evaluator, folder, passes=2)
    forget_decisions(folder)
    return result


def _evaluate_in_shards(
    model: Path, evaluation: Evaluation, folder: Path, settings: CamSettings, rule: str | None, share: Shard | None
) -> EvaluationResult | None:
    """Evaluate a model file, alone or with the other processes of torchrun; return None where others make the result.

    With `share`, only that share of the frames is evaluated, and somebody puts the shares together later.
    """
    from deal_core.evaluation.shards import Shard
    from training.support.console import console, is_first_process

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if share is None and processes == 1:
        return _evaluate_model(model, evaluation, folder, settings, rule)
    if share is not None:
        count = evaluation.make_shard(model, settings, rule, share, folder)
        console().print(f"shard {share.number} of {share.count}: {count} frames are decided, in {folder}", markup=False)
        return None
    evaluation.make_shard(model, _on_own_gpu(settings), rule, Shard(int(os.environ["RANK"]) + 1, processes), folder)
    _wait_for_all_processes()
    return _evaluate_model(model, evaluation, folder, settings, rule) if is_first_process() else None


def _on_own_gpu(settings: CamSettings) -> CamSettings:
    """Return the settings with the GPU of this process of torchrun, if the device is to be chosen."""
    import torch

    if settings.device != "auto" or not torch.cuda.is_available():
        return settings
    return replace(settings, device=f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}")


def _wait_for_all_processes() -> None:
    """Wait until every process of torchrun is here; if one fails, torchrun ends the others."""
    from datetime import timedelta

    from torch import distributed

    distributed.init_process_group("gloo", timeout=timedelta(days=7))
    distributed.barrier()
    distributed.destroy_process_group()


def _evaluate_folder(masks: Path, evaluation: Evaluation, folder: Path) -> EvaluationResult:
    from deal_core.evaluation.evaluate import evaluate_masks

    return evaluation.run(partial(evaluate_masks, masks), folder)


def _evaluate_on_robot(
    model: Path, evaluation: Evaluation, folder: Path, device: str, *, depth_fails: bool
) -> EvaluationResult:
    from deal_core.evaluation.evaluate import evaluate_predictions, predictions_on_robot
    from deal_core.runtime.segmenter import Segmenter

    made = predictions_on_robot(Segmenter.load(model, device), evaluation.frames, depth_fails=depth_fails)
    return evaluation.run(partial(evaluate_predictions, made), folder)


def _print_scores(result: EvaluationResult) -> None:
    """Print a table with a row for each class and a column for each of auto and oracle that exists."""
    from rich.console import Console

    from training.support.tables import score_table

    scores = [score for score in (result.auto, result.oracle) if score is not None]
    table = score_table(
        f"{result.name}: {result.num_frames} frames of {result.dataset}", {_title(score): score for score in scores}
    )
    table.add_row("boundary F", *(f"{100 * score.boundary_f:.1f}" for score in scores))
    if result.flicker is not None:
        flicker = f"{100 * result.flicker:.2f}"
        table.add_row("flicker", *(flicker if score is result.auto else "" for score in scores))
    Console().print(table)


def _keys_of(run: Path | None) -> list[str]:
    """Return the keys of the frames that an evaluated run has pictures of."""
    from deal_core.report.page import read_run

    return [picture.key for picture in read_run(run).pictures] if run else []


def _title(score: MaskScore) -> str:
    threshold = "" if score.threshold is None else f"{score.threshold:.2f}"
    if score.rule == "oracle":
        return f"oracle ({threshold})"
    return f"auto ({', '.join(part for part in (score.rule, threshold) if part)})"
