"""`deal depth`: estimate the depth of images that have none.

deal depth VOCdevkit --as voc --split train_aug --out voc_depth
deal depth hope --as bop --out hope_depth --model models/depth-anything-v2-base --batch-size 16
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from training.support.dataset_options import (
    ClassIds,
    DatasetArgument,
    Layout,
    LayoutOption,
    RecordingsOption,
    SplitOption,
    open_frames,
)


class NetworkPrecision(str, Enum):
    """Of the network's arithmetic."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


def depth(
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option(help="Folder for depth.json and <recording>/<image>.png.")],
    layout: LayoutOption = Layout.DEAL,
    split: SplitOption = "",
    recordings: RecordingsOption = None,
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
    from deal_core.dataset.depth_estimation import DepthEstimator, write_depth_maps
    from training.support.console import console, track

    frames = open_frames(dataset, layout, split, None, ClassIds.CONTIGUOUS, recordings)
    estimator = DepthEstimator.load(model, device, precision.value)
    made = sum(track(write_depth_maps(estimator, frames, out, batch_size), "Depth", total=len(frames)))
    console().print(
        f"{out}: {made} maps of {estimator.kind} depth written, {len(frames) - made} were there already", markup=False
    )
