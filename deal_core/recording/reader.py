"""Read recordings of any distribution: rosbag2 folders and single files, MCAP and sqlite3, also damaged ones."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from deal_core.errors import RecordingError
from deal_core.files import os_errors_as
from deal_core.recording.mcap_salvage import scan_mcap
from deal_core.recording.sqlite_salvage import journal, scan_sqlite
from deal_core.recording.stored_message import Damage, StoredMessage

if TYPE_CHECKING:
    from rosbags.rosbag2 import Reader

_SUFFIXES = (".mcap", ".db3")
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


def open_recording(path: Path | str) -> Recording:
    """Open a rosbag2 folder, a single `.mcap` or a single `.db3`.

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
        self.name = path.resolve().name if path.is_dir() else path.stem
        self.problems: list[str] = []
        self._sources = _open_sources(path, self.problems)
        self.topics = _join_topics(self._sources)
        if not any(topic.count for topic in self.topics):
            self.close()
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

    def close(self) -> None:
        """Close all files."""
        for source in self._sources:
            source.close()

    def __exit__(self, *error: object) -> None:
        self.close()


class _Source(Protocol):
    """One file, or one compressed folder, of a recording."""

    path: Path
    topics: list[Topic]

    def messages(self, topics: set[str]) -> Iterator[RawMessage]: ...
    def close(self) -> None: ...


class _SoundSource:
    """A file that `rosbags` reads."""

    def __init__(self, path: Path, reader: Reader, problems: list[str]) -> None:
        self.path = path
        self._reader = reader
        self._problems = problems
        self.topics = [Topic(c.topic, c.msgtype, c.msgcount) for c in reader.connections]

    def messages(self, topics: set[str]) -> Iterator[RawMessage]:
        connections = [c for c in self._reader.connections if c.topic in topics]
        if not connections:
            return
        # All messages before the last log time have been yielded; those at the last log time are remembered.
        last_time = -1
        last_messages: deque[RawMessage] = deque(maxlen=_SAME_INSTANT)
        # sqlite3 would also give messages that a running recorder has added since; see `_SalvagedSource`.
        stop = self._reader.end_time if self.path.suffix == ".db3" else None
        try:
            for connection, log_time, data in self._reader.messages(connections, stop=stop):
                message = RawMessage(connection.topic, connection.msgtype, log_time, bytes(data))
                if log_time != last_time:
                    last_time = log_time
                    last_messages.clear()
                last_messages.append(message)
                yield message
        except Exception as error:  # rosbags, lz4, zstd, sqlite and struct raise different errors
            self._problems.append(f"{self.path.name}: damaged after the message logged at {last_time} ns ({error})")
            if self.path.suffix in _SUFFIXES:
                for message in _scan(self.path, topics):
                    if stop is not None and message.log_time_ns >= stop:
                        continue
                    if message.log_time_ns > last_time or (
                        message.log_time_ns == last_time and message not in last_messages
                    ):
                        yield message

    def close(self) -> None:
        if self._reader.is_open:
            self._reader.close()


class _SalvagedSource:
    """A damaged file that is read record by record."""

    def __init__(self, path: Path, reason: str, problems: list[str]) -> None:
        self.path = path
        # A recorder may still be writing: a fixed size keeps the tags, which are read first, consistent with images.
        self._size = path.stat().st_size
        damage = Damage()
        counts = Counter((m.channel.topic, m.channel.type) for m in scan_file(path, damage, self._size))
        self.topics = [Topic(topic, kind, n) for (topic, kind), n in counts.items()]
        problems.append(f"{path.name}: damaged file, {damage}; {counts.total()} messages are readable ({reason})")

    def messages(self, topics: set[str]) -> Iterator[RawMessage]:
        return _scan(self.path, topics, self._size)

    def close(self) -> None:
        """Do nothing: no file stays open between scans."""


def scan_file(path: Path, damage: Damage, size: int | None = None) -> Iterator[StoredMessage]:
    """Yield the readable messages of a `.mcap` or `.db3` without its index; see `scan_mcap` and `scan_sqlite`."""
    return scan_mcap(path, damage, size) if path.suffix == ".mcap" else scan_sqlite(path, damage)


def _scan(path: Path, topics: set[str], size: int | None = None) -> Iterator[RawMessage]:
    for channel, log_time, _, _, data in scan_file(path, Damage(), size):
        if channel.topic in topics:
            yield RawMessage(channel.topic, channel.type, log_time, data)


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
        if path.suffix == ".bag":
            raise RecordingError(f"{path} is a ROS 1 bag: convert it first with `rosbags-convert --src {path} --dst …`")
        if path.suffix not in _SUFFIXES:
            raise RecordingError(f"{path} is not a recording: expected a rosbag2 folder, a .mcap or a .db3 file")
        return [path], {}
    with os_errors_as(RecordingError, f"{path} cannot be read as a rosbag2 folder"):
        inside = sorted(path.iterdir(), key=_natural)
    metadata = _read_metadata(path, problems)
    if metadata.get("compression_mode"):
        return [path], metadata
    # A recorder compresses a file when it begins the next one, but writes the metadata only at the end.
    problems += [
        f"{file.name} is compressed and left out: decompress it with `zstd -d {file}`"
        for file in inside
        if file.suffix == ".zstd" and Path(file.stem).suffix in _SUFFIXES and not file.with_suffix("").exists()
    ]
    files = _listed_files(path, metadata, problems) or [f for f in inside if f.suffix in _SUFFIXES and f.is_file()]
    if not files:
        found = ", ".join(sorted(f.name for f in inside)[:8]) or "nothing"
        raise RecordingError(f"{path} is not a recording: expected a .mcap or .db3 file in it, found {found}")
    return files, metadata


def _open_sources(path: Path, problems: list[str]) -> list[_Source]:
    files, metadata = bag_files(path, problems)
    if metadata.get("compression_mode"):
        # Decompression needs the metadata; rosbags decompresses a whole folder.
        return [_open_compressed(path, problems)]
    sources: list[_Source] = []
    errors = []
    for file in files:
        try:
            sources.append(_open_file(file, problems))
        except RecordingError as error:
            errors.append(error)
            problems.append(str(error))
    if not sources:
        raise errors[0]
    _check_promise(metadata, sources, problems)
    return sources


def _open_file(path: Path, problems: list[str]) -> _Source:
    log = journal(path) if path.suffix == ".db3" else None
    if not path.stat().st_size:
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
    reader = _open_reader(path)
    if isinstance(reader, str):
        return _SalvagedSource(path, reader, problems)
    return _SoundSource(path, reader, problems)


def _open_compressed(path: Path, problems: list[str]) -> _Source:
    reader = _open_reader(path)
    if isinstance(reader, str):
        raise RecordingError(
            f"{path} is a compressed recording that cannot be read: {reader}. "
            "If its files end in .zstd, decompress them with `zstd -d` and open the result"
        )
    return _SoundSource(path, reader, problems)


def _open_reader(path: Path) -> Reader | str:
    """Return rosbags' reader, or the reason why it cannot open the path."""
    from rosbags.rosbag2 import Reader

    reader = Reader(path)
    try:
        reader.open()
    except Exception as error:  # damaged files make rosbags and sqlite raise many kinds of errors
        return str(error) or type(error).__name__
    return reader


def _read_metadata(path: Path, problems: list[str]) -> dict[str, Any]:
    import yaml

    file = path / "metadata.yaml"
    if not file.exists():
        problems.append(
            "metadata.yaml is missing: the recorder did not finish, or is still running; its files are read without it"
        )
        return {}
    try:
        metadata = yaml.safe_load(file.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
        if not isinstance(metadata, dict):
            raise TypeError("not a mapping")
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        problems.append(f"metadata.yaml is damaged ({type(error).__name__}): the files are read without it")
        return {}
    return metadata


def _listed_files(path: Path, metadata: dict[str, Any], problems: list[str]) -> list[Path]:
    """Return the files that the metadata lists and that exist, in its order."""
    listed = metadata.get("relative_file_paths")
    names = [PurePosixPath(n).name for n in listed if isinstance(n, str)] if isinstance(listed, list) else []
    problems += [f"{name} is missing: metadata.yaml lists it" for name in names if not (path / name).is_file()]
    return [path / name for name in names if (path / name).is_file() and Path(name).suffix in _SUFFIXES]


def _check_promise(metadata: dict[str, Any], sources: list[_Source], problems: list[str]) -> None:
    promised = metadata.get("message_count")
    found = sum(topic.count for source in sources for topic in source.topics)
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
