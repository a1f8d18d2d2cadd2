"""`deal depth`: estimate depth maps for images that have none.

deal depth VOCdevkit --as voc --split train_aug --out voc_depth
deal depth hope --as bop --out hope_depth --model models/depth-anything-v2-base --batch-size 16
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deal_core.dataset.choices import DepthPrecision
from training.support.options import (
    DatasetArgument,
    DeviceOption,
    LayoutOption,
    RecordingsOption,
    SourceOptions,
    SplitOption,
)


def depth(
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option(help="Folder for depth.json and <recording>/<image>.png.")],
    layout: LayoutOption = "deal",
    split: SplitOption = "",
    recordings: RecordingsOption = None,
    model: Annotated[
        str, typer.Option(help="Depth Anything V2 network: its name on the Hugging Face hub, or a folder.")
    ] = "depth-anything/Depth-Anything-V2-Base-hf",
    batch_size: Annotated[int, typer.Option(min=1, help="Number of images that the network takes at once.")] = 8,
    device: DeviceOption = "auto",
    precision: Annotated[DepthPrecision, typer.Option(help="Floating-point type of the network.")] = "float32",
) -> None:
    """Estimate a depth map for every image. An interrupted run continues where it stopped.

    To train with these depth maps, set data.depth=OUT.

    Example: deal depth VOCdevkit --as voc --split train_aug --out voc_depth
    """
    from deal_core.dataset.depth_estimation import DepthEstimator, write_depth_maps
    from training.support.console import console, track

    frames = SourceOptions(layout=layout, split=split, recordings=recordings).open(dataset)
    estimator = DepthEstimator.load(model, device, precision)
    made = sum(track(write_depth_maps(estimator, frames, out, batch_size), "Depth", total=len(frames)))
    console().print(
        f"{out}: {made} maps of {estimator.kind} depth written, {len(frames) - made} existed already", markup=False
    )
