"""Background thresholds chosen without any mask.

A CAM says how strongly a class is seen, not where it ends: a threshold turns it into a mask. Papers sweep it on the
true masks, which a user does not have; and the best one moves with the network (the edge loss alone brings it from
0.55 to 0.25). The rules here see scores and depth only, one image at a time, and give one threshold for all.

    rule = create_rule("depth_relief")
    for frame in frames:
        rule.update(frame.scores, frame.depth, frame.depth_valid)
    threshold = rule.threshold()

Thresholds lie on the grid of `threshold_grid`, so that a sweep can say what each would have given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.errors import ConfigError, EvaluationError, nearest_hint
from deal_core.masks.decide import threshold_bins, threshold_grid, to_numpy, winning_class
from deal_core.structures import BoolArray, DepthKind, Float64Array, Int64Array, valid_depth

if TYPE_CHECKING:
    from deal_core.structures import Array

BINS = 100

# Small: the separation of the scores decides between thresholds that the depth finds about equally good.
_SEPARATION_POWER = 0.1


class ThresholdRule(ABC):
    """One threshold for a set of images, from their scores (and depth) alone, in one streaming pass."""

    _setting: tuple[Any, ...] = ()
    _sums: tuple[npt.NDArray[Any], ...] = ()  # over the images seen; two rules of one setting add theirs up

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
            depth: (H, W) of the rule's kind, at the size of the scores; needed by the rules named after depth.
            depth_valid: (H, W) bool, where depth was measured; finite and positive depth when left out.
            tags: (K,), 1 marks the classes that may be predicted; all when left out.

        Raises:
            ValueError: shapes that do not fit, scores outside [0, 1], or depth missing where the rule needs it.
        """

    def merge(self, other: ThresholdRule) -> None:
        """Add what another rule of the same kind and settings has seen, as if this one had seen it.

        Raises:
            ValueError: the other rule is of another kind, or has other settings.
        """
        if type(other) is not type(self) or other._setting != self._setting:
            raise ValueError(f"cannot merge {type(other).__name__} into {type(self).__name__} of other settings")
        for ours, theirs in zip(self._sums, other._sums, strict=True):
            ours += theirs

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
        self._setting = (float(threshold),)

    def update(
        self,
        scores: Array,
        depth: Array | None = None,
        depth_valid: Array | None = None,
        tags: Array | None = None,
    ) -> None:
        """See the base class; nothing is looked at."""

    def threshold(self) -> float:
        """Return the fixed threshold."""
        return float(self._setting[0])


class OtsuRule(ThresholdRule):
    """The threshold that parts the best scores of all pixels into the two most different groups (Otsu 1979).

    Needs no depth. Images in which no class is present are left out: they have no foreground to find.
    """

    def __init__(self) -> None:
        self._thresholds = threshold_grid(BINS)
        self._counts: Int64Array = np.zeros(BINS + 2, np.int64)
        self._sums = (self._counts,)

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

    def threshold(self) -> float:
        """See the base class."""
        separation = _between_group_variance(self._counts)
        if not separation.any():
            raise EvaluationError("the rule 'otsu' saw no image whose scores differ: are any classes present?")
        return float(self._thresholds[int(separation.argmax())])


class DepthReliefRule(ThresholdRule):
    """The threshold whose foreground is best explained by what stands out in depth.

    A pixel stands out when it is nearer than the surface around it: its inverse depth is compared with a plane
    fitted to the window around it, since the inverse depth of a plane is linear in the image and a sloping table so
    does not stand out. For every threshold, the correlation (phi coefficient) of "foreground" and "stands out" over
    all pixels of all images; an empty or full foreground correlates with nothing. Things that stand out but are no
    class lower the correlation at all thresholds alike. Where several thresholds fit the depth about equally well,
    the one that parts the scores better (Otsu's criterion) wins.

    The correlation depends on the order of the scores only, so that a network that scores lower gets a lower
    threshold; and being about areas, it also works where a coarse CAM's outline meets no depth edge at any
    threshold.

    Args:
        size: longer side, in pixels, at which scores and depth are compared; smaller images stay as they are.
        window: side of the window, as a share of the longer side; should be larger than the objects.
        margin: how much nearer than the plane a pixel must be, as a share of its distance; of relative inverse
            depth, whose scale and zero mean nothing, as a share of the range it spans in the image.
        depth_kind: of the depth it is given.
    """

    def __init__(
        self, *, size: int = 96, window: float = 0.5, margin: float = 0.015, depth_kind: DepthKind = "metric"
    ) -> None:
        if size < 8 or not 0 < window <= 2 or not 0 < margin < 1:
            raise ConfigError(
                "expected a size of at least 8 pixels, a window in (0, 2] and a margin in (0, 1), "
                f"found {size}, {window} and {margin}"
            )
        self._setting = (size, window, margin, _known_kind(depth_kind))
        self._correlation = _Correlation()
        self._counts: Int64Array = np.zeros(BINS + 2, np.int64)
        self._sums = (*self._correlation.sums, self._counts)

    def update(
        self,
        scores: Array,
        depth: Array | None = None,
        depth_valid: Array | None = None,
        tags: Array | None = None,
    ) -> None:
        """See the base class."""
        best, values, measured = _score_and_depth("depth_relief", scores, depth, depth_valid, tags)
        if not best.any() or not measured.any():
            return
        longest, window, margin, kind = self._setting
        size = _fit(best.shape, longest)
        stands_out, known = _stands_out(values, measured, size, window, margin, kind)
        bins = _bins(best, size)[known]
        quantity = stands_out[known].astype(np.float64)
        self._correlation.add(_above(bins, None), _above(bins, quantity), quantity)
        self._counts += np.bincount(bins, minlength=len(self._counts))

    def agreement(self) -> Float64Array:
        """Return (101,) the correlation in [-1, 1] of foreground and relief at each threshold; 0 if undefined."""
        return self._correlation.values()

    def threshold(self) -> float:
        """See the base class."""
        separation = _between_group_variance(self._counts)
        return _best_agreement("depth_relief", self.agreement().clip(0) * separation**_SEPARATION_POWER)


class DepthEdgesRule(ThresholdRule):
    """The threshold at which the outline of the foreground follows the depth edges best.

    For every threshold, the correlation over all pairs of neighbouring pixels between "the outline runs between
    these two" and the strength of the depth edge there (by the loss function's defaults). An empty or full
    foreground has no outline and correlates with nothing; one that is too large runs across the table, one that is
    too small across the objects. It needs CAMs whose outlines do meet depth edges: sharp ones, or those of the edge
    loss.

    A pair of scores (a, b) has an outline between them at the thresholds a <= t < b and at no others, so two
    histograms of the ends hold the sums of all thresholds at once.

    Args:
        size: longer side, in pixels, at which outline and depth edges are compared; smaller images stay as they are.
        depth_kind: of the depth it is given.
    """

    def __init__(self, *, size: int = 96, depth_kind: DepthKind = "metric") -> None:
        if size < 8:
            raise ConfigError(f"expected a size of at least 8 pixels, found {size}")
        self._setting = (size, _known_kind(depth_kind))
        self._correlation = _Correlation()
        self._sums = self._correlation.sums

    def update(
        self,
        scores: Array,
        depth: Array | None = None,
        depth_valid: Array | None = None,
        tags: Array | None = None,
    ) -> None:
        """See the base class."""
        best, values, measured = _score_and_depth("depth_edges", scores, depth, depth_valid, tags)
        if not best.any() or not measured.any():
            return
        longest, kind = self._setting
        size = _fit(best.shape, longest)
        edges, bins = _edge_strength(values, measured, size, kind), _bins(best, size)
        for one, two in (((slice(None), slice(1, None)), (slice(None), slice(-1))), ((slice(1, None),), (slice(-1),))):
            low, high = np.minimum(bins[one], bins[two]).ravel(), np.maximum(bins[one], bins[two]).ravel()
            strength = np.maximum(edges[one], edges[two]).ravel()
            self._correlation.add(_between(low, high, None), _between(low, high, strength), strength)

    def agreement(self) -> Float64Array:
        """Return (101,) the correlation in [-1, 1] of outline and depth edges at each threshold; 0 if undefined."""
        return self._correlation.values()

    def threshold(self) -> float:
        """See the base class."""
        return _best_agreement("depth_edges", self.agreement())


_DEPTH_RULES: dict[str, Callable[..., ThresholdRule]] = {"depth_edges": DepthEdgesRule, "depth_relief": DepthReliefRule}
_RULES: dict[str, Callable[..., ThresholdRule]] = {**_DEPTH_RULES, "fixed": FixedRule, "otsu": OtsuRule}
RULES = tuple(_RULES)
"""The names `create_rule` knows."""


def create_rule(name: str, depth_kind: DepthKind = "metric", **arguments: Any) -> ThresholdRule:
    """Return a rule by name, one of `RULES`.

    Args:
        name: of the rule; `fixed:0.3` is short for a fixed threshold of 0.3.
        depth_kind: of the depth that the rule is going to be given; one that needs no depth ignores it.
        arguments: of the rule's class.

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
    if kind in _DEPTH_RULES:
        arguments["depth_kind"] = depth_kind
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


class _Correlation:
    """The correlation, at every threshold, of a yes or no (foreground, outline) with a quantity; streaming."""

    def __init__(self) -> None:
        self._number_on: Float64Array = np.zeros(BINS + 1)
        self._sum_on: Float64Array = np.zeros(BINS + 1)
        # Number, sum and sum of squares over all, which no threshold changes.
        self._moments: Float64Array = np.zeros(3)
        self.sums = (self._number_on, self._sum_on, self._moments)

    def add(self, number_on: Float64Array, sum_on: Float64Array, quantity: Float64Array) -> None:
        """Count values: how many are on and their sum, at each threshold, and the values themselves."""
        self._number_on += number_on
        self._sum_on += sum_on
        self._moments += (quantity.size, quantity.sum(), np.square(quantity).sum())

    def values(self) -> Float64Array:
        number, total, squares = self._moments
        if number == 0:
            return np.zeros(BINS + 1)
        share, mean = self._number_on / number, total / number
        spread = np.sqrt(np.clip(share * (1 - share), 0, None) * max(squares / number - mean**2, 0.0))
        return np.divide(self._sum_on / number - share * mean, spread, out=np.zeros(BINS + 1), where=spread > 1e-9)


def _best_agreement(rule: str, agreement: Float64Array) -> float:
    if not (agreement > 0).any():
        raise EvaluationError(
            f"the rule '{rule}' found no agreement of scores and depth at any threshold: check the depth "
            "(`deal check`), or use the rule 'otsu'"
        )
    return float(threshold_grid(BINS)[int(agreement.argmax())])


def _between(low: Int64Array, high: Int64Array, weight: Float64Array | None) -> Float64Array:
    """Return (101,) at each threshold i the number, or summed weight, of the pairs with low <= i < high."""
    steps = np.bincount(low, weight, BINS + 2) - np.bincount(high, weight, BINS + 2)
    return steps.cumsum()[:-1].astype(np.float64)


def _above(bins: Int64Array, weight: Float64Array | None) -> Float64Array:
    """Return (101,) at each threshold i the number, or summed weight, of the pixels with bin > i."""
    counts = np.bincount(bins, weight, BINS + 2)
    return counts[::-1].cumsum()[::-1][1:].astype(np.float64)


def _bins(best: npt.NDArray[Any], size: tuple[int, int]) -> Int64Array:
    """Return the threshold bins of the best scores (H, W), averaged down to `size`."""
    if best.shape != size:
        best = cv2.resize(best, size[::-1], interpolation=cv2.INTER_AREA).clip(0, 1)
    return threshold_bins(best.ravel(), threshold_grid(BINS)).reshape(size)


def _fit(shape: tuple[int, ...], longest: int) -> tuple[int, int]:
    """Return (height, width) scaled down so that neither exceeds `longest`."""
    factor = min(1.0, longest / max(shape))
    return max(round(shape[0] * factor), 1), max(round(shape[1] * factor), 1)


def _known_kind(kind: DepthKind) -> DepthKind:
    if kind not in get_args(DepthKind):
        raise ConfigError(f"expected depth_kind {' or '.join(get_args(DepthKind))}, found {kind!r}")
    return kind


def _score_and_depth(
    rule: str, scores: Array, depth: Array | None, depth_valid: Array | None, tags: Array | None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32], BoolArray]:
    """Return the best scores, the depth with 0 for missing, and where it is measured, all (H, W)."""
    if depth is None:
        raise ValueError(f"the rule '{rule}' needs depth; without it use 'otsu'")
    best, _ = winning_class(scores, tags)
    values = to_numpy(depth)
    measured = valid_depth(values)
    if depth_valid is not None:
        valid = to_numpy(depth_valid).astype(np.bool_)
        if valid.shape != values.shape:
            raise ValueError(f"expected depth_valid in the depth's size {values.shape}, found {valid.shape}")
        measured &= valid
    if values.shape != best.shape:
        raise ValueError(f"expected depth in the scores' size {best.shape}, found {values.shape}")
    return best, np.where(measured, values, 0).astype(np.float32), measured


def _edge_strength(
    depth: npt.NDArray[np.float32], measured: BoolArray, size: tuple[int, int], kind: DepthKind
) -> Float64Array:
    """Return the depth edges of the loss at `size`, (h, w) in [0, 1]."""
    import torch

    from deal_core.losses.depth_edge import depth_edges

    values, valid = (torch.from_numpy(array)[None, None] for array in (depth, measured))
    edges = depth_edges(values, valid, size=size, kind=kind)
    # Stereo cameras lose depth exactly where it jumps: the edge across the filled hole is kept, at its place
    # give or take the hole's width, where the loss would leave it out.
    return edges.strength[0, 0].double().numpy()


def _stands_out(
    depth: npt.NDArray[np.float32],
    measured: BoolArray,
    size: tuple[int, int],
    window: float,
    margin: float,
    kind: DepthKind,
) -> tuple[BoolArray, BoolArray]:
    """Return (h, w) which pixels are nearer than the surface around them, and (h, w) where that is known."""
    known = measured.astype(np.float64)
    if kind == "metric":
        inverse = np.divide(1.0, depth, out=np.zeros(depth.shape), where=measured)
    else:
        inverse = depth.astype(np.float64)
    if depth.shape != size:
        inverse, known = (cv2.resize(a, size[::-1], interpolation=cv2.INTER_AREA) for a in (inverse, known))
        inverse = np.divide(inverse, known, out=np.zeros(size), where=known > 0)
    usable = known >= 0.5
    side = max(round(window * max(size)), 3) | 1
    extent = None if kind == "metric" else float(np.ptp(inverse[usable])) if usable.any() else 0.0
    relief = _relief(inverse, _local_plane(inverse, usable.astype(np.float64), side), extent)
    # What stands out is no part of the surface it stands on: it hardly counts in the second plane.
    surface = np.where(relief < 0.4 * margin, 1.0, 1e-3) * usable
    relief = _relief(inverse, _local_plane(inverse, surface, side), extent)
    return relief > margin, usable


def _relief(inverse: Float64Array, plane: Float64Array, extent: float | None) -> Float64Array:
    """Return how much nearer each pixel is than the plane: as a share of its distance, or of the `extent` given."""
    if extent is not None:
        return (inverse - plane) / (extent or 1.0)
    return np.divide(inverse, plane, out=np.ones_like(inverse), where=plane > 1e-6) - 1.0


def _local_plane(values: Float64Array, weight: Float64Array, side: int) -> Float64Array:
    """Return, at each pixel, the value there of the plane fitted to the window around it (least squares)."""
    height, width = values.shape
    rows = np.repeat(np.arange(height, dtype=np.float64)[:, None], width, axis=1)
    columns = np.repeat(np.arange(width, dtype=np.float64)[None], height, axis=0)

    def mean(array: Float64Array) -> Float64Array:
        total = cv2.boxFilter(array * weight, cv2.CV_64F, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
        return np.divide(total, count, out=np.zeros_like(total), where=count > 1e-9)

    count = cv2.boxFilter(weight, cv2.CV_64F, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
    mean_value, mean_row, mean_column = mean(values), mean(rows), mean(columns)
    var_row = mean(rows * rows) - mean_row**2
    var_column = mean(columns * columns) - mean_column**2
    both = mean(rows * columns) - mean_row * mean_column
    with_row = mean(rows * values) - mean_row * mean_value
    with_column = mean(columns * values) - mean_column * mean_value
    # Where the known pixels lie on a line, or there is but one, the slope is unknown and taken as 0.
    determinant = var_row * var_column - both**2
    scale = np.divide(1.0, determinant, out=np.zeros_like(count), where=determinant > 1e-3)
    slope_row = (with_row * var_column - with_column * both) * scale
    slope_column = (with_column * var_row - with_row * both) * scale
    return mean_value + slope_row * (rows - mean_row) + slope_column * (columns - mean_column)
