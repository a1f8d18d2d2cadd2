"""Counts of all images during a recording, and its summary at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from deal_core.recording.report import Gaps, TagBalance, tag_balance
from deal_core.recording.tags import TagTimeline
from deal_core.structures import ClassList, TagState

_DROPPED = "dropped by the camera"
_OFFSET_EDGES_MS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


class Skipped(str, Enum):
    """Why a pair was skipped on purpose."""

    RATE = "between keyframes"
    UNCHANGED = "view unchanged"


class Lost(str, Enum):
    """Why a wanted pair is missing in the recording."""

    QUEUE_FULL = "queue full"
    """The writer did not run: the processor was busy, or the queue was too short."""
    DISK_SLOW = "disk slow"
    """The writer was waiting for the disk."""
    DISK_FAILED = "disk full or failed"
    STAMP_BACKWARDS = "stamp backwards"
    DUPLICATE_STAMP = "duplicate stamp"
    ENCODING_CHANGE = "encoding change"
    SIZE_CHANGE = "size change"
    NOT_ALIGNED = "depth not aligned"
    BAD_IMAGE = "bad image"


@dataclass(frozen=True)
class RecordingCounts:
    """Counts of all images of a recording at one moment.

    `received_color == paired + sum(unpaired_color) + pending_color`, the same for depth, and
    `paired == written + sum(skipped) + sum(lost) + pending_pairs`.

    Attributes:
        pending_color, pending_depth: number of images that wait for their partner; at the end, of those whose partner
            would have come later.
        pending_pairs: number of pairs on the way to the file.
        written: number of pairs in the file.
        dropped: number of pairs that did not arrive, by the camera's frame numbers.
        missed: number of wanted pairs for which an image had no partner, by cause.
        wanted: number of wanted pairs that came or were missed.
        color_hz, depth_hz: rates of the streams; 0 if unknown.
        others: number of recorded messages of other topics, such as TF, by topic.
        others_lost: number of those that were lost.
    """

    received_color: int = 0
    received_depth: int = 0
    unpaired_color: Mapping[str, int] = field(default_factory=dict)
    unpaired_depth: Mapping[str, int] = field(default_factory=dict)
    pending_color: int = 0
    pending_depth: int = 0
    paired: int = 0
    written: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    pending_pairs: int = 0
    dropped: int = 0
    missed: Mapping[str, int] = field(default_factory=dict)
    wanted: int = 0
    color_hz: float = 0.0
    depth_hz: float = 0.0
    others: Mapping[str, int] = field(default_factory=dict)
    others_lost: int = 0

    @property
    def loss(self) -> float:
        """Share of wanted pairs that were lost, 0 to 1: without a partner, or on the way to the file.

        An image without a partner that cost no wanted pair is not lost: see `PairDemand`.
        """
        lost = sum(self.lost.values())
        came = 1 - sum(self.missed.values()) / max(self.wanted, 1)
        delivered = 1 - self.dropped / max(self.paired + self.dropped, 1)
        return 1 - came * delivered * (1 - lost / max(self.written + lost, 1))

    @property
    def causes(self) -> dict[str, int]:
        """All losses by cause, as in `{"queue full": 2, "depth: duplicate stamp": 1}`."""
        dropped = {_DROPPED: self.dropped} if self.dropped else {}
        return {**self.lost, **self.missed, **dropped}

    @property
    def unpaired(self) -> dict[str, int]:
        """Images without a partner by stream and cause, lost or not."""
        streams = (("color", self.unpaired_color), ("depth", self.unpaired_depth))
        return {f"{name}: {cause}": n for name, found in streams for cause, n in found.items()}


@dataclass(frozen=True)
class RecordingSummary:
    """A finished recording in numbers; plain values that are written as JSON.

    Attributes:
        path: path of the recording; ends in `.partial` if it could not be finished.
        failure: why recording ended by itself; empty if it was stopped.
        counts: counts of all images.
        loss: see `RecordingCounts.loss`.
        duration_s: time from the first pair to the last.
        rate_hz: pairs per second.
        gaps: pauses in the pairs' stamps.
        offset_ms: number of pairs by the offset of depth to colour, as in `{"0": 12, "to 1": 3}`.
        labelled: number of pairs that become frames of a dataset.
        unlabelled: number of other pairs, by cause.
        segments: number of segments with labelled pairs.
        tags: number of labelled pairs with each tag, by class.
        present_hz: labelled pairs per second in which a class is present.
    """

    path: str
    failure: str
    counts: RecordingCounts
    loss: float
    duration_s: float
    rate_hz: float
    gaps: Gaps
    offset_ms: dict[str, int]
    labelled: int
    unlabelled: dict[str, int]
    segments: int
    tags: dict[str, TagBalance]
    present_hz: dict[str, float]

    def lines(self) -> list[str]:
        """Return the summary as lines for a terminal."""
        counts, causes = self.counts, self.counts.causes
        return [
            f"{self.path}: {counts.written} pairs in {self.duration_s:.1f} s ({self.rate_hz:.1f} Hz), "
            f"longest gap {self.gaps.longest_s:.2f} s",
            f"  received {counts.received_color} colour ({counts.color_hz:.1f} Hz) and {counts.received_depth} depth "
            f"({counts.depth_hz:.1f} Hz), {counts.paired} pairs; without a partner: {_listed(counts.unpaired)}",
            f"  skipped: {_listed(counts.skipped)}",
            f"  lost: {_listed(causes)} ({self.loss:.1%})",
            f"  offset of depth, ms: {_listed(self.offset_ms)}",
            f"  labelled {self.labelled} in {self.segments} segments; not labelled: {_listed(self.unlabelled)}",
            *(
                f"  {name}: present {n.present} ({self.present_hz[name]:.1f} Hz), absent {n.absent}, "
                f"unknown {n.unknown}"
                for name, n in self.tags.items()
            ),
            *([f"  other messages: {_listed(counts.others)}; lost: {counts.others_lost}"] if counts.others else []),
            *([f"  ended by itself: {self.failure}"] if self.failure else []),
        ]


def summarize(
    path: str,
    failure: str,
    counts: RecordingCounts,
    stamps_ns: Sequence[int],
    offsets_ns: Sequence[int],
    timeline: TagTimeline,
    classes: ClassList,
) -> RecordingSummary:
    """Return the summary of a recording.

    Args:
        path: path of the recording.
        failure: why recording ended by itself; empty if it was stopped.
        counts: counts at the end.
        stamps_ns: stamps of the written pairs.
        offsets_ns: depth stamp minus colour stamp of the written pairs.
        timeline: tags of the recording.
        classes: classes of the tags.
    """
    frames: Counter[tuple[TagState, int]] = Counter()
    unlabelled: Counter[str] = Counter()
    for stamp in stamps_ns:
        segment = timeline.segment(stamp)
        span = timeline.spans[segment]
        if span.tags is None or span.skip:
            unlabelled[span.skip.value if span.skip else ""] += 1
        else:
            frames[span.tags, segment] += 1
    duration = (max(stamps_ns) - min(stamps_ns)) / 1e9 if len(stamps_ns) else 0.0
    tags = tag_balance(classes, frames)
    return RecordingSummary(
        path=path,
        failure=failure,
        counts=counts,
        loss=counts.loss,
        duration_s=duration,
        rate_hz=(len(stamps_ns) - 1) / duration if duration else 0.0,
        gaps=Gaps.of(stamps_ns),
        offset_ms=_offset_histogram(offsets_ns),
        labelled=frames.total(),
        unlabelled=dict(unlabelled),
        segments=len({segment for _, segment in frames}),
        tags=tags,
        present_hz={name: n.present / duration if duration else 0.0 for name, n in tags.items()},
    )


def _offset_histogram(offsets_ns: Sequence[int]) -> dict[str, int]:
    places = np.searchsorted(_OFFSET_EDGES_MS, np.abs(np.asarray(offsets_ns, np.float64)) / 1e6)
    names = ["0", *(f"to {edge:g}" for edge in _OFFSET_EDGES_MS[1:]), f"over {_OFFSET_EDGES_MS[-1]:g}"]
    return {names[place]: int(n) for place, n in enumerate(np.bincount(places, minlength=len(names))) if n}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items()) or "none"
