"""Masks of a dataset from its taps and boxes: grown where they were drawn, and carried through the recording.

A thing is carried to frames at most `reach_s` away from the one it was marked in, as long as the recording goes on
without a pause: things are moved in pauses. The nearest marks come first; a mask that overlaps what is there already
shows the same thing again, and is left out. A thing of a class that a frame is tagged to be without is not carried
there.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from deal_core.dataset.dataset import Dataset, FrameRecord
from deal_core.dataset.poses import read_poses
from deal_core.dataset.taps import Tap, marks_to_json
from deal_core.masks.known import KnownMask
from deal_core.structures import BACKGROUND, BoolArray, CameraIntrinsics, Sample
from deal_core.taps.carry import View, carry_mask
from deal_core.taps.grow import Thing, grow_things

REACH_S = 6.0
"""Time over which masks are carried by poses from outside, in seconds."""
PAUSE_S = 2.0
"""Frames that are farther apart than this show things that may have been moved in between."""
_SAME_THING = 0.3
"""Two masks with this share of the smaller one in common show the same thing."""
_KEPT_SOURCES = 64


@dataclass(frozen=True, eq=False)
class TapMask(KnownMask):
    """What taps and boxes say about an image.

    Args:
        things: The things, those marked in the image first; a later one lies below.
    """

    things: tuple[Thing, ...] = ()


@dataclass(frozen=True, eq=False)
class _Source:
    """A frame with marks: its things, and its view if its pose is known."""

    things: tuple[Thing, ...]
    view: View | None


class TapMasks:
    """Masks from the taps and boxes of a dataset; made when they are asked for.

    Args:
        dataset: The frames that masks are asked for.
        marked: The frames whose marks are used; those of `dataset` if None.
        reach_s: Time over which things are carried, in seconds; 0 uses marks in their own frames alone.
        grown: Masks of the same frames with other marks or tags; things whose marks did not change are taken over.

    Raises:
        DatasetError: poses.json or camera.json of a recording cannot be read.
    """

    def __init__(
        self,
        dataset: Dataset,
        marked: Iterable[FrameRecord] | None = None,
        *,
        reach_s: float = REACH_S,
        grown: TapMasks | None = None,
    ) -> None:
        self._dataset = dataset
        self._reach_ns = round(reach_s * 1e9)
        self._frames = {frame.key: frame for frame in dataset.frames}
        self._marked = _by_recording(dataset.frames if marked is None else marked)
        self._poses = {name: read_poses(dataset.path, name) for name in self._marked}
        self._cameras: dict[str, CameraIntrinsics | None] = {}
        self._parts = recording_parts(dataset.frames)
        self._sources: OrderedDict[FrameRecord, _Source] = grown._sources if grown else OrderedDict()

    def __len__(self) -> int:
        """Return the number of frames with marks."""
        return sum(len(frames) for frames in self._marked.values())

    @property
    def can_carry(self) -> bool:
        """Whether any recording with marks has poses."""
        return any(self._poses.values())

    @property
    def digest(self) -> str:
        """A digest of the marks, of the poses that carry them and of the reach."""
        said = [[f.key, marks_to_json(f.marks)] for frames in self._marked.values() for f in frames]
        poses = {name: {stamp: pose.tolist() for stamp, pose in found.items()} for name, found in self._poses.items()}
        content = json.dumps([said, poses, self._reach_ns], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def of(self, key: str) -> TapMask | None:
        """Return what taps and boxes say about a frame; None where no mark reaches it.

        Raises:
            DatasetError: a file of a frame is missing or damaged, or a mark lies outside its image.
            CameraModelError: the lens of the camera cannot be inverted.
        """
        frame = self._frames[key]
        sources = self._near(frame)
        if not sources:
            return None
        sample = self._dataset.load(frame)
        things = [*self._source(frame, sample).things] if sources[0].key == key else []
        view = self._view(frame, sample)
        for source in sources:
            if source.key != key and view is not None:
                things += self._carried(self._source(source), view, sample, things)
        return _flat(things, sample) if things else None

    def _near(self, frame: FrameRecord) -> list[FrameRecord]:
        """Return the frames with marks that reach a frame, itself first, then nearest first."""
        marked = self._marked.get(frame.recording, [])
        can_move = frame.stamp_ns in self._poses.get(frame.recording, {}) and self._dataset.depth_kind == "metric"
        near = [
            other
            for other in marked
            if other.key == frame.key
            or (
                can_move
                and other.stamp_ns in self._poses[frame.recording]
                and abs(other.stamp_ns - frame.stamp_ns) <= self._reach_ns
                and self._parts.get(other.key) == self._parts[frame.key]
            )
        ]
        return sorted(near, key=lambda other: abs(other.stamp_ns - frame.stamp_ns))

    def _carried(self, source: _Source, view: View, sample: Sample, there: list[Thing]) -> list[Thing]:
        found: list[Thing] = []
        for thing in source.things:
            if source.view is None or sample.tags[thing.label] == 0:
                continue
            mask = carry_mask(thing.mask, source.view, view)
            same = [other for other in (*there, *found) if other.label == thing.label]
            if mask.any() and not any(_overlap(mask, other.mask) >= _SAME_THING for other in same):
                found.append(Thing(thing.label, mask))
        return found

    def _source(self, frame: FrameRecord, sample: Sample | None = None) -> _Source:
        """Return the things and the view of a frame with marks; the last ones are kept."""
        if frame not in self._sources:
            sample = sample or self._dataset.load(frame)
            things = grow_things(sample, frame.marks, self._dataset.classes, self._dataset.depth_kind)
            self._sources[frame] = _Source(tuple(things), self._view(frame, sample))
            if len(self._sources) > _KEPT_SOURCES:
                self._sources.popitem(last=False)
        self._sources.move_to_end(frame)
        return self._sources[frame]

    def _view(self, frame: FrameRecord, sample: Sample) -> View | None:
        pose = self._poses.get(frame.recording, {}).get(frame.stamp_ns)
        if frame.recording not in self._cameras:
            self._cameras[frame.recording] = self._dataset.camera(frame.recording)
        camera = self._cameras[frame.recording]
        if pose is None or camera is None:
            return None
        return View.of(sample, camera, pose)


def recording_parts(frames: Iterable[FrameRecord]) -> dict[str, int]:
    """Return a number for each frame, which rises with each new recording and after each pause."""
    parts: dict[str, int] = {}
    number, last = 0, None
    for frame in sorted(frames, key=lambda frame: (frame.recording, frame.stamp_ns)):
        if last and (last.recording != frame.recording or frame.stamp_ns - last.stamp_ns > PAUSE_S * 1e9):
            number += 1
        parts[frame.key] = number
        last = frame
    return parts


def _flat(things: list[Thing], sample: Sample) -> TapMask:
    """Return the mask of things, the first on top, and the classes that they reach."""
    mask = np.full(sample.depth.shape, BACKGROUND, np.uint8)
    reached = np.zeros(len(sample.tags), bool)
    for thing in reversed(things):
        mask[thing.mask] = thing.label + 1
        reached[thing.label] = True
    return TapMask(mask, reached, tuple(things))


def _by_recording(frames: Iterable[FrameRecord]) -> dict[str, list[FrameRecord]]:
    """Return the frames that show a thing by a mark, by recording."""
    found: dict[str, list[FrameRecord]] = {}
    for frame in frames:
        if any(not isinstance(mark, Tap) or mark.is_on for mark in frame.marks):
            found.setdefault(frame.recording, []).append(frame)
    return found


def _overlap(one: BoolArray, two: BoolArray) -> float:
    return float((one & two).sum() / max(min(int(one.sum()), int(two.sum())), 1))
