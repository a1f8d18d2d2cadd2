"""Write an MCAP file that is never half-written for long: chunks go to disk whole, or are taken back.

`rosbags` can write MCAP, too, but copies each image five times and decides alone when a chunk is written. A recorder
on a robot needs to say "to the disk, now", and to keep what is there when the disk is full. Records:
https://mcap.dev/spec.
"""

from __future__ import annotations

import os
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from deal_core.data.mcap_salvage import MAGIC

Buffer = bytes | memoryview
"""What can be written without a copy: one-dimensional, of bytes."""

_HEADER, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX, _CHUNK_INDEX = range(0x01, 0x09)
_STATISTICS, _METADATA, _METADATA_INDEX, _SUMMARY_OFFSET, _DATA_END = 0x0B, 0x0C, 0x0D, 0x0E, 0x0F
_RECORD = struct.Struct("<BQ")
_MESSAGE_HEAD = struct.Struct("<HIQQ")
_LARGE_BYTES = 64 * 1024  # smaller parts are cheaper to join than to write one by one
_CHUNK_BYTES = 256 * 1024  # a reader unpacks one chunk at a time; a colour image is larger alone
_NEVER = 2**63 - 1


@dataclass(frozen=True)
class Channel:
    """A topic of the file; the schema's id is the channel's.

    Args:
        id: 1, 2, ...
        topic: its name.
        type: of its messages, as in `sensor_msgs/msg/Image`.
        definition: of the type, in the form `ros2msg`.
        type_hash: of the type (RIHS01).
    """

    id: int
    topic: str
    type: str
    definition: str
    type_hash: str


@dataclass
class _Chunk:
    """Messages that are not in the file yet."""

    parts: list[Buffer] = field(default_factory=list)
    size: int = 0
    start_ns: int = _NEVER
    end_ns: int = 0
    index: defaultdict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, part: Buffer) -> None:
        self.parts.append(part)
        self.size += len(part)


class McapWriter:
    """Write messages in chunks without compression, each chunk in one go.

    Large buffers are not copied: they must stay as they are until `end_group` returns.

    Args:
        path: the file to make; it must not exist.

    Attributes:
        counts: messages in the file by channel id, without those that are buffered.
        start_ns, end_ns: first and last log time in the file.

    Raises:
        OSError: from any method that writes. What was not written whole is taken back and lost: the file ends with
            its last whole chunk. After that only `close`, which writes the index if there is room, and `abort` make
            sense.
    """

    def __init__(self, path: Path) -> None:
        self.counts: Counter[int] = Counter()
        self.start_ns, self.end_ns = _NEVER, 0
        self._channels: list[Channel] = []
        self._chunk = _Chunk()
        self._chunk_index: list[bytes] = []
        self._file = path.open("xb", buffering=0)
        self._end = 0
        self._put([MAGIC, _record(_HEADER, _string("ros2") + _string("deal"))])

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The topics so far."""
        return tuple(self._channels)

    def add_channel(self, topic: str, kind: str, definition: str, type_hash: str) -> Channel:
        """Add a topic; its description goes into the chunk of its first message."""
        channel = Channel(len(self._channels) + 1, topic, kind, definition, type_hash)
        self._channels.append(channel)
        for record in _describe(channel):
            self._chunk.add(record)
        return channel

    def write(self, channel: Channel, log_time_ns: int, parts: Iterable[Buffer]) -> None:
        """Add a message, given as parts that are joined in the file."""
        data = [bytes(part) if len(part) < _LARGE_BYTES else part for part in parts]
        chunk, length = self._chunk, sum(map(len, data))
        chunk.index[channel.id].append((log_time_ns, chunk.size))
        chunk.start_ns, chunk.end_ns = min(chunk.start_ns, log_time_ns), max(chunk.end_ns, log_time_ns)
        head = _MESSAGE_HEAD.pack(channel.id, 0, log_time_ns, log_time_ns)
        chunk.add(_RECORD.pack(_MESSAGE, _MESSAGE_HEAD.size + length) + head)
        for part in data:
            chunk.add(part)

    def end_group(self) -> None:
        """Say that the messages so far belong together and are complete; a chunk ends nowhere else."""
        if self._chunk.size >= _CHUNK_BYTES or any(isinstance(part, memoryview) for part in self._chunk.parts):
            self.flush()

    def flush(self, *, sync: bool = False) -> None:
        """Write what is buffered; with `sync`, wait until it is on the disk and not only on its way."""
        if self._chunk.size:
            self._write_chunk()
        if sync:
            os.fdatasync(self._file.fileno())

    def close(self, metadata: str) -> None:
        """Write the rest and the index, and close the file.

        Args:
            metadata: of rosbag2, as its metadata.yaml.
        """
        self.flush()
        content = _string("serialized_metadata") + _string(metadata)
        record = _record(_METADATA, _string("rosbag2") + struct.pack("<I", len(content)) + content)
        place = struct.pack("<QQ", self._end, len(record)) + _string("rosbag2")
        data_end = _record(_DATA_END, struct.pack("<I", 0))
        groups = [
            (_SCHEMA, [_describe(channel)[0] for channel in self._channels]),
            (_CHANNEL, [_describe(channel)[1] for channel in self._channels]),
            (_CHUNK_INDEX, self._chunk_index),
            (_METADATA_INDEX, [_record(_METADATA_INDEX, place)]),
            (_STATISTICS, [self._statistics()]),
        ]
        start = at = self._end + len(record) + len(data_end)
        offsets = []
        for kind, records in groups:
            length = sum(map(len, records))
            if length:
                offsets.append(_record(_SUMMARY_OFFSET, struct.pack("<BQQ", kind, at, length)))
            at += length
        footer = _record(_FOOTER, struct.pack("<QQI", start, at, 0))
        summary = [part for _, records in groups for part in records]
        self._put([record, data_end, *summary, *offsets, footer, MAGIC])
        self._file.close()

    def abort(self) -> None:
        """Close the file as it is, without an index; does nothing after `close`."""
        self._file.close()

    def _write_chunk(self) -> None:
        chunk, self._chunk = self._chunk, _Chunk()
        head = struct.pack("<QQQI", chunk.start_ns, chunk.end_ns, chunk.size, 0) + _string("")
        length = len(head) + 8 + chunk.size
        offsets, index, begin = [], [], self._end
        at = begin + _RECORD.size + length
        for channel, entries in chunk.index.items():
            content = b"".join(struct.pack("<QQ", *entry) for entry in entries)
            record = _record(_MESSAGE_INDEX, struct.pack("<HI", channel, len(content)) + content)
            offsets.append(struct.pack("<HQ", channel, at))
            index.append(record)
            at += len(record)
        self._put([_RECORD.pack(_CHUNK, length) + head + struct.pack("<Q", chunk.size), *chunk.parts, *index])
        self._chunk_index.append(
            _record(
                _CHUNK_INDEX,
                struct.pack("<QQQQ", chunk.start_ns, chunk.end_ns, begin, _RECORD.size + length)
                + struct.pack("<I", 10 * len(offsets))
                + b"".join(offsets)
                + struct.pack("<Q", sum(map(len, index)))
                + _string("")
                + struct.pack("<QQ", chunk.size, chunk.size),
            )
        )
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
        counts = b"".join(struct.pack("<HQ", channel.id, self.counts[channel.id]) for channel in self._channels)
        channels, start = len(self._channels), 0 if self.start_ns == _NEVER else self.start_ns
        return _record(
            _STATISTICS,
            struct.pack("<QHIIII", self.counts.total(), channels, channels, 0, 1, len(self._chunk_index))
            + struct.pack("<QQI", start, self.end_ns, len(counts))
            + counts,
        )


def _describe(channel: Channel) -> tuple[bytes, bytes]:
    """Return the schema and the channel record."""
    schema = struct.pack("<H", channel.id) + _string(channel.type) + _string("ros2msg") + _string(channel.definition)
    qos = _string("offered_qos_profiles") + _string("")  # as rosbag2 of every distribution expects it
    head = struct.pack("<HH", channel.id, channel.id) + _string(channel.topic) + _string("cdr")
    return _record(_SCHEMA, schema), _record(_CHANNEL, head + struct.pack("<I", len(qos)) + qos)


def _record(kind: int, content: bytes) -> bytes:
    return _RECORD.pack(kind, len(content)) + content


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data
