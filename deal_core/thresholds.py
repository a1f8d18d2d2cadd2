"""Background thresholds chosen without any mask.

A CAM says how strongly a class is seen, not where it ends: a threshold turns it into a mask. Papers sweep it on the
true masks, which a user does not have; and the best one moves with the network (the edge loss alone brings it from
0.55 to 0.25). The rules here see scores and depth only, one image at a time, and give one threshold for all.

    rule = create_rule("depth_edges")
    for frame in frames:
        rule.update(frame.scores, frame.depth, frame.depth_valid)
    threshold = rule.threshold()

Thresholds lie on the grid of `deal_core.evaluation.threshold_grid`, so that a sweep can say what each would have given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.errors import ConfigError, EvaluationError, nearest_hint
from deal_core.evaluation import Float64Array, Int64Array, threshold_bins, threshold_grid, to_numpy, winning_class

if TYPE_CHECKING:
    from deal_core.evaluation import Array

BINS = 100


class ThresholdRule(ABC):
    """One threshold for a set of images, from their scores (and depth) alone, in one streaming pass."""

    @abstractmethod
    def update(
        self,
        scores: Array,
        depth: Array | None = None,
        depth_valid: Array | None = None,
        tags: Array | None = None,
    ) -> None:
        """Look at one image.

        Args:
            scores: (K, H, W) in [0, 1].
            depth: (H, W) metres, at the size of the scores; needed by `depth_edges` only.
            depth_valid: (H, W) bool, where depth was measured; finite and positive depth when left out.
            tags: (K,), 1 marks the classes that may be predicted; all when left out.

        Raises:
            ValueError: shapes that do not fit, scores outside [0, 1], or depth missing where the rule needs it.
        """

    @abstractmethod
    def merge(self, other: ThresholdRule) -> None:
        """Add what another rule of the same kind has seen, as if this one had seen it.

        Raises:
            ValueError: the other rule is of another kind.
        """

    @abstractmethod
    def threshold(self) -> float:
        """Return the threshold: a pixel is foreground where its best score is above it.

        Raises:
            EvaluationError: nothing was seen that the rule could decide on.
        """


class FixedRule(ThresholdRule):
    """The same threshold whatever the images say."""

    def __init__(self, threshold: float = 0.25) -> None:
        if not 0 <= threshold <= 1:
            raise ConfigError(f"expected a fixed threshold in [0, 1], found {threshold}")
        self._threshold = float(threshold)

    def update(
        self,
        scores: Array,
        depth: Array | None = None,
        depth_valid: Array | None = None,
        tags: Array | None = None,
    ) -> None:
        """See the base class; nothing is looked at."""

    def merge(self, other: ThresholdRule) -> None:
        """See the base class."""
        if not isinstance(other, FixedRule) or other._threshold != self._threshold:
            raise ValueError(f"cannot merge {type(other).__name__} into a fixed threshold of {self._threshold}")

    def threshold(self) -> float:
        """Return the fixed threshold."""
        return self._threshold


class OtsuRule(ThresholdRule):
    """The threshold that parts the best scores of all pixels into the two most different groups (Otsu 1979).

    Needs no depth. Images in which no class is present are left out: they have no foreground to find.
    """

    def __init__(self) -> None:
        self._thresholds = threshold_grid(BINS)
        self._counts: Int64Array = np.zeros(BINS + 2, np.int64)

    def update(
        self,
        scores: Array,
        depth: Array | None = None,
        depth_valid: Array | None = None,
        tags: Array | None = None,
    ) -> None:
        """See the base class."""
        best, _ = winning_class(scores, tags)
        if best.any():
            bins = threshold_bins(best.ravel(), self._thresholds)
            self._counts += np.bincount(bins, minlength=len(self._counts))

    def merge(self, other: ThresholdRule) -> None:
        """See the base class."""
        if not isinstance(other, OtsuRule):
            raise ValueError(f"cannot merge {type(other).__name__} into OtsuRule")
        self._counts += other._counts

    def threshold(self) -> float:
        """See the base class."""
        separation = _between_group_variance(self._counts)
        if not separation.any():
            raise EvaluationError("the rule 'otsu' saw no image whose scores differ: are any classes present?")
        return float(self._thresholds[int(separation.argmax())])


class DepthEdgesRule(ThresholdRule):
    """The threshold at which the outline of the foreground follows the depth edges best.

    For every threshold, the correlation over all pairs of neighbouring pixels between "the outline runs between
    these two" and the strength of the depth edge there. An empty or full foreground has no outline and
    correlates with nothing; one that is too large runs across the table, one that is too small across the
    objects. Only level sets of the scores count: a network that scores lower, or a monotone change of all scores,
    moves the threshold with it.

    A pair of scores (a, b) has an outline between them at the thresholds a <= t < b and at no others, so two
    histograms of the ends hold the sums of all thresholds at once.

    Args:
        size: longer side, in pixels, at which outline and depth edges are compared; smaller images stay as they are.
    """

    def __init__(self, *, size: int = 96) -> None:
        if size < 8:
            raise ConfigError(f"expected a size of at least 8 pixels, found {size}")
        self._size = size
        self._thresholds = threshold_grid(BINS)
        # Of all pairs at each threshold: the outline's length, and the depth edges' strength along it.
        self._length: Float64Array = np.zeros(BINS + 2)
        self._strength_on: Float64Array = np.zeros(BINS + 2)
        self._pairs = self._strength = self._strength_squared = 0.0

    def update(
        self,
        scores: Array,
        depth: Array | None = None,
        depth_valid: Array | None = None,
        tags: Array | None = None,
    ) -> None:
        """See the base class."""
        if depth is None:
            raise ValueError("the rule 'depth_edges' needs depth; without it use 'otsu'")
        best, _ = winning_class(scores, tags)
        metres = to_numpy(depth)
        if metres.shape != best.shape:
            raise ValueError(f"expected depth in the scores' size {best.shape}, found {metres.shape}")
        if not best.any():
            return
        size = _fit(best.shape, self._size)
        edges = _depth_edges(metres, None if depth_valid is None else to_numpy(depth_valid), size)
        if edges is None:
            return
        small = best if best.shape == size else cv2.resize(best, size[::-1], interpolation=cv2.INTER_AREA)
        bins = threshold_bins(small.ravel(), self._thresholds).reshape(size)
        for one, two in (((slice(None), slice(1, None)), (slice(None), slice(None, -1))), (slice(1, None), slice(-1))):
            low, high = np.minimum(bins[one], bins[two]).ravel(), np.maximum(bins[one], bins[two]).ravel()
            strength = np.maximum(edges[one], edges[two]).ravel()
            self._length += _at_thresholds(low, high, None)
            self._strength_on += _at_thresholds(low, high, strength)
            self._pairs += strength.size
            self._strength += float(strength.sum())
            self._strength_squared += float(np.square(strength).sum())

    def merge(self, other: ThresholdRule) -> None:
        """See the base class."""
        if not isinstance(other, DepthEdgesRule) or other._size != self._size:
            raise ValueError(f"cannot merge {type(other).__name__} into DepthEdgesRule of another kind or size")
        self._length += other._length
        self._strength_on += other._strength_on
        self._pairs += other._pairs
        self._strength += other._strength
        self._strength_squared += other._strength_squared

    def agreement(self) -> Float64Array:
        """Return (101,) the correlation in [-1, 1] of outline and depth edges at each threshold; 0 if undefined."""
        if self._pairs == 0:
            return np.zeros(len(self._thresholds))
        length, strength_on = self._length[:-1] / self._pairs, self._strength_on[:-1] / self._pairs
        mean = self._strength / self._pairs
        variance = self._strength_squared / self._pairs - mean**2
        spread = np.sqrt(np.clip(length * (1 - length), 0, None) * max(variance, 0.0))
        return np.divide(strength_on - length * mean, spread, out=np.zeros_like(spread), where=spread > 1e-12)

    def threshold(self) -> float:
        """See the base class."""
        agreement = self.agreement()
        if not agreement.any():
            raise EvaluationError(
                "the rule 'depth_edges' saw no image with both scores and depth edges: check the depth "
                "(`deal check`), or use the rule 'otsu'"
            )
        return float(self._thresholds[int(agreement.argmax())])


_RULES: dict[str, Callable[..., ThresholdRule]] = {
    "depth_edges": DepthEdgesRule,
    "fixed": FixedRule,
    "otsu": OtsuRule,
}
RULES = tuple(_RULES)
"""The names `create_rule` knows."""


def create_rule(name: str, **arguments: Any) -> ThresholdRule:
    """Return a rule by name: `depth_edges`, `otsu` or `fixed`; `fixed:0.3` is short for a threshold of 0.3.

    Raises:
        ConfigError: an unknown name, or a value out of range.

    Example:
        >>> create_rule("fixed:0.3").threshold()
        0.3
    """
    kind, colon, value = name.partition(":")
    if kind not in _RULES or (colon and kind != "fixed"):
        raise ConfigError(
            f"unknown threshold rule '{name}': expected one of {', '.join(RULES)}.{nearest_hint(name, RULES)}"
        )
    if colon:
        try:
            arguments["threshold"] = float(value)
        except ValueError:
            raise ConfigError(f"expected a rule like 'fixed:0.3', found '{name}'") from None
    return _RULES[kind](**arguments)


def _between_group_variance(counts: Int64Array) -> Float64Array:
    """Return (T,) the separation of the scores at most t from those above, at each threshold; 0 for one group."""
    centres = np.concatenate([[0.0], (np.arange(BINS) + 0.5) / BINS, [1.0]])
    below = counts.cumsum()[:-1].astype(np.float64)
    sum_below = (counts * centres).cumsum()
    above, sum_above = counts.sum() - below, sum_below[-1] - sum_below[:-1]
    product = below * above
    gap = np.divide(sum_below[:-1] * above - sum_above * below, product, out=np.zeros_like(product), where=product > 0)
    return product * np.square(gap)


def _at_thresholds(low: Int64Array, high: Int64Array, weight: Float64Array | None) -> Float64Array:
    """Return, at each threshold i, the sum over the pairs with low <= i < high."""
    steps = np.bincount(low, weight, BINS + 2) - np.bincount(high, weight, BINS + 2)
    return steps.cumsum()


def _fit(shape: tuple[int, ...], longest: int) -> tuple[int, int]:
    """Return (height, width) scaled down so that neither exceeds `longest`."""
    factor = min(1.0, longest / max(shape))
    return max(round(shape[0] * factor), 1), max(round(shape[1] * factor), 1)


def _depth_edges(depth: npt.NDArray[Any], valid: npt.NDArray[Any] | None, size: tuple[int, int]) -> Float64Array | None:
    """Return the depth edge strength at `size`; None where no depth was measured at all."""
    import torch

    from deal_core.losses.depth_edge import depth_edges

    measured = np.isfinite(depth) & (depth > 0)
    known = measured if valid is None else measured & valid.astype(bool)
    if not known.any():
        return None
    edges = depth_edges(
        torch.from_numpy(np.where(known, depth, 0).astype(np.float32))[None, None],
        torch.from_numpy(known)[None, None],
        size=size,
    )
    # Stereo cameras lose depth exactly where it jumps: the edge across the filled hole is kept, at its place
    # give or take the hole's width, where the loss would leave it out.
    return edges.strength[0, 0].double().numpy()
