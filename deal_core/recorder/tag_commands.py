"""Tags during a recording: the commands of a person, and the spans in which they are valid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from deal_core.errors import UsageError
from deal_core.recording.tags import DISCARDED, GUARD, TagSpan, TagTimeline
from deal_core.structures import ClassList, TagMarker, TagState

CLEAR = "clear"
_WORDS = (CLEAR, *(marker.value for marker in TagMarker))
_LONGEST = 20_000  # characters of a command, which anybody in the ROS domain may send


def parse_tags(command: str, state: TagState, classes: ClassList) -> TagState:
    """Return the tags after a command; keys, pages, topics and services use the same commands.

    A command is a comma-separated list, read from left to right: plain names are the new set (`mug, drill`), `+drill`
    adds a class, `-mug` removes one, `clear` removes all, and `complete`, `partial` or `ignore` sets the marker.
    Everything else stays unchanged.

    Args:
        command: text of the command.
        state: present tags.
        classes: classes of the recording.

    Raises:
        UsageError: the command is empty or too long, or a name is not in the class list; the message suggests the
            nearest one.
    """
    if len(command) > _LONGEST:
        raise UsageError(f"the tag command is too long: expected {_LONGEST} characters at most, found {len(command)}")
    words = [word.strip() for word in command.split(",") if word.strip()]
    if not words:
        raise UsageError(
            f"the tag command is empty: expected class names, +name, -name, {', '.join(_WORDS)}, as in 'mug,complete'"
        )
    markers = {marker.value for marker in TagMarker}
    present, marker = set(state.present), state.marker
    if any(word not in _WORDS and word[0] not in "+-" for word in words):
        present = set()
    for word in words:
        if word in markers:
            marker = TagMarker(word)
        elif word == CLEAR:
            present = set()
        elif word.startswith("-"):
            present.discard(_known(word[1:], classes))
        else:
            present.add(_known(word.removeprefix("+"), classes))
    return replace(state, present=tuple(present), marker=marker)


def check_class_names(classes: ClassList) -> None:
    """Raise `UsageError` if a class name is a word of the commands, or contains one of their signs."""
    for name in classes.names:
        if name in _WORDS or name[0] in "+-" or "," in name:
            raise UsageError(
                f"class '{name}' cannot be set while recording: a name must not be one of {', '.join(_WORDS)}, "
                "begin with + or -, or contain a comma"
            )


class TagTrack:
    """The tags of a running recording, as spans in the order of writing.

    The exact time of a change in the scene is unknown, so the time from `guard_ns` before to `guard_ns` after a change
    is a span to be ignored. The time between two faster changes is ignored, too. A span replaces an earlier one with
    the same stamp.

    Args:
        start_ns: stamp at which the first tags begin.
        tags: first tags.
        guard_ns: time to ignore before and after a change.
        source: origin of the first tags, as in "keyboard".

    Attributes:
        tags: present tags.
        spans: all spans in the order of writing.
    """

    def __init__(self, start_ns: int, tags: TagState, guard_ns: int, source: str) -> None:
        self.tags = tags
        self.spans = [TagSpan(start_ns, tags, source)]
        self._guard_ns = guard_ns

    def change(self, now_ns: int, tags: TagState, source: str) -> list[TagSpan]:
        """Change the tags at a stamp; return the spans to write."""
        latest = max(span.stamp_ns for span in self.spans)
        begin, end = max(now_ns - self._guard_ns, latest), max(now_ns + self._guard_ns, latest)
        added = [TagSpan(end, tags, source)]
        if begin < end:
            added.insert(0, TagSpan(begin, _IGNORED, GUARD))
        self.tags = tags
        self.spans += added
        return added

    def begin_segment(self, now_ns: int, source: str) -> TagSpan:
        """Begin a segment with the same tags at a stamp; return the span to write.

        A segment never begins in the ignored time after a change, but at its end.
        """
        span = TagSpan(max(now_ns, *(span.stamp_ns for span in self.spans)), self.tags, source)
        self.spans.append(span)
        return span

    def discard_last(self, now_ns: int, stamps: npt.NDArray[np.int64]) -> tuple[list[TagSpan], int]:
        """Discard the last segment with labelled pairs; return the spans to write, and the number of its pairs.

        Recording continues with the same tags. A second call discards the segment before.

        Args:
            now_ns: present stamp.
            stamps: rising stamps of the pairs so far.

        Raises:
            UsageError: no segment is left to discard.
        """
        spans = self.timeline().spans
        starts = [span.stamp_ns for span in spans]
        pairs = np.bincount(np.searchsorted(starts, stamps, "right"), minlength=len(spans) + 1)[1:]
        labelled = [i for i, s in enumerate(spans) if pairs[i] and s.tags and s.tags.marker is not TagMarker.IGNORE]
        if not labelled:
            raise UsageError("there is nothing to discard: every labelled pair was discarded already")
        added = [TagSpan(starts[labelled[-1]], _IGNORED, DISCARDED)]
        if labelled[-1] == len(spans) - 1:
            added.append(TagSpan(max(now_ns, starts[-1] + 1, int(stamps[-1]) + 1), self.tags, spans[-1].source))
        self.spans += added
        return added, int(pairs[labelled[-1]])

    def timeline(self) -> TagTimeline:
        """Return the spans as a reader of the recording sees them."""
        return TagTimeline(self.spans)


_IGNORED = TagState(marker=TagMarker.IGNORE)


def _known(name: str, classes: ClassList) -> str:
    classes.id_of(name.strip())
    return name.strip()
