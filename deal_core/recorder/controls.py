"""The commands of a running recorder, shared by keys, pages, topics and services."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deal_core.errors import UsageError, nearest_hint
from deal_core.recorder.pair_recorder import PairRecorder
from deal_core.recorder.tag_commands import CLEAR
from deal_core.structures import TagMarker, TagState

_DIGITS = "1234567890"
"""Keys of the first ten classes."""


@dataclass(frozen=True)
class Control:
    """One command of the recorder.

    Attributes:
        name: name for pages and services.
        key: key on a keyboard.
        label: description in a few words.
        act: function that runs the command for a source, as in "keyboard", and returns the result in words.
        ends: whether the command ends the program, so that a page asks for confirmation.
    """

    name: str
    key: str
    label: str
    act: Callable[[str], str]
    ends: bool = False


class RecorderControls:
    """All commands of a recorder. Every method may be called from any thread.

    Args:
        recorder: recorder to control.
        extra: further commands of the program, such as ending; they report their changes themselves.
        on_change: called with a sentence when tags or segments have changed.

    Attributes:
        recorder: recorder to control.
        offered: all commands except tags.
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
            key: typed character.
            source: origin of the command, as in "keyboard".

        Returns:
            The result in words; None for a key without a command.

        Raises:
            DealError: the command is not possible now.
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
            DealError: the command is not possible now, or does not exist.
        """
        acts = {control.name: control.act for control in self.offered}
        if name not in acts:
            raise UsageError(f"expected one of {', '.join(acts)}; found '{name}'.{nearest_hint(name, acts)}")
        return acts[name](source)

    def set_tags(self, command: str, source: str) -> str:
        """Change the tags, see `parse_tags`; return the new tags in words.

        Raises:
            UsageError: a name is not in the class list; the message suggests the nearest one.
        """
        return self._tagged(lambda: self.recorder.set_tags(command, source))

    def switch_marker(self, marker: TagMarker, on: bool, source: str) -> str:
        """Switch the marker complete or ignore on or off; return the tags in words."""
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
        """Return a description of the keys, for a terminal."""
        digits = [f"{digit} {name}" for digit, name in zip(_DIGITS, self.recorder.classes.names, strict=False)]
        offered = [f"{'space' if control.key == ' ' else control.key} {control.label}" for control in self.offered]
        return f"keys: {', '.join([*digits, 'c clear', 'm complete or partial', 'i ignore', *offered])}"

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
