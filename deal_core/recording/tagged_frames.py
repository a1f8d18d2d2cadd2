"""Turn the messages of a recording into tagged frames, and count everything that is left out."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from deal_core.errors import RecordingError
from deal_core.recording.depth_values import DepthCensus
from deal_core.recording.image_encodings import ImageFormatError
from deal_core.recording.image_messages import MessageDecoder
from deal_core.recording.pair_rules import alignment_fault, size_text
from deal_core.recording.pairing import PairingCounts, UnpairedCause
from deal_core.recording.reader import RawMessage, Recording
from deal_core.recording.survey import PlannedPair, Survey, nearest_offsets, read_pairs, survey_recording
from deal_core.recording.tags import Skip, TagTimeline
from deal_core.recording.topics import ALIGN_HINT, ImageTopics
from deal_core.structures import CameraIntrinsics, RgbdPair, TagState


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
        depth: what is odd about the depth of the frames.
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
    depth: DepthCensus = field(default_factory=DepthCensus)
    color_stamps: array[int] = field(default_factory=lambda: array("q"))
    depth_stamps: array[int] = field(default_factory=lambda: array("q"))
    pair_stamps: array[int] = field(default_factory=lambda: array("q"))
    pair_offsets: array[int] = field(default_factory=lambda: array("q"))
    labelled: Counter[tuple[TagState, int]] = field(default_factory=Counter)

    @property
    def faults(self) -> int:
        """Number of faulty messages and pairs."""
        return self.unreadable.total() + sum(n for cause, n in self.skipped.items() if cause.is_fault)


def read_camera(
    recording: Recording, decoder: MessageDecoder, topics: ImageTopics, size: tuple[int, ...] | None = None
) -> CameraIntrinsics | None:
    """Return the first valid intrinsics of the colour camera; None if there are none.

    A driver may send an empty camera_info before it knows its calibration. Intrinsics are those of the images: of the
    rectified ones if their topic's name says so.

    Args:
        recording: open recording.
        decoder: decoder of the messages.
        topics: topics of the images.
        size: (H, W, ...) of the images; intrinsics of another size are not valid. None takes any, with a size of 0 if
            the driver leaves it out.
    """
    if topics.info is None:
        return None
    for message in recording.messages([topics.info.name]):
        try:
            camera = decoder.camera(message.data, is_rectified=topics.is_rectified)
        except ImageFormatError:
            continue  # every pair has one; the next may be readable
        if camera and size is not None:
            camera = fit_camera(camera, size)
        if camera:
            return camera
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
    """Iterate over a recording's tagged frames in constant memory.

    The beginnings of all images are read first, and paired; then the images of the pairs that fit.

    Args:
        recording: open recording.
        topics: topics of the images.
        timeline: tags of the recording.
        decoder: decoder of the messages.
        slop_ns: largest difference between the stamps of colour and depth; 0 pairs equal stamps only.
        aligned: whether depth is known to be aligned to colour, so that the names of the frames do not matter.

    Attributes:
        counts: counts of the messages so far.
        size: (H, W) of the frames; None if no image tells it before it is decoded.

    Raises:
        RecordingError: while iterating, if no depth image is aligned to its colour image.
    """

    recording: Recording
    topics: ImageTopics
    timeline: TagTimeline
    decoder: MessageDecoder
    slop_ns: int = field(default=0, kw_only=True)
    aligned: bool = field(default=False, kw_only=True)
    counts: FrameCounts = field(default_factory=FrameCounts, init=False)
    size: tuple[int, ...] | None = field(default=None, init=False)

    @cached_property
    def survey(self) -> Survey:
        """The heads of all images, and the pairs that they make."""
        found = survey_recording(self.recording, self.topics, slop_ns=self.slop_ns, aligned=self.aligned)
        counts = self.counts
        counts.pairing = found.counts
        for name, stream in (("color", found.color), ("depth", found.depth)):
            counts.unreadable[name] += stream.unreadable
        counts.unreadable += Counter()  # drops streams without unreadable messages
        counts.examples.update(found.examples)
        counts.color_stamps, counts.depth_stamps = found.color.stamps, found.depth.stamps
        counts.pair_stamps.extend(pair.stamp_ns for pair in found.pairs)
        counts.pair_offsets.extend(pair.depth_stamp_ns - pair.stamp_ns for pair in found.pairs)
        self.size = found.size
        return found

    def __iter__(self) -> Iterator[TaggedFrame]:
        wanted: dict[int, int] = {}
        for pair in self.survey.pairs:
            if skip := self._skip(pair):
                self._leave_out(skip, pair.why)
            else:
                wanted[pair.stamp_ns] = pair.depth_stamp_ns
        self._require_alignment()
        missing = len(wanted)
        for stamp, color, depth in read_pairs(self.recording, self.topics, self.survey, wanted):
            missing -= 1
            if frame := self._frame(stamp, color, depth):
                valid = int(np.count_nonzero(frame.pair.depth_mm)) / frame.pair.depth_mm.size
                self.counts.frames += 1
                self.counts.labelled[frame.tags, frame.segment] += 1
                self.counts.valid_depth += valid
                self.counts.without_depth += valid == 0
                yield frame
        if missing:
            self.counts.skipped[Skip.DAMAGED_FILE] += missing
        self._require_alignment()

    def _skip(self, pair: PlannedPair) -> Skip | None:
        if pair.skip is Skip.REPEATED:
            return pair.skip
        segment = self.timeline.segment(pair.stamp_ns)
        if segment < 0:
            return Skip.UNTAGGED
        span = self.timeline.spans[segment]
        return span.skip or (Skip.BAD_TAGS if span.tags is None else pair.skip)

    def _leave_out(self, skip: Skip, why: str) -> None:
        self.counts.skipped[skip] += 1
        if why:
            self.counts.examples.setdefault(skip.value, why)

    def _frame(self, stamp_ns: int, color_message: RawMessage, depth_message: RawMessage) -> TaggedFrame | None:
        stream, skip = "color", Skip.BAD_COLOR
        try:
            color = self.decoder.color(color_message.data, color_message.type)
            stream, skip = "depth", Skip.BAD_DEPTH
            depth = self.decoder.depth(depth_message.data, depth_message.type)
        except ImageFormatError as error:
            self.counts.skipped[skip] += 1
            self.counts.examples.setdefault(f"{stream}: {error.cause}", str(error))
            return None
        # Again, because the head of a compressed image may not tell its size.
        if fault := alignment_fault(color, depth, aligned=self.aligned):
            self._leave_out(Skip.NOT_ALIGNED, fault)
            return None
        self.size = self.size or color.size
        if color.size != self.size:
            self._leave_out(
                Skip.SIZE_CHANGED, f"most pairs are {size_text(self.size)}, another is {size_text(color.size)}"
            )
            return None
        self.counts.depth.see(depth.sample)
        segment = self.timeline.segment(stamp_ns)
        tags = self.timeline.spans[segment].tags or TagState()
        return TaggedFrame(RgbdPair(stamp_ns, color.rgb, depth.depth_mm), tags, segment)

    def _require_alignment(self) -> None:
        """Refuse a recording without a single aligned pair: it was made with another topic or setting."""
        odd = self.counts.skipped[Skip.NOT_ALIGNED]
        if not odd or odd < self.counts.pairing.paired - self.counts.skipped[Skip.REPEATED]:
            return
        raise RecordingError(
            f"{self.recording.path}: depth on {self.topics.depth.name} is not aligned to colour on "
            f"{self.topics.color.name} ({self.counts.examples[Skip.NOT_ALIGNED.value]}): {ALIGN_HINT}, or if it is "
            "aligned although its frame has another name, say so with --aligned"
        )


def explain_no_pairs(recording: Recording, counts: FrameCounts, slop_ns: int) -> str:
    """Return the reason why no pair was found, with a slop that would find some."""
    color, depth = np.sort(counts.color_stamps), np.sort(counts.depth_stamps)
    lead = f"{recording.path}: no colour image has a depth image"
    if not len(color) or not len(depth):
        return f"{lead}: {len(color)} colour and {len(depth)} depth images could be read"
    if unset := counts.pairing.unpaired_color[UnpairedCause.NO_STAMP]:
        zero = counts.pairing.unpaired_depth[UnpairedCause.NO_STAMP]
        return f"{lead}: {unset} colour and {zero} depth images have stamp 0; the camera driver must set the stamps"
    typical = float(np.median(nearest_offsets(color, depth))) / 1e6
    return (
        f"{lead} within {slop_ns / 1e6:g} ms; the nearest is typically {typical:.1f} ms away. Allow more with "
        f"--slop-ms {max(1, int(np.ceil(typical * 1.5)))} if the scene did not move, or record with `enable_sync:=true`"
    )
