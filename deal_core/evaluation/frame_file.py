"""Records of frames in a file that outlives its process: those that were written completely are read again."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO

from pydantic import BaseModel, Field, ValidationError

from deal_core.errors import EvaluationError
from deal_core.files import os_errors_as
from deal_core.limits import limit, over

_FORMAT = "deal-evaluation-frames"
_LONGEST_LINE, _PIECE = 2**16, 2**20


class FrameFile:
    """Records by key, appended one by one; a file without a name ends with the process.

    A process that is killed, also by signal 9, leaves the records that it had written; what follows the last complete
    one is cut off. While a file is open for writing, no other process can open it.

    Args:
        path: The file; None for a temporary file without a name.
        about: What the records depend on. Records for something else are dropped.
        may_write: Whether records may be added; without, `path` must exist, and is left as it is.

    Raises:
        EvaluationError: another process writes the file, or it cannot be opened.
    """

    def __init__(self, path: Path | None, about: str, *, may_write: bool = True) -> None:
        self._place = f"{tempfile.gettempdir()} (set TMPDIR to another folder)" if path is None else f"{path.parent}"
        self._entries: dict[str, _Entry] = {}
        self._file = self._open(path, may_write)
        about_us = _Head(format=_FORMAT, version=1, about=about).model_dump_json().encode() + b"\n"
        self.is_same = path is not None and self._file.read(len(about_us)) == about_us
        """Whether the file existed and was about the same."""
        end = self._read_entries() if self.is_same else 0
        if may_write:
            self._file.truncate(end)
            self._file.seek(end)
            if not end:
                self._write(about_us)

    @property
    def keys(self) -> Collection[str]:
        """The keys of the records."""
        return self._entries.keys()

    def checksum(self, key: str) -> int:
        """Return the checksum that was given with a record."""
        return self._entries[key].checksum

    def append(self, key: str, checksum: int, content: bytes) -> None:
        """Add a record, which replaces an earlier one with its key.

        Args:
            key: Key of the frame.
            checksum: Checksum of what the content was made from.
            content: The content.

        Raises:
            EvaluationError: the disk is full.
        """
        packed = zlib.compress(content, level=1)
        entry = _Entry(key=key, checksum=checksum, size=len(packed))
        start = self._file.seek(0, os.SEEK_END)
        line = entry.model_dump_json(exclude={"start"}).encode() + b"\n"
        self._write(line + packed)
        entry.start = start + len(line)
        self._entries[key] = entry

    def read(self, key: str) -> bytes:
        """Return the content of a record."""
        entry = self._entries[key]
        self._file.seek(entry.start)
        return zlib.decompressobj().decompress(self._file.read(entry.size), limit("array_bytes"))

    def close(self) -> None:
        """Close the file, so that others can open it."""
        self._file.close()

    def _open(self, path: Path | None, may_write: bool) -> IO[bytes]:
        if path is None:
            return tempfile.TemporaryFile(buffering=0)
        with os_errors_as(EvaluationError, f"{path} cannot be opened"):
            if may_write:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            # Without a buffer: a record is on its way to the disk as soon as it is written.
            file = path.open("r+b" if may_write else "rb", buffering=0)
            try:
                fcntl.flock(file, (fcntl.LOCK_EX if may_write else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise EvaluationError(f"{path} is being written by another evaluation: wait until it ends") from None
            return file

    def _read_entries(self) -> int:
        """Read the table of the complete records, and return the end of the last one."""
        end, size = self._file.tell(), os.fstat(self._file.fileno()).st_size
        with os.fdopen(os.dup(self._file.fileno()), "rb") as file:
            file.seek(end)
            while line := file.readline(_LONGEST_LINE):
                try:
                    entry = _Entry.model_validate_json(line)
                except ValidationError:
                    break
                entry.start = file.tell()
                if entry.start + entry.size > size or over("array_bytes", entry.size, "bytes"):
                    break
                if not _is_whole(file.read(entry.size)):
                    break
                self._entries[entry.key] = entry
                end = file.tell()
        return end

    def _write(self, data: bytes) -> None:
        with os_errors_as(EvaluationError, f"the decisions of frames cannot be kept in {self._place}"):
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, "")


class _Head(BaseModel):
    format: str
    version: int
    about: str


class _Entry(BaseModel):
    """The line before each record: its key, checksum and size; `start` is where its content starts."""

    key: str
    checksum: int = Field(ge=0)
    size: int = Field(ge=0)
    start: int = 0


def _is_whole(packed: bytes) -> bool:
    """Return whether a record was written completely, and unpacks to no more than its limit."""
    unpacker, size = zlib.decompressobj(), 0
    try:
        while part := unpacker.decompress(packed, _PIECE):
            packed, size = unpacker.unconsumed_tail, size + len(part)
            if over("array_bytes", size, "bytes"):
                return False
    except zlib.error:
        return False
    return unpacker.eof
