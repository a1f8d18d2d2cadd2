"""Read a whole MCAP file through its index, with memory that does not grow with its chunks.

`rosbags` reads MCAP files, too, but needs parts that the format makes optional, unpacks a whole chunk to give one
message, and has no way to give the beginning of a message alone, which is all that pairing needs. Records:
https://mcap.dev/spec.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zlib import crc32

from deal_core.limits import limit
from deal_core.recording.mcap_salvage import CHUNK_HEAD, ChunkPlace, McapSummary, read_summary, unpacked
from deal_core.recording.mcap_writer import CHUNK, MESSAGE, MESSAGE_HEAD, RECORD
from deal_core.recording.stored_message import StoredChannel

_PIECE = 2**20
_AHEAD = 2  # chunks that are verified or unpacked ahead
_AT_ONCE = 100_000  # messages of a chunk that are read ahead
_MOST_MESSAGES = 2**22  # of a chunk; their places fill 800 MB
_IN_MEMORY = 32 * 2**20  # larger compressed chunks are unpacked to a temporary file
_RECORD_HEAD = RECORD.size + MESSAGE_HEAD.size
_CHUNK_START = RECORD.size + CHUNK_HEAD.size


class FoundMessage(NamedTuple):
    """One message of a file; `data` is its beginning if only that was asked for, `length` is that of the whole."""

    channel: StoredChannel
    log_time_ns: int
    data: bytes
    length: int


@dataclass
class McapFile:
    """A whole MCAP file with an index; `open_mcap` makes one.

    Attributes:
        path: path of the file.
        summary: its index.
        damage: the damaged chunks that were met: first byte, and log time of the last message before the damage.
    """

    path: Path
    summary: McapSummary
    damage: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._file = self.path.open("rb", buffering=0)
        self._sound: set[int] = set()

    def messages(self, topics: set[str], head: int | None = None) -> Iterator[FoundMessage]:
        """Yield the messages of some topics, chunk by chunk, in the order of their log times.

        A thread verifies, unpacks and reads the next chunks meanwhile.

        Args:
            topics: names of the topics.
            head: give only this many bytes of each message, and verify no checksum of an uncompressed chunk.
        """
        wanted = {number: c for number, c in self.summary.channels.items() if c and c.topic in topics}
        if not wanted:
            return
        chunks = sorted(self.summary.chunks, key=lambda chunk: chunk.start_ns)
        following = iter([c for c in chunks if not c.channels or c.channels & wanted.keys()])
        with ThreadPoolExecutor(1) as thread:
            ahead = deque(thread.submit(self._read, chunk, wanted, head) for chunk in islice(following, _AHEAD))
            while ahead:
                yield from ahead.popleft().result()
                ahead.extend(thread.submit(self._read, chunk, wanted, head) for chunk in islice(following, 1))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, chunk: ChunkPlace, wanted: dict[int, StoredChannel], head: int | None) -> Iterable[FoundMessage]:
        """Return the messages of a chunk, and note its damage; those of a long chunk are read when they are needed."""
        entries: list[tuple[int, int, int, int]] = []  # log time, channel, first byte, length
        is_sound = False
        region = _Region(b"", 0, 0)
        with suppress(Exception):  # lz4, zstd and struct raise different errors
            region = self._open_chunk(chunk.at, verify=head is None)
            is_sound = _walk(region, wanted, entries)
        entries.sort(key=lambda entry: entry[0])
        if not is_sound:
            self.damage.setdefault(chunk.at, entries[-1][0] if entries else chunk.start_ns)
        found = (
            FoundMessage(
                wanted[channel], log_time, region.read(begin, length if head is None else min(length, head)), length
            )
            for log_time, channel, begin, length in entries
        )
        is_short = head is not None or region.end - region.begin <= _IN_MEMORY
        return list(found) if is_short and len(entries) <= _AT_ONCE else found

    def _open_chunk(self, at: int, *, verify: bool) -> _Region:
        """Return the records of the chunk at a byte of the file.

        Args:
            at: first byte of the chunk.
            verify: whether an uncompressed chunk must match its checksum; a compressed one always must.

        Raises:
            ValueError: the chunk is damaged; lz4, zstd and struct raise other errors.
        """
        head = os.pread(self._file.fileno(), 512, at)
        kind, length = RECORD.unpack_from(head)
        _, _, size, checksum = CHUNK_HEAD.unpack_from(head, RECORD.size)
        (name_length,) = struct.unpack_from("<I", head, _CHUNK_START)
        compression = head[_CHUNK_START + 4 : _CHUNK_START + 4 + name_length].decode()
        (stored,) = struct.unpack_from("<Q", head, _CHUNK_START + 4 + name_length)
        begin = at + _CHUNK_START + 12 + name_length
        if kind != CHUNK or begin + stored != at + RECORD.size + length:
            raise ValueError("the sizes of the chunk disagree")
        region = _Region(self._file, begin, begin + stored)
        if compression:
            return _unpack(region, compression, size, checksum)
        if verify and checksum and at not in self._sound:
            if _checksum(region) != checksum:
                raise ValueError("checksum mismatch")
            self._sound.add(at)
        return region


def open_mcap(path: Path) -> McapFile | None:
    """Return a reader of a whole file; None if the file is damaged, or lacks a part of its index.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        summary = read_summary(file, os.fstat(file.fileno()).st_size)
    return McapFile(path, summary) if summary and summary.is_complete else None


class _Region:
    """A range of bytes of a file or of memory."""

    def __init__(self, source: BinaryIO | bytes | Any, begin: int, end: int) -> None:
        self._source, self.begin, self.end = source, begin, end

    def read(self, at: int, length: int) -> bytes:
        """Return bytes from a place; fewer at the end of the region."""
        if not 0 <= at < self.end:
            return b""
        length = max(min(length, self.end - at), 0)
        if isinstance(self._source, bytes):
            return self._source[at : at + length]
        return os.pread(self._source.fileno(), length, at)

    def pieces(self) -> Iterator[bytes]:
        """Yield the whole region in pieces."""
        at = self.begin
        while at < self.end and (piece := self.read(at, _PIECE)):
            at += len(piece)
            yield piece


def _walk(region: _Region, wanted: Mapping[int, object], entries: list[tuple[int, int, int, int]]) -> bool:
    """Add (log time, channel, first byte, length) of the wanted messages; return False at a damaged record."""
    place, most_bytes = region.begin, limit("message_bytes")
    while place < region.end:
        record = region.read(place, _RECORD_HEAD)
        kind, length = RECORD.unpack_from(record)
        after = place + RECORD.size + length
        if after > region.end or kind in (0, CHUNK):
            return False
        if length > most_bytes or len(entries) > _MOST_MESSAGES:
            return False
        if kind == MESSAGE:
            channel, _, log_time, _ = MESSAGE_HEAD.unpack_from(record, RECORD.size)
            if channel in wanted:
                entries.append((log_time, channel, place + _RECORD_HEAD, length - MESSAGE_HEAD.size))
        place = after
    return True


def _checksum(region: _Region) -> int:
    value = 0
    for piece in region.pieces():
        value = crc32(piece, value)
    return value


def _unpack(region: _Region, compression: str, size: int, checksum: int) -> _Region:
    """Return the unpacked records of a chunk: in memory, or in a temporary file if they are many.

    Raises:
        ValueError: the chunk is damaged or exceeds the limit, or its compression is unknown.
    """
    pieces = unpacked(region.pieces(), compression, size, checksum)
    if size <= _IN_MEMORY:
        return _Region(b"".join(pieces), 0, size)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the region that holds it
    for piece in pieces:
        file.write(piece)
    file.flush()
    return _Region(file, 0, size)
