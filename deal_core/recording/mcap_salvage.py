"""Read a damaged MCAP file record by record, without its index.

A recorder that lost power leaves a file without an index, whose last record is truncated. `rosbags` needs the index;
this module reads every complete record from the start. Records: https://mcap.dev/spec.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from deal_core.errors import RecordingError
from deal_core.files import os_errors_as
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
)
from deal_core.recording.stored_message import Damage, StoredChannel, StoredMessage

_CHUNK_HEAD = struct.Struct("<QQQI")
_FOOTER_RECORD = struct.Struct("<BQQQI")
_MAX_SUMMARY = 2**28  # a file of terabytes has an index of this size; a larger one is damaged
_MAX_TIME_NS = 2**63
_PIECE = 2**20


def scan_mcap(path: Path, damage: Damage, size: int | None = None) -> Iterator[StoredMessage]:
    """Yield the readable messages in the order of the file; memory does not grow with the file.

    A truncated compressed chunk is lost; a truncated uncompressed one yields its complete messages. A complete chunk
    that fails its checksum is lost, because the checksum does not tell which message is wrong.

    Args:
        path: MCAP file, damaged or not.
        damage: filled in during the scan.
        size: read only this many bytes, so that a growing file reads the same every time.

    Raises:
        RecordingError: the file cannot be opened or is not an MCAP file.
    """
    with os_errors_as(RecordingError, f"{path} cannot be read"), path.open("rb") as file:
        if (head := file.read(len(MAGIC))) != MAGIC:
            found = "it does not begin with MCAP's magic bytes" if head else "it is empty (0 bytes)"
            raise RecordingError(f"{path} is not an MCAP file: {found}")
        yield from _Scan(damage).messages(file, os.fstat(file.fileno()).st_size if size is None else size)


class _CutError(Exception):
    """The record at an offset is truncated or invalid."""

    def __init__(self, at: int, *, is_message: bool) -> None:
        super().__init__(at)
        self.at = at
        self.is_message = is_message


class _Scan:
    def __init__(self, damage: Damage) -> None:
        self._damage = damage
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._channels: dict[int, StoredChannel | None] = {}
        self._chunks: list[int] = []
        self._yielded = 0
        self._owed = 0  # messages in the index of the last damaged chunk that were not yielded
        self._is_owed = False
        self._left_out: Counter[str] = Counter()

    def messages(self, file: BinaryIO, end: int) -> Iterator[StoredMessage]:
        """Yield the messages of a file of `end` bytes."""
        self._read_summary(file, end)
        at: int | None = len(MAGIC)
        while at is not None:
            file.seek(at)
            at = None
            try:
                yield from self._records(file, end)
            except _CutError as cut:
                # With a valid index, the chunks after the damage can be found.
                following = bisect_right(self._chunks, cut.at)
                at = self._chunks[following] if following < len(self._chunks) else None
                self._note_cut(cut, at, end)
        self._settle()
        for reason, count in self._left_out.items():
            self._damage.lost_messages += count
            self._damage.places.append(f"{count} messages {reason}")

    def _records(self, file: BinaryIO, end: int) -> Iterator[StoredMessage]:
        """Yield the messages between the file's position and `end`.

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
                    return
                if not HEADER <= kind <= DATA_END:
                    raise ValueError(f"unknown record kind {kind}")
                if kind == CHUNK:
                    yield from self._chunk(file, at, after, end)
                elif after > end:
                    raise ValueError("record is cut")
                elif kind == MESSAGE:
                    if message := self._message(file.read(length)):
                        self._yielded += 1
                        yield message
                elif kind in (SCHEMA, CHANNEL):
                    self._describe(kind, file.read(length))
                elif kind == MESSAGE_INDEX and self._is_owed:
                    self._owed += (length - 6) // 16
            except (struct.error, ValueError) as error:
                raise _CutError(at, is_message=kind == MESSAGE) from error
            at = after

    def _message(self, record: bytes) -> StoredMessage | None:
        channel_id, sequence, log_time, publish_time = MESSAGE_HEAD.unpack_from(record)
        if channel_id not in self._channels:
            self._left_out["belong to a topic whose description is lost"] += 1
        elif (channel := self._channels[channel_id]) is None:
            self._left_out["are not in CDR, the encoding of ROS 2"] += 1
        elif log_time >= _MAX_TIME_NS:
            self._left_out["have an invalid time"] += 1
        else:
            return StoredMessage(channel, log_time, publish_time, sequence, record[MESSAGE_HEAD.size :])
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
        _, _, size, checksum = _CHUNK_HEAD.unpack(file.read(_CHUNK_HEAD.size))
        compression = _string(file)
        (stored,) = struct.unpack("<Q", file.read(8))
        first = file.tell()
        if after > end:
            if compression:
                raise ValueError("chunk is cut")
            yield from self._records(file, end)
            return
        if first + stored != after:
            raise ValueError("the sizes of the chunk disagree")
        self._settle()
        before = self._yielded
        try:
            if compression:
                yield from self._records(BytesIO(_decompress(file.read(stored), compression, size, checksum)), size)
            else:
                if checksum and _checksum(file, stored) != checksum:
                    raise ValueError("checksum mismatch")
                file.seek(first)
                yield from self._records(file, after)
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

    def _read_summary(self, file: BinaryIO, end: int) -> None:
        """Read schemas, channels and chunks from the end of a finished file: damage may hide the first ones."""
        footer_at = end - _FOOTER_RECORD.size - len(MAGIC)
        if footer_at < len(MAGIC):
            return
        file.seek(footer_at)
        kind, length, start, _, checksum = _FOOTER_RECORD.unpack(file.read(_FOOTER_RECORD.size))
        if (kind, length, file.read(len(MAGIC))) != (FOOTER, 20, MAGIC):
            return
        if not max(len(MAGIC), footer_at - _MAX_SUMMARY) <= start < footer_at:
            return
        file.seek(start)
        content = file.read(footer_at + _FOOTER_RECORD.size - 4 - start)
        if checksum and crc32(content) != checksum:
            return
        summary = BytesIO(content)
        try:
            while summary.tell() < footer_at - start:
                kind, length = RECORD.unpack(summary.read(RECORD.size))
                record = summary.read(length)
                if kind in (SCHEMA, CHANNEL):
                    self._describe(kind, record)
                elif kind == CHUNK_INDEX:
                    self._chunks.append(struct.unpack_from("<QQQ", record)[2])
        except (struct.error, ValueError):
            pass  # the index is damaged, too; the part before the damage is still useful
        self._chunks = sorted(offset for offset in self._chunks if offset < end)


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


def _decompress(data: bytes, compression: str, size: int, checksum: int) -> bytes:
    """Return the records of a chunk; raise a ValueError if they are damaged."""
    from rosbags.rosbag2.storage_mcap import decompress

    try:
        return decompress(data, compression, size, checksum)
    except Exception as error:  # lz4, zstd and rosbags raise different errors, even RuntimeError
        raise ValueError(str(error)) from error
