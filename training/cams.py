"""`deal cams`: class activation maps and pseudo masks of a whole dataset."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Tags(str, Enum):
    """Which classes may score."""

    GIVEN = "given"
    PREDICTED = "predicted"


def cams(
    model: Annotated[Path, typer.Argument(help="Model file (.safetensors).")],
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[Path, typer.Option(help="Folder for <recording>/<stamp>.npz and .png.")],
    recordings: Annotated[list[str] | None, typer.Option("--recording", help="Only this one; may be repeated.")] = None,
    tags: Annotated[Tags, typer.Option(help="Classes tagged in the frame, or what the network sees.")] = Tags.GIVEN,
    scales: Annotated[str, typer.Option(help="Factors on the input size, with commas.")] = "1.0",
    flip: Annotated[bool, typer.Option(help="Add the mirrored image.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1")] = "auto",
) -> None:
    """Write class scores and pseudo masks of every frame; goes on where an interrupted run stopped.

    Example: deal cams runs/kitchen/model.safetensors kitchen --out kitchen_cams --scales 0.5,1,1.5
    """
    from deal_core.data.dataset import Dataset
    from deal_core.inference import CamSettings, write_cams
    from deal_core.modelfile import load_model
    from training.console import console, track

    frames = Dataset.open(dataset).subset(recordings=recordings or None)
    settings = CamSettings(tags=tags.value, scales=parse_scales(scales), flip=flip, device=device)
    made = sum(track(write_cams(load_model(model), frames, out, settings), "CAMs", total=len(frames)))
    console().print(f"{out}: {made} frames written, {len(frames) - made} were there already", markup=False)


def parse_scales(text: str) -> tuple[float, ...]:
    """Read `0.5,1,1.5`.

    Raises:
        UsageError: not a list of positive numbers.
    """
    from deal_core.errors import UsageError

    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or min(scales) <= 0:
        raise UsageError(f"--scales: expected positive numbers with commas, like 0.5,1,1.5, found '{text}'")
    return scales
