"""Make a recording whole that was cut off: a new recording of everything that can be read of the damaged one."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from deal_core.errors import RecordingError, UsageError
from deal_core.files import replacing_folder
from deal_core.recording.mcap_writer import McapWriter
from deal_core.recording.reader import bag_files, open_recording, scan_file
from deal_core.recording.sqlite_salvage import copy_with_journal, journal
from deal_core.recording.stored_message import Damage, StoredChannel, StoredMessage
from deal_core.recording.writer import GROUND_TRUTH, finish_bag

_OF_THE_BAG = re.compile(r"^metadata\.yaml$|\.(mcap|db3)(\.zstd|-wal|-shm|-journal)?$")
# What a killed process leaves: `kitchen_1.partial` of a recorder, `.kitchen_1.1f0e2d3c.tmp` of others.
_TEMPORARY = re.compile(r"^\.(?P<hidden>.+)\.[^.]+\.tmp$|^(?P<partial>.+)\.partial$")


@dataclass(frozen=True)
class Repair:
    """The outcome of a repair; plain values, so that it is its own JSON.

    Attributes:
        path: the damaged recording, which is left as it is.
        out: the new one; None where nothing was wrong.
        messages: saved, by topic; of a whole recording, all.
        lost_messages: that are known to be lost; where a compressed chunk was cut, there may be more.
        lost_bytes: bytes of MCAP files that make no sense, or lie behind the place where a file is cut.
        broken_chunks: chunks of MCAP files that do not decompress, or fail their checksum.
        problems: what was wrong and where, one sentence each.
    """

    path: str
    out: str | None
    messages: dict[str, int] = field(default_factory=dict)
    lost_messages: int = 0
    lost_bytes: int = 0
    broken_chunks: int = 0
    problems: list[str] = field(default_factory=list)


def repair_recording(
    path: Path,
    out: Path | None = None,
    *,
    on_message: Callable[[], None] | None = None,
) -> Repair:
    """Write what can be read of a damaged recording as a new, whole one: a rosbag2 folder with an indexed MCAP file.

    All topics are kept, every complete message bit for bit, and what lies beside the bag's files. The damaged
    recording is not touched. Memory does not grow with the recording. The new one is written to a hidden folder and
    renamed at the end; on any failure nothing is left behind.

    Args:
        path: a recording of any kind; also the folder that a killed recorder leaves under its temporary name.
        out: the folder to make, which must not exist; beside `path`, with `_repaired` at the end of its name, if None.
        on_message: called for each message read.

    Returns:
        What was saved and what was lost. Nothing is written if the recording is whole: its messages can all be read,
        by its index, and are as many as its metadata says.

    Raises:
        RecordingError: nothing can be saved, `out` exists or cannot be written, or the recorder compressed the files.
        UsageError: `out` lies inside the damaged recording.
    """
    out = out or _default_out(path)
    reason, counts = _what_is_wrong(path, on_message)
    if reason is None:
        return Repair(str(path), None, dict(counts))
    if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
        raise UsageError(f"--out {out} lies inside the damaged recording {path}, which is left as it is: name another")
    if out.exists() or out.is_symlink():
        raise RecordingError(f"{out} exists already: choose another name with --out, or remove it first")
    try:
        with replacing_folder(out) as folder:
            return _write(path, folder, out, reason, on_message)
    except OSError as error:
        raise RecordingError(f"{out} cannot be written: {error.strerror or error}; nothing is kept of it") from error


def _default_out(path: Path) -> Path:
    """Return `kitchen_1_repaired` beside `kitchen_1`, or beside what was to become it."""
    path = path.resolve()
    name = path.name if path.is_dir() else path.stem
    if match := _TEMPORARY.match(name):
        name = match["hidden"] or match["partial"]
    return path.with_name(f"{name}_repaired")


def _what_is_wrong(path: Path, on_message: Callable[[], None] | None) -> tuple[str | None, Counter[str]]:
    """Return the first thing that is wrong with a recording, None if it is whole, and its messages by topic."""
    counts: Counter[str] = Counter()
    try:
        with open_recording(path) as recording:
            if not recording.problems:
                for message in recording.messages([topic.name for topic in recording.topics]):
                    counts[message.topic] += 1
                    if on_message:
                        on_message()
            return (recording.problems[0] if recording.problems else None), counts
    except RecordingError as error:
        return str(error), counts


def _write(path: Path, folder: Path, out: Path, reason: str, on_message: Callable[[], None] | None) -> Repair:
    """Write the new recording to `folder`, which becomes `out`."""
    problems: list[str] = []
    files, metadata = bag_files(path, problems)
    if mode := metadata.get("compression_mode"):
        raise RecordingError(
            f"{path} was compressed by the recorder (compression_mode: {mode}) and is damaged ({reason}): decompress "
            "its files with `zstd -d`, remove metadata.yaml, and repair the result"
        )
    found = Damage()
    with McapWriter(folder / f"{out.name}_0.mcap") as writer:
        for file in files:
            for message in _readable(file, folder, found, problems):
                writer.copy(message)
                if on_message:
                    on_message()
        custom = metadata.get("custom_data")
        finish_bag(
            writer,
            ros_distro=str(metadata.get("ros_distro", "")),
            custom_data=custom if isinstance(custom, dict) else None,
        )
    saved = writer.counts.total()
    if not saved:
        raise RecordingError(f"{path}: nothing can be saved, no message is complete ({'; '.join(problems) or reason})")
    if isinstance(promised := metadata.get("message_count"), int):
        found.lost_messages = max(found.lost_messages, promised - saved)
    _copy_the_rest(path, folder)
    messages: Counter[str] = Counter()
    for number, count in writer.counts.items():
        messages[writer.channels[number].topic] += count
    return Repair(
        str(path),
        str(out),
        messages={topic: messages[topic] for topic in sorted(messages)},
        lost_messages=found.lost_messages,
        lost_bytes=found.lost_bytes,
        broken_chunks=found.broken_chunks,
        problems=problems or [reason],
    )


def _readable(file: Path, folder: Path, found: Damage, problems: list[str]) -> Iterator[StoredMessage]:
    """Yield the messages of a file; add to what is found damaged, and say it."""
    damage = Damage()
    log = journal(file) if file.suffix == ".db3" else None
    complete: dict[StoredChannel, StoredChannel] = {}
    with tempfile.TemporaryDirectory(dir=folder) as copies:
        try:
            for message in scan_file(copy_with_journal(file, Path(copies)) if log else file, damage):
                channel = message.channel
                if channel not in complete:
                    complete[channel] = _complete(channel)
                yield message._replace(channel=complete[channel])
        except RecordingError as error:
            problems.append(str(error))
    if log:
        problems.append(f"{file.name}: the recorder was killed, the messages in {log.name} are brought back")
    if damage.places:
        problems.append(f"{file.name}: {damage}")
    found.lost_messages += damage.lost_messages
    found.lost_bytes += damage.lost_bytes
    found.broken_chunks += damage.broken_chunks


def _complete(channel: StoredChannel) -> StoredChannel:
    """Return a channel with QoS that every distribution reads, and a definition if rosbags knows the type."""
    from rosbags.rosbag2.metadata import dump_qos_v8, parse_qos
    from rosbags.typesys import Stores, TypesysError, get_typestore

    try:
        qos = dump_qos_v8(parse_qos(channel.qos))
    except Exception:  # not YAML, or not of QoS: every kind of error; players then take their default
        qos = ""
    channel = replace(channel, qos=qos)
    if channel.definition_format:
        return channel
    try:
        definition, _ = get_typestore(Stores.ROS2_HUMBLE).generate_msgdef(channel.type, ros_version=2)
    except TypesysError:
        return channel
    return replace(channel, definition_format="ros2msg", definition=definition)


def _copy_the_rest(path: Path, folder: Path) -> None:
    """Copy what lies beside the bag's files; beside a bare file, the drawn masks alone."""
    beside = path.iterdir() if path.is_dir() else [path.with_name(GROUND_TRUTH)]
    for file in beside:
        if file.is_dir() and not file.is_symlink():
            shutil.copytree(file, folder / file.name, symlinks=True)
        elif file.exists() and not _OF_THE_BAG.search(file.name):
            shutil.copy2(file, folder / file.name, follow_symlinks=False)
