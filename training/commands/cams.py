"""`deal cams`: class activation maps and pseudo masks of a whole dataset.

deal cams runs/kitchen/model.safetensors kitchen --out kitchen_masks --refine walk
deal cams runs/voc/model.safetensors VOC2012 --as voc --split train --out masks --size image --scales 1,1.2 --refine crf
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.support.dataset_options import (
    ClassIds,
    ClassIdsOption,
    DatasetArgument,
    DepthOption,
    FramesOption,
    Layout,
    LayoutOption,
    RecordingsOption,
    SplitOption,
    open_frames,
)

if TYPE_CHECKING:
    from deal_core.masks.decide import IgnoreBand
    from deal_core.masks.score_dataset import CamSettings


class Tags(str, Enum):
    """Which classes may score."""

    GIVEN = "given"
    PREDICTED = "predicted"


class Size(str, Enum):
    """What a scale of 1 is."""

    MODEL = "model"
    IMAGE = "image"


class Normalise(str, Enum):
    """How a map becomes a score."""

    MAX = "max"
    MIN_MAX = "min_max"


class Refine(str, Enum):
    """Refinements of the scores."""

    NONE = "none"
    PAR = "par"
    CRF = "crf"
    WALK = "walk"
    REGIONS = "regions"


ModelArgument = Annotated[Path, typer.Argument(help="Model file (.safetensors).")]
TagsOption = Annotated[Tags, typer.Option(help="Classes tagged in the frame, or what the network sees.")]
ScalesOption = Annotated[str, typer.Option(help="Factors on the image's size, with commas.")]
FlipOption = Annotated[bool, typer.Option(help="Add the mirrored image.")]
SizeOption = Annotated[Size, typer.Option(help="Scale 1 is the model's input size, or the image as it is.")]
NormaliseOption = Annotated[
    Normalise, typer.Option(help="Divide each map by its maximum, or stretch it from minimum to maximum.")
]
RefineOption = Annotated[
    Refine,
    typer.Option(
        help="Pixel-adaptive (par), dense CRF, a random walk over depth and colour, or regions grown in depth."
    ),
]
RefineOptions = Annotated[
    list[str] | None,
    typer.Option("--refine-option", help="key=value of the refinement, may be repeated; docs/how_to/pseudo_masks.md."),
]
ThresholdRuleOption = Annotated[
    str | None,
    typer.Option(help="Choose the threshold anew for these scores: otsu, depth_relief, depth_edges, fixed:0.3"),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1")]


def cams(
    model: ModelArgument,
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option(help="Folder for <recording>/<name>.npz and .png.")],
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
    ignore_band: Annotated[
        str, typer.Option(help="Two thresholds, with a comma, in place of one: pixels between them become 255.")
    ] = "",
    device: DeviceOption = "auto",
) -> None:
    """Write class scores and pseudo masks of every frame; goes on where an interrupted run stopped.

    Example: deal cams runs/kitchen/model.safetensors kitchen --out kitchen_masks --refine walk
    """
    from deal_core.errors import UsageError
    from deal_core.masks.mask_folder import recorded_threshold, write_cams
    from deal_core.masks.score_dataset import THRESHOLD_FRAMES, choose_threshold
    from deal_core.models.model_file import load_model
    from training.support.console import console, progress, track

    settings = cam_settings(tags, scales, flip, size, normalise, refine, refine_options, device)
    band = parse_band(ignore_band)
    if band and threshold_rule:
        raise UsageError("--ignore-band gives the thresholds, and --threshold-rule would choose one: use either")
    chosen = open_frames(dataset, layout, split, depth, class_ids, recordings, frames)
    loaded = load_model(model)
    threshold = recorded_threshold(out, threshold_rule) if threshold_rule else None
    if threshold_rule and threshold is None:
        with progress() as bar:
            task = bar.add_task("threshold", total=min(len(chosen), THRESHOLD_FRAMES))
            threshold = choose_threshold(
                loaded, chosen, settings, threshold_rule, advance=lambda done: bar.update(task, completed=done)
            )
        console().print(f"background threshold {threshold.value:.2f}, {threshold.rule}", markup=False)
    steps = write_cams(loaded, chosen, out, settings, threshold=threshold, ignore_band=band)
    made = sum(track(steps, "CAMs", total=len(chosen)))
    console().print(f"{out}: {made} frames written, {len(chosen) - made} were there already", markup=False)


def cam_settings(
    tags: Tags,
    scales: str,
    flip: bool,
    size: Size,
    normalise: Normalise,
    refine: Refine,
    refine_options: list[str] | None,
    device: str,
) -> CamSettings:
    """Return how scores are made, from the options that `deal cams` and `deal evaluate` share.

    Raises:
        UsageError: scales that are no numbers, or an option that the refinement does not have.
    """
    from deal_core.masks.refine.refinement import refinement_settings
    from deal_core.masks.score_dataset import CamSettings

    return CamSettings(
        tags=tags.value,
        scales=parse_scales(scales),
        flip=flip,
        device=device,
        size=size.value,
        normalise=normalise.value,
        refine=refinement_settings(refine.value, refine_options or ()),
    )


def parse_scales(text: str) -> tuple[float, ...]:
    """Read `0.5,1,1.5`.

    Raises:
        UsageError: not a list of positive numbers.
    """
    from deal_core.errors import UsageError

    scales = _numbers(text)
    if not scales or not all(0 < scale < float("inf") for scale in scales):
        raise UsageError(f"--scales: expected positive numbers with commas, like 0.5,1,1.5, found '{text}'")
    return scales


def parse_band(text: str) -> IgnoreBand | None:
    """Read `0.2,0.4`; None of nothing.

    Raises:
        UsageError: not two rising thresholds.
    """
    from deal_core.errors import UsageError

    if not text:
        return None
    numbers = _numbers(text)
    if len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1] <= 1:
        raise UsageError(f"--ignore-band: expected two rising thresholds in [0, 1], like 0.2,0.4, found '{text}'")
    return numbers[0], numbers[1]


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        return ()
