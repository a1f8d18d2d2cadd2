"""`deal cams`: class activation maps and pseudo masks of a dataset.

deal cams runs/kitchen/model.safetensors kitchen --out kitchen_masks --refine auto
deal cams runs/kitchen/model.safetensors kitchen --out fused_masks --refine auto --views recording
deal cams runs/voc/model.safetensors VOC2012 --as voc --split train --out masks --size image --scales 1,1.2 --refine crf
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from training.support.options import (
    DatasetArgument,
    ModelArgument,
    ScoreOptions,
    SourceOptions,
    ThresholdRuleOption,
    parse_numbers,
)

if TYPE_CHECKING:
    from deal_core.dataset.dataset import Dataset
    from deal_core.masks.decide import IgnoreBand
    from deal_core.masks.other_views import OtherViews
    from deal_core.masks.score_dataset import CamSettings
    from deal_core.models.model_file import LoadedModel, Threshold
    from deal_core.views.fusion import FusedScores, FusionCounts

MaskSourceName = Literal["auto", "cam", "regions"]
ViewsName = Literal["none", "near", "recording"]


def cams(
    model: ModelArgument,
    dataset: DatasetArgument,
    out: Annotated[
        Path, typer.Option(help="Folder for class scores, <recording>/<name>.npz, and pseudo masks, .png beside them.")
    ],
    source: SourceOptions,
    scores: ScoreOptions,
    threshold_rule: ThresholdRuleOption = None,
    ignore_band: Annotated[
        str,
        typer.Option(help="Two thresholds, as in 0.2,0.4, instead of one: pixels between them are unlabelled (255)."),
    ] = "",
    regions: Annotated[
        Path | None,
        typer.Option(help="Region model (`deal regions`): a second source of masks.", show_default=False),
    ] = None,
    taps: Annotated[
        bool,
        typer.Option(help="Let the scores give way to masks of taps and boxes (deal tag), where there are any."),
    ] = True,
    views: Annotated[
        ViewsName,
        typer.Option(
            help="Fuse the scores with those of other frames that show the same places, by the poses of the camera: of "
            "those within 2 s (near), or of all up to a pause (recording). The masks are refined afterwards."
        ),
    ] = "none",
    mask_source: Annotated[
        MaskSourceName | None,
        typer.Option(
            "--source",
            help="With --regions: the model that makes the masks. auto: the one whose masks are judged better on up to "
            "100 frames, without drawn masks. Default: auto.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write class scores and pseudo masks of every frame. An interrupted run continues where it stopped.

    At the end, the masks are judged without drawn masks; warnings say what is wrong and what to do, and
    quality.json in the folder holds the verdict.

    Example: deal cams runs/kitchen/model.safetensors kitchen --out kitchen_masks --refine auto
    """
    from deal_core.errors import UsageError
    from deal_core.masks.mask_folder import write_cams
    from deal_core.models.model_file import load_model
    from deal_core.views.fusion import FusedScores, FusionCounts
    from training.support.console import console
    from training.support.taps import tap_masks

    settings, band = scores.settings(), _parse_band(ignore_band)
    if band and threshold_rule:
        raise UsageError("--ignore-band and --threshold-rule both set the threshold: use one of them")
    if mask_source and not regions:
        raise UsageError("--source chooses between two models: give the region model with --regions")
    if regions and (threshold_rule or band):
        raise UsageError("--threshold-rule and --ignore-band are for the scores of one model: leave out --regions")
    frames = source.open(dataset)
    loaded = load_model(model)
    if regions:
        loaded, settings = _chosen(loaded, load_model(regions), frames, settings, mask_source or "auto")
    fused = None if views == "none" else FusedScores(loaded, frames, settings, views)
    threshold = _threshold(loaded, frames, out, settings, threshold_rule, fused) if threshold_rule else None
    if fused:
        fused.counts = FusionCounts()  # those of the masks alone
    known = tap_masks(frames) if taps else None
    steps = write_cams(loaded, frames, out, settings, threshold=threshold, ignore_band=band, known=known, views=fused)
    made = _write(steps, len(frames), fused)
    console().print(f"{out}: {made} frames written, {len(frames) - made} existed already", markup=False)
    if fused:
        _tell(fused.counts)
    _judge(out, frames, loaded, threshold)


def _write(steps: Iterator[bool], frames: int, fused: FusedScores | None) -> int:
    """Take all steps behind a progress bar, with a second one for the maps of other views; return the written ones."""
    from training.support.console import progress

    with progress() as bar:
        masks = bar.add_task("CAMs", total=frames)
        if fused and fused.mapping_steps:
            maps = bar.add_task("views", total=fused.mapping_steps)
            fused.advance = lambda: bar.advance(maps)
        return sum(bar.track(steps, total=frames, task_id=masks))


def _tell(counts: FusionCounts) -> None:
    """Print how many frames have fused scores, and why others have their own alone."""
    from training.support.console import console

    console().print(f"scores of {counts.fused} frames are fused with those of other views", markup=False)
    causes = {
        "have no pose in poses.json (deal poses gives some)": counts.without_pose,
        "have no depth": counts.without_depth,
        "fit no other view, so their poses or the intrinsics may be wrong": counts.left_out,
    }
    for why, count in causes.items():
        if count:
            text = f"warning: {count} frames {why}: they have their own scores alone"
            console().print(text, style="yellow", markup=False)


def _chosen(
    model: LoadedModel, regions: LoadedModel, frames: Dataset, settings: CamSettings, name: MaskSourceName
) -> tuple[LoadedModel, CamSettings]:
    """Return the model that makes the masks, and its settings; the scores of a region model are not refined."""
    from dataclasses import replace

    from deal_core.errors import UsageError
    from deal_core.masks.score_dataset import check_use
    from deal_core.quality.choice import MaskSource, choose_source, judge_source
    from deal_core.quality.mask_figures import MEASURED_FRAMES
    from training.support.console import console, counting

    if model.info.names_regions or not regions.info.names_regions:
        raise UsageError("expected MODEL of `deal train` and --regions of `deal regions`, found other kinds of models")
    sources = {"cam": MaskSource(model, settings), "regions": MaskSource(regions, replace(settings, refine=None))}
    for source in sources.values():
        check_use(source.model.info, frames, source.settings)
    if name == "auto":
        verdicts = {}
        for candidate, source in sources.items():
            with counting(f"quality of {candidate}", min(len(frames), MEASURED_FRAMES)) as advance:
                verdicts[candidate] = judge_source(source, frames, advance=advance)
        name = cast("MaskSourceName", choose_source(verdicts))
        told = ", ".join(f"{one} {verdict.grade} ({verdict.score:.2f})" for one, verdict in verdicts.items())
        console().print(f"source of the masks: {name}, of {told}", markup=False)
    chosen = sources[name]
    return chosen.model, chosen.settings


def _judge(out: Path, frames: Dataset, model: LoadedModel, threshold: Threshold | None) -> None:
    """Judge the masks of the folder, write the verdict there and print what is not good."""
    from dataclasses import replace

    from deal_core.quality.training_facts import facts_of_training
    from deal_core.quality.verdict import judge
    from training.support.quality import count_masks, print_outcome

    info = replace(model.info, threshold=threshold) if threshold else model.info
    verdict = judge(count_masks(out, frames), training=facts_of_training(info))
    verdict.write(out)
    print_outcome(verdict)


def _threshold(
    model: LoadedModel, frames: Dataset, out: Path, settings: CamSettings, rule: str, views: OtherViews | None
) -> Threshold:
    """Return the threshold that an earlier run recorded in `out`, or choose it by the rule."""
    from deal_core.masks.mask_folder import recorded_threshold
    from deal_core.masks.score_dataset import THRESHOLD_FRAMES, choose_threshold
    from training.support.console import console, counting

    threshold = recorded_threshold(out, rule)
    if threshold is None:
        with counting("threshold", min(len(frames), THRESHOLD_FRAMES)) as advance:
            threshold = choose_threshold(model, frames, settings, rule, views=views, advance=advance)
        console().print(f"background threshold {threshold.value:.2f}, {threshold.rule}", markup=False)
    return threshold


def _parse_band(text: str) -> IgnoreBand | None:
    from deal_core.errors import UsageError

    if not text:
        return None
    numbers = parse_numbers(text)
    if len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1] <= 1:
        raise UsageError(f"--ignore-band: expected two rising thresholds in [0, 1], like 0.2,0.4, found '{text}'")
    return numbers[0], numbers[1]
