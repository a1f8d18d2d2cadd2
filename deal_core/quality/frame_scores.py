"""A figure for each frame of a folder of masks, without drawn masks: which masks a person should look at first.

It is the product of three shares: the tagged classes that the mask has, its pixels off tables and walls, and its
agreement with the second opinion of `deal_core.quality.second_opinion` on the cells of this frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from deal_core.dataset.dataset import Dataset, FrameRecord, evenly_spread
from deal_core.masks.mask_folder import frames_with_masks, read_mask
from deal_core.quality.mask_figures import CELLS, LEAST_SHARE, LONGEST, MEASURED_FRAMES, on_planes
from deal_core.quality.second_opinion import Recogniser, cell_grid, describe_cells, folds_of, mask_shares
from deal_core.structures import (
    BACKGROUND,
    UNLABELLED,
    Float32Array,
    Float64Array,
    Sample,
    UInt8Array,
    valid_depth,
)


@dataclass(frozen=True)
class FrameQuality:
    """The figure of the mask of one frame.

    Args:
        key: Key of the frame.
        score: In [0, 1], larger is better; nan where the tags name nothing and the mask is empty.
    """

    key: str
    score: float


def score_masks(
    folder: Path, dataset: Dataset, *, advance: Callable[[int], None] = lambda frames: None
) -> list[FrameQuality]:
    """Return the figure of each frame that has a mask in a folder, in the order of the frames, in constant memory.

    The recogniser of the second opinion learns from at most `MEASURED_FRAMES` frames, evenly spread.

    Args:
        folder: Folder of masks; it may hold masks of some frames only.
        dataset: Frames with their tags; drawn masks are not read.
        advance: Function to call with the number of processed frames.

    Raises:
        DatasetError: the folder is for other classes, holds no mask of these frames, or a file is damaged.
    """
    frames = frames_with_masks(folder, dataset)
    part = folds_of([(frame.recording, frame.segment) for frame in frames.frames])
    part_of = {frame.key: int(each) for frame, each in zip(frames.frames, part, strict=True)}
    learnt = evenly_spread(frames, MEASURED_FRAMES).frames
    grid: tuple[int, int] | None = None
    cells, shares = [], []
    for sample, mask in _masks(folder, frames, learnt):
        grid = grid or cell_grid(mask.shape, CELLS)
        cells.append(describe_cells(sample.image, grid))
        shares.append(mask_shares(mask, grid, len(dataset.classes)))
    assert grid is not None  # there is a frame with a mask
    parts = np.array([part_of[frame.key] for frame in learnt])
    recogniser = Recogniser(np.stack(cells), np.stack(shares), parts)
    found = []
    for done, (sample, mask) in enumerate(_masks(folder, frames, frames.frames), 1):
        scores = recogniser.scores(describe_cells(sample.image, grid), part_of[sample.key])
        agreement = _agreement(scores, mask_shares(mask, grid, len(dataset.classes)), sample.tags)
        found.append(FrameQuality(sample.key, _score(agreement, sample, mask, dataset)))
        advance(done)
    return found


def worst_frames(scores: Sequence[FrameQuality], count: int) -> list[str]:
    """Return the keys of the frames with the lowest figures, worst first; those of nan come last.

    >>> worst_frames([FrameQuality("a", 0.5), FrameQuality("b", 0.1), FrameQuality("c", math.nan)], 2)
    ['b', 'a']
    """
    ranked = sorted(scores, key=lambda each: math.inf if math.isnan(each.score) else each.score)
    return [each.key for each in ranked[:count]]


def _masks(folder: Path, dataset: Dataset, frames: Sequence[FrameRecord]) -> Iterator[tuple[Sample, UInt8Array]]:
    for frame in frames:
        sample = dataset.load(frame)
        yield sample, read_mask(folder, frame.key, sample.image.shape[:2], len(dataset.classes))


def _agreement(scores: Float64Array, shares: Float32Array, tags: Float32Array) -> float:
    """Return the mean IoU over the classes of the cells that the recogniser and the mask give them; nan for none.

    The recogniser may name what the tags do not exclude.
    """
    allowed = np.concatenate([[True], tags != 0])
    theirs, ours = np.where(allowed, scores, -np.inf).argmax(axis=-1), shares.argmax(axis=-1)
    ids = np.arange(1, shares.shape[-1])[:, None]
    both, either = ((theirs == ids) & (ours == ids)).sum(1), ((theirs == ids) | (ours == ids)).sum(1)
    counts = either > 0
    return float((both[counts] / either[counts]).mean()) if counts.any() else math.nan


def _score(agreement: float, sample: Sample, mask: UInt8Array, dataset: Dataset) -> float:
    areas = np.bincount(mask.ravel(), minlength=256)[1 : len(dataset.classes) + 1] / mask.size
    present = sample.tags == 1
    if not present.any() and not areas.any():
        return math.nan
    there = float((areas[present] >= LEAST_SHARE).mean()) if present.any() else 1.0
    if math.isnan(agreement):
        return 0.0
    size = cell_grid(mask.shape, LONGEST)[::-1]
    small, depth = (cv2.resize(each, size, interpolation=cv2.INTER_NEAREST_EXACT) for each in (mask, sample.depth))
    named = (small != BACKGROUND) & (small != UNLABELLED)
    planes = on_planes(depth, valid_depth(depth), dataset.depth_kind)
    off = 1.0 - float(planes[named].mean()) if planes is not None and named.any() else 1.0
    return agreement * there * off
