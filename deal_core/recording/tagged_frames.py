"""Turn the messages of a recording into tagged frames, and count everything that is left out."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from deal_core.errors import RecordingError
from deal_core.recording.image_encodings import ImageFormatError
from deal_core.recording.image_messages import ColorMessage, DepthMessage, MessageDecoder, header_stamp
from deal_core.recording.pairing import Pair, PairingCounts, StampPairer
from deal_core.recording.reader import RawMessage, Recording
from deal_core.recording.tags import Skip, TagTimeline
from deal_core.recording.topics import ALIGN_HINT, ImageTopics
from deal_core.structures import CameraIntrinsics, RgbdPair, TagState

# One second at camera rate: streams are further apart in a file than on arrival at a node.
_QUEUE_SIZE = 30


@dataclass(frozen=True, eq=False)
class TaggedFrame:
    """A pair with the tags at its stamp."""

    pair: RgbdPair
    tags: TagState
    segment: int


@dataclass
class FrameCounts:
    """Counts of all messages: each is unreadable, unpaired or in a pair; each pair is a frame or skipped.

    Attributes:
        pairing: counts of the pairing.
        unreadable: number of messages without a readable stamp, by stream.
        frames: number of pairs that became frames.
        skipped: number of other pairs, by cause.
        examples: the first error message of each kind of fault.
        without_depth: number of frames without a valid depth pixel.
        valid_depth: sum over frames of the share of valid depth pixels.
        color_stamps, depth_stamps: all received stamps, nanoseconds.
        pair_stamps, pair_offsets: stamps and offsets of all pairs, nanoseconds.
        labelled: number of frames by tags and segment.
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
    labelled: Counter[tuple[TagState, int]] = field(default_factory=Counter)

    @property
    def faults(self) -> int:
        """Number of faulty messages and pairs."""
        return self.unreadable.total() + sum(n for cause, n in self.skipped.items() if cause.is_fault)


def read_camera(recording: Recording, decoder: MessageDecoder, topics: ImageTopics) -> CameraIntrinsics | None:
    """Return the colour camera's intrinsics; None if they were not recorded or the camera is not calibrated.

    The size is 0 if the driver leaves it out; see `fit_camera`.
    """
    if topics.info is None:
        return None
    for message in recording.messages([topics.info.name]):
        try:
            return decoder.camera(message.data)
        except ImageFormatError:
            continue  # every pair has one; the next may be readable
    return None


def fit_camera(camera: CameraIntrinsics | None, size: tuple[int, ...] | None) -> CameraIntrinsics | None:
    """Return the intrinsics for images of a size (H, W, ...), which replaces a size of 0; None if the sizes differ."""
    if camera is None or size is None:
        return None
    if not camera.width and not camera.height:
        camera = replace(camera, width=size[1], height=size[0])
    return camera if (camera.height, camera.width) == size[:2] else None


@dataclass(eq=False)
class FrameReader:
    """Iterate over a recording's tagged frames in one pass and constant memory.

    Args:
        recording: open recording.
        topics: topics of the images.
        timeline: tags of the recording.
        decoder: decoder of the messages.
        slop_ns: largest difference between the stamps of colour and depth; 0 pairs equal stamps only.

    Attributes:
        counts: counts of the messages so far.
        size: (H, W, 3) of the frames; None before the first.

    Raises:
        RecordingError: while iterating, if the first depth image is not aligned to its colour image.
    """

    recording: Recording
    topics: ImageTopics
    timeline: TagTimeline
    decoder: MessageDecoder
    slop_ns: int = field(default=0, kw_only=True)
    counts: FrameCounts = field(default_factory=FrameCounts, init=False)
    size: tuple[int, ...] | None = field(default=None, init=False)
    _seen: set[int] = field(default_factory=set, init=False)

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
            self.counts.labelled[frame.tags, frame.segment] += 1
            self.counts.valid_depth += valid
            self.counts.without_depth += valid == 0
            yield frame

    def _pairs(self) -> Iterator[Pair[RawMessage, RawMessage]]:
        counts, color, depth = self.counts, self.topics.color.name, self.topics.depth.name
        pairer = StampPairer[RawMessage, RawMessage](slop_ns=self.slop_ns, queue_size=_QUEUE_SIZE)
        counts.pairing = pairer.counts
        for message in self.recording.messages([color, depth]):
            try:
                stamp = header_stamp(message.data)
            except ImageFormatError as error:
                stream = "color" if message.topic == color else "depth"
                counts.unreadable[stream] += 1
                counts.examples.setdefault(f"{stream}: {error.cause}", str(error))
                continue
            if message.topic == color:
                counts.color_stamps.append(stamp)
                yield from pairer.add_color(stamp, message)
            else:
                counts.depth_stamps.append(stamp)
                yield from pairer.add_depth(stamp, message)
        yield from pairer.flush()

    def _frame(self, pair: Pair[RawMessage, RawMessage]) -> TaggedFrame | Skip:
        if pair.stamp_ns in self._seen:
            return Skip.REPEATED
        self._seen.add(pair.stamp_ns)
        segment = self.timeline.segment(pair.stamp_ns)
        if segment < 0:
            return Skip.UNTAGGED
        span = self.timeline.spans[segment]
        if span.tags is None or span.skip:
            return span.skip or Skip.BAD_TAGS
        stream, skip = "color", Skip.BAD_COLOR
        try:
            color = self.decoder.color(pair.color.data, pair.color.type)
            stream, skip = "depth", Skip.BAD_DEPTH
            depth = self.decoder.depth(pair.depth.data, pair.depth.type)
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
            f"{self.recording.path}: depth on {self.topics.depth.name} is not aligned to colour on "
            f"{self.topics.color.name} ({found}): {ALIGN_HINT}"
        )


def explain_no_pairs(recording: Recording, counts: FrameCounts, slop_ns: int) -> str:
    """Return the reason why no pair was found, with a slop that would find some."""
    color, depth = np.sort(counts.color_stamps), np.sort(counts.depth_stamps)
    lead = f"{recording.path}: no colour image has a depth image"
    if not len(color) or not len(depth):
        return f"{lead}: {len(color)} colour and {len(depth)} depth images could be read"
    after = np.clip(np.searchsorted(depth, color), 1, len(depth) - 1) if len(depth) > 1 else np.zeros(len(color), int)
    nearest = np.minimum(np.abs(depth[after] - color), np.abs(depth[np.maximum(after - 1, 0)] - color))
    typical = float(np.median(nearest)) / 1e6
    return (
        f"{lead} within {slop_ns / 1e6:g} ms; the nearest is typically {typical:.1f} ms away. Allow more with "
        f"--slop-ms {max(1, int(np.ceil(typical * 1.5)))} if the scene did not move, or record with `enable_sync:=true`"
    )


def _size(image: np.ndarray[Any, Any]) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
