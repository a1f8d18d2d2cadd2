"""The mIoU at every background threshold, from one pass over the images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deal_core.evaluation.metrics import (
    checked_mask,
    checked_num_classes,
    iou_of_confusions,
    mean_of_known,
    require_same,
    require_same_shape,
)
from deal_core.masks.decide import threshold_bins, threshold_grid, to_numpy, winning_class
from deal_core.structures import UNLABELLED, BoolArray, Float64Array, Int64Array, UInt8Array

if TYPE_CHECKING:
    from deal_core.structures import Array


@dataclass(frozen=True, eq=False)
class SweepCurve:
    """The mIoU (T,), in [0, 1], at every threshold (T,), in increasing order."""

    thresholds: Float64Array
    miou: Float64Array


@dataclass(frozen=True)
class ThresholdChoice:
    """A background threshold and the mIoU at this threshold."""

    threshold: float
    miou: float


class ThresholdSweep:
    """The mIoU at every background threshold, from one pass over the images.

    At threshold t, a pixel is background if and only if its best score of a present class is at most t. So a histogram
    of (true class, winning class, score bin) holds the confusion matrix of every threshold. The bin edges are the
    thresholds, so the result is exactly the same as with one pass per threshold.

    Args:
        num_classes: Number of foreground classes K.
        bins: Number of bins; the thresholds are 0, 1/bins, ..., 1.

    Example:
        >>> sweep = ThresholdSweep(1)
        >>> sweep.update(np.array([[[0.1, 0.3, 0.9]]]), None, np.array([[0, 0, 1]]))
        >>> sweep.best()
        ThresholdChoice(threshold=0.3, miou=1.0)
    """

    def __init__(self, num_classes: int, *, bins: int = 100) -> None:
        self.num_classes = checked_num_classes(num_classes)
        self.thresholds = threshold_grid(bins)
        self.counts: Int64Array = np.zeros((num_classes + 1, num_classes, bins + 2), np.int64)
        self.tagged: BoolArray = np.zeros(num_classes, np.bool_)

    def add_tags(self, tags: Array) -> None:
        """Note the classes that are present in an image, 1 in its tags (K,), as `ConfusionMatrix.add_tags` does."""
        self.tagged |= to_numpy(tags) == 1

    def update(self, scores: Array, tags: Array | None, mask: Array) -> None:
        """Count one image.

        Args:
            scores: (K, H, W) scores in [0, 1].
            tags: (K,) tags as in `winning_class`, or None.
            mask: (H, W) ids 0..K; 255 is ignored.

        Raises:
            ValueError: shapes differ, scores lie outside [0, 1], or an id is unknown.
        """
        best, ids = winning_class(scores, tags)
        if len(scores) != self.num_classes:
            raise ValueError(f"expected scores of {self.num_classes} classes, found {len(scores)}")
        self.count(ids, threshold_bins(best, self.thresholds), mask)

    def count(self, ids: UInt8Array, bins: Int64Array, mask: Array) -> None:
        """Count one image whose pixels are decided.

        Args:
            ids: (H, W) ids 1..K of the winning classes.
            bins: (H, W) number of `thresholds` below their scores.
            mask: (H, W) ids 0..K; 255 is ignored.

        Raises:
            ValueError: shapes differ, or an id is unknown.
        """
        truth = checked_mask(mask, self.num_classes, "mask")
        require_same_shape(ids.shape, truth.shape)
        known = truth != UNLABELLED
        winner = ids[known].astype(np.int64) - 1
        flat = (truth[known].astype(np.int64) * self.num_classes + winner) * self.counts.shape[2] + bins[known]
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)

    def merge(self, other: ThresholdSweep) -> None:
        """Add the counts of another sweep with the same classes and thresholds."""
        require_same(self.counts.shape, other.counts.shape, "classes and bins")
        self.counts += other.counts
        self.tagged |= other.tagged

    def curve(self) -> SweepCurve:
        """Return the mIoU at every threshold."""
        return SweepCurve(self.thresholds.copy(), mean_of_known(iou_of_confusions(self._confusions(), self.tagged)))

    def best(self) -> ThresholdChoice:
        """Return the threshold with the highest mIoU, the lowest among equals; raise `ValueError` without any count."""
        miou = self.curve().miou
        if np.isnan(miou).all():
            raise ValueError("no labelled pixel was counted: there is no best threshold")
        index = int(np.nanargmax(miou))
        return ThresholdChoice(float(self.thresholds[index]), float(miou[index]))

    def _confusions(self) -> Int64Array:
        """Return (T, K + 1, K + 1): the confusion matrix of every threshold."""
        above = self.counts[:, :, ::-1].cumsum(axis=2)[:, :, ::-1][:, :, 1:]  # counts with bin > i, for i = 0..bins
        foreground = above.transpose(2, 0, 1)
        background = self.counts.sum(axis=(1, 2)) - foreground.sum(axis=2)
        return np.concatenate([background[:, :, None], foreground], axis=2)
