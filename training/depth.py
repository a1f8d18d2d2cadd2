"""`deal depth`: estimate the depth of images that have none.

deal depth VOCdevkit --as voc --split train_aug --out voc_depth
deal depth hope --as bop --out hope_depth --model models/depth-anything-v2-base --batch-size 16
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class DatasetLayout(str, Enum):
    """Layouts of datasets: the project's own and official ones."""

    DEAL = "deal"
    VOC = "voc"
    COCO = "coco"
    BOP = "bop"


class NetworkPrecision(str, Enum):
    """Of the network's arithmetic."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def depth(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[Path, typer.Option(help="Folder for depth.json and <recording>/<image>.png.")],
    layout: Annotated[DatasetLayout, typer.Option("--as", help="The dataset's layout.")] = DatasetLayout.DEAL,
    split: Annotated[str, typer.Option(help="With --as: which list; the training list when left out.")] = "",
    recordings: Annotated[list[str] | None, typer.Option("--recording", help="Only this one; may be repeated.")] = None,
    model: Annotated[
        str, typer.Option(help="Depth Anything V2: a name on the Hugging Face hub, or a folder.")
    ] = "depth-anything/Depth-Anything-V2-Base-hf",
    batch_size: Annotated[int, typer.Option(min=1, help="Images estimated together.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1")] = "auto",
    precision: Annotated[NetworkPrecision, typer.Option(help="Of the arithmetic.")] = NetworkPrecision.FLOAT32,
) -> None:
    """Estimate a depth map of every image; goes on where an interrupted run stopped.

    Train with data.depth=OUT afterwards.

    Example: deal depth VOCdevkit --as voc --split train_aug --out voc_depth
    """
    from deal_core.config import SourceSettings
    from deal_core.data.source import open_dataset
    from deal_core.depth_estimation import DepthEstimator, write_depth_maps
    from training.console import console, track

    source = SourceSettings(path=dataset, format=layout.value, split=split, recordings=tuple(recordings or ()))
    frames = open_dataset(source)
    estimator = DepthEstimator.load(model, device, precision.value)
    made = sum(track(write_depth_maps(estimator, frames, out, batch_size), "Depth", total=len(frames)))
    console().print(
        f"{out}: {made} maps of {estimator.kind} depth written, {len(frames) - made} were there already", markup=False
    )
