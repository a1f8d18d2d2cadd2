"""Comparison of the masks of a model, a robot or a folder with the true masks.

Each frame is counted separately, and `add_up` merges the counts. The counts of several processes merge in the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from deal_core.dataset.dataset import Dataset, masks_without_class, with_masks
from deal_core.errors import DatasetError, EvaluationError
from deal_core.evaluation.decided_frames import DecidedFrame, DecidedFrames
from deal_core.evaluation.decisions import Advance, Decisions
from deal_core.evaluation.flicker import Flicker
from deal_core.evaluation.metrics import MaskEvaluator
from deal_core.evaluation.picture_folder import PredictedFrame, choose_frames, draw_frames
from deal_core.evaluation.result import EvaluationResult
from deal_core.evaluation.shards import WHOLE, Shard
from deal_core.evaluation.sweep import ThresholdSweep
from deal_core.masks.decide import predict_mask
from deal_core.masks.mask_folder import check_masks, read_mask
from deal_core.masks.refine.refinement import refinement_name
from deal_core.masks.score_dataset import CamSettings, check_use, score_frames
from deal_core.masks.threshold_rules import ThresholdRule
from deal_core.models.model_file import LoadedModel, Threshold
from deal_core.runtime.segmenter import Segmenter
from deal_core.structures import UNLABELLED, Float32Array, Int64Array, Sample, UInt8Array

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Masks that exist already or are predicted image by image.

    Args:
        predict: Function that returns the mask of a frame, (H, W) ids, 255 where undecided.
        rule: Name of the rule that chose the threshold.
        threshold: Threshold of the masks; None if it is unknown.
        details: Facts about the masks for the report.
    """

    predict: Callable[[Sample], UInt8Array]
    rule: str
    threshold: float | None
    details: Mapping[str, str]

    def frames(self, dataset: Dataset) -> Iterable[PredictedFrame]:
        """Yield every frame of a dataset with its mask, in order and in constant memory."""
        samples = (dataset.load(record) for record in dataset.frames)
        return (PredictedFrame(sample, self.predict(sample)) for sample in samples)


class Counts(Protocol):
    """Counts over some frames."""

    def merge(self, other: Any) -> None:
        """Add the counts over other frames."""


C = TypeVar("C", bound=tuple[Counts, ...])


def add_up(totals: C, frames: Iterable[C], advance: Advance = lambda frames: None) -> C:
    """Merge the counts of frames into the totals, frame by frame, and return the totals.

    Args:
        totals: Counts so far; empty counts at the beginning.
        frames: Counts of each frame, in the order of the totals.
        advance: Function to call with the number of processed frames.
    """
    for done, counts in enumerate(frames, 1):
        for total, of_frame in zip(totals, counts, strict=True):
            total.merge(of_frame)
        advance(done)
    return totals


def count_mask(
    prediction: UInt8Array, truth: UInt8Array | None, key: str, num_classes: int, tags: Float32Array | None = None
) -> MaskEvaluator:
    """Return the counts of one frame; empty counts for a frame without a true mask."""
    counts = MaskEvaluator(num_classes)
    if truth is not None:
        counts.update(prediction, truth, key, tags)
    return counts


def evaluate_model(
    model: LoadedModel,
    dataset: Dataset,
    settings: CamSettings | None = None,
    *,
    name: str,
    threshold_rule: str | None = None,
    kept: Path | None = None,
    pictures: Path | None = None,
    num_pictures: int = 12,
    show: Collection[str] = (),
    advance: Advance = lambda frames: None,
) -> EvaluationResult:
    """Compare the masks of a model with the true masks, at the automatic threshold and at the swept threshold.

    Where the rule finds no threshold, the result has the swept threshold alone, and says why.

    The network sees each frame once: its decision at every threshold is kept, compressed, on disk. With `kept`, an
    evaluation that was interrupted, also by a kill, continues after the last of these frames, and one that several
    processes have made by `evaluate_shard` is put together. Its result is exactly that of a single process.

    Args:
        model: Model to evaluate.
        dataset: Frames; frames without a mask are ignored.
        settings: Settings of the scores, refinement included.
        name: Name of the run for the report.
        threshold_rule: Rule that chooses the automatic threshold on these scores; default: `decision_threshold`.
        kept: Run folder for the decisions until `forget_decisions`; default: temporary files.
        pictures: Run folder for pictures of some frames, worst first; default: no pictures.
        num_pictures: Number of frames to draw.
        show: Keys of the frames to draw instead, to compare runs in a report.
        advance: Function to call with the number of processed frames, up to twice the number of frames.

    Raises:
        DatasetError: no frame has a mask, or the masks have no labelled pixel.
        ModelFileError: the model is for other classes.
        ConfigError: the threshold rule is unknown.
        UsageError: `score_frames` or `choose_threshold` raises it.
        EvaluationError: another process evaluates in the folder, or the disk is full.
    """
    decisions = Decisions(model, dataset, settings or CamSettings(), threshold_rule)
    with decisions.opened(kept, join=True) as decided:
        decisions.make(decided, WHOLE, advance)
        return _evaluate_decided(decisions, decided, name, (pictures, num_pictures, show), advance)


def evaluate_shard(
    model: LoadedModel,
    dataset: Dataset,
    settings: CamSettings | None,
    shard: Shard,
    kept: Path,
    *,
    threshold_rule: str | None = None,
    advance: Advance = lambda frames: None,
) -> int:
    """Make the share of one process in an evaluation by several, and return its number of frames.

    Args:
        model: Model to evaluate.
        dataset: All frames.
        settings: Settings of the scores, refinement included.
        shard: Which share.
        kept: Run folder; `evaluate_model` with the same folder puts the shares together.
        threshold_rule: As for `evaluate_model`.
        advance: Function to call with the number of processed frames.

    Raises:
        DealError: as for `evaluate_model`.
    """
    decisions = Decisions(model, dataset, settings or CamSettings(), threshold_rule)
    with decisions.opened(kept, shard) as decided:
        return decisions.make(decided, shard, advance)


def predictions_on_robot(segmenter: Segmenter, dataset: Dataset, *, depth_fails: bool = False) -> Predictions:
    """Return the masks that the robot makes: one image at a time, without tags.

    Args:
        segmenter: Segmenter with any back end and precision.
        dataset: Frames to predict.
        depth_fails: Whether to give no depth to a network that uses it.

    Raises:
        ModelFileError: the model is for other classes.
        UsageError: `check_use` raises it.
    """
    check_use(segmenter.info, dataset, CamSettings(tags="predicted", depth_fails=depth_fails))
    sees_depth = segmenter.uses_depth and not depth_fails
    return Predictions(
        lambda sample: segmenter.segment(sample.image, sample.depth if sees_depth else None).mask,
        segmenter.info.threshold.rule,
        segmenter.info.threshold.value,
        {
            **({"depth": "of the frames" if sees_depth else "none"} if segmenter.uses_depth else {}),
            "runs": f"{segmenter.backend} on {segmenter.device}, {segmenter.precision}",
            "model": segmenter.model_hash[:12],
        },
    )


def predictions_in_folder(folder: Path, dataset: Dataset) -> Predictions:
    """Return the pseudo masks of a folder by `write_cams`.

    Raises:
        DatasetError: the folder has no cams.json, is for other classes than the dataset or lacks frames of it.
    """
    found = check_masks(folder, dataset)

    def read(sample: Sample) -> UInt8Array:
        return read_mask(folder, sample.key, sample.image.shape[:2], len(dataset.classes))

    return Predictions(read, found.rule, found.threshold, {"masks": str(folder), "model": found.model[:12]})


def evaluate_predictions(
    predictions: Predictions,
    dataset: Dataset,
    *,
    name: str,
    pictures: Path | None = None,
    num_pictures: int = 12,
    show: Collection[str] = (),
    advance: Advance = lambda frames: None,
) -> EvaluationResult:
    """Compare masks with the true masks; an undecided pixel (255) counts as wrong.

    Args:
        predictions: Masks to compare.
        dataset: Frames; frames without a true mask are ignored.
        name: Name of the run for the report.
        pictures: Run folder for pictures, as in `evaluate_model`.
        num_pictures: Number of frames to draw.
        show: Keys of the frames to draw instead.
        advance: Function to call with the number of processed frames.

    Raises:
        DatasetError: no frame has a mask.
        ModelFileError: the scores of a network are not finite.
    """
    dataset = with_masks(dataset)
    classes, flicker = dataset.classes, Flicker(dataset.frames)

    def count(frame: PredictedFrame) -> tuple[MaskEvaluator]:
        sample = frame.sample
        flicker.update(sample.image, frame.mask, mask_of(sample), sample.key)
        return (count_mask(frame.mask, sample.mask, sample.key, len(classes), sample.tags),)

    (masks,) = add_up((MaskEvaluator(len(classes)),), map(count, predictions.frames(dataset)), advance)
    _require_drawn_classes(masks.confusion.counts, dataset)
    if pictures:
        shown = tuple(show) or choose_frames(masks.frames, num_pictures)
        draw_frames(pictures, classes, _in_order(shown, dataset, predictions.frames), masks.frames)
    return EvaluationResult(
        name=name,
        dataset=str(dataset.path),
        classes=classes,
        num_frames=len(dataset),
        auto=masks.score(classes, rule=predictions.rule, threshold=predictions.threshold),
        per_frame=tuple(masks.frames),
        flicker=flicker.share(),
        details=predictions.details,
    )


def evaluate_masks(folder: Path, dataset: Dataset, *, name: str, **options: Any) -> EvaluationResult:
    """Compare the pseudo masks of a folder by `write_cams` with the true masks; options as in `evaluate_predictions`.

    Raises:
        DatasetError: the folder has no cams.json, is for other classes, or a mask is missing or damaged.
    """
    return evaluate_predictions(predictions_in_folder(folder, with_masks(dataset)), dataset, name=name, **options)


def predicted_frames(
    model: LoadedModel, dataset: Dataset, settings: CamSettings, threshold: float
) -> Iterable[PredictedFrame]:
    """Yield every frame with the mask of the model at a threshold, in order and in constant memory."""
    return (
        PredictedFrame(frame.sample, predict_mask(frame.scores, frame.tags, threshold), frame.scores)
        for frame in score_frames(model, dataset, settings)
    )


def mask_of(sample: Sample) -> UInt8Array:
    """Return the mask of a frame from `with_masks`."""
    assert sample.mask is not None  # `with_masks` keeps only frames with a mask
    return sample.mask


def _evaluate_decided(
    decisions: Decisions,
    decided: DecidedFrames,
    name: str,
    drawn: tuple[Path | None, int, Collection[str]],
    advance: Advance,
) -> EvaluationResult:
    """Return the result from the decisions of all frames; `drawn`: `pictures`, `num_pictures` and `show`."""
    model, dataset, settings = decisions.model, decisions.dataset, decisions.settings
    classes, (pictures, num_pictures, show) = dataset.classes, drawn
    keys = [record.key for record in dataset.frames]
    sweep, rule = add_up(decisions.nothing(), map(decisions.counts, decided.frames(keys)))
    threshold, lack = _chosen_threshold(decisions, sweep, rule)
    best = sweep.best()
    thresholds = [best.threshold] if threshold is None else [best.threshold, threshold.value]
    places = [decided.place(value) for value in thresholds]
    flicker, records = Flicker(dataset.frames), {record.key: record for record in dataset.frames}

    def count(frame: DecidedFrame) -> tuple[MaskEvaluator, ...]:
        masks = [frame.mask(place) for place in places]
        if flicker.is_possible:  # images alone need to be read again
            flicker.update(dataset.load(records[frame.key]).image, masks[-1], frame.truth, frame.key)
        return tuple(count_mask(found, frame.truth, frame.key, len(classes), frame.tags) for found in masks)

    def predict(few: Dataset) -> Iterable[PredictedFrame]:
        return predicted_frames(model, few, settings, thresholds[-1])

    totals = add_up(
        tuple(MaskEvaluator(len(classes)) for _ in thresholds),
        map(count, decided.frames(keys)),
        lambda done: advance(len(dataset) + done),
    )
    oracle, shown_at = totals[0], totals[-1]
    if pictures:
        shown = tuple(show) or choose_frames(shown_at.frames, num_pictures)
        draw_frames(pictures, classes, _in_order(shown, dataset, predict), shown_at.frames)
    return EvaluationResult(
        name=name,
        dataset=str(dataset.path),
        classes=classes,
        num_frames=len(dataset),
        oracle=oracle.score(classes, rule="oracle", threshold=best.threshold),
        auto=shown_at.score(classes, rule=threshold.rule, threshold=threshold.value) if threshold else None,
        curve=sweep.curve(),
        per_frame=tuple(shown_at.frames),
        flicker=flicker.share(),
        details={**_details(model, settings), **lack, "model": model.sha256[:12], **_plain(model.info.training)},
    )


def _chosen_threshold(
    decisions: Decisions, sweep: ThresholdSweep, rule: ThresholdRule
) -> tuple[Threshold | None, Mapping[str, str]]:
    """Return the automatic threshold, or None, and for the details of the result why there is none."""
    dataset = decisions.dataset
    if not sweep.counts.any():
        raise DatasetError(f"{dataset.path}: the masks have no labelled pixel, only {UNLABELLED} (ignored)")
    _require_drawn_classes(sweep.counts, dataset)
    try:
        return Threshold(rule.threshold(), decisions.rule_name), {}
    except EvaluationError as error:
        _log.warning("no automatic threshold: %s", error)
        return None, {"auto": f"no threshold: {error}"}


def _require_drawn_classes(counts: Int64Array, dataset: Dataset) -> None:
    """Raise `DatasetError` if frames are tagged and counts (K + 1, ...) of true ids contain no class."""
    if (dataset.tags == 1).any() and not counts[1:].any():
        raise masks_without_class(dataset.path, dataset.classes)


def _in_order(
    keys: Sequence[str], dataset: Dataset, predict: Callable[[Dataset], Iterable[PredictedFrame]]
) -> list[PredictedFrame]:
    """Return the predicted frames with these keys, in the order of the keys; unknown keys are ignored."""
    few = dataset.subset(predicate=lambda frame: frame.key in keys)
    found = {frame.sample.key: frame for frame in predict(few)}
    return [found[key] for key in keys if key in found]


def _details(model: LoadedModel, settings: CamSettings) -> dict[str, str]:
    """Return the facts about the scores that a report shows."""
    of_network = "as the network says"
    return {
        "tags": of_network if model.info.is_segmenter else settings.tags,
        "scales": ", ".join(f"{scale:g}" for scale in settings.scales),
        "flip": "yes" if settings.flip else "no",
        "size": settings.size,
        "normalise": of_network if model.info.is_segmenter else settings.normalise,
        "refine": refinement_name(settings.refine),
        **({} if settings.precision == "32" else {"precision": settings.precision}),
        **({"depth": "none" if settings.depth_fails else "of the frames"} if model.info.uses_depth else {}),
    }


def _plain(values: object) -> dict[str, str | int | float | bool]:
    items = values.items() if isinstance(values, dict) else ()
    return {str(k): v for k, v in items if isinstance(v, (str, int, float, bool))}
