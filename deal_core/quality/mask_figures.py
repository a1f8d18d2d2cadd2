"""Figures of pseudo masks without a drawn mask: what is missing, where the masks lie, and whether they repeat."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsFloat

import cv2
import numpy as np

from deal_core.dataset.dataset import Dataset, evenly_spread
from deal_core.errors import DatasetError
from deal_core.masks.mask_folder import frames_with_masks, read_mask
from deal_core.quality.second_opinion import cell_grid, describe_cells, folds_of, mask_shares, second_opinion
from deal_core.structures import (
    UNLABELLED,
    BoolArray,
    ClassList,
    DepthKind,
    Float32Array,
    Float64Array,
    Int64Array,
    Sample,
    UInt8Array,
    valid_depth,
)
from deal_core.surfaces.filling import fill_depth_image
from deal_core.surfaces.planes import find_planes

MEASURED_FRAMES = 100
"""Largest number of frames that are measured, evenly spread."""
LEAST_SHARE = 0.0005
"""A class with a smaller share of the image than this is missing from its mask."""

LONGEST = 160  # pixels on the longer side at which places and outlines are measured
CELLS = 48  # cells on the longer side for the second opinion
_STEP_WINDOW = 5
_SEVERAL_TAGS = 0.1


@dataclass(frozen=True)
class ClassMaskFigures:
    """Figures of the masks of one class; nan where nothing was measured.

    Args:
        name: Name of the class.
        tagged: Number of frames in which the class is tagged present.
        absent: Number of frames in which the class is tagged absent.
        segments: Number of segments with a frame in which the class is tagged present.
        missing: Share of the tagged frames whose mask lacks the class.
        agreement: IoU of the masks with the second opinion of `deal_core.quality.second_opinion`.
        on_planes: Share of the class's pixels on a table, a wall or a floor.
        outline: Share of the pixels of an image with a smaller step in depth than at the outline of the class; 0.5
            for an outline that ignores depth.
    """

    name: str
    tagged: int
    absent: int
    segments: int
    missing: float
    agreement: float
    on_planes: float
    outline: float


@dataclass(frozen=True)
class MaskFigures:
    """Figures of a folder of masks; nan where nothing was measured.

    Args:
        frames: Number of measured frames.
        missing: Share of the pairs (frame, tagged class) that the masks lack.
        empty: Share of the frames with a tag whose mask is empty.
        named: Mean share of the image that the masks give to a class.
        on_planes: Share of the named pixels on a table, a wall or a floor.
        off_planes: Share of the pixels off every plane that the masks give to a class.
        outline: Mean of the outlines of all classes in all frames, see `ClassMaskFigures`.
        agreement: Mean over the classes of their agreement with the second opinion.
        agreement_by_lot: The same for the same regions with names drawn by lot among the tags; nan where fewer than a
            tenth of the frames have two tags, so that there is little to draw.
        contradicted: Share of the cells in which the second opinion, which does not know the tags, finds a class that
            the tags of the frame exclude.
        classes: Figures of each class.
    """

    frames: int
    missing: float
    empty: float
    named: float
    on_planes: float
    off_planes: float
    outline: float
    agreement: float
    agreement_by_lot: float
    contradicted: float
    classes: tuple[ClassMaskFigures, ...]


def measure_masks(
    folder: Path, dataset: Dataset, *, advance: Callable[[int], None] = lambda frames: None
) -> MaskFigures:
    """Measure the pseudo masks of a folder on at most `MEASURED_FRAMES` of its frames, evenly spread.

    Args:
        folder: Folder by `deal_core.masks.mask_folder.write_cams`; it may hold masks of some frames only.
        dataset: Frames with their tags; drawn masks are not read.
        advance: Function to call with the number of processed frames.

    Raises:
        DatasetError: the folder is for other classes, holds no mask of these frames, or a file is damaged.
    """
    frames = evenly_spread(frames_with_masks(folder, dataset), MEASURED_FRAMES)
    meter = MaskMeter(dataset.classes, dataset.depth_kind)
    for done, record in enumerate(frames.frames, 1):
        sample = frames.load(record)
        mask = read_mask(folder, record.key, sample.image.shape[:2], len(dataset.classes))
        meter.update(sample, mask, (record.recording, record.segment))
        advance(done)
    return meter.figures()


class MaskMeter:
    """Measures masks frame by frame, and then asks for the second opinion on all of them.

    Args:
        classes: Classes of the masks.
        depth_kind: Kind of the depth.
    """

    def __init__(self, classes: ClassList, depth_kind: DepthKind = "metric") -> None:
        self._classes, self._depth_kind = classes, depth_kind
        self._frames: list[_Frame] = []

    def update(self, sample: Sample, mask: UInt8Array, segment: tuple[str, int]) -> None:
        """Measure one frame.

        Args:
            sample: Image, depth and tags.
            mask: (H, W) ids 0..K or 255.
            segment: Recording and segment of the frame.
        """
        size = cell_grid(mask.shape, LONGEST)
        small, depth = (cv2.resize(a, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT) for a in (mask, sample.depth))
        known = valid_depth(depth)
        ids = np.arange(1, len(self._classes) + 1)[:, None, None]
        # All frames have the cells of the first one, also in a dataset of several image sizes.
        grid = self._frames[0].grid if self._frames else cell_grid(mask.shape, CELLS)
        self._frames.append(
            _Frame(
                segment,
                np.asarray(sample.tags, np.float32),
                (mask == ids).mean(axis=(1, 2)),
                np.asarray(small, np.uint8),
                on_planes(depth, known, self._depth_kind),
                _outlines(small == ids, depth, known, self._depth_kind),
                grid,
                describe_cells(sample.image, grid),
                mask_shares(mask, grid, len(self._classes)),
            )
        )

    def figures(self) -> MaskFigures:
        """Return the figures of all frames so far; raise `DatasetError` if there is none."""
        if not self._frames:
            raise DatasetError("expected at least one frame with a mask, found none")
        frames, count = self._frames, len(self._classes)
        tags, areas = np.stack([f.tags for f in frames]), np.stack([f.areas for f in frames])
        present, lacks = tags == 1, areas < LEAST_SHARE
        has_tag = present.any(axis=1)
        opinion = _opinion(frames, tags)
        agreement = opinion.agreement
        pixels, on_planes = _pixels(frames, count)
        outlines = np.stack([f.outlines for f in frames])
        off, off_named = _off_planes(frames)
        classes = tuple(
            ClassMaskFigures(
                name,
                int(present[:, k].sum()),
                int((tags[:, k] == 0).sum()),
                len({frame.segment for frame in frames if frame.tags[k] == 1}),
                _share(lacks[:, k] & present[:, k], present[:, k]),
                float(agreement[k]),
                _ratio(on_planes[k], pixels[k]),
                _mean(outlines[:, k]),
            )
            for k, name in enumerate(self._classes.names)
        )
        return MaskFigures(
            len(frames),
            _share(lacks & present, present),
            _share(lacks.all(axis=1) & has_tag, has_tag),
            float(areas.sum(axis=1).mean()),
            _ratio(on_planes.sum(), pixels.sum()),
            _ratio(off_named, off),
            _mean(outlines),
            _mean(agreement),
            _mean(opinion.agreement_by_lot) if (present.sum(axis=1) > 1).mean() >= _SEVERAL_TAGS else math.nan,
            opinion.contradicted,
            classes,
        )


@dataclass(frozen=True, eq=False)
class _Frame:
    """What is kept of one frame; `planes` is the mask of all planes, None without depth."""

    segment: tuple[str, int]
    tags: Float32Array
    areas: Float64Array
    mask: UInt8Array
    planes: BoolArray | None
    outlines: Float64Array
    grid: tuple[int, int]
    cells: Float32Array
    shares: Float32Array


@dataclass(frozen=True, eq=False)
class _Opinion:
    """Agreement (K,) of masks, and of the same regions with names by lot, with the second opinion on each."""

    agreement: Float64Array
    agreement_by_lot: Float64Array
    contradicted: float


def _opinion(frames: Sequence[_Frame], tags: Float32Array) -> _Opinion:
    folds = folds_of([f.segment for f in frames])
    cells = np.stack([f.cells for f in frames])
    shares = np.stack([f.shares for f in frames])
    scores = second_opinion(cells, shares, folds)
    by_lot = np.stack([mask_shares(_renamed(f, tags[i], i), f.grid, tags.shape[1]) for i, f in enumerate(frames)])
    found = scores.argmax(axis=-1)  # without the tags
    excluded = np.concatenate([np.zeros((len(tags), 1), bool), tags == 0], axis=1)
    wrong = np.take_along_axis(excluded, found, axis=1)
    return _Opinion(
        _agreement(scores, shares, tags),
        _agreement(second_opinion(cells, by_lot, folds), by_lot, tags),
        _share(wrong, found > 0),
    )


def _agreement(scores: Float64Array, shares: Float32Array, tags: Float32Array) -> Float64Array:
    """Return (K,) the IoU of the cells that the scores and the masks give to each class; nan for a class in neither.

    Only tagged classes may win, as in the masks.
    """
    allowed = np.concatenate([np.ones((len(tags), 1), bool), tags == 1], axis=1)[:, None]
    theirs, ours = np.where(allowed, scores, -np.inf).argmax(axis=-1), shares.argmax(axis=-1)
    ids = np.arange(1, shares.shape[-1])[:, None, None]
    both = ((theirs == ids) & (ours == ids)).sum(axis=(1, 2))
    either = ((theirs == ids) | (ours == ids)).sum(axis=(1, 2))
    return np.divide(both, either, out=np.full(len(ids), np.nan), where=either > 0)


def _renamed(frame: _Frame, tags: Float32Array, seed: int) -> UInt8Array:
    """Return the mask of a frame with a name drawn by lot among its tags for each connected region."""
    named = (frame.mask > 0) & (frame.mask != UNLABELLED)
    count, regions = cv2.connectedComponents(named.astype(np.uint8))
    present = np.flatnonzero(tags == 1) + 1
    names = np.zeros(count, np.uint8)
    if len(present):
        names[1:] = np.random.default_rng(seed).choice(present, count - 1)
    return np.asarray(names[regions])


def _pixels(frames: Sequence[_Frame], count: int) -> tuple[Int64Array, Int64Array]:
    """Return (K,) the pixels of each class in frames with depth, and those of them on planes."""
    total, on_planes = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for frame in frames:
        if frame.planes is not None:
            total += np.bincount(frame.mask.ravel(), minlength=256)
            on_planes += np.bincount(frame.mask[frame.planes], minlength=256)
    return total[1 : count + 1], on_planes[1 : count + 1]


def _off_planes(frames: Sequence[_Frame]) -> tuple[int, int]:
    """Return the number of pixels off every plane in frames with depth, and of those that have a name."""
    off = named = 0
    for frame in frames:
        if frame.planes is not None:
            outside = frame.mask[~frame.planes]
            off, named = off + outside.size, named + int(((outside > 0) & (outside != UNLABELLED)).sum())
    return off, named


def on_planes(depth: Float32Array, known: BoolArray, kind: DepthKind) -> BoolArray | None:
    """Return the mask (H, W) of all planes that support things, not of flat sides of things; None without depth."""
    return find_planes(depth, known, kind).on_support() if known.any() else None


def _outlines(of_class: BoolArray, depth: Float32Array, known: BoolArray, kind: DepthKind) -> Float64Array:
    """Return (K,) the mean rank, in [0, 1], of the steps in depth at the outline of each class; nan without one."""
    found = np.full(len(of_class), np.nan)
    if not known.any():
        return found
    rank = _ranks(_depth_steps(depth, known, kind))
    for k, region in enumerate(of_class):
        inside = region.astype(np.uint8)
        edge = cv2.dilate(inside, np.ones((3, 3), np.uint8)) != cv2.erode(inside, np.ones((3, 3), np.uint8))
        if edge.any():
            found[k] = rank[edge].mean()
    return found


def _depth_steps(depth: Float32Array, known: BoolArray, kind: DepthKind) -> Float32Array:
    """Return (H, W) the largest step in depth around each pixel, as a share of the depth; holes are filled."""
    full, _ = fill_depth_image(depth, known, kind)
    window = np.ones((_STEP_WINDOW, _STEP_WINDOW), np.uint8)
    step = cv2.dilate(full, window) - cv2.erode(full, window)
    return np.asarray(step / np.maximum(full, 1e-6) if kind == "metric" else step, np.float32)


def _ranks(values: Float32Array) -> Float64Array:
    """Return the rank of each value in [0, 1]: the share of smaller values plus half the share of equal ones."""
    ordered = np.sort(values, axis=None)
    low, high = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return np.asarray((low + high) / (2 * values.size))


def _share(chosen: BoolArray, among: BoolArray) -> float:
    """Return the share of the entries of `among` that are chosen; nan without any."""
    return _ratio((chosen & among).sum(), among.sum())


def _ratio(part: SupportsFloat, whole: SupportsFloat) -> float:
    return float(part) / float(whole) if float(whole) > 0 else math.nan


def _mean(values: Float64Array) -> float:
    """Return the mean of the values that are not nan; nan without any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan
