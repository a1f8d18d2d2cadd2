"""Class scores of a frame, fused with those of the other frames that show the same places."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from deal_core.dataset.dataset import Dataset, FrameRecord, evenly_spread
from deal_core.dataset.poses import POSES_FILE, read_poses
from deal_core.dataset.transforms import resize_sample
from deal_core.errors import UsageError
from deal_core.masks.score_dataset import CamSettings, ScoredFrame, score_frames
from deal_core.models.model_file import LoadedModel
from deal_core.structures import BoolArray, CameraIntrinsics, Float32Array, Float64Array, Sample
from deal_core.taps.carry import View, nearest_labels, points_of
from deal_core.taps.masks import recording_parts
from deal_core.views.choices import Views
from deal_core.views.place_map import PlaceMap, fused_scores
from deal_core.views.warp import agreement, warp_scores

KEYFRAMES = 500
"""Largest number of frames, evenly spread, of which the map of a part of a recording is made."""
NEAR_S = 2.0
"""Time to each side from which near views are taken, seconds."""
NEAR_VIEWS = 6
"""Largest number of near views, evenly spread."""
NEAR_STEP_S = 0.15
"""Shortest time between two frames that are near views of others, seconds: each of them is scored once, and kept."""
ROUNDS = 2
"""How often a map is made: from the second time on, of what the map before says about its views."""
MAPS = 4
"""Largest number of maps of one part of a recording, whose poses may not all fit each other."""
VIEW_WIDTH = 320
"""Frames are compared and fused at this width, pixels, or at their own if it is less."""

_COVERED = 0.5
"""Share of a view's pixels that a map has to know, so that the view belongs to it."""


@dataclass
class FusionCounts:
    """Of how many frames the scores were fused, and why those of others were not.

    Attributes:
        fused: frames with fused scores.
        without_pose: frames without a pose, or of a recording without intrinsics.
        without_depth: frames without a measured depth pixel.
        left_out: frames whose depth fits that of no other view: it is alone, or its pose is wrong.
    """

    fused: int = 0
    without_pose: int = 0
    without_depth: int = 0
    left_out: int = 0


class FusedScores:
    """Scores of the frames of a dataset, fused by the poses of the camera; made when they are asked for.

    A class that a frame is not tagged with has the score 0. Every other class has its `fused_scores` of
    `deal_core.views.place_map`, divided by their maximum in the image; pixels of which nothing is known take those of
    the nearest one. Frames without a pose or without depth have none.

    Frames are fused within one part of a recording, up to a pause in which things may have been moved. With `near`, the
    scores of up to `NEAR_VIEWS` frames within `NEAR_S` are warped, without those whose depth does not agree. With
    `recording`, a map of the whole part is made of up to `KEYFRAMES` frames, and then made again of what it says about
    them: in each view, the likeliest place of a tag weakens the others. A frame whose depth does not agree with that of
    the frame before begins a map of its own, which later frames may join.

    Frames are best asked for in their order: the maps of one part are in memory at a time.

    Args:
        model: Model that makes the scores.
        dataset: The frames that are asked for, which are also the other views.
        settings: Settings of the scores; their refinement belongs after the fusion and is not used here.
        views: "near" or "recording".

    Attributes:
        counts: counts of the frames that were asked for.
        advance: called after each frame that a map is made of; does nothing unless it is set.

    Raises:
        UsageError: no recording has poses and intrinsics, depth is not in metres, or the tags are predicted.
        DatasetError: poses.json or camera.json of a recording cannot be read.
    """

    def __init__(
        self,
        model: LoadedModel,
        dataset: Dataset,
        settings: CamSettings,
        views: Views,
    ) -> None:
        self.counts = FusionCounts()
        self.advance: Callable[[], object] = lambda: None
        self._model, self._dataset, self._views = model, dataset, views
        self._settings = replace(settings, refine=None)
        self._poses = {name: read_poses(dataset.path, name) for name in dataset.recordings}
        self._cameras = {name: dataset.camera(name) for name in dataset.recordings}
        _check(dataset, self._settings, self._poses, self._cameras)
        parts = recording_parts(dataset.frames)
        self._frames = {frame.key: frame for frame in dataset.frames}
        self._number = parts
        self._posed: dict[int, list[FrameRecord]] = {number: [] for number in set(parts.values())}
        for frame in dataset.frames:
            if frame.stamp_ns in self._poses[frame.recording]:
                self._posed[parts[frame.key]].append(frame)
        self._others = {number: _thinned(frames) for number, frames in self._posed.items()}
        self._maps: tuple[int, list[_Map]] = (-1, [])
        self._kept: OrderedDict[str, _Seen] = OrderedDict()

    @property
    def digest(self) -> str:
        """The kind of fusion, with a digest of the poses and the frames."""
        poses = {name: {stamp: pose.tolist() for stamp, pose in found.items()} for name, found in self._poses.items()}
        content = json.dumps([sorted(self._frames), poses], sort_keys=True)
        return f"{self._views} {hashlib.sha256(content.encode()).hexdigest()[:16]}"

    @property
    def mapping_steps(self) -> int:
        """Number of calls of `advance`, if all maps are made and no frame is left out."""
        frames = sum(min(len(frames), KEYFRAMES) for frames in self._posed.values())
        return ROUNDS * frames if self._views == "recording" else 0

    def scores(self, sample: Sample) -> Tensor | None:
        """Return the fused scores (K, h, w) of a frame; None for a frame that has its own alone.

        Raises:
            DatasetError: a file of a frame is missing or damaged.
            ModelFileError: the scores of a frame are not finite.
            CameraModelError: the lens of a camera cannot be inverted.
        """
        frame = self._frames[sample.key]
        view = self._view(frame, sample)
        if view is None:
            self.counts.without_pose += 1
            return None
        if not view.measured.any():
            self.counts.without_depth += 1
            return None
        found = self._near(frame, view) if self._views == "near" else self._in_map(frame, view)
        if found is None:
            self.counts.left_out += 1
            return None
        self.counts.fused += 1
        return torch.from_numpy(_normalised(_without_holes(*found), sample.tags))

    def _in_map(self, frame: FrameRecord, view: View) -> _Found | None:
        number = self._number[frame.key]
        if self._maps[0] != number:
            self._maps = number, self._make_maps(number)
        points = points_of(view).reshape(-1, 3)
        least, best, is_alone = max(_COVERED * view.known.sum(), 1), None, False
        for each in self._maps[1]:
            scores, seen = each.places.look_up(points)
            found = _Found(scores.T.reshape(-1, *view.depth.shape), seen.reshape(view.depth.shape) & view.known)
            if found.known.sum() >= least:
                least, best, is_alone = found.known.sum(), found, len(each.members) == 1
        return None if is_alone else best

    def _make_maps(self, number: int) -> list[_Map]:
        keys = {frame.key for frame in self._posed[number]}
        part = evenly_spread(self._dataset.subset(predicate=lambda frame: frame.key in keys), KEYFRAMES)
        maps: list[_Map] = []
        for scored in score_frames(self._model, part, self._settings):
            seen = self._seen(self._frames[scored.sample.key], scored)
            if seen.view.measured.any():
                _add(maps, scored.sample.key, seen, len(self._dataset.classes))
            self.advance()
        for each in maps:
            for _ in range(ROUNDS - 1):
                each.places = self._said_again(each)
        return maps

    def _said_again(self, earlier: _Map) -> PlaceMap:
        """Return a map of the same views with the scores that an earlier map gives each, relative to their largest."""
        places = PlaceMap(len(self._dataset.classes))
        for key in earlier.members:
            sample = self._dataset.load(self._frames[key])
            view = self._view(self._frames[key], sample)
            assert view is not None  # of a frame with a pose
            points = points_of(view)[view.known]
            places.add(points, _normalised(earlier.places.look_up(points)[0].T, sample.tags).T, sample.tags)
            self.advance()
        return places

    def _near(self, frame: FrameRecord, view: View) -> _Found:
        own = self._scored(frame)
        shape = own.scores.shape
        sums, tagged, known = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for other in (own, *(self._scored(other) for other in self._neighbours(frame))):
            if other is own:
                warped, weights = own.scores, np.ones(shape[1:])
            elif agreement(other.view, view).is_wrong:
                continue
            else:
                warped, weights = warp_scores(other.scores, other.view, view)
            is_tagged, is_known = ((flags[:, None, None] * weights) for flags in _flags(other.tags))
            sums, tagged, known = sums + warped * is_tagged, tagged + is_tagged, known + is_known
        return _Found(fused_scores(sums, tagged, known), np.ones(shape[1:], bool))

    def _neighbours(self, frame: FrameRecord) -> list[FrameRecord]:
        others = self._others[self._number[frame.key]]
        near = [o for o in others if o is not frame and abs(o.stamp_ns - frame.stamp_ns) <= NEAR_S * 1e9]
        count = min(len(near), NEAR_VIEWS)
        return [near[i * len(near) // count] for i in range(count)]

    def _scored(self, frame: FrameRecord) -> _Seen:
        """Return a frame with its own scores; the last ones are kept."""
        if frame.key not in self._kept:
            alone = self._dataset.subset([frame.recording], lambda other: other.key == frame.key)
            self._kept[frame.key] = self._seen(frame, next(iter(score_frames(self._model, alone, self._settings))))
            if len(self._kept) > 2 * NEAR_S / NEAR_STEP_S + 2:
                self._kept.popitem(last=False)
        self._kept.move_to_end(frame.key)
        return self._kept[frame.key]

    def _seen(self, frame: FrameRecord, scored: ScoredFrame) -> _Seen:
        view = self._view(frame, scored.sample)
        assert view is not None  # of a frame with a pose
        height, width = view.depth.shape
        small = [cv2.resize(one, (width, height), interpolation=cv2.INTER_AREA) for one in scored.scores]
        return _Seen(view, np.stack(small), scored.sample.tags)

    def _view(self, frame: FrameRecord, sample: Sample) -> View | None:
        pose, camera = self._poses[frame.recording].get(frame.stamp_ns), self._cameras[frame.recording]
        if pose is None or camera is None:
            return None
        height, width = sample.depth.shape
        if width > VIEW_WIDTH:
            sample = resize_sample(sample, (max(round(height * VIEW_WIDTH / width), 1), VIEW_WIDTH))
        return View.of(sample, camera, pose)


class _Seen(NamedTuple):
    """A frame as a view with its own scores (K, H, W) and tags (K,)."""

    view: View
    scores: Float32Array
    tags: Float32Array


class _Found(NamedTuple):
    """Fused scores (K, H, W) of a view, and (H, W) where they are known."""

    scores: Float32Array
    known: BoolArray


@dataclass(eq=False)
class _Map:
    """The places of views whose depth agrees, the last one of these, and the keys of their frames."""

    places: PlaceMap
    last: View
    members: list[str] = field(default_factory=list)


def _add(maps: list[_Map], key: str, seen: _Seen, num_classes: int) -> None:
    """Add a view to the map whose last view it agrees with, the newest first, or to a new map."""
    view, known = seen.view, seen.view.known
    fitting = next((each for each in reversed(maps) if not agreement(each.last, view).is_wrong), None)
    if fitting is None:
        if len(maps) == MAPS:
            return
        fitting = _Map(PlaceMap(num_classes), view)
        maps.append(fitting)
    fitting.last = view
    fitting.members.append(key)
    fitting.places.add(points_of(view)[known], seen.scores[:, known].T, seen.tags)


def _thinned(frames: Sequence[FrameRecord]) -> list[FrameRecord]:
    """Return frames of rising stamps without those that follow another one within `NEAR_STEP_S`."""
    kept: list[FrameRecord] = []
    for frame in frames:
        if not kept or frame.stamp_ns - kept[-1].stamp_ns >= NEAR_STEP_S * 1e9:
            kept.append(frame)
    return kept


def _flags(tags: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Return (K,) 1 for the classes that are present, and for those that are known."""
    return (tags == 1).astype(np.float32), np.isfinite(tags).astype(np.float32)


def _without_holes(scores: Float32Array, known: BoolArray) -> Float32Array:
    """Return scores in which each unknown pixel has those of the nearest known one."""
    if known.all():
        return scores
    nearest = nearest_labels(known)
    values = np.zeros((len(scores), int(nearest.max()) + 1), np.float32)
    values[:, nearest[known]] = scores[:, known]
    return np.asarray(values[:, nearest], np.float32)


def _normalised(scores: Float32Array, tags: Float32Array) -> Float32Array:
    """Return scores (K, ...) whose largest is 1 for each class that is tagged as present, and 0 for all others."""
    largest = scores.reshape(len(scores), -1).max(axis=1)
    factors = np.where((tags == 1) & (largest > 0), 1 / np.maximum(largest, 1e-9), 0)
    return np.asarray(scores * factors.reshape(-1, *[1] * (scores.ndim - 1)), np.float32)


def _check(
    dataset: Dataset,
    settings: CamSettings,
    poses: Mapping[str, Mapping[int, Float64Array]],
    cameras: Mapping[str, CameraIntrinsics | None],
) -> None:
    if settings.tags != "given":
        raise UsageError("--views: fused scores need given tags: leave out --tags predicted")
    if dataset.depth_kind != "metric" or not dataset.has_depth:
        found = f"its depth is {dataset.depth_kind}" if dataset.has_depth else "it has none"
        raise UsageError(f"--views: expected depth in metres in {dataset.path}, but {found}: use the sensor's depth")
    if not any(poses.values()):
        raise UsageError(
            f"--views: no recording of {dataset.path} has {POSES_FILE}: extract a recording with TF or odometry, or "
            "give it poses with `deal poses`"
        )
    if not any(poses[name] and cameras[name] for name in poses):
        raise UsageError(
            f"--views: no recording of {dataset.path} has both poses and camera.json: extract it again, from a "
            "recording with camera_info"
        )
