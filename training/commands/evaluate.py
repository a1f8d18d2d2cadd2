"""`deal evaluate`: a model, or pseudo masks, against the masks that someone drew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.commands.cams import (
    DeviceOption,
    FlipOption,
    Normalise,
    NormaliseOption,
    Refine,
    RefineOption,
    RefineOptions,
    ScalesOption,
    Size,
    SizeOption,
    Tags,
    TagsOption,
    ThresholdRuleOption,
    cam_settings,
)
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
    from deal_core.evaluation.result import EvaluationResult
    from deal_core.masks.score_dataset import CamSettings


def evaluate(
    model: Annotated[
        Path,
        typer.Argument(help="Model file (.safetensors, .onnx), or folder of pseudo masks by deal cams."),
    ],
    dataset: Annotated[Path, typer.Argument(help="Dataset folder with masks.")],
    out: Annotated[
        Path | None, typer.Option(help="Run folder for evaluation.json and pictures; the model's own if left out.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the run in reports; the folder's if left out.")] = "",
    layout: LayoutOption = Layout.DEAL,
    split: SplitOption = "",
    depth: DepthOption = None,
    class_ids: ClassIdsOption = ClassIds.CONTIGUOUS,
    recordings: RecordingsOption = None,
    frames: FramesOption = None,
    tags: TagsOption = Tags.GIVEN,
    scales: ScalesOption = "1.0",
    flip: FlipOption = True,
    size: SizeOption = Size.MODEL,
    normalise: NormaliseOption = Normalise.MAX,
    refine: RefineOption = Refine.NONE,
    refine_options: RefineOptions = None,
    threshold_rule: ThresholdRuleOption = None,
    device: DeviceOption = "auto",
    depth_fails: Annotated[
        bool, typer.Option("--depth-fails", help="Keep depth from a model that uses it, as where the sensor fails.")
    ] = False,
    pictures: Annotated[int, typer.Option(min=0, help="Frames to draw, worst first.")] = 12,
    frames_of: Annotated[
        Path | None, typer.Option(help="Draw the same frames as this evaluated run, to compare them in a report.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json.")] = False,
) -> None:
    """Measure mIoU with the model's own threshold (auto) and with the best one for these masks (oracle).

    Of a folder of pseudo masks it measures them as they are; of an .onnx file, in int8 say, those that the robot sees.

    Examples:
      deal evaluate runs/kitchen/model.safetensors kitchen --recording held_out
      deal evaluate kitchen_int8.onnx kitchen --recording held_out --out runs/kitchen_int8
    """
    from deal_core.errors import UsageError
    from deal_core.evaluation.evaluate import evaluate_masks, evaluate_predictions, predictions_on_robot
    from deal_core.masks.score_dataset import CamSettings
    from deal_core.runtime.segmenter import Segmenter
    from training.support.console import print_json

    settings = cam_settings(tags, scales, flip, size, normalise, refine, refine_options, device)
    as_they_are = settings == CamSettings(device=device) and not threshold_rule
    settings = replace(settings, depth_fails=depth_fails)
    chosen = open_frames(dataset, layout, split, depth, class_ids, recordings, frames)
    pictured = Pictured(pictures, frames_of)
    if model.is_dir():
        if not as_they_are or depth_fails:
            raise UsageError(
                f"{model} is a folder of masks that are made already: options that say how masks are made go with a "
                "model file"
            )
        result = _evaluate(partial(evaluate_masks, model), chosen, out or model, name, pictured, quiet=as_json)
    elif model.suffix == ".onnx":
        if not as_they_are:
            raise UsageError(
                f"{model} is evaluated as the robot runs it, one image at a time without tags: options that say how "
                "scores are made go with a .safetensors file"
            )
        if out is None:
            raise UsageError(f"{model} has no run folder: say with --out where evaluation.json and pictures shall go")
        made = predictions_on_robot(Segmenter.load(model, device), chosen, depth_fails=depth_fails)
        result = _evaluate(partial(evaluate_predictions, made), chosen, out, name, pictured, quiet=as_json)
    else:
        folder = out or model.parent
        result = run_evaluation(
            model, chosen, folder, settings, name=name, rule=threshold_rule, pictured=pictured, quiet=as_json
        )
    if as_json:
        print_json(result.to_json())
    else:
        print_scores(result)


@dataclass(frozen=True)
class Pictured:
    """Which frames are drawn: so many, worst first, or those that another evaluated run has pictures of."""

    count: int = 12
    as_in: Path | None = None


def run_evaluation(
    model: Path,
    frames: Dataset,
    folder: Path,
    settings: CamSettings,
    *,
    name: str = "",
    rule: str | None = None,
    pictured: Pictured = Pictured(),
    quiet: bool = False,
) -> EvaluationResult:
    """Evaluate under a progress bar and write evaluation.json and the pictures into the run folder."""
    from deal_core.evaluation.evaluate import evaluate_model
    from deal_core.models.model_file import load_model

    evaluator = partial(evaluate_model, load_model(model), settings=settings, threshold_rule=rule)
    return _evaluate(evaluator, frames, folder, name, pictured, passes=2, quiet=quiet)


def _evaluate(
    evaluator: Callable[..., EvaluationResult],
    frames: Dataset,
    folder: Path,
    name: str,
    pictured: Pictured,
    *,
    passes: int = 1,
    quiet: bool,
) -> EvaluationResult:
    from training.support.console import progress

    with progress(quiet=quiet) as bar:
        task = bar.add_task("evaluating", total=passes * len(frames))
        result = evaluator(
            frames,
            name=name or folder.resolve().name,
            pictures=folder if pictured.count else None,
            num_pictures=pictured.count,
            show=_keys_of(pictured.as_in),
            advance=lambda done: bar.update(task, completed=done),
        )
        bar.update(task, completed=passes * len(frames))
    result.write(folder)
    return result


def print_scores(result: EvaluationResult) -> None:
    """Print one table: a row a class, a column for each of auto and oracle that there is."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    scores = [score for score in (result.auto, result.oracle) if score is not None]
    table = Table(title=escape(f"{result.name}: {result.num_frames} frames of {result.dataset}"))
    table.add_column("IoU, %")
    for score in scores:
        table.add_column(escape(_title(score)), justify="right")
    for of_class in zip(*(score.classes for score in scores), strict=True):
        table.add_row(escape(of_class[0].name), *(f"{100 * one.iou:.1f}" for one in of_class))
    table.add_section()
    table.add_row("mean", *(f"{100 * score.miou:.1f}" for score in scores), style="bold")
    table.add_row("boundary F", *(f"{100 * score.boundary_f:.1f}" for score in scores))
    Console().print(table)


def _keys_of(run: Path | None) -> list[str]:
    """Return the frames that an evaluated run has pictures of."""
    from deal_core.report.page import read_run

    return [picture.key for picture in read_run(run).pictures] if run else []


def _title(score: MaskScore) -> str:
    threshold = "" if score.threshold is None else f"{score.threshold:.2f}"
    if score.rule == "oracle":
        return f"oracle ({threshold})"
    return f"auto ({', '.join(part for part in (score.rule, threshold) if part)})"
