"""Read recordings of any distribution: rosbag2 folders and single files, MCAP and sqlite3, also damaged ones."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections import Counter, deque
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from deal_core.errors import RecordingError
from deal_core.files import os_errors_as
from deal_core.limits import limit, require_file
from deal_core.recording.mcap_reader import McapFile, open_mcap
from deal_core.recording.mcap_salvage import scan_mcap
from deal_core.recording.mcap_writer import zstd
from deal_core.recording.sqlite_file import SqliteFile
from deal_core.recording.sqlite_salvage import journal, scan_sqlite
from deal_core.recording.stored_message import Damage, StoredMessage
from deal_core.text_formats import read_yaml

_SUFFIXES = (".mcap", ".db3")
_ROS1_MAGIC = b"#ROSBAG V"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # no message in CDR begins like this
_REPAIR = "`deal check --repair`"
_SAME_INSTANT = 16  # messages remembered to continue after damage; bounds the memory


@dataclass(frozen=True)
class Topic:
    """A topic of a recording."""

    name: str
    type: str
    count: int


class RawMessage(NamedTuple):
    """One serialised message; `log_time_ns` is the time of recording, not of acquisition."""

    topic: str
    type: str
    log_time_ns: int
    data: bytes


class MessageHead(NamedTuple):
    """The beginning of a serialised message, and the length of the whole."""

    topic: str
    type: str
    log_time_ns: int
    head: bytes
    length: int


def open_recording(path: Path | str) -> Recording:
    """Open a rosbag2 folder, a single `.mcap` or a single `.db3`; each may be compressed as a whole (`.zstd`).

    Partial damage is not an error: see `Recording.problems`.

    Raises:
        RecordingError: the path does not exist, is not a recording, or cannot be read at all.

    Example:
        >>> with open_recording("kitchen_1") as recording:  # doctest: +SKIP
        ...     for message in recording.messages(["/camera/camera/color/image_raw"]):
        ...         print(message.log_time_ns, len(message.data))
    """
    return Recording(Path(path))


class Recording(AbstractContextManager["Recording"]):
    """The messages of a recording; use it as a context manager, or call `close`.

    Attributes:
        path: folder or file.
        name: name without suffix.
        topics: topics, sorted by name.
        problems: descriptions of damage, one sentence each; reading may add some.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name if path.is_dir() else Path(path.stem if is_compressed(path) else path.name).stem
        self.problems: list[str] = []
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None
        self._sources = self._open_sources()
        self.topics = _join_topics(self._sources)
        if not any(topic.count for topic in self.topics):
            self.close()
            if foreign := sum((source.foreign for source in self._sources), Counter()):
                raise RecordingError(f"{path} contains {_foreign_text(foreign)}")
            found = f" ({'; '.join(self.problems)})" if self.problems else ""
            raise RecordingError(f"{path} contains no message{found}: was the camera running during the recording?")

    @property
    def folder(self) -> Path:
        """The folder of the bag's files."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def files(self) -> list[Path]:
        """The bag's data files."""
        return [source.path for source in self._sources]

    def count(self, topic: str) -> int:
        """Return the number of messages of a topic, 0 if it does not exist."""
        return next((t.count for t in self.topics if t.name == topic), 0)

    def messages(self, topics: Collection[str]) -> Iterator[RawMessage]:
        """Yield the messages of some topics in the order of recording, one file after the other.

        A damaged file is read as far as possible, and its damage is added to `problems`.
        """
        wanted = {t.name for t in self.topics if t.count} & set(topics)
        for source in self._sources:
            if wanted:
                yield from source.messages(wanted)

    def heads(self, topics: Collection[str], length: int) -> Iterator[MessageHead]:
        """Yield the first `length` bytes of the messages that `messages` gives, in the same order.

        This reads little more than these bytes of an uncompressed MCAP file, and does not verify its checksums: where
        they fail, `messages` gives fewer.
        """
        wanted = {t.name for t in self.topics if t.count} & set(topics)
        for source in self._sources:
            if wanted:
                yield from source.heads(wanted, length)

    def close(self) -> None:
        """Close all files."""
        for source in self._sources:
            source.close()
        if self._unpacked:
            self._unpacked.cleanup()

    def _open_sources(self) -> list[_Source]:
        files, metadata = bag_files(self.path, self.problems)
        sources: list[_Source] = []
        errors = []
        for file in files:
            try:
                sources.append(_open_file(self._unpack(file) if is_compressed(file) else file, file, self.problems))
            except RecordingError as error:
                errors.append(error)
                self.problems.append(str(error))
        if not sources:
            raise errors[0]
        _check_promise(metadata, sources, self.problems)
        return sources

    def _unpack(self, file: Path) -> Path:
        if self._unpacked is None:
            self._unpacked = tempfile.TemporaryDirectory(prefix="deal_")
        return unpack(file, Path(self._unpacked.name))

    def __exit__(self, *error: object) -> None:
        self.close()


class _Source(Protocol):
    """One file of a recording; `foreign` counts its messages that are not ROS 2's."""

    path: Path
    topics: list[Topic]
    foreign: Counter[str]

    def messages(self, topics: set[str]) -> Iterator[RawMessage]: ...
    def heads(self, topics: set[str], length: int) -> Iterator[MessageHead]: ...
    def close(self) -> None: ...


class _McapSource:
    """A whole MCAP file with an index."""

    def __init__(self, path: Path, file: McapFile, problems: list[str]) -> None:
        self.path = path
        self._file = file
        self._problems = problems
        summary = file.summary
        counts, channels = summary.counts or {}, summary.channels
        self.topics = [Topic(c.topic, c.type, counts.get(number, 0)) for number, c in channels.items() if c]
        self.foreign: Counter[str] = Counter()
        for number, count in counts.items():
            if count and channels[number] is None:
                self.foreign[summary.foreign[number]] += count

    def messages(self, topics: set[str]) -> Iterator[RawMessage]:
        for channel, log_time, data, _ in self._file.messages(topics):
            yield RawMessage(channel.topic, channel.type, log_time, plain(data))
        self._note_damage()

    def heads(self, topics: set[str], length: int) -> Iterator[MessageHead]:
        # The messages of a recording that was compressed message by message have to be unpacked as a whole.
        packed = any(m.data.startswith(_ZSTD_MAGIC) for m in islice(self._file.messages(topics, 4), 1))
        for channel, log_time, data, whole in self._file.messages(topics, None if packed else length):
            content = plain(data)
            size = len(content) if packed else whole
            yield MessageHead(channel.topic, channel.type, log_time, content[:length], size)
        self._note_damage()

    def _note_damage(self) -> None:
        for at, last_ns in self._file.damage.items():
            text = f"{self.path.name}: damaged after the message logged at {last_ns} ns: the chunk at byte {at} is lost"
            if text not in self._problems:
                self._problems.append(text)

    def close(self) -> None:
        self._file.close()


class _SqliteSource:
    """A whole `.db3` file with an index of times."""

    def __init__(self, path: Path, file: Path, content: SqliteFile, problems: list[str]) -> None:
        self.path = path
        self._file = file
        self._content = content
        self._problems = problems
        self.topics = [Topic(t.name, t.type, t.count) for t in content.topics]
        self.foreign: Counter[str] = Counter()

    def messages(self, topics: set[str]) -> Iterator[RawMessage]:
        # All messages before the last log time have been yielded; those at the last log time are remembered.
        last_time = -1
        last_messages: deque[RawMessage] = deque(maxlen=_SAME_INSTANT)
        try:
            for topic, log_time, data in self._content.messages(topics):
                message = RawMessage(topic.name, topic.type, log_time, plain(data))
                if log_time != last_time:
                    last_time = log_time
                    last_messages.clear()
                last_messages.append(message)
                yield message
        except sqlite3.Error as error:
            text = f"{self.path.name}: damaged after the message logged at {last_time} ns ({error})"
            if text not in self._problems:
                self._problems.append(text)
            for message in _scan(self._file, topics):
                if message.log_time_ns > self._content.end_ns:
                    continue
                if message.log_time_ns > last_time or (
                    message.log_time_ns == last_time and message not in last_messages
                ):
                    yield message

    def heads(self, topics: set[str], length: int) -> Iterator[MessageHead]:
        return _heads_of(self.messages(topics), length)

    def close(self) -> None:
        self._content.close()


class _ScannedSource:
    """A file that is read record by record: a damaged one, or a whole MCAP file that lacks a part of its index."""

    def __init__(self, path: Path, file: Path, reason: str, problems: list[str]) -> None:
        self.path = path
        self._file = file
        # A recorder may still be writing: a fixed size keeps the tags, which are read first, consistent with images.
        self._size = file.stat().st_size
        damage = Damage()
        counts = Counter((m.channel.topic, m.channel.type) for m in scan_file(file, damage, self._size, head=0))
        self.topics = [Topic(topic, kind, n) for (topic, kind), n in counts.items()]
        self.foreign = damage.foreign
        if damage.places or not damage.is_finished:
            text = f"{path.name}: damaged file, {damage}; {counts.total()} messages are readable"
            problems.append(text + (f" ({reason})" if reason else ""))

    def messages(self, topics: set[str]) -> Iterator[RawMessage]:
        return _scan(self._file, topics, self._size)

    def heads(self, topics: set[str], length: int) -> Iterator[MessageHead]:
        for channel, log_time, _, _, data, whole in scan_file(self._file, Damage(), self._size, head=length):
            if channel.topic not in topics:
                continue
            if data.startswith(_ZSTD_MAGIC):
                yield from _heads_of(self.messages(topics), length)
                return
            yield MessageHead(channel.topic, channel.type, log_time, data[:length], whole or len(data))

    def close(self) -> None:
        """Do nothing: no file stays open between scans."""


def plain(data: bytes) -> bytes:
    """Return a message, unpacked if a recorder compressed each message by itself.

    One that cannot be unpacked, or would exceed the limit of a message, stays as it is, which is no message in CDR.
    """
    if not data.startswith(_ZSTD_MAGIC):
        return data
    most = limit("message_bytes")
    try:
        decompressor = zstd().ZstdDecompressor()
        unpacked = bytes(decompressor.decompress(data, most))
    except (zstd().ZstdError, ValueError, MemoryError):
        return data
    return unpacked if decompressor.eof else data


def is_compressed(file: Path) -> bool:
    """Return whether a file of a recording is compressed as a whole, as in `bag_0.mcap.zstd`."""
    return file.suffix in (".zstd", ".zst") and Path(file.stem).suffix in _SUFFIXES


def unpack(file: Path, folder: Path) -> Path:
    """Decompress a file of a recording to a folder; return the new file.

    Raises:
        RecordingError: the file is damaged, or the folder has no space.
    """
    unpacked = folder / file.stem
    try:
        require_file(file)
        with file.open("rb") as packed, zstd().open(packed, "rb") as content, unpacked.open("wb") as out:
            shutil.copyfileobj(content, out, 2**20)
    except Exception as error:  # OSError, EOFError, ZstdError
        unpacked.unlink(missing_ok=True)
        raise RecordingError(
            f"{file.name} is compressed and left out: decompress it with `zstd -d {file}` ({error})"
        ) from error
    return unpacked


def scan_file(
    path: Path, damage: Damage, size: int | None = None, *, head: int | None = None
) -> Iterator[StoredMessage]:
    """Yield the readable messages of a `.mcap` or `.db3` without its index; see `scan_mcap` and `scan_sqlite`."""
    return scan_mcap(path, damage, size, head=head) if path.suffix == ".mcap" else scan_sqlite(path, damage)


def _scan(path: Path, topics: set[str], size: int | None = None) -> Iterator[RawMessage]:
    for channel, log_time, _, _, data, _ in scan_file(path, Damage(), size):
        if channel.topic in topics:
            yield RawMessage(channel.topic, channel.type, log_time, plain(data))


def _heads_of(messages: Iterator[RawMessage], length: int) -> Iterator[MessageHead]:
    for topic, kind, log_time, data in messages:
        yield MessageHead(topic, kind, log_time, data[:length], len(data))


def bag_files(path: Path, problems: list[str]) -> tuple[list[Path], dict[str, Any]]:
    """Return the data files of a recording in order, and the content of its metadata.yaml.

    Args:
        path: rosbag2 folder, `.mcap` or `.db3`.
        problems: list to which problems of the folder are added.

    Raises:
        RecordingError: the path does not exist, or is not a recording.
    """
    if not path.exists():
        raise RecordingError(f"{path} does not exist: expected a rosbag2 folder, a .mcap or a .db3 file")
    if path.is_file():
        if path.suffix == ".bag" or _has_ros1_magic(path):
            raise RecordingError(_ros1_text(path))
        if path.suffix not in _SUFFIXES and not is_compressed(path):
            raise RecordingError(f"{path} is not a recording: expected a rosbag2 folder, a .mcap or a .db3 file")
        return [path], {}
    with os_errors_as(RecordingError, f"{path} cannot be read as a rosbag2 folder"):
        inside = sorted(path.iterdir(), key=_natural)
    metadata = _read_metadata(path, inside, problems)
    files = _listed_files(path, metadata, problems) or [f for f in inside if f.suffix in _SUFFIXES and f.is_file()]
    # A recorder compresses a file when it begins the next one, but writes the metadata only at the end.
    files += [f for f in inside if is_compressed(f) and f not in files and not f.with_suffix("").exists()]
    if not files:
        if old := [file for file in inside if file.suffix == ".bag"]:
            raise RecordingError(_ros1_text(old[0]))
        found = ", ".join(sorted(f.name for f in inside)[:8]) or "nothing"
        raise RecordingError(f"{path} is not a recording: expected a .mcap or .db3 file in it, found {found}")
    return sorted(files, key=_natural) if not metadata else files, metadata


def _open_file(file: Path, path: Path, problems: list[str]) -> _Source:
    """Open a data file; `path` is the compressed one that it was unpacked from, or the same."""
    log = journal(file) if file.suffix == ".db3" else None
    if not file.stat().st_size:
        raise RecordingError(
            f"{path} is empty (0 bytes): "
            + (
                f"its messages are still in {log.name}, and {_REPAIR} restores them"
                if log
                else "the recorder wrote nothing; record again"
            )
        )
    if log:
        problems.append(
            f"{path.name}: the recorder was killed, its last messages are still in {log.name}; {_REPAIR} restores them"
        )
    if file.suffix == ".mcap":
        with os_errors_as(RecordingError, f"{path} cannot be read"):
            indexed = open_mcap(file)
        return _McapSource(path, indexed, problems) if indexed else _ScannedSource(path, file, "", problems)
    try:
        return _SqliteSource(path, file, SqliteFile(file), problems)
    except sqlite3.Error as error:
        return _ScannedSource(path, file, str(error), problems)


def _has_ros1_magic(path: Path) -> bool:
    with os_errors_as(RecordingError, f"{path} cannot be read"), path.open("rb") as file:
        return file.read(len(_ROS1_MAGIC)) == _ROS1_MAGIC


def _ros1_text(path: Path) -> str:
    return (
        f"{path} is a ROS 1 bag: convert it first with `rosbags-convert --src {path} --dst …`; if the RealSense Viewer "
        "recorded it, `deal collect --from` reads it"
    )


def _foreign_text(foreign: Counter[str]) -> str:
    """Return what messages of other systems are, and what to do with them."""
    found = ", ".join(f"{count} messages in {encoding}" for encoding, count in foreign.items())
    if "ros1" in foreign:
        return (
            f"ROS 1 messages ({found}), expected ROS 2: convert the .bag that it was made from with "
            "`rosbags-convert --src … --dst …`"
        )
    return (
        f"no ROS 2 message ({found}), expected CDR: record the topics with `ros2 bag record`, or convert a ROS 1 .bag "
        "with `rosbags-convert --src … --dst …`"
    )


def _read_metadata(path: Path, inside: list[Path], problems: list[str]) -> dict[str, Any]:
    file = path / "metadata.yaml"
    if not file.exists():
        if not any(f.suffix in _SUFFIXES or is_compressed(f) for f in inside):
            return {}  # not a recording at all
        problems.append(
            "metadata.yaml is missing: the recorder did not finish, or is still running; its files are read without it"
        )
        return {}
    try:
        metadata = read_yaml(file)["rosbag2_bagfile_information"]
        if not isinstance(metadata, dict):
            raise TypeError("not a mapping")
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(f"metadata.yaml is damaged ({type(error).__name__}): the files are read without it")
        return {}
    return metadata


def _listed_files(path: Path, metadata: dict[str, Any], problems: list[str]) -> list[Path]:
    """Return the files that the metadata lists and that exist, in its order.

    Somebody may have compressed or decompressed them since.
    """
    listed = metadata.get("relative_file_paths")
    files = []
    for name in (PurePosixPath(n).name for n in listed if isinstance(n, str)) if isinstance(listed, list) else ():
        file = path / name
        forms = [file, *([file.with_suffix("")] if is_compressed(file) else [path / f"{name}.zstd"])]
        found = next((form for form in forms if form.is_file()), None)
        if found is None:
            problems.append(f"{name} is missing: metadata.yaml lists it")
        elif found.suffix in _SUFFIXES or is_compressed(found):
            files.append(found)
    return files


def _check_promise(metadata: dict[str, Any], sources: list[_Source], problems: list[str]) -> None:
    promised = metadata.get("message_count")
    found = sum(sum(topic.count for topic in source.topics) + source.foreign.total() for source in sources)
    if isinstance(promised, int) and found < promised:
        problems.append(f"metadata.yaml promises {promised} messages, the files contain {found}")


def _join_topics(sources: list[_Source]) -> list[Topic]:
    joined: dict[str, Topic] = {}
    for topic in (topic for source in sources for topic in source.topics):
        before = joined.get(topic.name)
        joined[topic.name] = topic if before is None else replace(before, count=before.count + topic.count)
    return [joined[name] for name in sorted(joined)]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Order bag_2 before bag_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]
