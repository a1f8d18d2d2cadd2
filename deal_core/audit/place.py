"""Classes that the place predicts: with all things cut out, the background alone tells where the class is tagged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deal_core.audit.evidence import FrameEvidence
from deal_core.audit.held_out import FOLDS
from deal_core.audit.visits import folds_of
from deal_core.structures import BoolArray, Float32Array, Float64Array, Int64Array

FEWEST_VISITS = 5
"""Fewest visits with and without a class from which the place is judged."""
PREDICTS = 0.75
"""Bound of the ranking from which, beyond its standard error, the place predicts a class."""
_REPEATS = 4
_RIDGE = 0.3


@dataclass(frozen=True)
class PlaceFigure:
    """How well the background predicts one class.

    Args:
        ranking: How well the background of unseen visits tells those with the class from those without it: the area
            under the ROC curve, 1 is perfect, 1/2 is chance; None if there are too few visits.
        error: Its standard error; None without one.
        frames: Numbers of the frames with the class whose background predicts it most, best first, one a visit.
    """

    ranking: float | None
    error: float | None
    frames: tuple[int, ...]

    @property
    def predicts(self) -> bool:
        """Whether the place predicts the class."""
        return self.ranking is not None and self.error is not None and self.ranking - 2 * self.error >= PREDICTS


def place_figures(
    evidence: Sequence[FrameEvidence], tags: Float32Array, visits: Int64Array, seed: int, most_frames: int = 3
) -> tuple[PlaceFigure, ...]:
    """Return a figure for each of the K classes.

    Ridge regression learns the tags from the background features of some visits and is asked about other visits: the
    things of a visit stand in one place, so frames of it on both sides would tell its tags by its place alone. A visit
    counts once with the class and once without it.

    Args:
        evidence: What is seen in each frame.
        tags: (F, K) tags: 1 present, 0 absent, nan unknown.
        visits: (F,) number of the visit of each frame.
        seed: Seed of the division into folds.
        most_frames: Largest number of frames to name.
    """
    background = np.stack([one.background for one in evidence]).astype(np.float64)
    seen: BoolArray = np.asarray(~np.isnan(background).any(1))
    standard = _standard(background, seen)
    found = []
    for labels in tags.T:
        rows = np.flatnonzero(seen & ~np.isnan(labels))
        present = labels[rows] == 1
        if min(len(np.unique(visits[rows[side]])) for side in (present, ~present)) < FEWEST_VISITS:
            found.append(PlaceFigure(None, None, ()))
            continue
        scores = _held_out(standard[rows], np.where(present, 1.0, -1.0), visits[rows], seed)
        sides = [_of_visits(scores[side], visits[rows[side]]) for side in (present, ~present)]
        ranking, error = roc_area(*sides)
        best = rows[present][np.argsort(-scores[present], kind="stable")]
        first = np.sort(np.unique(visits[best], return_index=True)[1])[:most_frames]
        found.append(PlaceFigure(ranking, error, tuple(int(row) for row in best[first])))
    return tuple(found)


def roc_area(present: Float64Array, absent: Float64Array) -> tuple[float, float]:
    """Return the area under the ROC curve and its standard error (Hanley and McNeil 1982); equal scores count half.

    >>> roc_area(np.array([2.0, 3.0]), np.array([1.0, 2.5]))[0]
    0.75
    """
    gaps = present[:, None] - absent[None]
    area = float(((gaps > 0) + 0.5 * (gaps == 0)).mean())
    one, two = len(present), len(absent)
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (one - 1) * (q1 - area**2) + (two - 1) * (q2 - area**2)) / (one * two)
    return area, math.sqrt(max(variance, 0.0))


def _standard(features: Float64Array, seen: BoolArray) -> Float64Array:
    known = features[seen]
    if not len(known):
        return np.zeros_like(features)
    return (features - known.mean(0)) / np.maximum(known.std(0), 1e-3) / math.sqrt(features.shape[1])


def _held_out(features: Float64Array, labels: Float64Array, visits: Int64Array, seed: int) -> Float64Array:
    """Return (N,) the mean of the scores by regressions that did not see the visit; both labels weigh the same."""
    scores = np.zeros(len(features))
    weight = np.where(labels > 0, 0.5 / (labels > 0).sum(), 0.5 / (labels < 0).sum())
    for repeat in range(_REPEATS):
        fold = folds_of(visits, min(FOLDS, len(np.unique(visits))), seed + repeat)
        for one in range(fold.max() + 1):
            learnt, asked = fold != one, fold == one
            w = weight[learnt] / weight[learnt].sum()
            x, y = features[learnt], labels[learnt]
            x_mean, y_mean = w @ x, w @ y
            x = x - x_mean
            solution = np.linalg.solve(
                (x * w[:, None]).T @ x + _RIDGE / len(x) * np.eye(x.shape[1]), x.T @ (w * (y - y_mean))
            )
            scores[asked] += (features[asked] - x_mean) @ solution + y_mean
    return scores / _REPEATS


def _of_visits(scores: Float64Array, visits: Int64Array) -> Float64Array:
    names, index = np.unique(visits, return_inverse=True)
    return np.bincount(index, scores, len(names)) / np.bincount(index, minlength=len(names))
