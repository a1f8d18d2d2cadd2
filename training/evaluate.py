"""`deal evaluate`: a model against the masks that someone drew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.cams import Tags, parse_scales

if TYPE_CHECKING:
    from deal_core.data.dataset import Dataset
    from deal_core.evaluation import EvaluationResult
    from deal_core.inference import CamSettings


def evaluate(
    model: Annotated[Path, typer.Argument(help="Model file (.safetensors).")],
    dataset: Annotated[Path, typer.Argument(help="Dataset folder with masks.")],
    out: Annotated[
        Path | None, typer.Option(help="Run folder for evaluation.json and pictures; the model's own if left out.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the run in reports; the folder's if left out.")] = "",
    recordings: Annotated[list[str] | None, typer.Option("--recording", help="Only this one; may be repeated.")] = None,
    tags: Annotated[Tags, typer.Option(help="Classes tagged in the frame, or what the network sees.")] = Tags.GIVEN,
    scales: Annotated[str, typer.Option(help="Factors on the input size, with commas.")] = "1.0",
    flip: Annotated[bool, typer.Option(help="Add the mirrored image.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1")] = "auto",
    pictures: Annotated[int, typer.Option(min=0, help="Frames to draw, worst first.")] = 12,
    frames_of: Annotated[
        Path | None, typer.Option(help="Draw the same frames as this evaluated run, to compare them in a report.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print evaluation.json.")] = False,
) -> None:
    """Measure mIoU with the model's own threshold (auto) and with the best one for these masks (oracle).

    Example: deal evaluate runs/kitchen/model.safetensors kitchen --recording held_out
    """
    from deal_core.data.dataset import Dataset
    from deal_core.inference import CamSettings
    from training.console import print_json

    folder = out or model.parent
    settings = CamSettings(tags=tags.value, scales=parse_scales(scales), flip=flip, device=device)
    frames = Dataset.open(dataset).subset(recordings=recordings or None)
    result = run_evaluation(
        model, frames, folder, settings, name=name, num_pictures=pictures, frames_of=frames_of, quiet=as_json
    )
    if as_json:
        print_json(result.to_json())
    else:
        print_scores(result)


def run_evaluation(
    model: Path,
    frames: Dataset,
    folder: Path,
    settings: CamSettings,
    *,
    name: str = "",
    num_pictures: int = 12,
    frames_of: Path | None = None,
    quiet: bool = False,
) -> EvaluationResult:
    """Evaluate under a progress bar and write evaluation.json and the pictures into the run folder."""
    from deal_core.inference import evaluate_model
    from deal_core.modelfile import load_model
    from deal_core.report import read_run
    from training.console import progress

    show = [picture.key for picture in read_run(frames_of).pictures] if frames_of else []
    with progress(quiet=quiet) as bar:
        task = bar.add_task("evaluating", total=2 * len(frames))
        result = evaluate_model(
            load_model(model),
            frames,
            settings,
            name=name or folder.resolve().name,
            pictures=folder if num_pictures else None,
            num_pictures=num_pictures,
            show=show,
            advance=lambda done: bar.update(task, completed=done),
        )
        bar.update(task, completed=2 * len(frames))
    result.write(folder)
    return result


def print_scores(result: EvaluationResult) -> None:
    """Print one table: a row a class, auto and oracle IoU."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    auto, oracle = result.auto, result.oracle
    assert auto is not None and oracle is not None
    table = Table(title=escape(f"{result.name}: {result.num_frames} frames of {result.dataset}"))
    table.add_column("IoU, %")
    table.add_column(f"auto ({auto.rule}, {auto.threshold:.2f})", justify="right")
    table.add_column(f"oracle ({oracle.threshold:.2f})", justify="right")
    for ours, best in zip(auto.classes, oracle.classes, strict=True):
        table.add_row(escape(ours.name), f"{100 * ours.iou:.1f}", f"{100 * best.iou:.1f}")
    table.add_section()
    table.add_row("mean", f"{100 * auto.miou:.1f}", f"{100 * oracle.miou:.1f}", style="bold")
    table.add_row("boundary F", f"{100 * auto.boundary_f:.1f}", f"{100 * oracle.boundary_f:.1f}")
    Console().print(table)
