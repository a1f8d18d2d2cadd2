"""Read what is left of a damaged MCAP file, record by record, without its index.

A recorder that lost power leaves a file without an index and with its last record cut short. `rosbags` needs the
index; this reads from the front every record that is complete. Records: https://mcap.dev/spec.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from deal_core.errors import RecordingError

MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _LAST_KNOWN = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0F
_RECORD = struct.Struct("<BQ")
_MESSAGE_HEAD = struct.Struct("<HIQQ")
_CHUNK_HEAD = struct.Struct("<QQQI")


class McapMessage(NamedTuple):
    """One message as it is stored."""

    topic: str
    type: str
    log_time_ns: int
    data: bytes


@dataclass
class Damage:
    """What a scan could not read."""

    broken_chunks: int = 0
    """Chunks that are complete but do not decompress, or fail their checksum."""
    cut_at: int | None = None
    """Offset of the first record that is cut short or makes no sense; nothing after it is read."""
    lost_bytes: int = 0

    def __str__(self) -> str:
        found = []
        if self.cut_at is not None:
            found.append(f"cut off or unreadable from byte {self.cut_at} on, the last {self.lost_bytes} bytes are lost")
        if self.broken_chunks:
            found.append(f"{self.broken_chunks} damaged chunks are left out")
        return " and ".join(found) or "its index is missing, its messages are complete"


def scan_mcap(path: Path, damage: Damage) -> Iterator[McapMessage]:
    """Yield the readable messages in the order of the file; memory does not grow with the file.

    A compressed chunk that is cut is lost; of an uncompressed one, every complete message is found.

    Args:
        path: an MCAP file, damaged or not.
        damage: filled in while the scan goes on; complete when it ends.

    Raises:
        RecordingError: the file cannot be opened or is no MCAP file.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise RecordingError(f"{path} is no MCAP file: it does not begin with MCAP's magic bytes")
            yield from _Scan(damage).messages(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise RecordingError(f"{path} cannot be read: {error.strerror}") from error


class _Scan:
    def __init__(self, damage: Damage) -> None:
        self._damage = damage
        self._types: dict[int, str] = {}
        self._channels: dict[int, tuple[str, str]] = {}

    def messages(self, file: BinaryIO, end: int) -> Iterator[McapMessage]:
        """Yield the messages between the file's position and `end`."""
        at = file.tell()
        while at < end:
            try:
                file.seek(at)
                kind, length = _RECORD.unpack(file.read(_RECORD.size))
                if kind == _FOOTER:
                    return
                if not _SCHEMA <= kind <= _LAST_KNOWN and kind != 0x01:
                    raise ValueError(f"unknown record kind {kind}")
                after = at + _RECORD.size + length
                if kind == _CHUNK:
                    inside = self._chunk(file, length, after <= end)
                    if inside is None:
                        # Its records follow right here, so a chunk without compression needs no unpacking.
                        at = file.tell()
                        continue
                    yield from inside
                elif after > end:
                    raise ValueError("record is cut")
                elif kind == _MESSAGE:
                    channel, _, log_time, _ = _MESSAGE_HEAD.unpack(file.read(_MESSAGE_HEAD.size))
                    data = file.read(length - _MESSAGE_HEAD.size)
                    if channel in self._channels:
                        yield McapMessage(*self._channels[channel], log_time, data)
                else:
                    self._describe(kind, file, length)
            except (struct.error, ValueError):
                self._damage.cut_at = at
                self._damage.lost_bytes = end - at
                return
            at = after

    def _describe(self, kind: int, file: BinaryIO, length: int) -> None:
        if kind == _SCHEMA:
            record = BytesIO(file.read(length))
            (schema,) = struct.unpack("<H", record.read(2))
            self._types[schema] = _string(record)
        elif kind == _CHANNEL:
            record = BytesIO(file.read(length))
            channel, schema = struct.unpack("<HH", record.read(4))
            topic, encoding = _string(record), _string(record)
            if encoding == "cdr" and schema in self._types:
                self._channels[channel] = (topic, self._types[schema])

    def _chunk(self, file: BinaryIO, length: int, is_complete: bool) -> Iterator[McapMessage] | None:
        """Return the messages of a compressed chunk; None, at its first record, if it is not compressed."""
        _, _, size, checksum = _CHUNK_HEAD.unpack(file.read(_CHUNK_HEAD.size))
        compression = _string(file)
        (stored,) = struct.unpack("<Q", file.read(8))
        if not compression:
            return None
        if not is_complete or stored > length:
            raise ValueError("chunk is cut")
        records = _decompress(file.read(stored), compression, size, checksum)
        if records is None:
            self._damage.broken_chunks += 1
            return iter(())
        return self._inside(records)

    def _inside(self, records: bytes) -> Iterator[McapMessage]:
        cut_at = self._damage.cut_at
        yield from self.messages(BytesIO(records), len(records))
        if self._damage.cut_at is not cut_at:
            # The record after the chunk can still be found.
            self._damage.cut_at, self._damage.lost_bytes = cut_at, 0
            self._damage.broken_chunks += 1


def _string(record: BinaryIO) -> str:
    (length,) = struct.unpack("<I", record.read(4))
    if length > 65536:
        raise ValueError(f"a name of {length} bytes")
    return record.read(length).decode()


def _decompress(data: bytes, compression: str, size: int, checksum: int) -> bytes | None:
    """Return the records of a chunk, or None if they are damaged."""
    from rosbags.rosbag2.storage_mcap import decompress

    try:
        return decompress(data, compression, size, checksum)
    except Exception:  # lz4, zstd and rosbags raise errors of their own kinds, some only RuntimeError
        return None
