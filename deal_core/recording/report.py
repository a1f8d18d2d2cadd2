"""A recording in numbers, as `check` and `extract` report it: its topics, and what happened to every message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from deal_core.recording.reader import Recording
from deal_core.recording.tagged_frames import FrameCounts
from deal_core.recording.tags import TagTimeline
from deal_core.recording.topics import ImageTopics
from deal_core.structures import ClassList, TagState, tag_counts

NO_CAMERA = "the camera's intrinsics are not known: no camera_info that is calibrated and of the images' size"

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Gaps:
    """Where a stream of stamps pauses.

    Attributes:
        period_s: median time from one to the next.
        longest_s: the longest time from one to the next.
        over_3x: how many are over three times the median.
    """

    period_s: float = 0.0
    longest_s: float = 0.0
    over_3x: int = 0

    @classmethod
    def of(cls, stamps_ns: Sequence[int]) -> Gaps:
        """Measure stamps in any order."""
        steps: Float64Array = np.diff(np.sort(np.asarray(stamps_ns, np.float64))) / 1e9
        if not steps.size:
            return cls()
        median = float(np.median(steps))
        return cls(median, float(steps.max()), int(np.count_nonzero(steps > 3 * median)))


@dataclass(frozen=True)
class TagBalance:
    """In how many frames a class is tagged present, absent, or not at all."""

    present: int
    absent: int
    unknown: int


@dataclass(frozen=True)
class RecordingReport:
    """A recording in numbers; plain values, so that it is its own JSON.

    Attributes:
        path: where it was read from.
        topics: messages by topic.
        color_topic, depth_topic: where pairs come from.
        received_color, received_depth: images with a readable stamp.
        unreadable: images without, by stream.
        pairs: colour with depth; each is in `frames` or in `skipped`.
        unpaired: images without a partner, by stream and cause.
        frames: pairs that are complete, readable and tagged.
        skipped: other pairs, by cause.
        without_depth: frames whose depth has no valid pixel.
        valid_depth: mean share of valid depth pixels in frames, 0 to 1.
        offset_p50_ms, offset_max_ms: between the stamps of a pair.
        tags: balance by class.
        segments: how many hold frames.
        masks: frames with a drawn mask.
        notes: what a person should know, without being wrong.
        errors: what is wrong with the recording.
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

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RecordingReport:
        """Read back what `dataclasses.asdict` gave; a TypeError or KeyError where that is something else."""
        tags = {name: TagBalance(**balance) for name, balance in values["tags"].items()}
        return cls(**{**values, "gaps": Gaps(**values["gaps"]), "tags": tags})


def make_report(
    recording: Recording,
    topics: ImageTopics,
    classes: ClassList | None,
    timeline: TagTimeline,
    counts: FrameCounts,
    frames: Mapping[tuple[TagState, int], int],
    *,
    masks: int = 0,
    notes: Sequence[str] = (),
    errors: Sequence[str] = (),
) -> RecordingReport:
    """Gather the report after a pass over a recording.

    Args:
        recording: as read.
        topics: where pairs came from.
        classes: of the tags; None where the recording names none.
        timeline: of the tags.
        counts: of the pass.
        frames: number of frames by tags and segment.
        masks: drawn masks that belong to frames.
        notes: more to know.
        errors: more that is wrong.
    """
    offsets = np.abs(np.asarray(counts.pair_offsets, np.int64)) / 1e6
    faults = [f"{n} pairs skipped: {cause.value}" for cause, n in counts.skipped.items() if cause.is_fault]
    faults += [f"{n} {stream} messages cannot be read" for stream, n in counts.unreadable.items()]
    examples = [f"for example {text}" for text in counts.examples.values()]
    if counts.without_depth:
        notes = [*notes, f"{counts.without_depth} frames have no valid depth pixel at all"]
    return RecordingReport(
        path=str(recording.path),
        topics={topic.name: topic.count for topic in recording.topics},
        color_topic=topics.color.name,
        depth_topic=topics.depth.name,
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
        tags=tag_balance(classes, frames) if classes else {},
        segments=len({segment for _, segment in frames}),
        masks=masks,
        notes=list(notes),
        errors=[*errors, *recording.problems, *timeline.problems, *faults, *examples],
    )


def tag_balance(classes: ClassList, frames: Mapping[tuple[TagState, int], int]) -> dict[str, TagBalance]:
    """Return how often each class is tagged, from the number of frames by tags and segment."""
    totals: dict[str, Counter[str]] = {name: Counter() for name in classes.names}
    for (tags, _), number in frames.items():
        for kind, flags in tag_counts([tags.vector(classes)], len(classes)).items():
            for name, flag in zip(classes.names, flags, strict=True):
                totals[name][kind] += flag * number
    return {name: TagBalance(t["present"], t["absent"], t["unknown"]) for name, t in totals.items()}
