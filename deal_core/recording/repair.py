"""Repair a damaged recording: write its readable messages as a new, whole recording."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from deal_core.errors import RecordingError, UsageError
from deal_core.files import replacing_folder, why_not
from deal_core.ownership import NEW, remove_left_of
from deal_core.recording.mcap_writer import McapWriter
from deal_core.recording.reader import bag_files, is_compressed, open_recording, plain, scan_file, unpack
from deal_core.recording.sqlite_salvage import copy_with_journal, journal
from deal_core.recording.stored_message import Damage, StoredChannel, StoredMessage
from deal_core.recording.writer import GROUND_TRUTH, finish_bag, message_types

_OF_THE_BAG = re.compile(r"^metadata\.yaml$|\.(mcap|db3)(\.zstd|-wal|-shm|-journal)?$")
# Folders that a killed process leaves: `kitchen_1.partial` of a recorder, `.kitchen_1.tmp/new` of others; in version
# 0.1.0 `.kitchen_1.1f0e2d3c.tmp`.
_TEMPORARY = re.compile(r"^\.(?P<hidden>.+?)(\.[0-9a-f]{8}|\.\d+)?\.tmp$|^(?P<partial>.+)\.partial$")


@dataclass(frozen=True)
class Repair:
    """The outcome of a repair; plain values that are written as JSON.

    Attributes:
        path: damaged recording, which does not change.
        out: new recording; None if nothing was wrong.
        messages: number of saved messages by topic; all messages of a whole recording.
        lost_messages: number of messages known to be lost; truncated compressed chunks may have lost more.
        lost_bytes: number of invalid or missing bytes in MCAP files.
        broken_chunks: number of chunks in MCAP files that do not decompress, or fail their checksum.
        problems: descriptions of the damage, one sentence each.
    """

    path: str
    out: str | None
    messages: dict[str, int] = field(default_factory=dict)
    lost_messages: int = 0
    lost_bytes: int = 0
    broken_chunks: int = 0
    problems: list[str] = field(default_factory=list)


def repair_recording(path: Path, out: Path | None = None, *, on_message: Callable[[], object] = lambda: None) -> Repair:
    """Write the readable messages of a damaged recording as a new rosbag2 folder with an indexed MCAP file.

    All topics, every complete message bit for bit, and other files in the folder are kept. The damaged recording does
    not change. Memory does not grow with the recording. The new one is written to a hidden folder and renamed at the
    end; a failure leaves nothing.

    Args:
        path: recording of any kind; also the temporary folder of a killed recorder.
        out: folder to create, which must not exist; if None, beside `path` with the suffix `_repaired`.
        on_message: called after each message.

    Returns:
        The saved and lost messages. Nothing is written if the recording is whole: its index reads all messages, and
        their number agrees with the metadata.

    Raises:
        RecordingError: no message can be saved, or `out` exists or is not writable.
        UsageError: `out` is inside the damaged recording.
    """
    out = out or _default_out(path)
    reason, counts = _what_is_wrong(path, on_message)
    if reason is None:
        return Repair(str(path), None, dict(counts))
    if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
        raise UsageError(f"--out {out} is inside the damaged recording {path}: choose a folder outside it")
    remove_left_of(out)
    if out.exists() or out.is_symlink():
        raise RecordingError(f"{out} exists already: choose another name with --out, or remove it first")
    try:
        with replacing_folder(out) as folder:
            return _write(path, folder, out, reason, on_message)
    except OSError as error:
        raise RecordingError(f"{out} cannot be written: {why_not(error)}; nothing is kept of it") from error


def _default_out(path: Path) -> Path:
    """Return `kitchen_1_repaired` beside `kitchen_1`, or beside its temporary folder."""
    path = path.resolve()
    if path.name == NEW and _TEMPORARY.match(path.parent.name):
        path = path.parent
    name = path.name if path.is_dir() else path.stem
    if match := _TEMPORARY.match(name):
        name = match["hidden"] or match["partial"]
    return path.with_name(f"{name}_repaired")


def _what_is_wrong(path: Path, on_message: Callable[[], object]) -> tuple[str | None, Counter[str]]:
    """Return the first problem of a recording, None if it is whole, and its messages by topic."""
    counts: Counter[str] = Counter()
    try:
        with open_recording(path) as recording:
            if not recording.problems:
                for message in recording.messages([topic.name for topic in recording.topics]):
                    counts[message.topic] += 1
                    on_message()
            return (recording.problems[0] if recording.problems else None), counts
    except RecordingError as error:
        return str(error), counts


def _write(path: Path, folder: Path, out: Path, reason: str, on_message: Callable[[], object]) -> Repair:
    """Write the new recording to `folder`, which becomes `out`."""
    problems: list[str] = []
    files, metadata = bag_files(path, problems)
    found = Damage()
    with McapWriter(folder / f"{out.name}_0.mcap") as writer:
        for file in files:
            for message in _readable(file, folder, found, problems):
                writer.copy(message)
                on_message()
        custom = metadata.get("custom_data")
        facts = custom if isinstance(custom, dict) else None
        finish_bag(writer, ros_distro=str(metadata.get("ros_distro", "")), custom_data=facts)
    saved = writer.counts.total()
    if not saved:
        raise RecordingError(
            f"{path}: nothing can be saved, because no message is complete ({'; '.join(problems) or reason})"
        )
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
    """Yield the messages of a file, and add its damage to `found` and `problems`."""
    damage = Damage()
    log = journal(file) if file.suffix == ".db3" else None
    complete: dict[StoredChannel, StoredChannel] = {}
    with tempfile.TemporaryDirectory(dir=folder) as copies:
        try:
            content = copy_with_journal(file, Path(copies)) if log else file
            if is_compressed(file):
                content = unpack(file, Path(copies))
            for message in scan_file(content, damage):
                channel = message.channel
                if channel not in complete:
                    complete[channel] = _complete(channel)
                yield message._replace(channel=complete[channel], data=plain(message.data))
        except RecordingError as error:
            problems.append(str(error))
    if log:
        problems.append(f"{file.name}: the recorder was killed, the messages in {log.name} are restored")
    if damage.places:
        problems.append(f"{file.name}: {damage}")
    for encoding, count in damage.foreign.items():
        problems.append(f"{file.name}: {count} messages in {encoding} are left out, because they are not ROS 2's")
    found.lost_messages += damage.lost_messages
    found.lost_bytes += damage.lost_bytes
    found.broken_chunks += damage.broken_chunks


def _complete(channel: StoredChannel) -> StoredChannel:
    """Return the channel with QoS for all distributions, and a definition if rosbags knows the type."""
    from rosbags.rosbag2.metadata import dump_qos_v8, parse_qos
    from rosbags.typesys import TypesysError

    try:
        qos = dump_qos_v8(parse_qos(channel.qos))
    except Exception:  # not YAML or not QoS, with many kinds of errors; players then use their default
        qos = ""
    channel = replace(channel, qos=qos)
    if channel.definition_format:
        return channel
    try:
        definition, _ = message_types().generate_msgdef(channel.type, ros_version=2)
    except TypesysError:
        return channel
    return replace(channel, definition_format="ros2msg", definition=definition)


def _copy_the_rest(path: Path, folder: Path) -> None:
    """Copy the other files of the folder; for a single file, only the drawn masks."""
    beside = path.iterdir() if path.is_dir() else [path.with_name(GROUND_TRUTH)]
    for file in beside:
        is_folder = file.is_dir() and not file.is_symlink()
        if is_folder or (file.exists() and not _OF_THE_BAG.search(file.name)):
            _copy(file, folder / file.name)


def _copy(source: Path, target: Path) -> None:
    """Copy a file, a link or a folder; unlike `shutil.copytree`, stop at the first error."""
    if source.is_dir() and not source.is_symlink():
        target.mkdir()
        for entry in source.iterdir():
            _copy(entry, target / entry.name)
    else:
        shutil.copy2(source, target, follow_symlinks=False)
