"""Write MCAP files that end with a complete chunk even if the disk is full.

`rosbags` can write MCAP, too, but copies each image five times, chooses when a chunk is written, and cannot copy a
stored message with both its times. A recorder on a robot needs to write to the disk at once, and to keep the file when
the disk is full; a repair needs unchanged messages. Records: https://mcap.dev/spec.
"""

from __future__ import annotations

import os
import struct
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from deal_core.recording.stored_message import StoredChannel, StoredMessage

Buffer = bytes | memoryview
"""One-dimensional bytes that can be written without a copy."""

MAGIC = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX = range(0x01, 0x09)
STATISTICS, METADATA, METADATA_INDEX, SUMMARY_OFFSET, DATA_END = 0x0B, 0x0C, 0x0D, 0x0E, 0x0F
RECORD = struct.Struct("<BQ")
"""Kind and length of the content that follows."""
MESSAGE_HEAD = struct.Struct("<HIQQ")
"""Channel, sequence, log time and publish time of a message, before its data."""

_LARGE_BYTES = 64 * 1024  # joining smaller parts is faster than writing each
_CHUNK_BYTES = 256 * 1024  # a reader unpacks one chunk at a time; one colour image is larger
_NO_TIME = 2**63 - 1
_LEVEL = 1


@dataclass
class _Chunk:
    """Messages that are not in the file yet."""

    parts: list[Buffer] = field(default_factory=list)
    size: int = 0
    checksum: int = 0
    start_ns: int = _NO_TIME
    end_ns: int = 0
    index: defaultdict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, part: Buffer) -> None:
        self.parts.append(part)
        self.size += len(part)
        self.checksum = crc32(part, self.checksum)


def zstd() -> Any:
    """Return the module of the zstd compression: Python's own from 3.14 on, its backport before."""
    if sys.version_info >= (3, 14):
        from compression import zstd as module
    else:
        with suppress(ImportError):
            from backports import zstd as module
    return module


class McapWriter(AbstractContextManager["McapWriter"]):
    """Write messages in chunks, each chunk at once; a context manager that calls `abort` at the end.

    Chunks are uncompressed, unless `flush` is told otherwise.

    Large buffers are not copied: they must not change until `end_group` returns. Memory contains one chunk, and about a
    hundred bytes for each written chunk.

    Args:
        path: file to create; it must not exist.

    Attributes:
        path: path of the file.
        channels: channels by id; messages of one topic and type share the first channel.
        counts: messages in the file by channel id, without buffered messages.
        start_ns, end_ns: first and last log time in the file.

    Raises:
        OSError: from any method that writes. The incomplete chunk is removed, so the file ends with its last complete
            chunk. After that, only `close`, which writes the index if there is space, and `abort` are useful.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.channels: dict[int, StoredChannel] = {}
        self.counts: Counter[int] = Counter()
        self.start_ns, self.end_ns = _NO_TIME, 0
        self._ids: dict[tuple[str, str], int] = {}
        self._schemas: dict[tuple[str, str, str], int] = {}
        self._summary: dict[int, list[bytes]] = {kind: [] for kind in (SCHEMA, CHANNEL, CHUNK_INDEX, METADATA_INDEX)}
        self._chunk = _Chunk()
        self._file = path.open("xb", buffering=0)
        self._end = 0
        self._put([MAGIC, _record(HEADER, _text("ros2") + _text("deal"))])

    def __exit__(self, *error: object) -> None:
        self.abort()

    def add_channel(self, channel: StoredChannel) -> int:
        """Return the id of a topic; the chunk of its first message contains its description."""
        key = (channel.topic, channel.type)
        if key not in self._ids:
            number = self._ids[key] = len(self._ids) + 1
            self.channels[number] = channel
            facts = {"offered_qos_profiles": channel.qos, "topic_type_hash": channel.type_hash}
            head = struct.pack("<HH", number, self._schema(channel)) + _text(channel.topic) + _text("cdr")
            self._describe(CHANNEL, head + _texts(facts))
        return self._ids[key]

    def write(
        self,
        channel: int,
        log_time_ns: int,
        parts: Iterable[Buffer],
        *,
        publish_time_ns: int | None = None,
        sequence: int = 0,
    ) -> None:
        """Add a message, given as parts that are joined in the file; readers sort by log time.

        Args:
            channel: id of the topic.
            log_time_ns: time of reception.
            parts: serialised message.
            publish_time_ns: time of sending; the log time if None.
            sequence: number of the message at the sender.
        """
        data = [bytes(part) if len(part) < _LARGE_BYTES else part for part in parts]
        chunk, length = self._chunk, sum(map(len, data))
        chunk.index[channel].append((log_time_ns, chunk.size))
        chunk.start_ns, chunk.end_ns = min(chunk.start_ns, log_time_ns), max(chunk.end_ns, log_time_ns)
        published_ns = log_time_ns if publish_time_ns is None else publish_time_ns
        head = MESSAGE_HEAD.pack(channel, sequence, log_time_ns, published_ns)
        chunk.add(RECORD.pack(MESSAGE, MESSAGE_HEAD.size + length) + head)
        for part in data:
            chunk.add(part)

    def copy(self, message: StoredMessage) -> None:
        """Add an unchanged stored message as a separate group."""
        self.write(
            self.add_channel(message.channel),
            message.log_time_ns,
            [message.data],
            publish_time_ns=message.publish_time_ns,
            sequence=message.sequence,
        )
        self.end_group()

    def end_group(self) -> None:
        """Mark the messages so far as complete; chunks end only here."""
        if self._chunk.size >= _CHUNK_BYTES or any(isinstance(part, memoryview) for part in self._chunk.parts):
            self.flush()

    def flush(self, *, sync: bool = False, compress: bool = False) -> None:
        """Write the buffered messages; with `sync`, wait until they are on the disk.

        Args:
            sync: wait until everything is on the disk.
            compress: write the buffered messages with zstd at level 1, its fastest.
        """
        if self._chunk.index:
            self._write_chunk(compress)
        if sync:
            os.fdatasync(self._file.fileno())

    def write_metadata(self, name: str, values: Mapping[str, str]) -> None:
        """Write the buffered messages, and then a metadata record, which belongs to no topic."""
        self.flush()
        record, start = _record(METADATA, _text(name) + _texts(values)), self._end
        self._put([record])
        place = struct.pack("<QQ", start, len(record)) + _text(name)
        self._summary[METADATA_INDEX].append(_record(METADATA_INDEX, place))

    def close(self) -> None:
        """Write the rest and the index, and close the file."""
        self.flush()
        data_end = _record(DATA_END, struct.pack("<I", 0))
        summary, offsets, start = b"", b"", self._end + len(data_end)
        for kind, records in {**self._summary, STATISTICS: [self._statistics()]}.items():
            if group := b"".join(records):
                offsets += _record(SUMMARY_OFFSET, struct.pack("<BQQ", kind, start + len(summary), len(group)))
                summary += group
        footer = struct.pack("<BQQQ", FOOTER, 20, start, start + len(summary))
        checksum = struct.pack("<I", crc32(summary + offsets + footer))
        self._put([data_end, summary, offsets, footer, checksum, MAGIC])
        self._file.close()

    def abort(self) -> None:
        """Close the file without writing an index; does nothing after `close`."""
        self._file.close()

    def _schema(self, channel: StoredChannel) -> int:
        schema = (channel.type, channel.definition_format, channel.definition)
        if schema not in self._schemas:
            number = self._schemas[schema] = len(self._schemas) + 1
            self._describe(SCHEMA, struct.pack("<H", number) + b"".join(map(_text, schema)))
        return self._schemas[schema]

    def _describe(self, kind: int, content: bytes) -> None:
        record = _record(kind, content)
        self._summary[kind].append(record)
        self._chunk.add(record)

    def _write_chunk(self, compress: bool) -> None:
        chunk, self._chunk = self._chunk, _Chunk()
        parts, stored, compression = chunk.parts, chunk.size, ""
        if compress:
            compression = "zstd"
            parts = [zstd().compress(b"".join(parts), _LEVEL)]
            stored = len(parts[0])
        times, size = struct.pack("<QQ", chunk.start_ns, chunk.end_ns), struct.pack("<Q", chunk.size)
        form = _text(compression) + struct.pack("<Q", stored)
        head = times + size + struct.pack("<I", chunk.checksum) + form
        length = RECORD.size + len(head) + stored
        index, offsets, begin = b"", b"", self._end
        for channel, entries in chunk.index.items():
            offsets += struct.pack("<HQ", channel, begin + length + len(index))
            places = b"".join(struct.pack("<QQ", *entry) for entry in entries)
            index += _record(MESSAGE_INDEX, struct.pack("<H", channel) + _sized(places))
        self._put([RECORD.pack(CHUNK, len(head) + stored) + head, *parts, index])
        place = struct.pack("<QQ", begin, length) + _sized(offsets) + struct.pack("<Q", len(index))
        self._summary[CHUNK_INDEX].append(_record(CHUNK_INDEX, times + place + form + size))
        self.start_ns, self.end_ns = min(self.start_ns, chunk.start_ns), max(self.end_ns, chunk.end_ns)
        self.counts.update({channel: len(entries) for channel, entries in chunk.index.items()})

    def _put(self, parts: Iterable[Buffer]) -> None:
        """Write parts at the end of the file: all of them or, after an error, none."""
        try:
            small: list[Buffer] = []
            for part in parts:
                if len(part) < _LARGE_BYTES:
                    small.append(part)
                    continue
                self._put_all(b"".join(small))
                self._put_all(part)
                small = []
            self._put_all(b"".join(small))
        except OSError:
            with suppress(OSError):
                self._file.truncate(self._end)
                self._file.seek(self._end)
            raise
        self._end = self._file.tell()

    def _put_all(self, data: Buffer) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def _statistics(self) -> bytes:
        counts = b"".join(struct.pack("<HQ", channel, self.counts[channel]) for channel in self.channels)
        schemas, channels, chunks, metadata = (len(records) for records in self._summary.values())
        head = struct.pack("<QHIIII", self.counts.total(), schemas, channels, 0, metadata, chunks)
        times = struct.pack("<QQ", self.start_ns if self.counts else 0, self.end_ns)
        return _record(STATISTICS, head + times + _sized(counts))


def _record(kind: int, content: bytes) -> bytes:
    return RECORD.pack(kind, len(content)) + content


def _text(value: str) -> bytes:
    return _sized(value.encode())


def _texts(values: Mapping[str, str]) -> bytes:
    return _sized(b"".join(_text(key) + _text(value) for key, value in values.items()))


def _sized(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content
