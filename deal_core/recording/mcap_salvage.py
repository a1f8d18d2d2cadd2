"""Read a damaged MCAP file record by record, without its index.

A recorder that lost power leaves a file without an index, whose last record is truncated. `rosbags` needs the index;
this module reads every complete record from the start. Records: https://mcap.dev/spec.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

from deal_core.errors import RecordingError
from deal_core.files import os_errors_as
from deal_core.limits import limit, over, refuse_over
from deal_core.recording.mcap_writer import (
    CHANNEL,
    CHUNK,
    CHUNK_INDEX,
    DATA_END,
    FOOTER,
    HEADER,
    MAGIC,
    MESSAGE,
    MESSAGE_HEAD,
    MESSAGE_INDEX,
    RECORD,
    SCHEMA,
    STATISTICS,
    zstd,
)
from deal_core.recording.stored_message import Damage, StoredChannel, StoredMessage

CHUNK_HEAD = struct.Struct("<QQQI")
"""First and last log time, unpacked size and checksum of a chunk, before its compression."""
_FOOTER_RECORD = struct.Struct("<BQQQI")
_PRIVATE = 0x80  # kinds from here on are for applications
_MAX_SUMMARY = 2**26  # a file of half a terabyte has an index of this size; a larger one is not used
_DAMAGE = (struct.error, ValueError, OverflowError)
_MAX_TIME_NS = 2**63
_PIECE = 2**20


@dataclass(frozen=True)
class ChunkPlace:
    """A chunk, as the index describes it.

    Attributes:
        at: its first byte in the file.
        length: bytes of it in the file.
        start_ns: its first log time.
        channels: ids of the channels with messages in it; empty if the file has no message index.
    """

    at: int
    length: int
    start_ns: int
    channels: frozenset[int]


@dataclass
class McapSummary:
    """The index at the end of a finished file.

    Attributes:
        channels: channels by id; None for one whose messages are not ROS 2's.
        foreign: encoding of the messages of the other channels, by id.
        chunks: chunks in the order of the file.
        counts: number of messages by channel id; None if the index does not say it.
        chunk_count: number of chunks that the file has by its statistics; -1 if they do not say it.
        lacks_schemas: whether a channel has a schema that is not in the index.
    """

    channels: dict[int, StoredChannel | None] = field(default_factory=dict)
    foreign: dict[int, str] = field(default_factory=dict)
    chunks: list[ChunkPlace] = field(default_factory=list)
    counts: dict[int, int] | None = None
    chunk_count: int = -1
    lacks_schemas: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether all messages can be found with it; the format makes each of its parts optional."""
        return (
            self.counts is not None
            and bool(self.chunks)
            and self.chunk_count == len(self.chunks)
            and not self.lacks_schemas
            and self.counts.keys() <= self.channels.keys()
            and not self._overlap
        )

    @property
    def _overlap(self) -> bool:
        """Whether the index names a part of the file twice, so that it would be read again and again."""
        places = sorted((chunk.at, chunk.length) for chunk in self.chunks)
        return any(at + length > after for (at, length), (after, _) in pairwise(places))


def read_summary(file: BinaryIO, end: int) -> McapSummary | None:
    """Return the index of a file of `end` bytes; None if the file is not finished or its index is damaged."""
    if file.read(len(MAGIC)) != MAGIC:
        return None
    scan = _Scan(Damage())
    return scan.summary if scan.read_summary(file, end) else None


def scan_mcap(
    path: Path, damage: Damage, size: int | None = None, *, head: int | None = None
) -> Iterator[StoredMessage]:
    """Yield the readable messages in the order of the file; memory does not grow with the file.

    A truncated compressed chunk is lost; a truncated uncompressed one yields its complete messages. A complete chunk
    that fails its checksum is lost, because the checksum does not tell which message is wrong.

    Args:
        path: MCAP file, damaged or not.
        damage: filled in during the scan.
        size: read only this many bytes, so that a growing file reads the same every time.
        head: give only this many bytes of each message, which is faster.

    Raises:
        RecordingError: the file cannot be opened or is not an MCAP file.
    """
    with os_errors_as(RecordingError, f"{path} cannot be read"), path.open("rb") as file:
        if (magic := file.read(len(MAGIC))) != MAGIC:
            found = "it does not begin with MCAP's magic bytes" if magic else "it is empty (0 bytes)"
            raise RecordingError(f"{path} is not an MCAP file: {found}")
        yield from _Scan(damage, head).messages(file, os.fstat(file.fileno()).st_size if size is None else size)


def unpacked(pieces: Iterable[bytes], compression: str, size: int, checksum: int) -> Iterator[bytes]:
    """Yield the records of a compressed chunk in pieces of at most 1 MiB.

    Args:
        pieces: the compressed chunk.
        compression: zstd or lz4.
        size: bytes of the records, as the chunk says.
        checksum: their checksum; 0 for none.

    Raises:
        ValueError: the chunk is damaged, exceeds the limit, or its compression is unknown.
    """
    refuse_over("chunk_bytes", size, "bytes of a chunk", ValueError)
    found = value = 0
    try:
        decompressor = _decompressor(compression)
        for piece in pieces:
            data = decompressor.decompress(piece, _PIECE)
            while data:
                found, value = found + len(data), crc32(data, value)
                if found > size:
                    raise ValueError("the chunk is larger than it says")
                yield data
                done = decompressor.eof or decompressor.needs_input
                data = b"" if done else decompressor.decompress(b"", _PIECE)
    except ValueError:
        raise
    except Exception as error:  # lz4 and zstd raise different errors, even RuntimeError
        raise ValueError(str(error)) from error
    if found != size or (checksum and value != checksum):
        raise ValueError("the unpacked chunk has another size or checksum")


class _CutError(Exception):
    """The record at an offset is truncated or invalid."""

    def __init__(self, at: int, *, is_message: bool) -> None:
        super().__init__(at)
        self.at = at
        self.is_message = is_message


class _Scan:
    def __init__(self, damage: Damage, head: int | None = None) -> None:
        self._damage = damage
        self._head = head
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self.summary = McapSummary()
        self._channels = self.summary.channels
        self._yielded = 0
        self._owed = 0  # messages in the index of the last damaged chunk that were not yielded
        self._is_owed = False
        self._left_out: Counter[str] = Counter()

    def messages(self, file: BinaryIO, end: int) -> Iterator[StoredMessage]:
        """Yield the messages of a file of `end` bytes."""
        self.read_summary(file, end)
        chunks = sorted(chunk.at for chunk in self.summary.chunks if chunk.at < end)
        at: int | None = len(MAGIC)
        while at is not None:
            file.seek(at)
            at = None
            try:
                yield from self._records(file, end)
            except _CutError as cut:
                # With a valid index, the chunks after the damage can be found.
                following = bisect_right(chunks, cut.at)
                at = chunks[following] if following < len(chunks) else None
                self._note_cut(cut, at, end)
        self._settle()
        for reason, count in self._left_out.items():
            self._damage.lost_messages += count
            self._damage.places.append(f"{count} messages {reason}")

    def _records(self, file: BinaryIO, end: int, *, in_chunk: bool = False) -> Iterator[StoredMessage]:
        """Yield the messages between the file's position and `end`; `in_chunk` says that these are a chunk's.

        Raises:
            _CutError: at the first record that is truncated or invalid.
        """
        at = file.tell()
        while at < end:
            kind = 0
            try:
                file.seek(at)
                kind, length = RECORD.unpack(file.read(RECORD.size))
                after = at + RECORD.size + length
                if kind == FOOTER:
                    self._damage.is_finished = after + len(MAGIC) <= end
                    return
                if not (HEADER <= kind <= DATA_END or kind >= _PRIVATE):
                    raise ValueError(f"unknown record kind {kind}")
                if kind == CHUNK:
                    if in_chunk:
                        raise ValueError("a chunk inside a chunk")
                    yield from self._chunk(file, at, after, end)
                elif after > end:
                    raise ValueError("record is cut")
                elif kind in (MESSAGE, SCHEMA, CHANNEL) and length > limit("message_bytes"):
                    raise ValueError(over("message_bytes", length, "bytes of a message"))
                elif kind == MESSAGE:
                    wanted = length if self._head is None else min(length, MESSAGE_HEAD.size + self._head)
                    if message := self._message(file.read(wanted), length - MESSAGE_HEAD.size):
                        self._yielded += 1
                        yield message
                elif kind in (SCHEMA, CHANNEL):
                    self._describe(kind, file.read(length))
                elif kind == MESSAGE_INDEX and self._is_owed:
                    self._owed += (length - 6) // 16
            except _DAMAGE as error:
                raise _CutError(at, is_message=kind == MESSAGE) from error
            at = after

    def _message(self, record: bytes, length: int) -> StoredMessage | None:
        channel_id, sequence, log_time, publish_time = MESSAGE_HEAD.unpack_from(record)
        if channel_id not in self._channels:
            self._left_out["belong to a topic whose description is lost"] += 1
        elif (channel := self._channels[channel_id]) is None:
            self._damage.foreign[self.summary.foreign[channel_id]] += 1
        elif log_time >= _MAX_TIME_NS:
            self._left_out["have an invalid time"] += 1
        else:
            data = record[MESSAGE_HEAD.size :]
            return StoredMessage(channel, log_time, publish_time, sequence, data, length if len(data) < length else 0)
        return None

    def _describe(self, kind: int, content: bytes) -> None:
        record = BytesIO(content)
        (number,) = struct.unpack("<H", record.read(2))
        if kind == SCHEMA:
            name, form, definition = _string(record), _string(record), _sized(record, len(content))
            self._schemas[number] = (name, form, definition.decode(errors="replace"))
        else:
            (schema,) = struct.unpack("<H", record.read(2))
            topic, encoding = _string(record), _string(record)
            if encoding != "cdr" or schema not in self._schemas:
                self._channels[number] = None
                self.summary.lacks_schemas |= encoding == "cdr" and schema > 0
                self.summary.foreign[number] = encoding if encoding != "cdr" else "CDR without a type"
                return
            facts = _string_map(_sized(record, len(content)))
            self._channels[number] = StoredChannel(
                topic,
                *self._schemas[schema],
                qos=facts.get("offered_qos_profiles", ""),
                type_hash=facts.get("topic_type_hash", ""),
            )

    def _chunk(self, file: BinaryIO, at: int, after: int, end: int) -> Iterator[StoredMessage]:
        """Yield the messages of the chunk whose record begins at `at` and ends at `after`.

        Raises:
            ValueError: its head is invalid, or it is compressed and truncated.
            _CutError: it is uncompressed and truncated; its complete messages have been yielded.
        """
        _, _, size, checksum = CHUNK_HEAD.unpack(file.read(CHUNK_HEAD.size))
        compression = _string(file)
        (stored,) = struct.unpack("<Q", file.read(8))
        first = file.tell()
        if after > end:
            if compression:
                raise ValueError("chunk is cut")
            yield from self._records(file, end, in_chunk=True)
            return
        if first + stored != after:
            raise ValueError("the sizes of the chunk disagree")
        self._settle()
        before = self._yielded
        try:
            if compression:
                refuse_over("chunk_bytes", stored, "bytes of a chunk", ValueError)
                content = BytesIO(b"".join(unpacked([file.read(stored)], compression, size, checksum)))
                yield from self._records(content, size, in_chunk=True)
            else:
                if checksum and _checksum(file, stored) != checksum:
                    raise ValueError("checksum mismatch")
                file.seek(first)
                yield from self._records(file, after, in_chunk=True)
        except (_CutError, ValueError):
            self._damage.broken_chunks += 1
            self._damage.lost_bytes += after - at
            self._damage.places.append(f"the chunk at byte {at} is damaged")
            self._owed, self._is_owed = before - self._yielded, True

    def _settle(self) -> None:
        self._damage.lost_messages += max(self._owed, 0)
        self._owed, self._is_owed = 0, False

    def _note_cut(self, cut: _CutError, resumed: int | None, end: int) -> None:
        lost = (end if resumed is None else resumed) - cut.at
        self._damage.lost_bytes += lost
        self._damage.lost_messages += cut.is_message
        self._damage.places.append(
            f"truncated or unreadable from byte {cut.at} on, the last {lost} bytes are lost"
            if resumed is None
            else f"{lost} bytes from byte {cut.at} on are unreadable and lost"
        )

    def read_summary(self, file: BinaryIO, end: int) -> bool:
        """Read the index at the end of a finished file, which also tells what damage hides; return whether it is sound.

        The summary may be empty: then the index says nothing.
        """
        footer_at = end - _FOOTER_RECORD.size - len(MAGIC)
        if footer_at < len(MAGIC):
            return False
        file.seek(footer_at)
        kind, length, start, _, checksum = _FOOTER_RECORD.unpack(file.read(_FOOTER_RECORD.size))
        if (kind, length, file.read(len(MAGIC))) != (FOOTER, 20, MAGIC):
            return False
        if not max(len(MAGIC), footer_at - _MAX_SUMMARY) <= start < footer_at:
            return False
        file.seek(start)
        content = file.read(footer_at + _FOOTER_RECORD.size - 4 - start)
        if checksum and crc32(content) != checksum:
            return False
        records = BytesIO(content)
        try:
            while records.tell() < footer_at - start:
                kind, length = RECORD.unpack(records.read(RECORD.size))
                self._read_index_record(kind, records.read(length))
        except _DAMAGE:
            return False  # the index is damaged, too; the part before the damage is still useful
        return all(chunk.at < end for chunk in self.summary.chunks)

    def _read_index_record(self, kind: int, record: bytes) -> None:
        if kind in (SCHEMA, CHANNEL):
            self._describe(kind, record)
        elif kind == CHUNK_INDEX:
            start_ns, _, at, size = struct.unpack_from("<QQQQ", record)
            (offsets,) = struct.unpack_from("<I", record, 32)
            channels = frozenset(struct.unpack_from("<H", record, 36 + i)[0] for i in range(0, offsets, 10))
            self.summary.chunks.append(ChunkPlace(at, size, start_ns, channels))
        elif kind == STATISTICS:
            self.summary.chunk_count = struct.unpack_from("<QHIIII", record)[5]
            (length,) = struct.unpack_from("<I", record, 42)
            places = range(46, 46 + length, 10)
            self.summary.counts = dict(struct.unpack_from("<HQ", record, place) for place in places)


def _string(record: BinaryIO) -> str:
    return _sized(record, 65536).decode()


def _sized(record: BinaryIO, limit: int) -> bytes:
    (length,) = struct.unpack("<I", record.read(4))
    if length > limit:
        raise ValueError(f"a text of {length} bytes")
    content = record.read(length)
    if len(content) < length:
        raise ValueError("a text is cut")
    return content


def _string_map(content: bytes) -> dict[str, str]:
    pairs = BytesIO(content)
    found = {}
    while pairs.tell() < len(content):
        key = _string(pairs)
        found[key] = _sized(pairs, len(content)).decode()
    return found


def _checksum(file: BinaryIO, length: int) -> int:
    value = 0
    while length and (piece := file.read(min(length, _PIECE))):
        value = crc32(piece, value)
        length -= len(piece)
    return value


def _decompressor(compression: str) -> Any:
    """Return an object with the methods of `bz2.BZ2Decompressor`."""
    if compression == "zstd":
        return zstd().ZstdDecompressor()
    if compression == "lz4":
        from lz4.frame import LZ4FrameDecompressor  # type: ignore[import-untyped]

        return LZ4FrameDecompressor()
    raise ValueError(f"unknown compression '{compression[:20]}'")
