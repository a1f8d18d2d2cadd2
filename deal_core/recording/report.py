"""The report of `check` and `extract` on a recording: its topics, and the outcome of every message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from deal_core.recording.findings import loss_findings, stamp_findings
from deal_core.recording.tagged_frames import FrameReader
from deal_core.structures import ClassList, Float64Array, TagState

NO_CAMERA = "the camera's intrinsics are unknown: no camera_info is calibrated and has the images' size"


@dataclass(frozen=True)
class Gaps:
    """Pauses in a stream of stamps.

    Attributes:
        period_s: median time between two stamps.
        longest_s: longest time between two stamps.
        over_3x: number of times over three times the median.
    """

    period_s: float = 0.0
    longest_s: float = 0.0
    over_3x: int = 0

    @classmethod
    def of(cls, stamps_ns: Sequence[int]) -> Gaps:
        """Return the gaps between stamps in any order."""
        steps: Float64Array = np.diff(np.sort(np.asarray(stamps_ns, np.float64))) / 1e9
        if not steps.size:
            return cls()
        median = float(np.median(steps))
        return cls(median, float(steps.max()), int(np.count_nonzero(steps > 3 * median)))


@dataclass(frozen=True)
class TagBalance:
    """Number of frames in which a class is tagged present, absent, or not at all."""

    present: int
    absent: int
    unknown: int


@dataclass(frozen=True)
class RecordingReport:
    """A recording in numbers; plain values that are written as JSON.

    Attributes:
        path: path of the recording.
        topics: number of messages by topic.
        color_topic, depth_topic: topics of the images.
        received_color, received_depth: number of images with a readable stamp.
        unreadable: number of images without one, by stream.
        pairs: number of pairs; each is in `frames` or in `skipped`.
        unpaired: number of images without a partner, by stream and cause.
        frames: number of pairs that are complete, readable and tagged.
        skipped: number of other pairs, by cause.
        without_depth: number of frames without a valid depth pixel.
        valid_depth: mean share of valid depth pixels in frames, 0 to 1.
        offset_p50_ms, offset_max_ms: median and maximum offset between the stamps of a pair.
        gaps: pauses in the pairs' stamps.
        tags: number of frames with each tag, by class.
        segments: number of segments with frames.
        masks: number of frames with a drawn mask.
        notes: remarks that are not errors.
        errors: everything that is wrong.
    """

    path: str
    topics: dict[str, int] = field(default_factory=dict)
    color_topic: str = ""
    depth_topic: str = ""
    received_color: int = 0
    received_depth: int = 0
    unreadable: dict[str, int] = field(default_factory=dict)
    pairs: int = 0
    unpaired: dict[str, int] = field(default_factory=dict)
    frames: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    without_depth: int = 0
    valid_depth: float = 0.0
    offset_p50_ms: float = 0.0
    offset_max_ms: float = 0.0
    gaps: Gaps = field(default_factory=Gaps)
    tags: dict[str, TagBalance] = field(default_factory=dict)
    segments: int = 0
    masks: int = 0
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def make_report(
    reader: FrameReader,
    classes: ClassList | None,
    *,
    masks: int = 0,
    notes: Sequence[str] = (),
    errors: Sequence[str] = (),
) -> RecordingReport:
    """Return the report after all frames of a recording were read.

    Args:
        reader: reader of the recording, after its last frame.
        classes: classes of the tags; None if unknown.
        masks: number of drawn masks of frames.
        notes: further remarks.
        errors: further errors.
    """
    counts = reader.counts
    offsets = np.abs(np.asarray(counts.pair_offsets, np.int64)) / 1e6
    faults = [f"{n} pairs skipped: {cause.value}" for cause, n in counts.skipped.items() if cause.is_fault]
    faults += [f"{n} {stream} messages cannot be read" for stream, n in counts.unreadable.items()]
    examples = [f"for example {text}" for text in counts.examples.values()]
    lost = loss_findings(reader) if counts.pairing.paired else ([], [])
    doubts = counts.depth.findings()
    notes = [*notes, *stamp_findings(reader), *lost[0], *doubts[0]]
    if counts.without_depth:
        notes = [*notes, f"{counts.without_depth} frames have no valid depth pixel"]
    return RecordingReport(
        path=str(reader.recording.path),
        topics={topic.name: topic.count for topic in reader.recording.topics},
        color_topic=reader.topics.color.name,
        depth_topic=reader.topics.depth.name,
        received_color=counts.pairing.received_color,
        received_depth=counts.pairing.received_depth,
        unreadable=dict(counts.unreadable),
        pairs=counts.pairing.paired,
        unpaired=counts.pairing.unpaired,
        frames=counts.frames,
        skipped={cause.value: n for cause, n in counts.skipped.items()},
        without_depth=counts.without_depth,
        valid_depth=counts.valid_depth / max(counts.frames, 1),
        offset_p50_ms=float(np.median(offsets)) if offsets.size else 0.0,
        offset_max_ms=float(offsets.max()) if offsets.size else 0.0,
        gaps=Gaps.of(counts.pair_stamps),
        tags=tag_balance(classes, counts.labelled) if classes else {},
        segments=len({segment for _, segment in counts.labelled}),
        masks=masks,
        notes=list(notes),
        errors=[
            *errors,
            *reader.recording.problems,
            *reader.timeline.problems,
            *lost[1],
            *doubts[1],
            *faults,
            *examples,
        ],
    )


def tag_balance(classes: ClassList, frames: Mapping[tuple[TagState, int], int]) -> dict[str, TagBalance]:
    """Return the tag balance of each class from the number of frames by tags and segment."""
    totals = np.zeros((len(classes), 3), np.int64)
    for (tags, _), number in frames.items():
        vector = tags.vector(classes)
        totals += number * np.stack([vector == 1, vector == 0, np.isnan(vector)], axis=1)
    return {name: TagBalance(*row) for name, row in zip(classes.names, totals.tolist(), strict=True)}
