"""Tags in a recording: which classes are visible, and when."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from deal_core.errors import DealError, RecordingError, UsageError
from deal_core.recording.depth_values import DepthValues
from deal_core.recording.image_messages import MessageDecoder
from deal_core.recording.reader import Recording
from deal_core.recording.writer import SESSION_TOPIC, TAGS_TOPIC
from deal_core.structures import ClassList, TagMarker, TagState, classes_from_json
from deal_core.text_formats import parse_json

GUARD, DISCARDED = "guard", "discard"
"""Sources of an ignored span: the recorder, around a change; or the operator, who discarded it later."""


class Skip(str, Enum):
    """Why a pair gave no frame."""

    IGNORED = "the operator marked it to be ignored"
    AMBIGUOUS = "within the guard time around a change of tags"
    DISCARDED = "the operator discarded it while recording"
    UNTAGGED = "before the first tags"
    BAD_TAGS = "its tags cannot be read"
    BAD_COLOR = "its colour image cannot be decoded"
    BAD_DEPTH = "its depth image cannot be decoded"
    NOT_ALIGNED = "its depth is not aligned to its colour"
    SIZE_CHANGED = "its size differs from that of most pairs"
    ENCODING_CHANGED = "its encoding differs from that of most pairs"
    REPEATED = "its stamp was there before"
    DAMAGED_FILE = "it lies in a damaged part of the file"

    @property
    def is_fault(self) -> bool:
        """Whether the recording is faulty; False if the pair was left out on purpose."""
        return self not in (Skip.IGNORED, Skip.AMBIGUOUS, Skip.DISCARDED, Skip.UNTAGGED)


@dataclass(frozen=True)
class Session:
    """The session message of a recording; `classes` is None if another recorder wrote it."""

    classes: ClassList | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def recorded_depth(session: Session, unit: str | None = None, max_m: float | None = None) -> DepthValues:
    """Return how to read a recording's depth: as the options say, or else as its recorder was told.

    Args:
        session: session of the recording.
        unit: unit of depth; None for that of the session, or "auto".
        max_m: greatest depth, metres; None for that of the session, or no limit.

    Raises:
        UsageError: the unit is not one, or the greatest depth is out of range.
        RecordingError: those of the session are not.
    """
    said = session.facts.get("depth", {})
    try:
        known = DepthValues(str(said.get("unit", "auto")), float(said.get("max_m", 0.0)))
    except (AttributeError, TypeError, ValueError, UsageError) as error:
        raise RecordingError(
            f"{SESSION_TOPIC} says how to read depth, but not so that it can be used: {error}"
        ) from None
    return DepthValues(known.unit if unit is None else unit, known.max_m if max_m is None else max_m)


@dataclass(frozen=True)
class TagSpan:
    """Tags that are valid from a stamp until the next span.

    Args:
        stamp_ns: stamp on the clock of the images.
        tags: the tags; None if the message is unusable.
        source: origin of the tags, as in "keyboard".
    """

    stamp_ns: int
    tags: TagState | None
    source: str = ""

    @property
    def skip(self) -> Skip | None:
        """Why pairs with these tags give no frames; None if they do."""
        if self.tags is None:
            return Skip.BAD_TAGS
        if self.tags.marker is not TagMarker.IGNORE:
            return None
        return {GUARD: Skip.AMBIGUOUS, DISCARDED: Skip.DISCARDED}.get(self.source, Skip.IGNORED)


class TagTimeline:
    """The tags of a recording over time; each tags message starts a segment.

    Args:
        spans: spans in any order; the last one with a stamp wins.
        problems: descriptions of unusable messages, one sentence each.
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
        """Return all class names in the tags, sorted."""
        states = [span.tags for span in self.spans if span.tags is not None]
        return sorted({name for tags in states for name in (*tags.present, *tags.absent)})

    def segment(self, stamp_ns: int) -> int:
        """Return the index of the span at a stamp; -1 before the first."""
        return bisect_right(self._stamps, stamp_ns) - 1


def read_session(recording: Recording, decoder: MessageDecoder) -> Session:
    """Return the session message, or an empty session without one.

    Raises:
        RecordingError: the message is unreadable, or several messages have different classes.
    """
    sessions = []
    for message in recording.messages([SESSION_TOPIC]):
        try:
            facts = parse_json(decoder.text(message.data))
            sessions.append(Session(classes_from_json(facts.pop("classes")), facts))
        except (DealError, ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:
            raise RecordingError(f"{recording.path}: {SESSION_TOPIC} cannot be read: {error}") from error
    if len({session.classes for session in sessions}) > 1:
        raise RecordingError(
            f"{recording.path} contains several {SESSION_TOPIC} messages with different classes: record again"
        )
    return sessions[0] if sessions else Session()


def read_tags(recording: Recording, decoder: MessageDecoder, classes: ClassList | None) -> TagTimeline:
    """Return the recorded tags; an unusable message becomes a span without tags.

    Tags are few and small, and may be recorded after their images, so they are read before the images. Without a class
    list, every name is accepted.
    """
    spans, problems = [], []
    for message in sorted(recording.messages([TAGS_TOPIC]), key=lambda message: message.log_time_ns):
        stamp_ns = message.log_time_ns
        try:
            content = parse_json(decoder.text(message.data))
            stamp_ns = int(content["stamp_ns"])
            tags = TagState.from_json(content)
            if classes is not None:
                tags.vector(classes)
            spans.append(TagSpan(stamp_ns, tags, str(content.get("source", ""))))
        except (DealError, ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            problems.append(f"{TAGS_TOPIC} at {stamp_ns} ns cannot be used: {reason}")
            spans.append(TagSpan(stamp_ns, None))
    return TagTimeline(spans, problems)
