"""Edit the tags, taps and boxes of a dataset; each edit is on disk before it is acknowledged.

An edit writes a recording's frames.jsonl under a temporary name and renames it, so that a crash leaves the tags from
before or after the edit. One process edits a dataset at a time; it may serve any number of pages, whose edits are
merged: class by class, and mark by mark.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deal_core.dataset.dataset import FRAMES_FILE, RECORDINGS, FrameRecord, read_classes, read_frames, recording_names
from deal_core.dataset.taps import Mark, Tap, check_marks, marks_to_json
from deal_core.errors import DatasetError, UsageError
from deal_core.files import os_errors_as, read_lines, replacing
from deal_core.ownership import OWNER_FILE, Owner, remove_leftovers
from deal_core.structures import ClassList, TagMarker, TagState

_OWNER_FILE = f"{OWNER_FILE}.tags"

PRESENT, ABSENT, UNKNOWN = 1, 0, -1
"""The states of a class in a frame."""


class Change(NamedTuple):
    """The new state of one class in one frame: `PRESENT`, `ABSENT` or `UNKNOWN`."""

    frame: int
    label: int
    state: int


class MarkChange(NamedTuple):
    """A tap or box to draw in a frame (`is_there`), or to remove."""

    frame: int
    mark: Mark
    is_there: bool = True


@dataclass(frozen=True)
class Edited:
    """The result of an edit.

    Attributes:
        revision: revision of the tags after the edit.
        refused: changes that were not made, because another tagger changed the same class of the same frame after
            the revision that this tagger had seen; each with the present state.
    """

    revision: int
    refused: tuple[Change, ...]


class TagStore(AbstractContextManager["TagStore"]):
    """The tags and marks of all frames of a dataset, open for editing; a context manager that locks the dataset.

    Attributes:
        path: the dataset folder.
        classes: classes of the dataset.
        frames: all frames by recording and time, with the tags at opening; an index counts in this list.

    Args:
        path: the dataset folder.

    Raises:
        DatasetError: `path` is not a dataset, a line of frames.jsonl is wrong, a folder is not writable.
        InUseError: another process is tagging the dataset.

    Example:
        >>> with TagStore(Path("kitchen")) as store:  # doctest: +SKIP
        ...     store.edit([Change(0, store.classes.id_of("mug") - 1, PRESENT)])
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.classes = read_classes(self.path)
        self._mutex = threading.Lock()
        self._owner = _own(self.path)
        try:
            remove_leftovers(self.path)
            self._files = [_RecordingFile.read(self.path, n, self.classes) for n in recording_names(self.path)]
        except BaseException:
            self._owner.release()
            raise
        self.frames: list[FrameRecord] = []
        self._places: list[tuple[_RecordingFile, int]] = []
        for file in self._files:
            for line in sorted(range(len(file.frames)), key=lambda i: file.frames[i].stamp_ns):
                self.frames.append(file.frames[line])
                self._places.append((file, line))
        if not self.frames:
            self._owner.release()
            raise DatasetError(f"{self.path} contains no frames: add a recording with `deal extract BAG --out {path}`")
        self._states = states_of([frame.tags for frame in self.frames], self.classes)
        self._changed = np.zeros(self._states.shape, np.int64)
        self._changed_by = np.full(self._states.shape, "", object)
        self._marks = [frame.marks for frame in self.frames]
        self._marks_changed = np.zeros(len(self.frames), np.int64)
        self._revision = 0

    def __exit__(self, *error: object) -> None:
        """Let other processes tag the dataset."""
        with self._mutex:
            self._owner.release()

    @property
    def revision(self) -> int:
        """Number of edits that changed tags since the store was opened."""
        return self._revision

    def states(self) -> npt.NDArray[np.int8]:
        """Return a copy of the (N, K) states of all frames."""
        with self._mutex:
            return self._states.copy()

    def marks(self, frame: int) -> tuple[Mark, ...]:
        """Return the taps and boxes of a frame, in the order in which they were drawn."""
        with self._mutex:
            return self._marks[frame]

    def frame(self, index: int) -> FrameRecord:
        """Return a frame with its present tags, taps and boxes."""
        with self._mutex:
            tags = tags_of(self._states[index].tolist(), self.classes)
            return replace(self.frames[index], tags=tags, marks=self._marks[index])

    def changed_since(self, revision: int) -> tuple[int, list[int]]:
        """Return the present revision, and the frames whose tags or marks changed after an earlier one."""
        with self._mutex:
            latest = np.maximum(self._changed.max(axis=1), self._marks_changed)
            return self._revision, np.flatnonzero(latest > revision).tolist()

    def edit(
        self,
        changes: Iterable[Change],
        *,
        marks: Iterable[MarkChange] = (),
        seen: int | None = None,
        tagger: str = "",
    ) -> Edited:
        """Write changes to disk; all changes of a recording at once.

        The marks of a frame are a set: drawing one that is there, and removing one that is not, has no effect. So
        the marks of several taggers never contradict each other.

        Args:
            changes: new states; the last one for a frame and class wins.
            marks: taps and boxes to draw or to remove, in this order.
            seen: revision that the tagger had seen; the present one if None.
            tagger: name of the tagger; a tagger's own earlier changes never cause a refusal.

        Raises:
            UsageError: a frame, class or state does not exist, or a mark has no pixels.
            DatasetError: the tags cannot be written, or another program changed the file; nothing is changed.
        """
        with self._mutex:
            if not self._owner.is_held:
                raise DatasetError(f"the tags of {self.path} are closed: open them again")
            wanted, refused = self._sort_out(changes, self._revision if seen is None else seen, tagger)
            drawn = self._drawn(marks)
            if wanted or drawn:
                rows = sorted({frame for frame, _ in wanted})
                states = {row: self._states[row].copy() for row in rows}
                for (frame, label), state in wanted.items():
                    states[frame][label] = state
                self._write(states, drawn)
                self._revision += 1
                for frame, found in drawn.items():
                    self._marks[frame] = found
                    self._marks_changed[frame] = self._revision
                for (frame, label), state in wanted.items():
                    self._states[frame, label] = state
                    self._changed[frame, label] = self._revision
                    self._changed_by[frame, label] = tagger
            return Edited(self._revision, tuple(refused))

    def _sort_out(
        self, changes: Iterable[Change], seen: int, tagger: str
    ) -> tuple[dict[tuple[int, int], int], list[Change]]:
        """Return the changes to make, and the refused ones; changes without effect are left out."""
        frames, classes = self._states.shape
        wanted: dict[tuple[int, int], int] = {}
        refused = []
        for frame, label, state in changes:
            if not (0 <= frame < frames and 0 <= label < classes and state in (PRESENT, ABSENT, UNKNOWN)):
                raise UsageError(
                    f"expected a frame below {frames}, a class below {classes} and a state 1, 0 or -1, "
                    f"found {(frame, label, state)}"
                )
            now = int(self._states[frame, label])
            others = self._changed[frame, label] > seen and self._changed_by[frame, label] != tagger
            if others and now != state:
                refused.append(Change(frame, label, now))
            else:
                wanted[frame, label] = state
        return {place: state for place, state in wanted.items() if self._states[place] != state}, refused

    def _drawn(self, changes: Iterable[MarkChange]) -> dict[int, tuple[Mark, ...]]:
        """Return the new marks of the frames whose marks change."""
        found: dict[int, list[Mark]] = {}
        for frame, mark, is_there in changes:
            if not 0 <= frame < len(self.frames):
                raise UsageError(f"expected a frame below {len(self.frames)}, found {frame}")
            _check_mark(mark, self.classes)
            marks = found.setdefault(frame, list(self._marks[frame]))
            if is_there and mark not in marks:
                marks.append(mark)
            elif not is_there and mark in marks:
                marks.remove(mark)
        return {frame: tuple(marks) for frame, marks in found.items() if tuple(marks) != self._marks[frame]}

    def _write(self, states: dict[int, npt.NDArray[np.int8]], drawn: dict[int, tuple[Mark, ...]]) -> None:
        by_file: dict[int, tuple[_RecordingFile, dict[int, _Line]]] = {}
        for row in sorted({*states, *drawn}):
            file, line = self._places[row]
            tags = tags_of(states[row].tolist(), self.classes) if row in states else None
            by_file.setdefault(id(file), (file, {}))[1][line] = _Line(tags, drawn.get(row))
        for file, lines in by_file.values():
            file.write(lines)


def states_of(tags: Sequence[TagState], classes: ClassList) -> npt.NDArray[np.int8]:
    """Return the (N, K) states of N tags."""
    return np.nan_to_num(np.stack([tag.vector(classes) for tag in tags]), nan=UNKNOWN).astype(np.int8)


def tags_of(states: Sequence[int], classes: ClassList) -> TagState:
    """Return the tags of K states; complete if no state is unknown."""
    present, absent = (
        tuple(n for n, s in zip(classes.names, states, strict=True) if s == state) for state in (PRESENT, ABSENT)
    )
    if UNKNOWN in states:
        return TagState(present, absent, TagMarker.PARTIAL)
    return TagState(present, marker=TagMarker.COMPLETE)


class _Line(NamedTuple):
    """What is new in a line of frames.jsonl; None stays as it is."""

    tags: TagState | None
    marks: tuple[Mark, ...] | None

    def put_in(self, text: str) -> str:
        """Return the line with the new tags and marks."""
        values = json.loads(text)
        if self.tags is not None:
            values["tags"] = self.tags.to_json()
        if self.marks is not None:
            for key in ("points", "boxes"):
                values.pop(key, None)
            values |= marks_to_json(self.marks)
        return json.dumps(values)


def _check_mark(mark: Mark, classes: ClassList) -> None:
    check_marks((mark,), classes)
    if not (mark.x >= 0 and mark.y >= 0 if isinstance(mark, Tap) else mark.has_pixels):
        raise UsageError(f"expected a tap or box with pixels of the image, found {mark}")


class _RecordingFile:
    """The frames.jsonl of one recording; lines that are not edited do not change."""

    def __init__(self, path: Path, frames: list[FrameRecord], lines: list[str], signature: tuple[int, ...]) -> None:
        self.frames = frames
        self._path = path
        self._lines = lines
        self._signature = signature

    @classmethod
    def read(cls, dataset: Path, recording: str, classes: ClassList) -> _RecordingFile:
        path = dataset / RECORDINGS / recording / FRAMES_FILE
        frames = list(read_frames(dataset, recording, classes))
        signature = _signature(path.stat())
        lines = list(read_lines(path))
        if not os.access(path.parent, os.W_OK):
            raise DatasetError(f"{path.parent} is not writable, but its {FRAMES_FILE} keeps the tags: make it writable")
        return cls(path, frames, lines, signature)

    def write(self, new: dict[int, _Line]) -> None:
        """Replace the tags and marks of some lines (by index)."""
        lines = list(self._lines)
        for index, line in new.items():
            lines[index] = line.put_in(lines[index])
        with os_errors_as(DatasetError, f"{self._path} cannot be written, the tags are as before"):
            if _signature(self._path.stat()) != self._signature:
                raise DatasetError(
                    f"{self._path} was changed by another program, so nothing was written: start `deal tag` again"
                )
            with replacing(self._path) as temporary, temporary.open("w", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
                file.flush()
                signature = _signature(os.fstat(file.fileno()))
        self._lines, self._signature = lines, signature


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _own(dataset: Path) -> Owner:
    """Own the tags of a dataset; recordings may be added to it at the same time."""
    advice = "open the page that it printed (in any number of browsers), or end it first"
    with os_errors_as(DatasetError, f"{dataset} is not writable, but it keeps the tags"):
        return Owner(dataset / _OWNER_FILE, dataset, "tagged", advice)
