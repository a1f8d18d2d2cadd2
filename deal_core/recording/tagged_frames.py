"""From the messages of a recording to tagged frames, with a count for everything that is left out."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import numpy as np

from deal_core.class_json import classes_from_json
from deal_core.errors import DealError, RecordingError
from deal_core.recording.image_encodings import ImageFormatError
from deal_core.recording.image_messages import ColorMessage, DepthMessage, MessageDecoder, header_stamp
from deal_core.recording.pairing import Pair, PairingCounts, StampPairer
from deal_core.recording.reader import RawMessage, Recording
from deal_core.recording.topics import ALIGN_HINT, ImageTopics
from deal_core.recording.writer import SESSION_TOPIC, TAGS_TOPIC
from deal_core.structures import CameraIntrinsics, ClassList, RgbdPair, TagMarker, TagState

GUARD, DISCARDED = "guard", "discard"
"""Who said that a span is to be ignored, where it was the recorder itself, or the operator afterwards."""
# A second at camera rate: streams lie further apart in a file than they arrive at a node.
_QUEUE_SIZE = 30


class Skip(str, Enum):
    """Why a pair gave no frame."""

    IGNORED = "the operator marked it to be ignored"
    AMBIGUOUS = "within the guard time around a change of tags"
    DISCARDED = "the operator discarded it while recording"
    UNTAGGED = "before the first tags"
    BAD_TAGS = "its tags cannot be read"
    BAD_COLOR = "its colour image cannot be decoded"
    BAD_DEPTH = "its depth image cannot be decoded"
    SIZE_CHANGED = "its size differs from the first frame's"
    REPEATED = "its stamp was there before"

    @property
    def is_fault(self) -> bool:
        """Whether something is wrong with the recording, as opposed to left out on purpose."""
        return self not in (Skip.IGNORED, Skip.AMBIGUOUS, Skip.DISCARDED, Skip.UNTAGGED)


@dataclass(frozen=True)
class Session:
    """What the recorder said about a recording; `classes` is None where no recorder of ours wrote it."""

    classes: ClassList | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TagSpan:
    """Tags that hold from a stamp until the next span.

    Args:
        stamp_ns: on the clock of the images.
        tags: None where the message cannot be used.
        source: who said so, as in "keyboard".
    """

    stamp_ns: int
    tags: TagState | None
    source: str = ""

    @property
    def skip(self) -> Skip | None:
        """Why pairs under these tags give no frames; None if they do."""
        if self.tags is None:
            return Skip.BAD_TAGS
        if self.tags.marker is not TagMarker.IGNORE:
            return None
        return {GUARD: Skip.AMBIGUOUS, DISCARDED: Skip.DISCARDED}.get(self.source, Skip.IGNORED)


class TagTimeline:
    """The tags of a recording over time; each tags message starts a segment.

    Args:
        spans: in any order; of two with one stamp the later in the sequence holds.
        problems: what was wrong with tags messages, one sentence each.
    """

    def __init__(self, spans: Sequence[TagSpan], problems: Sequence[str] = ()) -> None:
        by_stamp = {span.stamp_ns: span for span in spans}
        self.spans = [by_stamp[stamp] for stamp in sorted(by_stamp)]
        self.problems = tuple(problems)
        self._stamps = [span.stamp_ns for span in self.spans]

    @classmethod
    def constant(cls, tags: TagState) -> TagTimeline:
        """Return a timeline with one state for the whole recording."""
        return cls([TagSpan(-(2**63), tags)])

    def names(self) -> list[str]:
        """Return all class names that occur, sorted."""
        states = [span.tags for span in self.spans if span.tags is not None]
        return sorted({name for tags in states for name in (*tags.present, *tags.absent)})

    def segment(self, stamp_ns: int) -> int:
        """Return the index of the span that holds at a stamp; -1 before the first."""
        return bisect_right(self._stamps, stamp_ns) - 1


@dataclass(frozen=True, eq=False)
class TaggedFrame:
    """A pair with the tags that hold at its stamp."""

    pair: RgbdPair
    tags: TagState
    segment: int


@dataclass
class FrameCounts:
    """What became of the messages: each is unreadable, unpaired or in a pair; each pair is a frame or skipped.

    Attributes:
        pairing: what `StampPairer` counted.
        unreadable: messages without a readable stamp, by stream.
        frames: pairs that became frames.
        skipped: pairs that did not, by cause.
        examples: for each kind of fault, the first error in full.
        without_depth: frames whose depth image has no valid pixel.
        valid_depth: sum over frames of the share of valid depth pixels.
        color_stamps, depth_stamps: all stamps received, nanoseconds.
        pair_stamps, pair_offsets: of all pairs, nanoseconds.
    """

    pairing: PairingCounts = field(default_factory=PairingCounts)
    unreadable: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    skipped: Counter[Skip] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    without_depth: int = 0
    valid_depth: float = 0.0
    color_stamps: array[int] = field(default_factory=lambda: array("q"))
    depth_stamps: array[int] = field(default_factory=lambda: array("q"))
    pair_stamps: array[int] = field(default_factory=lambda: array("q"))
    pair_offsets: array[int] = field(default_factory=lambda: array("q"))

    @property
    def faults(self) -> int:
        """Messages and pairs that something is wrong with."""
        return self.unreadable.total() + sum(n for cause, n in self.skipped.items() if cause.is_fault)


def read_session(recording: Recording, decoder: MessageDecoder) -> Session:
    """Return the session message, or an empty session where there is none.

    Raises:
        RecordingError: the message cannot be read, or there are several with different classes.
    """
    sessions = []
    for message in recording.messages([SESSION_TOPIC]):
        try:
            facts = json.loads(decoder.text(message.data))
            sessions.append(Session(classes_from_json(facts.pop("classes")), facts))
        except (DealError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise RecordingError(f"{recording.path}: {SESSION_TOPIC} cannot be read: {error}") from error
    if len({session.classes for session in sessions}) > 1:
        raise RecordingError(
            f"{recording.path} holds several {SESSION_TOPIC} messages with different classes: record again"
        )
    return sessions[0] if sessions else Session()


def read_tags(recording: Recording, decoder: MessageDecoder, classes: ClassList | None) -> TagTimeline:
    """Return the recorded tags; a message that cannot be used makes its span one without tags.

    Few and small, they are read before the images, because tags may be recorded after the images they hold for.
    Without a class list, every name is accepted.
    """
    spans, problems = [], []
    for message in recording.messages([TAGS_TOPIC]):
        stamp_ns = message.log_time_ns
        try:
            content = json.loads(decoder.text(message.data))
            stamp_ns = int(content["stamp_ns"])
            tags = TagState.from_json(content)
            if classes is not None:
                tags.vector(classes)
            spans.append(TagSpan(stamp_ns, tags, str(content.get("source", ""))))
        except (DealError, ValueError, KeyError, AttributeError, TypeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            problems.append(f"{TAGS_TOPIC} at {stamp_ns} ns cannot be used: {reason}")
            spans.append(TagSpan(stamp_ns, None))
    return TagTimeline(spans, problems)


def read_camera(recording: Recording, decoder: MessageDecoder, topics: ImageTopics) -> CameraIntrinsics | None:
    """Return the colour camera's intrinsics; None where none were recorded or the camera is not calibrated.

    The size is 0 where the driver leaves it out; see `fit_camera`.
    """
    if topics.info is None:
        return None
    for message in recording.messages([topics.info.name]):
        try:
            return decoder.camera(message.data)
        except ImageFormatError:
            continue  # every pair comes with one; the next may be sound
    return None


def fit_camera(camera: CameraIntrinsics | None, size: tuple[int, ...] | None) -> CameraIntrinsics | None:
    """Return intrinsics that hold for images of a size (H, W, ...): filled in where absent, None where they differ."""
    if camera is None or size is None:
        return None
    if not camera.width and not camera.height:
        camera = replace(camera, width=size[1], height=size[0])
    return camera if (camera.height, camera.width) == size[:2] else None


class FrameReader:
    """Iterate over a recording's tagged frames in one pass and constant memory.

    Args:
        recording: an open recording.
        topics: where the pairs come from.
        timeline: the tags.
        decoder: shared to save its set-up.
        slop_ns: largest difference between the stamps of colour and depth; 0 pairs equal stamps only.

    Attributes:
        counts: what became of the messages so far.
        size: (H, W, 3) of the frames; None before the first.

    Raises:
        RecordingError: while iterating, if the first depth image is not aligned to its colour image.
    """

    def __init__(
        self,
        recording: Recording,
        topics: ImageTopics,
        timeline: TagTimeline,
        decoder: MessageDecoder,
        *,
        slop_ns: int = 0,
    ) -> None:
        self._recording = recording
        self._topics = topics
        self._timeline = timeline
        self._decoder = decoder
        self._slop_ns = slop_ns
        self.size: tuple[int, ...] | None = None
        self._seen: set[int] = set()
        self.counts = FrameCounts()

    def __iter__(self) -> Iterator[TaggedFrame]:
        for pair in self._pairs():
            self.counts.pair_stamps.append(pair.stamp_ns)
            self.counts.pair_offsets.append(pair.offset_ns)
            frame = self._frame(pair)
            if isinstance(frame, Skip):
                self.counts.skipped[frame] += 1
                continue
            valid = int(np.count_nonzero(frame.pair.depth_mm)) / frame.pair.depth_mm.size
            self.counts.frames += 1
            self.counts.valid_depth += valid
            self.counts.without_depth += valid == 0
            yield frame

    def _pairs(self) -> Iterator[Pair[RawMessage, RawMessage]]:
        counts, color, depth = self.counts, self._topics.color.name, self._topics.depth.name
        pairer = StampPairer[RawMessage, RawMessage](slop_ns=self._slop_ns, queue_size=_QUEUE_SIZE)
        counts.pairing = pairer.counts
        for message in self._recording.messages([color, depth]):
            try:
                stamp = header_stamp(message.data)
            except ImageFormatError as error:
                self._note("color" if message.topic == color else "depth", error)
                continue
            if message.topic == color:
                counts.color_stamps.append(stamp)
                yield from pairer.add_color(stamp, message)
            else:
                counts.depth_stamps.append(stamp)
                yield from pairer.add_depth(stamp, message)
        yield from pairer.flush()

    def _note(self, stream: str, error: ImageFormatError) -> None:
        self.counts.unreadable[stream] += 1
        self.counts.examples.setdefault(f"{stream}: {error.cause}", str(error))

    def _frame(self, pair: Pair[RawMessage, RawMessage]) -> TaggedFrame | Skip:
        if pair.stamp_ns in self._seen:
            return Skip.REPEATED
        self._seen.add(pair.stamp_ns)
        segment = self._timeline.segment(pair.stamp_ns)
        if segment < 0:
            return Skip.UNTAGGED
        span = self._timeline.spans[segment]
        if span.tags is None or span.skip:
            return span.skip or Skip.BAD_TAGS
        stream, skip = "color", Skip.BAD_COLOR
        try:
            color = self._decoder.color(pair.color.data, pair.color.type)
            stream, skip = "depth", Skip.BAD_DEPTH
            depth = self._decoder.depth(pair.depth.data, pair.depth.type)
        except ImageFormatError as error:
            self.counts.examples.setdefault(f"{stream}: {error.cause}", str(error))
            return skip
        if self.size is None:
            self._check_aligned(color, depth)
            self.size = color.rgb.shape
        if color.rgb.shape != self.size or depth.depth_mm.shape != self.size[:2]:
            self.counts.examples.setdefault(
                "size", f"the first frame is {self.size}, another {color.rgb.shape} with {depth.depth_mm.shape}"
            )
            return Skip.SIZE_CHANGED
        return TaggedFrame(RgbdPair(pair.stamp_ns, color.rgb, depth.depth_mm), span.tags, segment)

    def _check_aligned(self, color: ColorMessage, depth: DepthMessage) -> None:
        if color.rgb.shape[:2] != depth.depth_mm.shape:
            found = f"colour is {_size(color.rgb)}, depth is {_size(depth.depth_mm)}"
        elif color.frame_id != depth.frame_id:
            found = f"colour is in frame '{color.frame_id}', depth in '{depth.frame_id}'"
        else:
            return
        raise RecordingError(
            f"{self._recording.path}: depth on {self._topics.depth.name} is not aligned to colour on "
            f"{self._topics.color.name} ({found}): {ALIGN_HINT}"
        )


def explain_no_pairs(recording: Recording, counts: FrameCounts, slop_ns: int) -> str:
    """Return why no pair was found, with the slop that would find some."""
    color, depth = np.sort(counts.color_stamps), np.sort(counts.depth_stamps)
    lead = f"{recording.path}: no colour image has a depth image"
    if not len(color) or not len(depth):
        return f"{lead}: {len(color)} colour and {len(depth)} depth images could be read"
    after = np.clip(np.searchsorted(depth, color), 1, len(depth) - 1) if len(depth) > 1 else np.zeros(len(color), int)
    nearest = np.minimum(np.abs(depth[after] - color), np.abs(depth[np.maximum(after - 1, 0)] - color))
    typical = float(np.median(nearest)) / 1e6
    return (
        f"{lead} within {slop_ns / 1e6:g} ms; the nearest is typically {typical:.1f} ms away. Allow more with "
        f"--slop-ms {max(1, int(np.ceil(typical * 1.5)))} if the scene was still, or record with `enable_sync:=true`"
    )


def _size(image: np.ndarray[Any, Any]) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
