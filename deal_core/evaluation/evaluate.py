"""Masks of a model, of a robot or of a folder, compared with the true ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deal_core.dataset.dataset import Dataset, with_masks
from deal_core.errors import DatasetError
from deal_core.evaluation.metrics import MaskEvaluator
from deal_core.evaluation.picture_folder import PictureWriter, choose_frames
from deal_core.evaluation.result import EvaluationResult
from deal_core.evaluation.sweep import ThresholdSweep
from deal_core.masks.decide import predict_mask
from deal_core.masks.mask_folder import check_masks, read_mask
from deal_core.masks.refine.refinement import (
    refinement_name,
)
from deal_core.masks.score_dataset import (
    CamSettings,
    ScoredFrame,
    check_use,
    decision_threshold,
    need_depth_for_rule,
    score_frames,
)
from deal_core.masks.threshold_rules import create_rule
from deal_core.models.model_file import LoadedModel, Threshold
from deal_core.runtime.segmenter import Segmenter
from deal_core.structures import UNLABELLED, Sample, UInt8Array


@dataclass(frozen=True, eq=False)
class Predictions:
    """Masks that are made already, or that are made of one image after the other.

    Args:
        predict: returns the mask of a frame, (H, W) ids, 255 where nobody decided.
        rule: that chose the threshold.
        threshold: that the masks are made with; None where nobody noted it.
        details: what readers of figures shall know of how they are made.
    """

    predict: Callable[[Sample], UInt8Array]
    rule: str
    threshold: float | None
    details: Mapping[str, str]


def evaluate_model(
    model: LoadedModel,
    dataset: Dataset,
    settings: CamSettings | None = None,
    *,
    name: str,
    threshold_rule: str | None = None,
    pictures: Path | None = None,
    num_pictures: int = 12,
    show: Collection[str] = (),
    advance: Callable[[int], None] = lambda frames: None,
) -> EvaluationResult:
    """Compare a model's masks with the true ones, with a threshold that saw no masks and the swept one.

    Two passes over the frames that have a mask: the second draws the masks at the thresholds that the first found.

    Args:
        model: the model.
        dataset: frames without a mask are left out.
        settings: how scores are made, refinement included.
        name: of the run, for readers.
        threshold_rule: chooses the threshold anew for these scores; `decision_threshold` when left out.
        pictures: run folder into which pictures of some frames are written, worst first; none when left out.
        num_pictures: how many frames to show.
        show: the keys of the frames to show instead, as for another run that is to be looked at beside this one.
        advance: told the number of frames done, 0 to twice their number.

    Raises:
        DatasetError: no frame has a mask, or none of the masks a labelled pixel.
        ModelFileError: the model is for other classes.
        ConfigError: an unknown threshold rule.
        UsageError: as `score_frames` and `choose_threshold`.
        EvaluationError: nothing was seen that the threshold rule could decide on.
    """
    settings = settings or CamSettings()
    check_use(model.info, dataset, settings)
    dataset = with_masks(dataset)
    rule = create_rule(threshold_rule, depth_kind=dataset.depth_kind) if threshold_rule else None
    if threshold_rule:
        need_depth_for_rule(threshold_rule, dataset)
    classes = dataset.classes
    sweep = ThresholdSweep(len(classes))
    for done, frame in enumerate(score_frames(model, dataset, settings), 1):
        sweep.update(frame.scores, frame.tags, mask_of(frame.sample))
        if rule:
            rule.update(frame.scores, frame.sample.depth, frame.sample.depth_valid, frame.tags)
        advance(done)
    if not sweep.counts.any():
        raise DatasetError(f"{dataset.path}: the masks hold no labelled pixel, only {UNLABELLED} (ignored)")
    threshold = Threshold(rule.threshold(), threshold_rule or "") if rule else decision_threshold(model, settings)
    best = sweep.best()
    auto, oracle = MaskEvaluator(len(classes)), MaskEvaluator(len(classes))
    for done, frame in enumerate(score_frames(model, dataset, settings), 1):
        mask, key = mask_of(frame.sample), frame.sample.key
        auto.update(predict_mask(frame.scores, frame.tags, threshold.value), mask, key)
        oracle.update(predict_mask(frame.scores, frame.tags, best.threshold), mask, key)
        advance(len(dataset) + done)
    result = EvaluationResult(
        name=name,
        dataset=str(dataset.path),
        classes=classes,
        num_frames=len(dataset),
        oracle=oracle.score(classes, rule="oracle", threshold=best.threshold),
        auto=auto.score(classes, rule=threshold.rule, threshold=threshold.value),
        curve=sweep.curve(),
        per_frame=tuple(auto.frames),
        details={**_details(model, settings), "model": model.sha256[:12], **_plain(model.info.training)},
    )
    if pictures:
        shown = tuple(show) or choose_frames(auto.frames, num_pictures)
        few = dataset.subset(predicate=lambda frame: frame.key in shown)
        scored = {frame.sample.key: frame for frame in score_frames(model, few, settings)}
        _write_pictures(pictures, result, [scored[key] for key in shown if key in scored], threshold.value)
    return result


def predictions_on_robot(segmenter: Segmenter, dataset: Dataset, *, depth_fails: bool = False) -> Predictions:
    """Return the masks that the robot will see: one image at a time, without tags.

    Args:
        segmenter: of any back end and precision.
        dataset: whose frames shall be looked at.
        depth_fails: keep depth from a network that uses it.

    Raises:
        ModelFileError: the model is for other classes.
        UsageError: as `check_use`.
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


def evaluate_predictions(
    predictions: Predictions,
    dataset: Dataset,
    *,
    name: str,
    pictures: Path | None = None,
    num_pictures: int = 12,
    show: Collection[str] = (),
    advance: Callable[[int], None] = lambda frames: None,
) -> EvaluationResult:
    """Compare masks with the true ones, as they are; a pixel that they leave to nobody (255) counts as wrong.

    Args:
        predictions: the masks.
        dataset: frames without a true mask are left out.
        name: of the run, for readers.
        pictures: as `evaluate_model`, like all that follow.
        num_pictures: how many frames to show.
        show: the keys of the frames to show instead.
        advance: told the number of frames done.

    Raises:
        DatasetError: no frame has a mask.
        ModelFileError: a network's scores are not finite.
    """
    dataset = with_masks(dataset)
    masks = MaskEvaluator(len(dataset.classes))
    for done, record in enumerate(dataset.frames, 1):
        sample = dataset.load(record)
        masks.update(predictions.predict(sample), mask_of(sample), record.key)
        advance(done)
    if pictures:
        shown = tuple(show) or choose_frames(masks.frames, num_pictures)
        records = {frame.key: frame for frame in dataset.frames}
        iou = {frame.key: frame.iou for frame in masks.frames}
        with PictureWriter(pictures, dataset.classes) as writer:
            for sample in (dataset.load(records[key]) for key in shown if key in records):
                writer.add_sample(sample, iou[sample.key], predictions.predict(sample))
    return EvaluationResult(
        name=name,
        dataset=str(dataset.path),
        classes=dataset.classes,
        num_frames=len(dataset),
        auto=masks.score(dataset.classes, rule=predictions.rule, threshold=predictions.threshold),
        per_frame=tuple(masks.frames),
        details=predictions.details,
    )


def mask_of(sample: Sample) -> UInt8Array:
    """Return the mask of a frame of `with_masks`."""
    assert sample.mask is not None  # only frames with a mask were asked for
    return sample.mask


def _details(model: LoadedModel, settings: CamSettings) -> dict[str, str]:
    """Return what a reader of figures must know about how the scores were made."""
    of_network = "as the network says"
    return {
        "tags": of_network if model.info.is_segmenter else settings.tags,
        "scales": ", ".join(f"{scale:g}" for scale in settings.scales),
        "flip": "yes" if settings.flip else "no",
        "size": settings.size,
        "normalise": of_network if model.info.is_segmenter else settings.normalise,
        "refine": refinement_name(settings.refine),
        **({"depth": "none" if settings.depth_fails else "of the frames"} if model.info.uses_depth else {}),
    }


def _write_pictures(run: Path, result: EvaluationResult, frames: Sequence[ScoredFrame], threshold: float) -> None:
    iou = {score.key: score.iou for score in result.per_frame}
    with PictureWriter(run, result.classes) as pictures:
        for frame in frames:
            prediction = predict_mask(frame.scores, frame.tags, threshold)
            pictures.add_sample(frame.sample, iou[frame.sample.key], prediction, frame.scores)


def _plain(values: object) -> dict[str, str | int | float | bool]:
    items = values.items() if isinstance(values, dict) else ()
    return {str(k): v for k, v in items if isinstance(v, (str, int, float, bool))}


def evaluate_masks(
    folder: Path,
    dataset: Dataset,
    *,
    name: str,
    pictures: Path | None = None,
    num_pictures: int = 12,
    show: Collection[str] = (),
    advance: Callable[[int], None] = lambda frames: None,
) -> EvaluationResult:
    """Compare the pseudo masks of a folder that `write_cams` wrote with the true ones.

    A pixel that the masks leave to nobody (255) counts as wrong.

    Args:
        folder: of the pseudo masks.
        dataset: frames without a true mask are left out.
        name: of the run, for readers.
        pictures: run folder into which pictures of some frames are written, worst first; none when left out.
        num_pictures: how many frames to show.
        show: the keys of the frames to show instead, as for another run that is to be looked at beside this one.
        advance: told the number of frames done.

    Raises:
        DatasetError: no cams.json, masks for other classes, or one that is missing or damaged.
    """
    dataset = with_masks(dataset)
    found = check_masks(folder, dataset)

    def read(sample: Sample) -> UInt8Array:
        return read_mask(folder, sample.key, sample.image.shape[:2], len(dataset.classes))

    details = {"masks": str(folder), "model": str(found.get("model"))[:12]}
    predictions = Predictions(read, str(found.get("threshold_rule")), found.get("threshold"), details)
    return evaluate_predictions(
        predictions, dataset, name=name, pictures=pictures, num_pictures=num_pictures, show=show, advance=advance
    )
