"""Metrics of masks: IoU, precision and recall per class, and boundary F.

All metrics come from counts: memory does not grow with the number of images, and the counts of several processes can
be merged. Inputs are numpy arrays or torch tensors on any device; results are numpy arrays.
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
"""Largest distance of matching boundaries, as a share of the image diagonal."""


class ConfusionMatrix:
    """Pixel counts of truth against prediction, background included; 255 in the truth is ignored.

    A predicted 255 (undecided, as in pseudo masks with an ignore band) is wrong: it is a false negative of the true
    class, and a false positive of no class.

    Args:
        num_classes: Number of foreground classes K; masks hold 0..K and 255.

    Attributes:
        counts: (K + 1, K + 2) int64 counts; rows are the truth, columns the prediction, the last column predicted 255.
        tagged: (K,) bool: classes that `add_tags` was told to be present in an image.

    Example:
        >>> matrix = ConfusionMatrix(1)
        >>> matrix.update(np.array([[0, 1, 1]]), np.array([[0, 0, 1]]))
        >>> matrix.iou().tolist(), matrix.miou()
        ([0.5, 0.5], 0.5)
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = checked_num_classes(num_classes)
        self.counts: Int64Array = np.zeros((num_classes + 1, num_classes + 2), np.int64)
        self.tagged: BoolArray = np.zeros(num_classes, np.bool_)

    def add_tags(self, tags: Array) -> None:
        """Note the classes that are present in an image, 1 in its tags (K,).

        Such a class has IoU 0, not nan, while no pixel of it is in truth or prediction: a class that is there and never
        predicted would otherwise not count, for instance where masks leave it unlabelled.
        """
        self.tagged |= to_numpy(tags) == 1

    def update(self, prediction: Array, mask: Array) -> None:
        """Count one image or a batch.

        Args:
            prediction: Integer ids 0..K or 255, of any shape.
            mask: Truth of the same shape.

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
        self.tagged |= other.tagged

    def iou(self) -> Float64Array:
        """Return (K + 1,) intersection over union; nan for a class in neither truth, prediction nor tags."""
        return iou_of_confusions(self.counts[None], self.tagged)[0]

    def precision(self) -> Float64Array:
        """Return (K + 1,) share of correct pixels among the predicted ones; nan for a class without prediction."""
        return _divide(self._hits(), self.counts[:, :-1].sum(axis=0))

    def recall(self) -> Float64Array:
        """Return (K + 1,) share of correct pixels among the true ones; nan for a class that is not in the truth."""
        return _divide(self._hits(), self.counts.sum(axis=1))

    def miou(self) -> float:
        """Return the mean IoU over the classes in truth, prediction or tags, background included; nan without any."""
        return float(mean_of_known(self.iou()[None])[0])

    def pixel_accuracy(self) -> float:
        """Return the share of correct pixels among the labelled ones; nan without any labelled pixel."""
        return float(_divide(self._hits().sum(), self.counts.sum()))

    def _hits(self) -> Int64Array:
        return np.diagonal(self.counts).copy()


class BoundaryScore:
    """Boundary F per class over a whole dataset: the share of contour pixels near the other contour.

    The contour of a class consists of its pixels with a 4-neighbour of another class inside the image, so an object
    that the image border cuts has no contour there. Precision is the share of predicted contour pixels within
    `tolerance` times the image diagonal (at least 1 pixel) of the true contour of the class, and recall the reverse;
    both are counted over all images before F is computed. Unlabelled pixels (255) count as background.

    Args:
        num_classes: Number of foreground classes K.
        tolerance: Largest distance, as a share of the image diagonal.

    Attributes:
        counts: (K, 4) int64: predicted contour pixels, their matches, true contour pixels, their matches.
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
            mask: (H, W) truth.

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
                ours, theirs = _contours(found == class_id, truth == class_id)
                matches, their_matches = _within(ours, theirs, reach), _within(theirs, ours, reach)
                self.counts[class_id - 1] += (ours.sum(), matches, theirs.sum(), their_matches)

    def merge(self, other: BoundaryScore) -> None:
        """Add the counts of another score over the same classes with the same tolerance."""
        require_same((self.num_classes, self.tolerance), (other.num_classes, other.tolerance), "setting")
        self.counts += other.counts

    def per_class(self) -> Float64Array:
        """Return (K,) F in [0, 1]; nan for a class without a contour in truth and prediction."""
        predicted, predicted_hit, true, true_hit = self.counts.T
        precision = np.nan_to_num(_divide(predicted_hit, predicted))
        recall = np.nan_to_num(_divide(true_hit, true))
        score = np.nan_to_num(_divide(2 * precision * recall, precision + recall))
        return np.where(predicted + true > 0, score, np.nan)

    def mean(self) -> float:
        """Return the mean F over the foreground classes with a contour; nan without any."""
        return float(mean_of_known(self.per_class()[None])[0])


def _contours(first: BoolArray, second: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Return the contours of two regions (H, W), cut to a box that holds both; one of them is not empty."""
    either = first | second
    rows, columns = (np.flatnonzero(either.any(axis=axis)) for axis in (1, 0))
    # A pixel more on each side: there the regions have an outside.
    box = tuple(slice(max(int(n[0]) - 1, 0), int(n[-1]) + 2) for n in (rows, columns))
    return contour(first[box]), contour(second[box])


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
    """The mIoU of one image, over the classes in its truth or prediction; nan without any labelled pixel."""

    key: str
    iou: float


@dataclass(frozen=True)
class ClassScore:
    """The metrics of one class, in [0, 1]; nan if undefined, as for the boundary F of the background."""

    name: str
    iou: float
    precision: float
    recall: float
    boundary_f: float


@dataclass(frozen=True)
class MaskScore:
    """The metrics of masks at the threshold of one rule.

    Args:
        rule: `oracle` (threshold swept on the truth), the name of a rule without masks, or `argmax` for a network that
            predicts the background itself.
        threshold: Background threshold; None for masks without a threshold.
        miou: Mean IoU, background included.
        pixel_accuracy: Share of correct pixels among the labelled ones.
        boundary_f: Mean boundary F over the foreground classes.
        classes: Metrics of the background, then of the K classes in order.
    """

    rule: str
    threshold: float | None
    miou: float
    pixel_accuracy: float
    boundary_f: float
    classes: tuple[ClassScore, ...]


class MaskEvaluator:
    """Confusion matrix, boundary F and per-image IoU of predicted masks, in one streaming pass.

    Args:
        num_classes: Number of foreground classes K.
        tolerance: Tolerance of the boundary F, as a share of the image diagonal.
    """

    def __init__(self, num_classes: int, *, tolerance: float = BOUNDARY_TOLERANCE) -> None:
        self.confusion = ConfusionMatrix(num_classes)
        self.boundary = BoundaryScore(num_classes, tolerance=tolerance)
        self.frames: list[FrameScore] = []

    def update(self, prediction: Array, mask: Array, key: str, tags: Array | None = None) -> FrameScore:
        """Count one image and return its mIoU.

        Args:
            prediction: (H, W) ids 0..K or 255.
            mask: (H, W) truth; 255 is ignored.
            key: Key of the frame.
            tags: (K,) with 1 for the classes that are present, see `ConfusionMatrix.add_tags`. They count for all
                images together, not for the mIoU of this one.
        """
        one = ConfusionMatrix(self.confusion.num_classes)
        one.update(prediction, mask)
        self.confusion.merge(one)
        if tags is not None:
            self.confusion.add_tags(tags)
        self.boundary.update(prediction, mask)
        self.frames.append(FrameScore(key, one.miou()))
        return self.frames[-1]

    def merge(self, other: MaskEvaluator) -> None:
        """Add the counts of another evaluator; frames stay in the order of the merges."""
        self.confusion.merge(other.confusion)
        self.boundary.merge(other.boundary)
        self.frames.extend(other.frames)

    def score(self, classes: ClassList, *, rule: str, threshold: float | None = None) -> MaskScore:
        """Return the metrics over all counts."""
        require_same(self.confusion.num_classes, len(classes), "number of classes")
        matrix = self.confusion
        boundary = np.concatenate([[np.nan], self.boundary.per_class()])
        figures = np.stack([matrix.iou(), matrix.precision(), matrix.recall(), boundary], axis=1).tolist()
        names = ("background", *classes.names)
        return MaskScore(
            rule=rule,
            threshold=threshold,
            miou=matrix.miou(),
            pixel_accuracy=matrix.pixel_accuracy(),
            boundary_f=self.boundary.mean(),
            classes=tuple(ClassScore(name, *values) for name, values in zip(names, figures, strict=True)),
        )


def checked_mask(mask: Array, num_classes: int, what: str) -> npt.NDArray[Any]:
    """Return a mask as numpy integers; raise `ValueError` unless all ids are in 0..K or 255."""
    values = to_numpy(mask)
    if values.dtype.kind not in "iu":
        raise ValueError(f"expected an integer {what}, found {values.dtype}")
    known = (values >= 0) & (values <= num_classes) | (values == UNLABELLED)
    if not known.all():
        raise ValueError(
            f"expected ids 0..{num_classes} or {UNLABELLED} in the {what}, found {np.unique(values[~known])[:8]}"
        )
    return values


def iou_of_confusions(counts: Int64Array, tagged: BoolArray) -> Float64Array:
    """Return (T, K + 1) IoU of (T, K + 1, K + 1 or K + 2) confusion matrices.

    The IoU of an empty union is 0 for a class that is `tagged` (K,) as present, else nan.
    """
    hits = np.diagonal(counts, axis1=1, axis2=2)
    predicted = counts[:, :, : counts.shape[1]].sum(axis=1)
    iou = _divide(hits, counts.sum(axis=2) + predicted - hits)
    return np.where(np.isnan(iou) & np.concatenate([[False], tagged]), 0.0, iou)


_LARGEST_DISK = 20.0
"""Reach in pixels up to which a dilation is faster than a distance transform."""


def _within(ours: BoolArray, theirs: BoolArray, reach: float) -> int:
    """Return the number of pixels of `ours` at most `reach` pixels (Euclidean) from `theirs`."""
    if not ours.any() or not theirs.any():
        return 0
    if reach <= _LARGEST_DISK:
        radius = int(reach)
        rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        disk = (np.square(rows) + np.square(columns) <= reach * reach).astype(np.uint8)
        near = cv2.dilate(theirs.view(np.uint8), disk, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        return int(np.count_nonzero(near & ours.view(np.uint8)))
    distance = cv2.distanceTransform((~theirs).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return int((distance[ours] <= reach).sum())


def _divide(above: npt.ArrayLike, below: npt.ArrayLike) -> Float64Array:
    """Return the quotient; nan where the divisor is 0."""
    top, bottom = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return np.divide(top, bottom, out=np.full(np.broadcast_shapes(top.shape, bottom.shape), np.nan), where=bottom != 0)


def mean_of_known(rows: Float64Array) -> Float64Array:
    """Return the mean of each row over its entries that are not nan; nan, without a warning, for a row of nan."""
    known = ~np.isnan(rows)
    return _divide(np.where(known, rows, 0.0).sum(axis=1), known.sum(axis=1))


def checked_num_classes(num_classes: int) -> int:
    """Return the number of foreground classes; raise `ValueError` if masks cannot hold that many."""
    if not 1 <= num_classes < UNLABELLED:
        raise ValueError(f"expected 1 to {UNLABELLED - 1} foreground classes, found {num_classes}")
    return num_classes


def require_same_shape(found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raise `ValueError` if a shape differs from the shape of the mask."""
    if found != expected:
        raise ValueError(f"expected the shape of the mask {expected}, found {found}")


def require_same(ours: object, theirs: object, what: str) -> None:
    """Raise `ValueError` if two settings differ."""
    if ours != theirs:
        raise ValueError(f"expected the same {what}, found {ours} and {theirs}")
