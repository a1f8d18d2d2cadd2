"""A second opinion on masks: a small recogniser that learns them from other segments, and repeats them or does not.

The recogniser is linear, sees only the colours of a cell and around it, and knows neither the network nor the place. It
learns the masks of some segments and predicts those of the others. It can repeat masks that name one kind of thing, and
cannot repeat masks that are empty, that lie anywhere, or whose names are drawn by lot.
"""

from __future__ import annotations

import cv2
import numpy as np

from deal_core.structures import Float32Array, Float64Array, Int64Array, UInt8Array

FOLDS = 3
"""Number of parts into which the segments are divided; each part is predicted from the others."""
_RIDGE = 1e-3
_COLOUR_RANGE = 64.0


def cell_grid(size: tuple[int, ...], longest: int) -> tuple[int, int]:
    """Return (rows, columns) of the cells of an image (height, width), with at most `longest` cells per side."""
    shrink = min(1.0, longest / max(size[:2]))
    return max(round(size[0] * shrink), 1), max(round(size[1] * shrink), 1)


def describe_cells(image: UInt8Array, grid: tuple[int, int]) -> Float32Array:
    """Return (h * w, C) the colours of each cell and of the 3x3 cells around it: Lab, its spread, and its gradients.

    Args:
        image: (H, W, 3) uint8 RGB.
        grid: (h, w) number of cells.
    """
    height, width = grid
    small = cv2.resize(image, (4 * width, 4 * height), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32) / _COLOUR_RANGE
    lightness = np.ascontiguousarray(lab[..., 0])
    across, down = (np.abs(cv2.Sobel(lightness, cv2.CV_32F, *step)) for step in ((1, 0), (0, 1)))
    maps = [*lab.transpose(2, 0, 1), *np.square(lab).transpose(2, 0, 1), across, down, np.hypot(across, down)]
    own = [cv2.resize(np.ascontiguousarray(m), (width, height), interpolation=cv2.INTER_AREA) for m in maps]
    around = [cv2.blur(m, (3, 3), borderType=cv2.BORDER_REPLICATE) for m in own]
    return np.stack([*own, *around], axis=-1).reshape(height * width, -1).astype(np.float32)


def mask_shares(mask: UInt8Array, grid: tuple[int, int], num_classes: int) -> Float32Array:
    """Return (h * w, K + 1) the share of each cell that each class and, first, the background takes.

    Unlabelled pixels (255) belong to no class, so the shares of a cell can sum to less than 1.
    """
    size = grid[::-1]
    ids = range(num_classes + 1)
    shares = [cv2.resize((mask == k).astype(np.float32), size, interpolation=cv2.INTER_AREA).ravel() for k in ids]
    return np.stack(shares, axis=-1)


def folds_of(segments: list[tuple[str, int]]) -> Int64Array:
    """Return the part, 0 to `FOLDS` - 1, of each frame: whole segments, or spans of time if there are few segments.

    Args:
        segments: (recording, segment) of each frame, in order.
    """
    names = sorted(set(segments))
    if len(names) >= 2 * FOLDS:
        shuffled = np.random.default_rng(0).permutation(len(names))
        part = {names[index]: place % FOLDS for place, index in enumerate(shuffled)}
        return np.array([part[segment] for segment in segments], np.int64)
    spans = np.arange(len(segments), dtype=np.int64) * 2 * FOLDS // max(len(segments), 1)
    return spans % FOLDS


def second_opinion(cells: Float32Array, shares: Float32Array, folds: Int64Array) -> Float64Array:
    """Return (N, M, K + 1) the recogniser's scores, background first; each part is predicted from the other parts.

    A ridge regression with equal weight for every class: rare classes count as much as the background.

    Args:
        cells: (N, M, C) descriptions of the M cells of N frames.
        shares: (N, M, K + 1) shares of the classes in each cell, by `mask_shares`.
        folds: (N,) part of each frame.
    """
    recogniser = Recogniser(cells, shares, folds)
    scores = np.zeros(shares.shape)
    for part in np.unique(folds):
        scores[folds == part] = recogniser.scores(cells[folds == part], int(part))
    return scores


class Recogniser:
    """What a small recogniser learnt from the masks of each choice of all parts but one.

    Args:
        cells: (N, M, C) descriptions of the M cells of N frames.
        shares: (N, M, K + 1) shares of the classes in each cell, by `mask_shares`.
        folds: (N,) part of each frame.
    """

    def __init__(self, cells: Float32Array, shares: Float32Array, folds: Int64Array) -> None:
        flat = cells.reshape(-1, cells.shape[-1]).astype(np.float64)
        self._mean, self._spread = flat.mean(axis=0), flat.std(axis=0)
        self._none = np.zeros((cells.shape[-1] + 1, shares.shape[-1]))
        known = self._known(cells)
        self._weights = {
            part: _learn(known[folds != part], shares[folds != part]) if (folds != part).any() else self._none
            for part in np.unique(folds).tolist()
        }

    def scores(self, cells: Float32Array, part: int) -> Float64Array:
        """Return the scores (..., M, K + 1) of cells (..., M, C) by what was learnt from the other parts.

        They are 0 where there are no other parts.
        """
        return np.asarray(self._known(cells) @ self._weights.get(part, self._none))

    def _known(self, cells: Float32Array) -> Float64Array:
        centred = cells - self._mean
        known = np.divide(centred, self._spread, out=np.zeros(cells.shape), where=self._spread > 0)
        return np.concatenate([known, np.ones((*cells.shape[:-1], 1))], axis=-1)


def _learn(cells: Float64Array, shares: Float32Array) -> Float64Array:
    """Return the weights (C, K + 1) of the regression from cells (N, M, C) to shares (N, M, K + 1)."""
    inputs, wanted = cells.reshape(-1, cells.shape[-1]), shares.reshape(-1, shares.shape[-1]).astype(np.float64)
    total = wanted.sum(axis=0)
    of_class = np.divide(len(wanted), total, out=np.zeros_like(total), where=total > 0) / len(total)
    weighted = inputs * (wanted @ of_class)[:, None]
    square = weighted.T @ inputs
    square += _RIDGE * max(float(np.trace(square)) / len(square), 1e-12) * np.eye(len(square))
    return np.asarray(np.linalg.solve(square, weighted.T @ wanted))
