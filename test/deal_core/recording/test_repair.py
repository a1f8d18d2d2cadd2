"""Making recordings whole: what is saved of every kind of damage, against an independent reading of the sound file."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import pytest
import yaml
from helpers.paths import PROJECT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deal_core.dataset.check import check_recording
from deal_core.errors import RecordingError, UsageError
from deal_core.recording.mcap_salvage import scan_mcap
from deal_core.recording.mcap_writer import McapWriter
from deal_core.recording.reader import open_recording
from deal_core.recording.repair import Repair, repair_recording
from deal_core.recording.stored_message import Damage, StoredChannel, StoredMessage

QOS_OF_JAZZY = """- history: keep_last
  depth: 5
  reliability: best_effort
  durability: volatile
  deadline: {sec: 9223372036, nsec: 854775807}
  lifespan: {sec: 9223372036, nsec: 854775807}
  liveliness: automatic
  liveliness_lease_duration: {sec: 9223372036, nsec: 854775807}
  avoid_ros_namespace_conventions: false"""


class Message(NamedTuple):
    """What is compared."""

    topic: str
    type: str
    time: int
    data: bytes


@pytest.fixture
def bag(new_bag: Callable[[], Any]) -> Any:
    """Forty incompressible messages of 100 kB: several chunks of a MCAP file."""
    made = new_bag()
    for index in range(40):
        made.text("/a" if index % 2 else "/b", 1000 + index, np.random.default_rng(index).bytes(50_000).hex())
    return made


def written(bag: Any) -> list[Message]:
    return [Message(*message) for message in bag.messages]


def read(path: Path) -> list[Message]:
    """Read a recording with rosbags, as it comes by its index."""
    from rosbags.highlevel import AnyReader

    with AnyReader([path]) as reader:
        return [Message(c.topic, c.msgtype, time, bytes(data)) for c, time, data in reader.messages()]


def assert_whole(path: Path, expected: list[Message]) -> None:
    """Expect a sound recording of exactly these messages, in the order of time, and its own counts to agree."""
    assert read(path) == sorted(expected, key=lambda m: m.time)
    with open_recording(path) as recording:
        assert recording.problems == [] and {t.name for t in recording.topics} == {m.topic for m in expected}
    information = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    times = [m.time for m in expected]
    assert information["message_count"] == len(expected)
    assert information["starting_time"]["nanoseconds_since_epoch"] == min(times)
    assert information["duration"]["nanoseconds"] == max(times) - min(times)
    assert information["version"] == 8
    assert repair_recording(path).out is None


def content(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def chunks(file: Path) -> list[tuple[int, int, int, str]]:
    """Return (first byte, first byte after, first byte of its records, compression) of each chunk of a sound file."""
    found, data, at = [], file.read_bytes(), 8
    while data[at] != 0x02:
        after = at + 9 + struct.unpack_from("<Q", data, at + 1)[0]
        if data[at] == 0x06:
            length = struct.unpack_from("<I", data, at + 37)[0]
            found.append((at, after, at + 49 + length, data[at + 41 : at + 41 + length].decode()))
        at = after
    return found


def ends(file: Path, messages: list[Message]) -> list[tuple[int, Message]]:
    """Return with each message the length of the shortest file that holds it: independent of the scan."""
    data = file.read_bytes()
    if not chunks(file)[0][3]:
        return [(data.index(m.data) + len(m.data), m) for m in messages]
    parts = [(after, decompress(data[first:after], form)) for _, after, first, form in chunks(file)]
    return [(after, m) for after, records in parts for m in messages if m.data in records]


def decompress(data: bytes, form: str) -> bytes:
    from rosbags.rosbag2.storage_mcap import DECOMPRESSORS

    return DECOMPRESSORS[form](bytes(data), 0)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cut_anywhere_gives_exactly_the_complete_messages(
    data: st.DataObject, new_bag: Callable[[], Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    bag = new_bag()
    for index in range(14):
        text = np.random.default_rng(index).bytes(100 if index % 3 else 150_000).hex()
        bag.text("/a" if index % 2 else "/b", 1000 + index, text)
    path = bag.save(folder / "bag", "mcap", data.draw(st.sampled_from(["none", "storage", "lz4"])))
    file = path / "bag.mcap"
    expected = ends(file, written(bag))
    assert len(expected) == 14 and len(chunks(file)) > 1
    cut = data.draw(st.integers(expected[0][0], file.stat().st_size - 1))
    os.truncate(file, cut)
    before = content(path)
    if data.draw(st.booleans()):
        (path / "metadata.yaml").unlink()
        del before["metadata.yaml"]
    repair = repair_recording(path)
    saved = [message for end, message in expected if end <= cut]
    assert_whole(folder / "bag_repaired", saved)
    assert repair.out == str(folder / "bag_repaired") and repair.problems
    assert repair.messages == {t: n for t in ("/a", "/b") if (n := sum(m.topic == t for m in saved))}
    assert repair.lost_messages <= 14 - len(saved)
    assert repair.lost_messages == 14 - len(saved) or "metadata.yaml" not in before, "metadata says how many there were"
    assert content(path) == before, "the damaged recording is left as it is"
    assert {p.name for p in folder.iterdir()} == {"bag", "bag_repaired"}
    shutil.rmtree(folder)


@pytest.mark.parametrize("compression", ["none", "storage", "lz4"])
@pytest.mark.parametrize("number", [0, 1, -1])
def test_flipped_bits_lose_one_chunk_and_say_how_much(bag: Any, tmp_path: Path, compression: str, number: int) -> None:
    path = bag.save(tmp_path / "bag", "mcap", compression)
    file = path / "bag.mcap"
    expected = ends(file, written(bag))
    found = chunks(file)
    start, after, first, _ = found[number]
    data = bytearray(file.read_bytes())
    for begin, end, records, form in found:  # rosbags writes no checksum, recorders do
        struct.pack_into("<I", data, begin + 33, crc32(decompress(data[records:end], form)))
    assert found[0][3] == {"none": "", "storage": "zstd", "lz4": "lz4"}[compression]
    middle = (first + after) // 2
    for index in range(middle, middle + 64):
        data[index] ^= 0x5A
    file.write_bytes(data)
    (path / "metadata.yaml").unlink()
    repair = repair_recording(path)
    saved = [message for end, message in expected if not start < end <= after]
    assert_whole(tmp_path / "bag_repaired", saved)
    assert (repair.broken_chunks, repair.lost_messages) == (1, len(expected) - len(saved))
    assert repair.lost_bytes == after - start and any(f"chunk at byte {start}" in p for p in repair.problems)


def test_a_damaged_length_loses_what_the_index_cannot_find_again(bag: Any, tmp_path: Path) -> None:
    path = bag.save(tmp_path / "bag", "mcap")
    file = path / "bag.mcap"
    expected = ends(file, written(bag))
    start, after, _, _ = chunks(file)[1]
    data = bytearray(file.read_bytes())
    data[start + 3] ^= 0x10
    file.write_bytes(data)
    (path / "metadata.yaml").unlink()
    repair = repair_recording(path)
    assert_whole(tmp_path / "bag_repaired", [m for end, m in expected if not start < end <= after])
    assert any(f"from byte {start} on are unreadable" in p for p in repair.problems)

    os.truncate(file, len(data) - 20)  # now without the index
    repair_recording(path, tmp_path / "second")
    assert_whole(tmp_path / "second", [m for end, m in expected if end <= start])


def test_what_lies_beside_is_copied_and_what_metadata_says_is_kept(bag: Any, tmp_path: Path) -> None:
    path = bag.save(tmp_path / "bag", "mcap")
    metadata = yaml.safe_load((path / "metadata.yaml").read_text())
    metadata["rosbag2_bagfile_information"] |= {"custom_data": {"robot": "r2"}, "message_count": 50}
    (path / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    (path / "ground_truth").mkdir()
    (path / "ground_truth" / "7.png").write_bytes(b"mask")
    (path / "report.json").write_text("{}")
    repair = repair_recording(path, tmp_path / "new" / "name")
    assert_whole(tmp_path / "new" / "name", written(bag))
    assert set(content(tmp_path / "new" / "name")) == {
        "metadata.yaml",
        "name_0.mcap",
        "ground_truth/7.png",
        "report.json",
    }
    assert repair.lost_messages == 10 and any("promises 50 messages" in p for p in repair.problems)
    information = yaml.safe_load((tmp_path / "new" / "name" / "metadata.yaml").read_text())
    assert information["rosbag2_bagfile_information"]["custom_data"] == {"robot": "r2"}


def test_bare_file_takes_the_masks_beside_it_along(bag: Any, tmp_path: Path) -> None:
    path = bag.save(tmp_path / "bag", "mcap")
    (path / "ground_truth").mkdir()
    (path / "ground_truth" / "7.png").write_bytes(b"mask")
    os.truncate(path / "bag.mcap", 2_000_000)
    repair = repair_recording(path / "bag.mcap")
    assert repair.out == str(path / "bag_repaired")
    assert set(content(path / "bag_repaired")) == {"metadata.yaml", "bag_repaired_0.mcap", "ground_truth/7.png"}


def test_definition_qos_sequence_and_both_times_are_kept(tmp_path: Path) -> None:
    """A type of nobody's but the robot's, from a recorder of Jazzy; messages logged out of order."""
    channel = StoredChannel("/grip", "robot_msgs/msg/Grip", "ros2msg", "uint8 force\n", QOS_OF_JAZZY, "")
    other = StoredChannel("/lost", "robot_msgs/msg/Lost")
    source = [
        StoredMessage(channel, time, time - 3, 7 + time, b"\x00\x01\x00\x00" + bytes([time])) for time in (20, 10, 30)
    ]
    source.append(StoredMessage(other, 25, 24, 1, b"\x00\x01\x00\x00\x05"))
    with McapWriter(tmp_path / "robot_0.mcap") as writer:
        for message in source:
            writer.copy(message)
        writer.close()
    os.truncate(tmp_path / "robot_0.mcap", (tmp_path / "robot_0.mcap").stat().st_size - 9)
    out = Path(str(repair_recording(tmp_path / "robot_0.mcap").out))
    saved = list(scan_mcap(out / "robot_0_repaired_0.mcap", Damage()))
    assert [m._replace(channel=None) for m in saved] == [m._replace(channel=None) for m in source]
    assert saved[0].channel.definition == "uint8 force\n" and saved[3].channel == other
    assert [m.time for m in read(out)] == [10, 20, 25, 30]
    metadata = yaml.safe_load((out / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    qos = metadata["topics_with_message_count"][0]["topic_metadata"]["offered_qos_profiles"]
    assert qos == saved[0].channel.qos, "rosbags refuses a folder where they differ"
    profile = yaml.safe_load(qos)[0]
    assert (profile["depth"], profile["reliability"], profile["history"]) == (5, 2, 1), "numbers, as Humble expects"


def test_split_recording_becomes_one_file(bag: Any, new_bag: Callable[[], Any], tmp_path: Path) -> None:
    path = bag.save(tmp_path / "bag")
    (path / "metadata.yaml").unlink()
    later = new_bag()
    for index in range(3):
        later.text("/a", 5000 + index, f"{index}" * 400_000)
    file = path / "bag_10.mcap"
    shutil.copy(later.save(tmp_path / "later") / "later.mcap", file)
    cut = ends(file, written(later))[1][0]
    os.truncate(file, cut + 5)
    (path / "bag_11.mcap").write_bytes(b"")
    (path / "bag_2.mcap.zstd").write_bytes(b"compressed")
    repair = repair_recording(path)
    assert_whole(tmp_path / "bag_repaired", written(bag) + written(later)[:2])
    said = "\n".join(repair.problems)
    assert "bag_10.mcap: truncated" in said and "bag_11.mcap is not an MCAP file" in said and "zstd -d" in said


@pytest.mark.parametrize("humble", [False, True])
def test_truncated_sqlite(bag: Any, tmp_path: Path, humble: bool) -> None:
    file = bag.save(tmp_path / "bag", "sqlite3") / "bag.db3"
    if humble:  # Humble keeps no definitions
        with sqlite3.connect(file) as database:
            database.execute("DROP TABLE message_definitions")
            database.execute("UPDATE schema SET schema_version = 3")
    os.truncate(file, int(file.stat().st_size * 0.6))
    repair = repair_recording(file.parent)
    expected = written(bag)
    saved = read(tmp_path / "bag_repaired")
    assert 20 <= len(saved) < 40 and saved == expected[: len(saved)], "a prefix, nothing changed"
    assert_whole(tmp_path / "bag_repaired", saved)
    assert repair.lost_messages == 40 - len(saved), "metadata.yaml says how many there were"


def test_damaged_page_of_sqlite_loses_the_rows_on_it(bag: Any, tmp_path: Path) -> None:
    path = bag.save(tmp_path / "bag", "sqlite3")
    file = path / "bag.db3"
    (path / "metadata.yaml").unlink()
    data = bytearray(file.read_bytes())
    page = data.index(written(bag)[17].data[50_000:50_100]) // 4096 * 4096
    data[page : page + 4096] = bytes(4096)  # ends the chain of pages that hold the row
    file.write_bytes(data)
    repair = repair_recording(path)
    assert_whole(tmp_path / "bag_repaired", [m for i, m in enumerate(written(bag)) if i != 17])
    assert repair.lost_messages == 1 and any("row 18 cannot be read" in p for p in repair.problems)


@pytest.mark.parametrize("checkpointed", [True, False])
def test_messages_in_the_write_ahead_log_come_back(bag: Any, tmp_path: Path, checkpointed: bool) -> None:
    """As a killed recorder leaves it: the first messages, or not even the tables, in the file."""
    source = bag.save(tmp_path / "source", "sqlite3") / "source.db3"
    live, killed = tmp_path / "live.db3", tmp_path / "killed"
    killed.mkdir()
    with sqlite3.connect(source) as database:
        schema = [sql for (sql,) in database.execute("SELECT sql FROM sqlite_master")]
        tables = {
            name: database.execute(f"SELECT * FROM {name}").fetchall()
            for name in ("schema", "topics", "message_definitions", "messages")
        }
    database = sqlite3.connect(live, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA wal_autocheckpoint=0")
    for sql in schema:
        database.execute(sql)
    for name, rows in tables.items():
        for index, row in enumerate(rows):
            database.execute(f"INSERT INTO {name} VALUES ({','.join('?' * len(row))})", row)
            if checkpointed and name == "messages" and index == 25:
                database.execute("PRAGMA wal_checkpoint(PASSIVE)")
    for suffix in ("", "-wal"):
        shutil.copy(f"{live}{suffix}", killed / f"bag.db3{suffix}")
    database.close()
    before = content(killed)
    repair = repair_recording(killed)
    assert_whole(tmp_path / "killed_repaired", written(bag))
    assert content(killed) == before and set(content(tmp_path / "killed_repaired")) == {
        "metadata.yaml",
        "killed_repaired_0.mcap",
    }
    assert any("bag.db3-wal are restored" in p for p in repair.problems) and not repair.lost_messages


def test_half_a_transaction_of_sqlite_is_rolled_back(bag: Any, tmp_path: Path) -> None:
    path = bag.save(tmp_path / "bag", "sqlite3")
    file = path / "bag.db3"
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("PRAGMA cache_size=5")  # so that pages reach the file before the transaction ends
    database.execute("BEGIN")
    database.execute("UPDATE messages SET data = zeroblob(100000) WHERE id < 10")
    killed = tmp_path / "killed"
    shutil.copytree(path, killed)
    database.close()
    assert (killed / "bag.db3-journal").stat().st_size and (killed / "bag.db3").read_bytes() != file.read_bytes()
    repair_recording(killed)
    assert_whole(tmp_path / "killed_repaired", written(bag))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_whole_recording_is_left_alone(bag: Any, tmp_path: Path, storage: str) -> None:
    path = bag.save(tmp_path / "bag", storage)
    assert repair_recording(path) == Repair(str(path), None, {"/b": 20, "/a": 20})
    assert [p.name for p in tmp_path.iterdir()] == ["bag"]


@pytest.mark.parametrize(
    ("name", "garbage"),
    [
        ("bag.mcap", b""),
        ("bag.mcap", b"garbage" * 1000),
        ("bag.mcap", b"\x89MCAP0\r\n" + bytes(1000)),
        ("bag.db3", b"garbage" * 1000),
        ("bag.db3", b"SQLite format 3\x00" + bytes(2000)),
    ],
)
def test_where_nothing_can_be_saved_nothing_is_left_behind(tmp_path: Path, name: str, garbage: bytes) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / name).write_bytes(garbage)
    for path in (tmp_path / "bag", tmp_path / "bag" / name):
        with pytest.raises(RecordingError, match="nothing can be saved"):
            repair_recording(path)
    assert set(content(tmp_path)) == {f"bag/{name}"} and len(list(tmp_path.rglob("*"))) == 2


def test_what_cannot_be_done_is_said_and_touches_nothing(bag: Any, tmp_path: Path) -> None:
    path = bag.save(tmp_path / "bag")
    os.truncate(path / "bag.mcap", 2_000_000)
    (tmp_path / "there").mkdir()
    for wrong, error, said in (
        (tmp_path / "there", RecordingError, "exists already"),
        (path, UsageError, "is inside"),
        (path / "inner", UsageError, "is inside"),
        (path / "bag.mcap" / "x", UsageError, "is inside"),
        (tmp_path / "there.txt" / "x", RecordingError, "cannot be written"),
    ):
        (tmp_path / "there.txt").write_text("")
        with pytest.raises(error, match=said):
            repair_recording(path, wrong)
    with pytest.raises(RecordingError, match="does not exist"):
        repair_recording(tmp_path / "no")
    assert {p.name for p in tmp_path.iterdir()} == {"bag", "there", "there.txt"}


def test_damaged_and_compressed_by_the_recorder_names_the_way_out(bag: Any, tmp_path: Path) -> None:
    path = bag.save(tmp_path / "bag", "mcap", "file")
    os.truncate(path / "bag.mcap.zstd", 1000)
    with pytest.raises(RecordingError, match="zstd -d"):
        repair_recording(path)
    assert [p.name for p in tmp_path.iterdir()] == ["bag"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As on a full disk: a file cannot grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 1_500_000, 2_001_500])
def test_full_disk_is_said_and_leaves_nothing_behind(bag: Any, tmp_path: Path, size: int) -> None:
    path = bag.save(tmp_path / "bag")
    os.truncate(path / "bag.mcap", 2_050_000)
    with (
        largest_file(size),
        pytest.raises(RecordingError, match="bag_repaired cannot be written: a file would"),
    ):
        repair_recording(path)
    assert [p.name for p in tmp_path.iterdir()] == ["bag"]
    repair_recording(path)
    assert_whole(tmp_path / "bag_repaired", written(bag)[:20])


def test_memory_does_not_grow_with_the_recording(new_bag: Callable[[], Any], tmp_path: Path) -> None:
    bag = new_bag()
    for index in range(60):
        bag.text("/a", index, "x" * 1_000_000)
    path = bag.save(tmp_path / "bag")
    bag.messages.clear()
    os.truncate(path / "bag.mcap", 55_000_000)
    tracemalloc.start()
    try:
        repair_recording(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000


@pytest.mark.parametrize("left", [".kitchen_1.4711.tmp", ".kitchen_1.tmp/new", "kitchen_1.partial", "kitchen_1"])
def test_what_a_killed_recorder_leaves_gets_the_name_it_was_to_have(bag: Any, tmp_path: Path, left: str) -> None:
    path = bag.save(tmp_path / left)
    (path / "metadata.yaml").unlink()
    repair = repair_recording(path)
    assert repair.out == str(tmp_path / "kitchen_1_repaired")
    assert_whole(tmp_path / "kitchen_1_repaired", written(bag))


RECORDER = """
import sys
from pathlib import Path
import numpy as np
from deal_core.recording.writer import RecordingWriter
from deal_core.structures import CameraIntrinsics, ClassList, RgbdPair, TagMarker, TagState
camera = CameraIntrinsics(320, 240, 300.0, 300.0, 160.0, 120.0, frame_id="optical")
with RecordingWriter(Path(sys.argv[1]), ClassList(("mug", "drill")), camera, survives=True) as writer:
    writer.write_tags(0, TagState(("mug",), marker=TagMarker.COMPLETE), "test")
    for stamp in range(1, 10**9):
        color, depth = np.full((240, 320, 3), stamp % 256, np.uint8), np.full((240, 320), stamp, np.uint16)
        writer.write_pair(RgbdPair(stamp, color, depth))
        print(stamp, flush=True)
"""


def test_killed_recorder_to_dataset(tmp_path: Path) -> None:
    from deal_core.dataset.extract import ExtractOptions, extract_recording

    recorder = subprocess.Popen(
        [sys.executable, "-c", RECORDER, tmp_path / "kitchen"], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert recorder.stdout
    while int(recorder.stdout.readline()) < 30:
        pass
    os.kill(recorder.pid, signal.SIGKILL)
    recorder.communicate(timeout=60)
    (left,) = tmp_path.iterdir()
    assert repair_recording(left).out == str(tmp_path / "kitchen_repaired")
    report = check_recording(tmp_path / "kitchen_repaired")
    assert report.errors == [] and report.pairs >= 30 and report.tags["mug"].present == report.frames == report.pairs
    extraction = extract_recording(tmp_path / "kitchen_repaired", tmp_path / "dataset", ExtractOptions())
    assert extraction.report.errors == [] and extraction.report.frames == report.pairs
