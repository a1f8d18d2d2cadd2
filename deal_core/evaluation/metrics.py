"""How good masks are: IoU, precision and recall by class, and boundary F.

All figures come from counts that add up: memory does not grow with the number of images, and the counts of two
processes merge into those of one process that saw all images. Arrays may be numpy or torch (on any device);
results are numpy.

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

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.masks.decide import to_numpy
from deal_core.structures import BACKGROUND, UNLABELLED, BoolArray, ClassList, Float64Array, Int64Array

if TYPE_CHECKING:
    from deal_core.structures import Array


BOUNDARY_TOLERANCE = 0.008
"""Boundaries may lie this share of the image diagonal apart and still match."""


class ConfusionMatrix:
    """Pixel counts of truth against prediction, background included; 255 in the truth is ignored.

    A predicted 255 (undecided, as in pseudo masks with an ignore band) is wrong: a miss for the true
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
        self.num_classes = checked_num_classes(num_classes)
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
        require_same_shape(found.shape, truth.shape)
        known = truth != UNLABELLED
        columns = self.num_classes + 2
        found = np.where(found == UNLABELLED, self.num_classes + 1, found)
        flat = truth[known].astype(np.int64) * columns + found[known]
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix over the same classes."""
        require_same(self.num_classes, other.num_classes, "num_classes")
        self.counts += other.counts

    def iou(self) -> Float64Array:
        """Return (K + 1,) intersection over union; nan for a class neither in truth nor in prediction."""
        return iou_of_confusions(self.counts[None])[0]

    def precision(self) -> Float64Array:
        """Return (K + 1,) share of the predicted pixels that are right; nan where nothing was predicted."""
        return _divide(self._hits(), self.counts[:, :-1].sum(axis=0))

    def recall(self) -> Float64Array:
        """Return (K + 1,) share of the true pixels that were found; nan for a class not in the truth."""
        return _divide(self._hits(), self.counts.sum(axis=1))

    def miou(self) -> float:
        """Return the mean IoU over the classes in truth or prediction, background included; nan if none."""
        return float(mean_of_known(self.iou()[None])[0])

    def pixel_accuracy(self) -> float:
        """Return the share of labelled pixels that are right; nan if there is none."""
        return float(_divide(self._hits().sum(), self.counts.sum()))

    def _hits(self) -> Int64Array:
        return np.diagonal(self.counts).copy()


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
        self.num_classes = checked_num_classes(num_classes)
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
        require_same_shape(found.shape, truth.shape)
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
        require_same((self.num_classes, self.tolerance), (other.num_classes, other.tolerance), "setting")
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
        return float(mean_of_known(self.per_class()[None])[0])


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
    """The figures of one class; every figure in [0, 1], or nan where it is not defined (boundary F of background)."""

    name: str
    iou: float
    precision: float
    recall: float
    boundary_f: float


@dataclass(frozen=True)
class MaskScore:
    """The figures of masks that were made with the threshold of one rule.

    Args:
        rule: `oracle` (threshold swept on the truth), the name of a rule that sees no masks, or `argmax` for a
            network that predicts background itself.
        threshold: of the background; None for masks without a threshold.
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
        require_same(self.confusion.num_classes, len(classes), "number of classes")
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


def iou_of_confusions(counts: Int64Array) -> Float64Array:
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


def mean_of_known(rows: Float64Array) -> Float64Array:
    """Return the mean of each row over its entries that are not nan; nan for a row of nan, without a warning."""
    known = ~np.isnan(rows)
    return _divide(np.where(known, rows, 0.0).sum(axis=1), known.sum(axis=1))


def checked_num_classes(num_classes: int) -> int:
    """Return a number of foreground classes that masks can hold; raise ValueError for another."""
    if not 1 <= num_classes < UNLABELLED:
        raise ValueError(f"expected 1 to {UNLABELLED - 1} foreground classes, found {num_classes}")
    return num_classes


def require_same_shape(found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raise ValueError if a shape is not that of the mask."""
    if found != expected:
        raise ValueError(f"expected the shape of the mask {expected}, found {found}")


def require_same(ours: object, theirs: object, what: str) -> None:
    """Raise ValueError if two settings differ."""
    if ours != theirs:
        raise ValueError(f"expected the same {what}, found {ours} and {theirs}")
