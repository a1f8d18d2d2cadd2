"""How good masks are: mIoU over all thresholds in one pass, boundary F, and the file that `deal evaluate` writes.

Everything is counted while it streams: memory does not grow with the number of images, and two accumulators of
two ranks merge into the one that had seen all images. Arrays may be numpy or torch (on any device); results are
numpy.

A typical evaluation of class activation maps reads the set twice: once to find the thresholds, once to score
the masks they give.

    sweep = ThresholdSweep(len(classes))
    for frame in frames():
        sweep.update(frame.scores, frame.tags, frame.mask)
    best = sweep.best()

    masks = MaskEvaluator(len(classes))
    for frame in frames():
        masks.update(predict_mask(frame.scores, frame.tags, best.threshold), frame.mask, frame.key)
    oracle = masks.score(classes, rule="oracle", threshold=best.threshold)
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.errors import DealError, EvaluationError
from deal_core.files import replacing
from deal_core.structures import BACKGROUND, UNLABELLED, BoolArray, ClassList, UInt8Array

if TYPE_CHECKING:
    import torch

    Array = npt.NDArray[Any] | torch.Tensor

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

EVALUATION_FILE = "evaluation.json"
EVALUATION_FORMAT = "deal-evaluation"
EVALUATION_VERSION = 1
BOUNDARY_TOLERANCE = 0.008
"""Boundaries may lie this share of the image diagonal apart and still match."""

_SCORE_SLACK = 1e-4


def threshold_grid(bins: int = 100) -> Float64Array:
    """Return the `bins + 1` background thresholds 0, 1/bins, ..., 1 that sweeps and rules share."""
    if bins < 1:
        raise ValueError(f"expected at least 1 bin, found {bins}")
    return np.arange(bins + 1, dtype=np.float64) / bins


def threshold_bins(scores: npt.NDArray[Any], thresholds: Float64Array) -> npt.NDArray[np.int64]:
    """Return for each score how many thresholds lie strictly below it.

    A score of bin `b` is foreground at exactly the thresholds 0 .. b - 1: background wins the tie.
    """
    return np.searchsorted(thresholds, scores, side="left").astype(np.int64, copy=False)


def winning_class(scores: Array, tags: Array | None = None) -> tuple[npt.NDArray[Any], UInt8Array]:
    """Return the highest score of a present class and that class's mask id, per pixel.

    Args:
        scores: (K, H, W) in [0, 1].
        tags: (K,) where 1 marks the classes that may be predicted; absent (0) and unknown (nan) ones may not.
            None lets all compete.

    Returns:
        (H, W) scores and (H, W) uint8 ids 1..K. The lowest id wins a tie. With no present class the scores are 0,
        so that every threshold makes the image background.

    Raises:
        ValueError: another shape, or scores that are not in [0, 1].
    """
    values = checked_scores(scores)
    present = _present(tags, len(values))
    if not len(present):
        return np.zeros(values.shape[1:], values.dtype), np.ones(values.shape[1:], np.uint8)
    chosen = values if len(present) == len(values) else values[present]
    ids = (present + 1).astype(np.uint8)
    return chosen.max(axis=0), ids[chosen.argmax(axis=0)]


def predict_mask(scores: Array, tags: Array | None, threshold: float) -> UInt8Array:
    """Return the (H, W) uint8 mask: the winning class where its score is above `threshold`, else background.

    Args:
        scores: (K, H, W) in [0, 1].
        tags: (K,) as in `winning_class`, or None.
        threshold: background score, in [0, 1].
    """
    best, ids = winning_class(scores, tags)
    # Compared in float64 like the sweep's bins: in float32 the threshold itself would be rounded first.
    return np.where(best.astype(np.float64) > threshold, ids, np.uint8(BACKGROUND))


class ConfusionMatrix:
    """Pixel counts of truth against prediction, background included; 255 in the truth is ignored.

    A predicted 255 ("nobody decided", as in pseudo masks with an ignore band) is wrong: a miss for the true
    class, whichever it is, and a false alarm for none.

    Args:
        num_classes: K foreground classes; masks hold 0..K and 255.

    Attributes:
        counts: (K + 1, K + 2) int64, rows truth, columns prediction, the last one predicted 255.

    Example:
        >>> matrix = ConfusionMatrix(1)
        >>> matrix.update(np.array([[0, 1, 1]]), np.array([[0, 0, 1]]))
        >>> matrix.iou().tolist(), matrix.miou()
        ([0.5, 0.5], 0.5)
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = _checked_num_classes(num_classes)
        self.counts: Int64Array = np.zeros((num_classes + 1, num_classes + 2), np.int64)

    def update(self, prediction: Array, mask: Array) -> None:
        """Count one image or a batch.

        Args:
            prediction: integer ids of any shape, 0..K or 255.
            mask: the truth, of the same shape.

        Raises:
            ValueError: the shapes differ, or an id is not one of 0..K and 255.
        """
        found = checked_mask(prediction, self.num_classes, "prediction")
        truth = checked_mask(mask, self.num_classes, "mask")
        _same_shape(found.shape, truth.shape)
        known = truth != UNLABELLED
        columns = self.num_classes + 2
        found = np.where(found == UNLABELLED, self.num_classes + 1, found)
        flat = truth[known].astype(np.int64) * columns + found[known]
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix over the same classes."""
        _same_setting(self.num_classes, other.num_classes, "num_classes")
        self.counts += other.counts

    def iou(self) -> Float64Array:
        """Return (K + 1,) intersection over union; nan for a class neither in truth nor in prediction."""
        return _iou(self.counts[None])[0]

    def precision(self) -> Float64Array:
        """Return (K + 1,) share of the predicted pixels that are right; nan where nothing was predicted."""
        return _divide(self._hits(), self.counts[:, :-1].sum(axis=0))

    def recall(self) -> Float64Array:
        """Return (K + 1,) share of the true pixels that were found; nan for a class not in the truth."""
        return _divide(self._hits(), self.counts.sum(axis=1))

    def miou(self) -> float:
        """Return the mean IoU over the classes in truth or prediction, background included; nan if none."""
        return float(_nanmean(self.iou()[None])[0])

    def pixel_accuracy(self) -> float:
        """Return the share of labelled pixels that are right; nan if there is none."""
        return float(_divide(self._hits().sum(), self.counts.sum()))

    def _hits(self) -> Int64Array:
        return np.diagonal(self.counts).copy()


@dataclass(frozen=True, eq=False)
class SweepCurve:
    """mIoU at every threshold.

    Args:
        thresholds: (T,) background scores, ascending.
        miou: (T,) in [0, 1].
    """

    thresholds: Float64Array
    miou: Float64Array


@dataclass(frozen=True)
class ThresholdChoice:
    """A background threshold and the mIoU it gives."""

    threshold: float
    miou: float


class ThresholdSweep:
    """The mIoU at every background threshold, from one pass over the images.

    At threshold t a pixel is background if and only if its best present class scores at most t, so a histogram
    of (true class, winning class, score bin) holds the confusion matrix of every threshold. The bins are the
    thresholds themselves: the result equals that of one pass a threshold, to the last pixel.

    Args:
        num_classes: K foreground classes.
        bins: thresholds are 0, 1/bins, ..., 1.

    Example:
        >>> sweep = ThresholdSweep(1)
        >>> sweep.update(np.array([[[0.1, 0.3, 0.9]]]), None, np.array([[0, 0, 1]]))
        >>> sweep.best()
        ThresholdChoice(threshold=0.3, miou=1.0)
    """

    def __init__(self, num_classes: int, *, bins: int = 100) -> None:
        self.num_classes = _checked_num_classes(num_classes)
        self.thresholds = threshold_grid(bins)
        self.counts: Int64Array = np.zeros((num_classes + 1, num_classes, bins + 2), np.int64)

    def update(self, scores: Array, tags: Array | None, mask: Array) -> None:
        """Count one image.

        Args:
            scores: (K, H, W) in [0, 1].
            tags: (K,) as in `winning_class`, or None.
            mask: (H, W) ids 0..K, 255 ignored.

        Raises:
            ValueError: shapes that differ, scores outside [0, 1], or an unknown id.
        """
        best, ids = winning_class(scores, tags)
        truth = checked_mask(mask, self.num_classes, "mask")
        _same_shape(best.shape, truth.shape)
        if len(scores) != self.num_classes:
            raise ValueError(f"expected scores of {self.num_classes} classes, found {len(scores)}")
        known = truth != UNLABELLED
        bins = threshold_bins(best[known], self.thresholds)
        winner = ids[known].astype(np.int64) - 1
        flat = (truth[known].astype(np.int64) * self.num_classes + winner) * self.counts.shape[2] + bins
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)

    def merge(self, other: ThresholdSweep) -> None:
        """Add the counts of another sweep over the same classes and thresholds."""
        _same_setting(self.counts.shape, other.counts.shape, "classes and bins")
        self.counts += other.counts

    def curve(self) -> SweepCurve:
        """Return the mIoU of every threshold."""
        return SweepCurve(self.thresholds.copy(), _nanmean(_iou(self._confusions())))

    def best(self) -> ThresholdChoice:
        """Return the threshold of highest mIoU, the lowest one of several equal ones.

        Raises:
            ValueError: no labelled pixel was counted.
        """
        miou = self.curve().miou
        if np.isnan(miou).all():
            raise ValueError("no labelled pixel was counted: there is no best threshold")
        index = int(np.nanargmax(miou))
        return ThresholdChoice(float(self.thresholds[index]), float(miou[index]))

    def confusion_at(self, threshold: float) -> ConfusionMatrix:
        """Return the confusion matrix at one of the swept thresholds.

        Raises:
            ValueError: the threshold is not on the grid.
        """
        index = int(np.abs(self.thresholds - threshold).argmin())
        if not math.isclose(self.thresholds[index], threshold, abs_tol=1e-9):
            step = 1.0 / (len(self.thresholds) - 1)
            raise ValueError(f"expected a threshold on the grid of step {step:g}, found {threshold}")
        matrix = ConfusionMatrix(self.num_classes)
        matrix.counts[:, :-1] = self._confusions()[index]
        return matrix

    def _confusions(self) -> Int64Array:
        """Return (T, K + 1, K + 1): the confusion matrix of every threshold."""
        above = self.counts[:, :, ::-1].cumsum(axis=2)[:, :, ::-1][:, :, 1:]  # of bin > i, at i = 0..bins
        foreground = above.transpose(2, 0, 1)
        background = self.counts.sum(axis=(1, 2)) - foreground.sum(axis=2)
        return np.concatenate([background[:, :, None], foreground], axis=2)


class BoundaryScore:
    """Boundary F per class over a whole set: how many contour pixels lie within reach of the other contour.

    A contour is the pixels of a class that have a 4-neighbour of another class inside the image, so that an
    object cut by the image's frame has no contour there. Precision is the share of predicted contour pixels
    within `tolerance` times the image diagonal (at least 1 pixel) of the true contour of that class, recall the
    reverse; both are counted over all images before F is taken. Unlabelled pixels (255) count as background on
    either side.

    Args:
        num_classes: K foreground classes.
        tolerance: share of the image diagonal.

    Attributes:
        counts: (K, 4) int64: predicted contour pixels, those matched, true contour pixels, those matched.
    """

    def __init__(self, num_classes: int, *, tolerance: float = BOUNDARY_TOLERANCE) -> None:
        if not 0 < tolerance < 1:
            raise ValueError(f"expected a tolerance in (0, 1) of the image diagonal, found {tolerance}")
        self.num_classes = _checked_num_classes(num_classes)
        self.tolerance = tolerance
        self.counts: Int64Array = np.zeros((num_classes, 4), np.int64)

    def update(self, prediction: Array, mask: Array) -> None:
        """Count one image.

        Args:
            prediction: (H, W) ids 0..K or 255.
            mask: (H, W) the truth.

        Raises:
            ValueError: the shapes differ or are not (H, W), or an id is unknown.
        """
        found = checked_mask(prediction, self.num_classes, "prediction")
        truth = checked_mask(mask, self.num_classes, "mask")
        _same_shape(found.shape, truth.shape)
        if truth.ndim != 2:
            raise ValueError(f"expected masks of shape (H, W), found {truth.shape}")
        reach = max(1.0, self.tolerance * math.hypot(*truth.shape))
        for class_id in np.union1d(np.unique(found), np.unique(truth)):
            if class_id not in (BACKGROUND, UNLABELLED):
                ours, theirs = contour(found == class_id), contour(truth == class_id)
                self.counts[class_id - 1] += (
                    ours.sum(),
                    _within(ours, theirs, reach),
                    theirs.sum(),
                    _within(theirs, ours, reach),
                )

    def merge(self, other: BoundaryScore) -> None:
        """Add the counts of another score over the same classes with the same tolerance."""
        _same_setting((self.num_classes, self.tolerance), (other.num_classes, other.tolerance), "setting")
        self.counts += other.counts

    def per_class(self) -> Float64Array:
        """Return (K,) F in [0, 1]; nan for a class without contour in both truth and prediction."""
        predicted, predicted_hit, true, true_hit = self.counts.T
        precision = np.nan_to_num(_divide(predicted_hit, predicted))
        recall = np.nan_to_num(_divide(true_hit, true))
        score = np.nan_to_num(_divide(2 * precision * recall, precision + recall))
        return np.where(predicted + true > 0, score, np.nan)

    def mean(self) -> float:
        """Return the mean F over the foreground classes that have a contour; nan if none has."""
        return float(_nanmean(self.per_class()[None])[0])


def contour(region: BoolArray) -> BoolArray:
    """Return the pixels of a region (H, W) that have a 4-neighbour outside it and inside the image."""
    edge = np.zeros_like(region)
    across, down = region[:, 1:] != region[:, :-1], region[1:] != region[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge & region


@dataclass(frozen=True)
class FrameScore:
    """The mIoU of one image, over the classes in its truth or prediction; nan where nothing is labelled."""

    key: str
    iou: float


@dataclass(frozen=True)
class ClassScore:
    """How one class fared; every figure in [0, 1], or nan where it is not defined (boundary F of background)."""

    name: str
    iou: float
    precision: float
    recall: float
    boundary_f: float


@dataclass(frozen=True)
class MaskScore:
    """How the masks of one rule fared on the set.

    Args:
        rule: `oracle` (threshold swept on the truth), the name of a rule that sees no masks, or `argmax` for a
            network that predicts background itself.
        threshold: background score; None where there is none.
        miou: mean IoU, background included.
        pixel_accuracy: share of labelled pixels that are right.
        boundary_f: mean boundary F over foreground classes.
        classes: background, then the K classes in order.
    """

    rule: str
    threshold: float | None
    miou: float
    pixel_accuracy: float
    boundary_f: float
    classes: tuple[ClassScore, ...]


class MaskEvaluator:
    """Confusion, boundary and per-image IoU of predicted masks, in one streaming pass.

    Args:
        num_classes: K foreground classes.
        tolerance: of the boundary F, as a share of the image diagonal.
    """

    def __init__(self, num_classes: int, *, tolerance: float = BOUNDARY_TOLERANCE) -> None:
        self.confusion = ConfusionMatrix(num_classes)
        self.boundary = BoundaryScore(num_classes, tolerance=tolerance)
        self.frames: list[FrameScore] = []

    def update(self, prediction: Array, mask: Array, key: str) -> FrameScore:
        """Count one image and return its own mIoU.

        Args:
            prediction: (H, W) ids 0..K or 255.
            mask: (H, W) the truth, 255 ignored.
            key: the frame's name.
        """
        one = ConfusionMatrix(self.confusion.num_classes)
        one.update(prediction, mask)
        self.confusion.merge(one)
        self.boundary.update(prediction, mask)
        self.frames.append(FrameScore(key, one.miou()))
        return self.frames[-1]

    def merge(self, other: MaskEvaluator) -> None:
        """Add what another evaluator counted; frames stay in the order of the merges."""
        self.confusion.merge(other.confusion)
        self.boundary.merge(other.boundary)
        self.frames.extend(other.frames)

    def score(self, classes: ClassList, *, rule: str, threshold: float | None = None) -> MaskScore:
        """Return the figures over everything counted so far."""
        _same_setting(self.confusion.num_classes, len(classes), "number of classes")
        boundary = np.concatenate([[np.nan], self.boundary.per_class()])
        columns = zip(
            ("background", *classes.names),
            self.confusion.iou(),
            self.confusion.precision(),
            self.confusion.recall(),
            boundary,
            strict=True,
        )
        return MaskScore(
            rule=rule,
            threshold=threshold,
            miou=self.confusion.miou(),
            pixel_accuracy=self.confusion.pixel_accuracy(),
            boundary_f=self.boundary.mean(),
            classes=tuple(ClassScore(name, *map(float, figures)) for name, *figures in columns),
        )


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """What `deal evaluate` found out about one model on one dataset; lies as evaluation.json in a run's folder.

    Args:
        name: of the run, as a reader should see it.
        dataset: what it was evaluated on.
        classes: names and colours.
        num_frames: images that were compared.
        oracle: with the threshold swept on the truth, as papers report; None for a model without threshold.
        auto: with the threshold of a rule that sees no masks, or `argmax`; None where it was not asked for.
        curve: mIoU by threshold; None for a model without threshold.
        per_frame: the mIoU of every image, with the auto threshold where there is one, else the oracle's.
        details: anything else worth a line in the report (seed, backbone, model hash, ...).
    """

    name: str
    dataset: str
    classes: ClassList
    num_frames: int
    oracle: MaskScore | None = None
    auto: MaskScore | None = None
    curve: SweepCurve | None = None
    per_frame: tuple[FrameScore, ...] = ()
    details: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the plain form; figures that are not defined become null."""
        colors = [list(color) for color in self.classes.colors]
        return {
            "format": EVALUATION_FORMAT,
            "version": EVALUATION_VERSION,
            "name": self.name,
            "dataset": self.dataset,
            "classes": [{"name": name, "color": color} for name, color in zip(self.classes.names, colors, strict=True)],
            "num_frames": self.num_frames,
            "oracle": None if self.oracle is None else score_to_json(self.oracle),
            "auto": None if self.auto is None else score_to_json(self.auto),
            "curve": None
            if self.curve is None
            else {
                "thresholds": [_number(t) for t in self.curve.thresholds],
                "miou": [_number(m) for m in self.curve.miou],
            },
            "per_frame": [{"key": frame.key, "iou": _number(frame.iou)} for frame in self.per_frame],
            "details": dict(self.details),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EvaluationResult:
        """Read the plain form of `to_json`.

        Raises:
            EvaluationError: another format or version, a missing key or a value of another type.
        """
        try:
            if value.get("format") != EVALUATION_FORMAT:
                raise EvaluationError(f"expected the format '{EVALUATION_FORMAT}', found {value.get('format')!r}")
            if value["version"] != EVALUATION_VERSION:
                raise EvaluationError(f"expected version {EVALUATION_VERSION}, found {value['version']!r}")
            curve = value["curve"]
            return cls(
                name=str(value["name"]),
                dataset=str(value["dataset"]),
                classes=ClassList(
                    tuple(entry["name"] for entry in value["classes"]),
                    tuple(tuple(entry["color"]) for entry in value["classes"]),
                ),
                num_frames=int(value["num_frames"]),
                oracle=_score_from_json(value["oracle"]),
                auto=_score_from_json(value["auto"]),
                curve=None if curve is None else SweepCurve(_floats(curve["thresholds"]), _floats(curve["miou"])),
                per_frame=tuple(FrameScore(str(frame["key"]), _figure(frame["iou"])) for frame in value["per_frame"]),
                details=dict(value["details"]),
            )
        except EvaluationError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, DealError) as error:
            kind = f"no key {error}" if isinstance(error, KeyError) else str(error)
            raise EvaluationError(f"not a readable evaluation: {kind}") from None

    def write(self, folder: Path) -> Path:
        """Write evaluation.json into `folder` (made if missing), under a temporary name first.

        Returns:
            The file's path.
        """
        path = folder / EVALUATION_FILE
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", "utf-8")
        return path

    @classmethod
    def read(cls, folder: Path) -> EvaluationResult:
        """Read evaluation.json of a run's folder.

        Raises:
            EvaluationError: no such folder or file, or a file that holds something else.
        """
        path = folder / EVALUATION_FILE
        if not folder.is_dir():
            raise EvaluationError(f"{folder}: expected the folder of a run, found no folder")
        if not path.is_file():
            raise EvaluationError(
                f"{folder}: expected a run's folder with {EVALUATION_FILE}, found none. `deal evaluate` writes it"
            )
        try:
            return cls.from_json(json.loads(path.read_text("utf-8")))
        except (EvaluationError, ValueError) as error:
            raise EvaluationError(f"{path}: {error}. Write it again with `deal evaluate`") from None


@dataclass(frozen=True)
class SeedSummary:
    """Mean and spread of a figure over seeds.

    Args:
        values: one figure a seed, in the order given.
        mean: their mean.
        std: their sample standard deviation (n - 1); nan for a single seed, whose spread nobody knows.
    """

    values: tuple[float, ...]
    mean: float
    std: float

    def percent(self) -> str:
        """Return `63.5 ± 1.2` (in points), or `63.5` for a single seed."""
        spread = "" if math.isnan(self.std) else f" ± {100 * self.std:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


def summarise_seeds(values: Iterable[float]) -> SeedSummary:
    """Return mean and sample standard deviation of one figure over seeds.

    Raises:
        ValueError: no value.

    Example:
        >>> summarise_seeds([0.62, 0.64, 0.66, 0.64]).percent()
        '64.0 ± 1.6'
    """
    numbers = tuple(float(value) for value in values)
    if not numbers:
        raise ValueError("expected at least one seed, found none")
    std = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else math.nan
    return SeedSummary(numbers, float(np.mean(numbers)), std)


def to_numpy(array: Array) -> npt.NDArray[Any]:
    """Return a numpy view or copy of a numpy array or torch tensor; half-precision floats become float32."""
    if isinstance(array, np.ndarray):
        values = array
    else:
        tensor = array.detach().cpu()
        # numpy knows no bfloat16; widening to float32 keeps every value.
        values = (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy()
    return values.astype(np.float32) if values.dtype == np.float16 else values


def checked_scores(scores: Array) -> npt.NDArray[Any]:
    """Return scores as (K, H, W) numpy floats, clipped to [0, 1].

    Raises:
        ValueError: another shape or type, nan, or beyond [0, 1] by more than rounding explains.
    """
    values = to_numpy(scores)
    if values.ndim != 3 or 0 in values.shape or values.dtype.kind != "f":
        raise ValueError(f"expected float scores of shape (K, H, W), found {values.dtype} {values.shape}")
    low, high = float(values.min()), float(values.max())
    if not (low >= -_SCORE_SLACK and high <= 1 + _SCORE_SLACK):
        raise ValueError(f"expected scores in [0, 1], found {low:g} to {high:g}")
    return values if low >= 0 and high <= 1 else values.clip(0, 1)


def checked_mask(mask: Array, num_classes: int, what: str) -> npt.NDArray[Any]:
    """Return a mask as numpy integers.

    Raises:
        ValueError: no integers, or an id that is neither in 0..K nor 255.
    """
    values = to_numpy(mask)
    if values.dtype.kind not in "iu":
        raise ValueError(f"expected an integer {what}, found {values.dtype}")
    known = (values >= 0) & (values <= num_classes) | (values == UNLABELLED)
    if not known.all():
        raise ValueError(
            f"expected ids 0..{num_classes} or {UNLABELLED} in the {what}, found {np.unique(values[~known])[:8]}"
        )
    return values


def _present(tags: Array | None, num_classes: int) -> Int64Array:
    """Return the indices of the classes that may be predicted."""
    if tags is None:
        return np.arange(num_classes)
    values = to_numpy(tags)
    if values.shape != (num_classes,):
        raise ValueError(f"expected tags of shape ({num_classes},), found {values.shape}")
    return np.flatnonzero(values == 1)


def _iou(counts: Int64Array) -> Float64Array:
    """Return (T, K + 1) IoU of (T, K + 1, K + 1 or K + 2) confusion matrices; nan where the union is empty."""
    hits = np.diagonal(counts, axis1=1, axis2=2)
    predicted = counts[:, :, : counts.shape[1]].sum(axis=1)
    return _divide(hits, counts.sum(axis=2) + predicted - hits)


def _within(ours: BoolArray, theirs: BoolArray, reach: float) -> int:
    """Count our contour pixels at most `reach` pixels (Euclidean) from their contour."""
    if not ours.any() or not theirs.any():
        return 0
    distance = cv2.distanceTransform((~theirs).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return int((distance[ours] <= reach).sum())


def _divide(above: npt.ArrayLike, below: npt.ArrayLike) -> Float64Array:
    """Divide; nan where the divisor is 0."""
    top, bottom = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return np.divide(top, bottom, out=np.full(np.broadcast_shapes(top.shape, bottom.shape), np.nan), where=bottom != 0)


def _nanmean(rows: Float64Array) -> Float64Array:
    """Return the mean of each row over its entries that are not nan; nan for a row of nan, without a warning."""
    known = ~np.isnan(rows)
    return _divide(np.where(known, rows, 0.0).sum(axis=1), known.sum(axis=1))


def score_to_json(score: MaskScore) -> dict[str, Any]:
    """Return the figures as JSON, nan as null."""
    return {
        "rule": score.rule,
        "threshold": score.threshold,
        "miou": _number(score.miou),
        "pixel_accuracy": _number(score.pixel_accuracy),
        "boundary_f": _number(score.boundary_f),
        "per_class": [
            {
                "name": entry.name,
                "iou": _number(entry.iou),
                "precision": _number(entry.precision),
                "recall": _number(entry.recall),
                "boundary_f": _number(entry.boundary_f),
            }
            for entry in score.classes
        ],
    }


def _score_from_json(value: Mapping[str, Any] | None) -> MaskScore | None:
    if value is None:
        return None
    return MaskScore(
        rule=str(value["rule"]),
        threshold=None if value["threshold"] is None else float(value["threshold"]),
        miou=_figure(value["miou"]),
        pixel_accuracy=_figure(value["pixel_accuracy"]),
        boundary_f=_figure(value["boundary_f"]),
        classes=tuple(
            ClassScore(
                str(entry["name"]),
                _figure(entry["iou"]),
                _figure(entry["precision"]),
                _figure(entry["recall"]),
                _figure(entry["boundary_f"]),
            )
            for entry in value["per_class"]
        ),
    )


def _number(value: float) -> float | None:
    """Return a JSON number; JSON has no nan."""
    return float(value) if math.isfinite(value) else None


def _figure(value: Any) -> float:
    return math.nan if value is None else float(value)


def _floats(values: Sequence[Any]) -> Float64Array:
    return np.array([_figure(value) for value in values], np.float64)


def _checked_num_classes(num_classes: int) -> int:
    if not 1 <= num_classes < UNLABELLED:
        raise ValueError(f"expected 1 to {UNLABELLED - 1} foreground classes, found {num_classes}")
    return num_classes


def _same_shape(found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise ValueError(f"expected the shape of the mask {expected}, found {found}")


def _same_setting(ours: object, theirs: object, what: str) -> None:
    if ours != theirs:
        raise ValueError(f"expected the same {what}, found {ours} and {theirs}")
