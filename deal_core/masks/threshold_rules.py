"""Background thresholds chosen without any mask.

A CAM states how strongly the network sees a class, and a threshold turns it into a mask. Papers sweep the threshold on
the true masks, which a user does not have, and the best threshold depends on the network: the edge loss alone moves it
from 0.55 to 0.25. The rules here use scores and depth only, one image at a time, and return one threshold for all.

    rule = create_rule("depth_relief")
    for frame in frames:
        rule.update(frame.scores, frame.depth, frame.depth_valid)
    threshold = rule.threshold()

Thresholds lie on the grid of `threshold_grid`, so that a sweep holds the result of each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import cv2
import numpy as np
import numpy.typing as npt
import torch

from deal_core.dataset.dataset import Dataset
from deal_core.errors import ConfigError, EvaluationError, UsageError, nearest_hint
from deal_core.masks.decide import threshold_bins, threshold_grid, to_numpy, winning_class
from deal_core.structures import BoolArray, DepthKind, Float64Array, Int64Array, valid_depth

if TYPE_CHECKING:
    from deal_core.structures import Array

BINS = 100

# A small power: the separation of the scores decides only between thresholds with similar correlation.
_SEPARATION_POWER = 0.1


class ThresholdRule(ABC):
    """One threshold for a set of images, from their scores (and depth) only, in one streaming pass."""

    _setting: tuple[Any, ...] = ()
    _sums: tuple[npt.NDArray[Any], ...] = ()

    @abstractmethod
    def update(
        self,
        scores: Array,
        depth: Array | None = None,
        depth_valid: Array | None = None,
        tags: Array | None = None,
    ) -> None:
        """Count one image.

        Args:
            scores: (K, H, W) in [0, 1].
            depth: (H, W) depth of the kind of the rule, at the size of the scores; only depth rules need it.
            depth_valid: (H, W) bool mask of measured depth; default: finite and positive depth.
            tags: (K,) with 1 for classes that may be predicted; default: all classes.

        Raises:
            ValueError: shapes do not fit, scores lie outside [0, 1], or the rule needs depth and gets none.
        """

    def merge(self, other: ThresholdRule) -> None:
        """Add the counts of another rule of the same kind and settings.

        Raises:
            ValueError: the other rule is of another kind, or has other settings.
        """
        if type(other) is not type(self) or other._setting != self._setting:
            raise ValueError(f"cannot merge {type(other).__name__} into {type(self).__name__} of other settings")
        self.add(other.sums)

    @property
    def sums(self) -> tuple[npt.NDArray[Any], ...]:
        """The sums over all images so far, which are all that the rule keeps of them."""
        return self._sums

    def add(self, sums: Sequence[npt.NDArray[Any]]) -> None:
        """Add the `sums` of another rule of the same kind and settings."""
        for ours, theirs in zip(self._sums, sums, strict=True):
            ours += theirs

    @abstractmethod
    def threshold(self) -> float:
        """Return the threshold: a pixel is foreground if its best score is above it.

        Raises:
            EvaluationError: the images give the rule no information.
        """


class FixedRule(ThresholdRule):
    """The same threshold for all images."""

    def __init__(self, threshold: float = 0.25) -> None:
        if not 0 <= threshold <= 1:
            raise ConfigError(f"expected a fixed threshold in [0, 1], found {threshold}")
        self._setting = (float(threshold),)

    def update(self, *args: Any, **options: Any) -> None:
        """Ignore the image."""

    def threshold(self) -> float:
        """Return the fixed threshold."""
        return float(self._setting[0])


class OtsuRule(ThresholdRule):
    """The threshold that separates the best scores of all pixels into the two most different groups (Otsu 1979).

    The rule needs no depth. It ignores images without any present class: they have no foreground to find.
    """

    def __init__(self) -> None:
        self._counts: Int64Array = np.zeros(BINS + 2, np.int64)
        self._sums = (self._counts,)

    def update(self, scores: Array, depth: Any = None, depth_valid: Any = None, tags: Array | None = None) -> None:
        """Count one image, as described in `ThresholdRule`."""
        best, _ = winning_class(scores, tags)
        if best.any():
            self._counts += np.bincount(_bins(best, best.shape).ravel(), minlength=BINS + 2)

    def threshold(self) -> float:
        """Return the threshold, as described in `ThresholdRule`."""
        separation = _between_group_variance(self._counts)
        if not separation.any():
            raise EvaluationError("the rule 'otsu' saw no image with different scores: are any classes present?")
        return float(threshold_grid(BINS)[int(separation.argmax())])


class _DepthRule(ThresholdRule):
    """A rule that correlates the foreground of each threshold with the depth."""

    _name: ClassVar[str]

    def __init__(self, size: int, depth_kind: DepthKind, *others: float) -> None:
        if size < 8:
            raise ConfigError(f"expected a size of at least 8 pixels, found {size}")
        if depth_kind not in get_args(DepthKind):
            raise ConfigError(f"expected depth_kind {' or '.join(get_args(DepthKind))}, found {depth_kind!r}")
        self._size, self._depth_kind = size, depth_kind
        self._setting = (size, depth_kind, *others)
        self._correlation = _Correlation()
        self._sums = self._correlation.sums

    def update(self, scores: Array, depth: Any = None, depth_valid: Any = None, tags: Array | None = None) -> None:
        """Count one image, as described in `ThresholdRule`."""
        if depth is None:
            raise ValueError(f"the rule '{self._name}' needs depth; without depth, use the rule 'otsu'")
        best, _ = winning_class(scores, tags)
        values, measured = _measured_depth(depth, depth_valid, best.shape)
        if best.any() and measured.any():
            self._count(_bins(best, _fit(best.shape, self._size)), values, measured)

    @abstractmethod
    def _count(self, bins: Int64Array, depth: npt.NDArray[np.float32], measured: BoolArray) -> None:
        """Count an image from its threshold bins (h, w), its depth (H, W) and the mask (H, W) of measured depth."""

    def agreement(self) -> Float64Array:
        """Return (101,) the correlation in [-1, 1] with the depth at each threshold; 0 where it is undefined."""
        return self._correlation.values()

    def threshold(self) -> float:
        """Return the threshold, as described in `ThresholdRule`."""
        quality = self._quality()
        if not (quality > 0).any():
            raise EvaluationError(
                f"the rule '{self._name}' found no agreement of scores and depth at any threshold: check the depth "
                "(`deal check`), or use the rule 'otsu'"
            )
        return float(threshold_grid(BINS)[int(quality.argmax())])

    def _quality(self) -> Float64Array:
        return self.agreement()


class DepthReliefRule(_DepthRule):
    """The threshold at which the foreground agrees best with the relief, i.e. with pixels that stand out in depth.

    A pixel stands out if it is nearer than the surface around it. The rule compares its inverse depth with a plane
    fitted to a window around it: the inverse depth of a plane is linear in the image, so a sloping table does not
    stand out. For every threshold, the rule computes the correlation (phi coefficient) of "foreground" and "stands
    out" over all pixels of all images; an empty or full foreground has no correlation. Objects without a class lower
    the correlation at all thresholds alike. Among thresholds with similar correlation, the one that separates the
    scores better (Otsu's criterion) wins.

    The correlation depends only on the order of the scores, so a network with lower scores gets a lower threshold. It
    compares areas, so it also works for coarse CAMs whose outline meets no depth edge at any threshold.

    Args:
        size: Longer side, in pixels, at which scores and depth are compared; smaller images keep their size.
        window: Side of the window, as a share of the longer side; should be larger than the objects.
        margin: Distance in front of the plane at which a pixel stands out, as a share of its depth; for relative
            inverse depth, as a share of its range in the image.
        depth_kind: Kind of the depth.
    """

    _name = "depth_relief"

    def __init__(
        self, *, size: int = 96, window: float = 0.5, margin: float = 0.015, depth_kind: DepthKind = "metric"
    ) -> None:
        super().__init__(size, depth_kind, window, margin)
        if not 0 < window <= 2 or not 0 < margin < 1:
            raise ConfigError(f"expected a window in (0, 2] and a margin in (0, 1), found {window} and {margin}")
        self._window, self._margin = window, margin
        self._counts: Int64Array = np.zeros(BINS + 2, np.int64)
        self._sums = (*self._correlation.sums, self._counts)

    def _count(self, bins: Int64Array, depth: npt.NDArray[np.float32], measured: BoolArray) -> None:
        stands_out, known = _stands_out(depth, measured, bins.shape, self._window, self._margin, self._depth_kind)
        bins, quantity = bins[known], stands_out[known].astype(np.float64)
        self._correlation.add(_above(bins, None), _above(bins, quantity), quantity)
        self._counts += np.bincount(bins, minlength=BINS + 2)

    def _quality(self) -> Float64Array:
        return self.agreement().clip(0) * _between_group_variance(self._counts) ** _SEPARATION_POWER


class DepthEdgesRule(_DepthRule):
    """The threshold at which the outline of the foreground follows the depth edges best.

    For every threshold, the rule computes a correlation over all pairs of neighbouring pixels: of "the outline runs
    between them" with the strength of the depth edge between them, as the edge loss computes it by default. An empty
    or full foreground has no outline and no correlation. The outline of a foreground that is too large crosses the
    table, and that of one that is too small crosses the objects. The rule needs CAMs with outlines near depth edges:
    sharp CAMs, or CAMs trained with the edge loss.

    A pair of scores (a, b) has an outline between them exactly at the thresholds a <= t < b, so two histograms of the
    ends hold the sums of all thresholds.

    Args:
        size: Longer side, in pixels, at which outline and depth edges are compared; smaller images keep their size.
        depth_kind: Kind of the depth.
    """

    _name = "depth_edges"

    def __init__(self, *, size: int = 96, depth_kind: DepthKind = "metric") -> None:
        super().__init__(size, depth_kind)

    def _count(self, bins: Int64Array, depth: npt.NDArray[np.float32], measured: BoolArray) -> None:
        edges = _edge_strength(depth, measured, bins.shape, self._depth_kind)
        for one, two in (((slice(None), slice(1, None)), (slice(None), slice(-1))), ((slice(1, None),), (slice(-1),))):
            low, high = np.minimum(bins[one], bins[two]).ravel(), np.maximum(bins[one], bins[two]).ravel()
            strength = np.maximum(edges[one], edges[two]).ravel()
            self._correlation.add(_between(low, high, None), _between(low, high, strength), strength)


_DEPTH_RULES: dict[str, Callable[..., ThresholdRule]] = {"depth_edges": DepthEdgesRule, "depth_relief": DepthReliefRule}
_RULES: dict[str, Callable[..., ThresholdRule]] = {**_DEPTH_RULES, "fixed": FixedRule, "otsu": OtsuRule}
RULES = tuple(_RULES)
"""The names `create_rule` knows."""


def create_rule(name: str, depth_kind: DepthKind = "metric", **arguments: Any) -> ThresholdRule:
    """Return a rule by name, one of `RULES`.

    Args:
        name: Name of the rule; `fixed:0.3` is short for a fixed threshold of 0.3.
        depth_kind: Kind of the depth; rules without depth ignore it.
        arguments: Arguments of the class of the rule.

    Raises:
        ConfigError: the name is unknown, or a value is out of range.

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


def need_depth_for_rule(rule: str, dataset: Dataset) -> None:
    """Raise `UsageError` if the threshold rule of this name needs depth and the dataset has none."""
    if rule.startswith("depth") and not dataset.has_depth:
        raise UsageError(
            f"the threshold rule '{rule}' needs depth, and {dataset.path} has none: use 'otsu', or estimate depth "
            "with `deal depth` and pass its folder"
        )


def _between_group_variance(counts: Int64Array) -> Float64Array:
    """Return (T,) the separation of the scores up to t from the scores above t, per threshold; 0 for one group."""
    centres = np.concatenate([[0.0], (np.arange(BINS) + 0.5) / BINS, [1.0]])
    below = counts.cumsum()[:-1].astype(np.float64)
    sum_below = (counts * centres).cumsum()
    above, sum_above = counts.sum() - below, sum_below[-1] - sum_below[:-1]
    product = below * above
    gap = np.divide(sum_below[:-1] * above - sum_above * below, product, out=np.zeros_like(product), where=product > 0)
    return product * np.square(gap)


class _Correlation:
    """The correlation of a binary variable (foreground or outline, per threshold) with a quantity; streaming."""

    def __init__(self) -> None:
        self._number_on: Float64Array = np.zeros(BINS + 1)
        self._sum_on: Float64Array = np.zeros(BINS + 1)
        # Number, sum and sum of squares of the quantity, which do not depend on the threshold.
        self._moments: Float64Array = np.zeros(3)
        self.sums = (self._number_on, self._sum_on, self._moments)

    def add(self, number_on: Float64Array, sum_on: Float64Array, quantity: Float64Array) -> None:
        """Add values: the number and the sum of those that are on, per threshold, and all values."""
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


def _between(low: Int64Array, high: Int64Array, weight: Float64Array | None) -> Float64Array:
    """Return (101,) the number, or the sum of weights, of pairs with low <= i < high for each threshold i."""
    steps = np.bincount(low, weight, BINS + 2) - np.bincount(high, weight, BINS + 2)
    return steps.cumsum()[:-1].astype(np.float64)


def _above(bins: Int64Array, weight: Float64Array | None) -> Float64Array:
    """Return (101,) the number, or the sum of weights, of pixels with bin > i for each threshold i."""
    counts = np.bincount(bins, weight, BINS + 2)
    return counts[::-1].cumsum()[::-1][1:].astype(np.float64)


def _bins(best: npt.NDArray[Any], size: tuple[int, ...]) -> Int64Array:
    """Return the threshold bins of the best scores (H, W), averaged down to `size`."""
    if best.shape != size:
        best = cv2.resize(best, size[::-1], interpolation=cv2.INTER_AREA).clip(0, 1)
    return threshold_bins(best.ravel(), threshold_grid(BINS)).reshape(size)


def _fit(shape: tuple[int, ...], longest: int) -> tuple[int, int]:
    """Return (height, width) scaled down so that neither exceeds `longest`."""
    factor = min(1.0, longest / max(shape))
    return max(round(shape[0] * factor), 1), max(round(shape[1] * factor), 1)


def _measured_depth(
    depth: Array, depth_valid: Array | None, size: tuple[int, ...]
) -> tuple[npt.NDArray[np.float32], BoolArray]:
    """Return the depth, with 0 for missing values, and the mask of measured depth, both of shape `size`."""
    values = to_numpy(depth)
    measured = valid_depth(values)
    if depth_valid is not None:
        valid = to_numpy(depth_valid).astype(np.bool_)
        if valid.shape != values.shape:
            raise ValueError(f"expected depth_valid in the depth's size {values.shape}, found {valid.shape}")
        measured &= valid
    if values.shape != size:
        raise ValueError(f"expected depth in the scores' size {size}, found {values.shape}")
    return np.where(measured, values, 0).astype(np.float32), measured


def _edge_strength(
    depth: npt.NDArray[np.float32], measured: BoolArray, size: tuple[int, ...], kind: DepthKind
) -> Float64Array:
    """Return the strength (h, w), in [0, 1], of the depth edges of the loss at `size`."""
    from deal_core.losses.depth_edge import depth_edges

    values, valid = (torch.from_numpy(array)[None, None] for array in (depth, measured))
    edges = depth_edges(values, valid, size=(size[0], size[1]), kind=kind)
    # Stereo cameras measure no depth at depth jumps. The edge across the filled hole counts here, although its place is
    # uncertain by the width of the hole; the loss ignores it.
    return edges.strength[0, 0].double().numpy()


def _stands_out(
    depth: npt.NDArray[np.float32],
    measured: BoolArray,
    size: tuple[int, ...],
    window: float,
    margin: float,
    kind: DepthKind,
) -> tuple[BoolArray, BoolArray]:
    """Return the masks (h, w) of pixels nearer than the surface around them, and of pixels with known depth."""
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
    # Pixels that stand out are no part of the surface below them: they have a small weight in the second fit.
    surface = np.where(relief < 0.4 * margin, 1.0, 1e-3) * usable
    relief = _relief(inverse, _local_plane(inverse, surface, side), extent)
    return relief > margin, usable


def _relief(inverse: Float64Array, plane: Float64Array, extent: float | None) -> Float64Array:
    """Return the distance of each pixel in front of the plane, as a share of its depth or of the given `extent`."""
    if extent is not None:
        return (inverse - plane) / (extent or 1.0)
    return np.divide(inverse, plane, out=np.ones_like(inverse), where=plane > 1e-6) - 1.0


def _local_plane(values: Float64Array, weight: Float64Array, side: int) -> Float64Array:
    """Return the value, at each pixel, of the least-squares plane of the window around it."""
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
    # If the known pixels lie on a line, or there is only one, the slope is unknown and set to 0.
    determinant = var_row * var_column - both**2
    scale = np.divide(1.0, determinant, out=np.zeros_like(count), where=determinant > 1e-3)
    slope_row = (with_row * var_column - with_column * both) * scale
    slope_column = (with_column * var_row - with_row * both) * scale
    return mean_value + slope_row * (rows - mean_row) + slope_column * (columns - mean_column)
