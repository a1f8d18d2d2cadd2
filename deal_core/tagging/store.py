"""The tags of a dataset while people edit them: each edit is on disk before it is acknowledged.

A recording's frames.jsonl is written anew under a temporary name and renamed, so that a crash at any moment leaves
the tags from before or after an edit. One process edits a dataset at a time (a lock on its folder, which the system
takes back from a process that dies); it may serve any number of pages, whose edits are merged class by class.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deal_core.dataset.dataset import FRAMES_FILE, RECORDINGS, FrameRecord, read_classes, read_frames, recording_names
from deal_core.errors import DatasetError, UsageError
from deal_core.files import replacing
from deal_core.structures import ClassList, TagMarker, TagState

PRESENT, ABSENT, UNKNOWN = 1, 0, -1
"""The states of a class in a frame."""


class Change(NamedTuple):
    """One class of one frame, and the state it is to have: `PRESENT`, `ABSENT` or `UNKNOWN`."""

    frame: int
    label: int
    state: int


@dataclass(frozen=True)
class Edited:
    """The result of an edit.

    Attributes:
        revision: of the dataset's tags after it.
        refused: changes that were not made, because another tagger changed the same class of the same frame since
            the revision that this one had seen; each with the state that it has.
    """

    revision: int
    refused: tuple[Change, ...]


class TagStore:
    """The tags of all frames of a dataset, open for editing; a context manager that holds the dataset's lock.

    Attributes:
        path: the dataset folder.
        classes: that can be tagged.
        frames: as they were opened, by recording and time; a frame's index is its place in this list.

    Args:
        path: the dataset folder.

    Raises:
        DatasetError: no dataset, a line of frames.jsonl that is wrong, a folder that cannot be written to, or
            another process that is tagging the dataset.

    Example:
        >>> with TagStore(Path("kitchen")) as store:  # doctest: +SKIP
        ...     store.edit([Change(0, store.classes.id_of("mug") - 1, PRESENT)])
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.classes = read_classes(self.path)
        self._mutex = threading.Lock()
        self._lock = _lock(self.path)
        try:
            self._files = [_RecordingFile.read(self.path, n, self.classes) for n in recording_names(self.path)]
        except BaseException:
            os.close(self._lock)
            raise
        self.frames: list[FrameRecord] = []
        self._places: list[tuple[_RecordingFile, int]] = []
        for file in self._files:
            for line in sorted(range(len(file.frames)), key=lambda i: file.frames[i].stamp_ns):
                self.frames.append(file.frames[line])
                self._places.append((file, line))
        if not self.frames:
            os.close(self._lock)
            raise DatasetError(f"{self.path} holds no frames: add a recording with `deal extract BAG --out {path}`")
        self._states = states_of([frame.tags for frame in self.frames], self.classes)
        self._changed = np.zeros(self._states.shape, np.int64)
        self._changed_by = np.full(self._states.shape, "", object)
        self._revision = 0

    def __enter__(self) -> TagStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes tag the dataset."""
        with self._mutex:
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    @property
    def revision(self) -> int:
        """How many edits changed something since the store was opened."""
        return self._revision

    def states(self) -> npt.NDArray[np.int8]:
        """Return a copy of the (N, K) states of all frames."""
        with self._mutex:
            return self._states.copy()

    def changed_since(self, revision: int) -> tuple[int, list[int]]:
        """Return the revision now, and the frames whose tags changed after an earlier one."""
        with self._mutex:
            return self._revision, np.flatnonzero(self._changed.max(axis=1) > revision).tolist()

    def edit(self, changes: Iterable[Change], *, seen: int | None = None, tagger: str = "") -> Edited:
        """Make changes and write them to disk; all of them at once in each recording.

        Args:
            changes: the later of two of one frame and class holds.
            seen: the revision that the tagger saw when choosing; the latest when left out.
            tagger: name of who makes the changes; a tagger's own earlier changes never cause a refusal.

        Raises:
            UsageError: a frame, class or state that does not exist.
            DatasetError: the tags cannot be written, or another program changed the file; nothing is changed here.
        """
        with self._mutex:
            if self._lock < 0:
                raise DatasetError(f"the tags of {self.path} are closed: open them again")
            wanted, refused = self._sort_out(changes, self._revision if seen is None else seen, tagger)
            if wanted:
                rows = sorted({frame for frame, _ in wanted})
                states = {row: self._states[row].copy() for row in rows}
                for (frame, label), state in wanted.items():
                    states[frame][label] = state
                self._write(states)
                self._revision += 1
                for (frame, label), state in wanted.items():
                    self._states[frame, label] = state
                    self._changed[frame, label] = self._revision
                    self._changed_by[frame, label] = tagger
            return Edited(self._revision, tuple(refused))

    def _sort_out(
        self, changes: Iterable[Change], seen: int, tagger: str
    ) -> tuple[dict[tuple[int, int], int], list[Change]]:
        """Return the changes that make a difference and may be made, and those that may not."""
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

    def _write(self, states: dict[int, npt.NDArray[np.int8]]) -> None:
        by_file: dict[int, tuple[_RecordingFile, dict[int, TagState]]] = {}
        for row, state in states.items():
            file, line = self._places[row]
            by_file.setdefault(id(file), (file, {}))[1][line] = tags_of(state.tolist(), self.classes)
        for file, tags in by_file.values():
            file.write(tags)


def states_of(tags: Sequence[TagState], classes: ClassList) -> npt.NDArray[np.int8]:
    """Return the (N, K) states that N tags say."""
    return np.nan_to_num(np.stack([tag.vector(classes) for tag in tags]), nan=UNKNOWN).astype(np.int8)


def tags_of(states: Sequence[int], classes: ClassList) -> TagState:
    """Return the tags that say what K states say; complete where none is unknown."""
    present, absent = (
        tuple(n for n, s in zip(classes.names, states, strict=True) if s == state) for state in (PRESENT, ABSENT)
    )
    if UNKNOWN in states:
        return TagState(present, absent, TagMarker.PARTIAL)
    return TagState(present, marker=TagMarker.COMPLETE)


class _RecordingFile:
    """The frames.jsonl of one recording; lines that are not edited stay byte for byte."""

    def __init__(self, path: Path, frames: list[FrameRecord], lines: list[str], signature: tuple[int, ...]) -> None:
        self.frames = frames
        self._path = path
        self._lines = lines
        self._signature = signature

    @classmethod
    def read(cls, dataset: Path, recording: str, classes: ClassList) -> _RecordingFile:
        path = dataset / RECORDINGS / recording / FRAMES_FILE
        frames = list(read_frames(dataset, recording, classes))
        with path.open(encoding="utf-8") as file:
            lines = [line.rstrip("\n") for line in file]
            signature = _signature(os.fstat(file.fileno()))
        if not os.access(path.parent, os.W_OK):
            raise DatasetError(
                f"{path.parent} cannot be written to: tags are kept in its {FRAMES_FILE}; make it writable"
            )
        return cls(path, frames, lines, signature)

    def write(self, tags: dict[int, TagState]) -> None:
        """Replace the tags of some lines (by index)."""
        lines = list(self._lines)
        for index, state in tags.items():
            lines[index] = json.dumps({**json.loads(lines[index]), "tags": state.to_json()})
        try:
            if _signature(self._path.stat()) != self._signature:
                raise DatasetError(
                    f"{self._path} was changed by another program while it was tagged here, and is left as it is: "
                    "start `deal tag` again"
                )
            # One name for all processes: the dataset is locked, and what a killed one left is overwritten.
            with replacing(self._path, per_process=False) as temporary, temporary.open("w", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
                file.flush()
                os.fsync(file.fileno())
                signature = _signature(os.fstat(file.fileno()))
        except OSError as error:
            raise DatasetError(f"{self._path} cannot be written, the tags are as before: {error.strerror}") from error
        self._lines, self._signature = lines, signature


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _lock(folder: Path) -> int:
    """Return an open file on a folder that no other process can lock until it is closed."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise DatasetError(
            f"{folder} is being tagged by another `deal tag`: open the page that it printed (several may be open), "
            "or end it first"
        ) from None
    return lock
