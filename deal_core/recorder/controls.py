"""The commands of a running recorder, the same for keys, pages, topics and services."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deal_core.errors import UsageError, nearest_hint
from deal_core.recorder.pair_recorder import PairRecorder
from deal_core.recorder.tag_commands import CLEAR
from deal_core.structures import ClassList, TagMarker, TagState

_DIGITS = "1234567890"
"""Keys of the first ten classes."""


@dataclass(frozen=True)
class Control:
    """One command of the recorder.

    Attributes:
        name: used by pages and services.
        key: on a keyboard.
        label: what it does, in a few words.
        act: takes the source of the command, as in "keyboard"; returns the result in words.
        ends: the command ends the program, so a page asks for it twice.
    """

    name: str
    key: str
    label: str
    act: Callable[[str], str]
    ends: bool = False


class RecorderControls:
    """All commands of a recorder. Every method may be called from any thread.

    Args:
        recorder: that takes the commands.
        extra: commands of the program beside tags and segments, such as ending; they report their own changes.
        on_change: called with a sentence when tags or segments have changed.

    Attributes:
        recorder: as given.
        offered: all commands but tags.
    """

    def __init__(
        self,
        recorder: PairRecorder,
        extra: Sequence[Control] = (),
        on_change: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.recorder, self._on_change = recorder, on_change
        self.offered = (
            Control("next_segment", "n", "next segment", self._next_segment),
            Control("keep", "k", "keep the next pair", self._keep),
            Control("discard_last", "u", "undo the last segment", self._discard_last),
            *extra,
        )

    def press(self, key: str, source: str) -> str | None:
        """Run a key's command: a digit toggles a class, `c` clears, `m` toggles complete, `i` ignore; see `offered`.

        Args:
            key: as typed.
            source: of the key, as in "keyboard".

        Returns:
            The result in words; None for a key without a meaning.

        Raises:
            DealError: it cannot be done now.
        """
        recorder = self.recorder
        toggles = {"c": lambda: recorder.set_tags(CLEAR, source)}
        toggles |= {"m": lambda: recorder.toggle_complete(source), "i": lambda: recorder.toggle_ignore(source)}
        for digit, name in zip(_DIGITS, recorder.classes.names, strict=False):
            toggles[digit] = lambda name=name: recorder.toggle(name, source)  # type: ignore[misc]
        if key in toggles:
            return self._tagged(toggles[key])
        return next((control.act(source) for control in self.offered if control.key == key), None)

    def do(self, name: str, source: str) -> str:
        """Run one of `offered`; return the result in words.

        Raises:
            DealError: it cannot be done now, or is not offered.
        """
        acts = {control.name: control.act for control in self.offered}
        if name not in acts:
            raise UsageError(f"expected one of {', '.join(acts)}; found '{name}'.{nearest_hint(name, acts)}")
        return acts[name](source)

    def set_tags(self, command: str, source: str) -> str:
        """Change the tags, see `parse_tags`; return them in words.

        Raises:
            UsageError: a name is not in the class list; the message suggests the nearest one.
        """
        return self._tagged(lambda: self.recorder.set_tags(command, source))

    def switch_marker(self, marker: TagMarker, on: bool, source: str) -> str:
        """Set the marker complete or ignore, or take it back; return the tags in words."""
        recorder = self.recorder
        toggle = recorder.toggle_ignore if marker is TagMarker.IGNORE else recorder.toggle_complete
        if (recorder.state.tags.marker is marker) == on:
            return self.said()
        return self._tagged(lambda: toggle(source))

    def said(self) -> str:
        """Return the tags in words."""
        tags = self.recorder.state.tags
        return f"tags: {', '.join(tags.present) or 'none'} ({tags.marker.value})"

    def key_help(self) -> str:
        """Return what the keys do, for a terminal."""
        offered = [f"{'space' if control.key == ' ' else control.key} {control.label}" for control in self.offered]
        return f"keys: {', '.join([*_tag_keys(self.recorder.classes), *offered])}"

    def _tagged(self, act: Callable[[], TagState]) -> str:
        before = self.recorder.state.tags
        if act() != before:
            self._on_change(self.said())
        return self.said()

    def _next_segment(self, source: str) -> str:
        self.recorder.begin_segment(source)
        return self._changed(f"a new segment begins; {self.said()}")

    def _keep(self, source: str) -> str:
        self.recorder.keep_next()
        return self._changed("the next pair is kept")

    def _discard_last(self, source: str) -> str:
        return self._changed(f"discarded the last segment: {self.recorder.discard_last()} pairs")

    def _changed(self, text: str) -> str:
        self._on_change(text)
        return text


def _tag_keys(classes: ClassList) -> list[str]:
    digits = [f"{digit} {name}" for digit, name in zip(_DIGITS, classes.names, strict=False)]
    return [*digits, "c clear", "m complete or partial", "i ignore"]
