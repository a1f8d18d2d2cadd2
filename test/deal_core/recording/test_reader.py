"""Reading recordings, sound and damaged, against what rosbags wrote."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deal_core.errors import RecordingError
from deal_core.recording.mcap_salvage import scan_mcap
from deal_core.recording.mcap_writer import zstd
from deal_core.recording.reader import RawMessage, open_recording
from deal_core.recording.stored_message import Damage

STRING = "std_msgs/msg/String"


@pytest.fixture
def bag(new_bag: Callable[[], Any]) -> Any:
    """Forty messages of about 100 kB: several chunks of a MCAP file."""
    made = new_bag()
    for index in range(40):
        made.text("/a" if index % 2 else "/b", 1000 + index, f"{index} " + "x" * 100_000)
    return made


def written(bag: Any) -> list[RawMessage]:
    return [RawMessage(*message) for message in bag.messages]


def read(path: Path) -> tuple[list[RawMessage], list[str]]:
    with open_recording(path) as recording:
        return list(recording.messages(["/a", "/b"])), recording.problems


@pytest.mark.parametrize(
    ("storage", "compression"),
    [
        *(("mcap", mode) for mode in ("none", "storage", "lz4", "message", "file")),
        *(("sqlite3", mode) for mode in ("none", "message", "file")),
    ],
)
def test_every_kind_of_folder_reads_back(bag: Any, tmp_path: Path, storage: str, compression: str) -> None:
    messages, problems = read(bag.save(tmp_path / "bag", storage, compression))
    assert messages == written(bag) and problems == []


@pytest.mark.parametrize(("storage", "suffix"), [("mcap", ".mcap"), ("sqlite3", ".db3")])
@pytest.mark.parametrize("bare", [True, False])
def test_files_without_metadata_read_back(bag: Any, tmp_path: Path, storage: str, suffix: str, bare: bool) -> None:
    path = bag.save(tmp_path / "bag", storage)
    (path / "metadata.yaml").unlink()
    messages, problems = read(path / f"bag{suffix}" if bare else path)
    assert messages == written(bag)
    assert len(problems) == (0 if bare else 1) and all("metadata.yaml is missing" in p for p in problems)


def test_only_the_wanted_topics_and_their_counts(bag: Any, tmp_path: Path) -> None:
    with open_recording(bag.save(tmp_path / "bag")) as recording:
        assert [(t.name, t.type, t.count) for t in recording.topics] == [("/a", STRING, 20), ("/b", STRING, 20)]
        assert [m.topic for m in recording.messages(["/a", "/nothing"])] == ["/a"] * 20
        assert list(recording.messages([])) == []
        assert recording.count("/a") == 20 and recording.count("/nothing") == 0


@pytest.mark.parametrize("metadata", ["", "[1, 2]", "{{{", "rosbag2_bagfile_information: 3", "\x00"])
def test_damaged_metadata_is_told_and_survived(bag: Any, tmp_path: Path, metadata: str) -> None:
    path = bag.save(tmp_path / "bag")
    (path / "metadata.yaml").write_text(metadata)
    messages, problems = read(path)
    assert messages == written(bag) and any("metadata.yaml is damaged" in p for p in problems)


def test_split_recording_is_read_in_the_order_of_metadata_even_if_a_file_is_gone(
    bag: Any, new_bag: Callable[[], Any], tmp_path: Path
) -> None:
    path = bag.save(tmp_path / "bag")
    later = new_bag()
    later.text("/a", 5000, "later")
    shutil.copy(later.save(tmp_path / "later") / "later.mcap", path / "bag_10.mcap")
    metadata = yaml.safe_load((path / "metadata.yaml").read_text())
    information = metadata["rosbag2_bagfile_information"]
    information["relative_file_paths"] = ["bag/bag.mcap", "bag_9.mcap", "bag_10.mcap"]
    information["message_count"] = 60
    (path / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    messages, problems = read(path)
    assert messages == written(bag) + written(later)
    assert any("bag_9.mcap is missing" in p for p in problems)
    assert any("promises 60 messages, the files contain 41" in p for p in problems)


def test_files_without_metadata_are_read_in_natural_order(new_bag: Callable[[], Any], tmp_path: Path) -> None:
    path = tmp_path / "bag"
    path.mkdir()
    for number in (10, 2, 1):
        part = new_bag()
        part.text("/a", number, str(number))
        shutil.copy(part.save(tmp_path / f"p_{number}") / f"p_{number}.mcap", path)
    messages, _ = read(path)
    assert [m.log_time_ns for m in messages] == [1, 2, 10]


@pytest.mark.parametrize("compression", ["none", "storage", "lz4"])
@pytest.mark.parametrize("share", [0.99, 0.7, 0.4])
def test_truncated_mcap_gives_what_is_complete(bag: Any, tmp_path: Path, compression: str, share: float) -> None:
    if compression != "none":  # so that compression leaves enough bytes for several chunks
        for index, message in enumerate(bag.messages):
            bag.messages[index] = (*message[:3], message[3][:8] + np.random.default_rng(index).bytes(100_000))
    path = bag.save(tmp_path / "bag", "mcap", compression)
    file = path / "bag.mcap"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    messages, problems = read(path)
    expected = written(bag)
    assert messages == expected[: len(messages)], "a prefix, nothing twice, nothing changed"
    if compression == "none":
        # All but the message that was cut, and what the index at the end weighs.
        assert len(messages) >= int(40 * share) - 1
    else:
        assert len(messages) >= 40 * share - 11, "at most the chunk that was cut is lost"
    assert any("bag.mcap: damaged file" in p for p in problems)


def test_mcap_damaged_in_the_middle_loses_one_chunk(new_bag: Callable[[], Any], tmp_path: Path) -> None:
    bag = new_bag()
    for index in range(40):
        bag.text("/a", 1000 + index, np.random.default_rng(index).bytes(50_000).hex())
    path = bag.save(tmp_path / "bag", "mcap", "storage")
    file = path / "bag.mcap"
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    file.write_bytes(content)
    messages, problems = read(path)
    expected = written(bag)
    assert 20 <= len(messages) < 40
    assert messages == [m for m in expected if m in messages], "in order, nothing twice, nothing changed"
    assert messages[-1] == expected[-1], "what comes after the damage is read"
    assert any("damaged after the message logged at" in p for p in problems)


@pytest.mark.parametrize("suffix", [".mcap", ".db3"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"\x89MCAP0\r\n", b"SQLite format 3\x00" + bytes(200)])
def test_empty_and_garbage_files_are_errors_that_name_the_file(tmp_path: Path, suffix: str, content: bytes) -> None:
    file = tmp_path / f"broken{suffix}"
    file.write_bytes(content)
    for path in (file, tmp_path):
        with pytest.raises(RecordingError, match="broken"):
            open_recording(path)


def test_truncated_sqlite_gives_what_is_complete(bag: Any, tmp_path: Path) -> None:
    file = bag.save(tmp_path / "bag", "sqlite3") / "bag.db3"
    file.write_bytes(file.read_bytes()[:-500_000])
    messages, problems = read(file)
    assert 30 <= len(messages) < 40 and messages == written(bag)[: len(messages)]
    assert any("bag.db3: damaged file" in p and "cannot be read" in p for p in problems)


def test_mcap_that_is_still_being_written_reads_the_same_every_time(bag: Any, tmp_path: Path) -> None:
    file = bag.save(tmp_path / "bag") / "bag.mcap"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with open_recording(file) as recording:
        first = list(recording.messages(["/a", "/b"]))
        file.write_bytes(whole)
        assert list(recording.messages(["/a", "/b"])) == first == written(bag)[: len(first)]
        assert sum(topic.count for topic in recording.topics) == len(first) < 40


def test_sqlite_that_is_still_being_written_reads_the_same_every_time(bag: Any, tmp_path: Path) -> None:
    file = bag.save(tmp_path / "bag", "sqlite3") / "bag.db3"
    with open_recording(file) as recording:
        with closing(sqlite3.connect(file)) as recorder, recorder:
            added = (
                "INSERT INTO messages(topic_id, timestamp, data) SELECT topic_id, timestamp + 1000, data FROM messages"
            )
            assert recorder.execute(added).rowcount == 40
        assert list(recording.messages(["/a", "/b"])) == written(bag)


def test_folder_that_cannot_be_read_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)  # root, who may run the tests, is never denied
    with pytest.raises(RecordingError, match="cannot be read as a rosbag2 folder: Permission denied"):
        open_recording(tmp_path)


def test_files_that_a_killed_recorder_compressed_are_told(bag: Any, tmp_path: Path) -> None:
    path = bag.save(tmp_path / "bag")
    (path / "metadata.yaml").unlink()
    (path / "bag_0.mcap.zstd").write_bytes(b"compressed")
    messages, problems = read(path)
    assert messages == written(bag) and any("bag_0.mcap.zstd is compressed and left out" in p for p in problems)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.mkdir(), r"found nothing"),
        (
            lambda p: (p.mkdir(), (p / "notes.txt").write_text("")),
            r"expected a .mcap or .db3 file in it, found notes.txt",
        ),
        (lambda p: p.write_text("hello"), "is not a recording"),
    ],
)
def test_what_is_no_recording_is_said_so(tmp_path: Path, make: Callable[[Path], Any], said: str) -> None:
    make(tmp_path / "thing")
    with pytest.raises(RecordingError, match=said):
        open_recording(tmp_path / "thing")


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("form", ["decompressed by hand", "compressed by hand", "bare", "metadata is lost"])
def test_files_compressed_or_decompressed_since_are_read(bag: Any, tmp_path: Path, storage: str, form: str) -> None:
    path = bag.save(tmp_path / "bag", storage, "none" if form == "compressed by hand" else "file")
    (packed,) = path.glob("*.zstd") if form != "compressed by hand" else path.glob("bag.*[3p]")
    if form == "decompressed by hand":
        packed.with_suffix("").write_bytes(zstd().decompress(packed.read_bytes()))
        packed.unlink()
    elif form == "compressed by hand":
        path.joinpath(f"{packed.name}.zstd").write_bytes(zstd().compress(packed.read_bytes()))
        packed.unlink()
    elif form == "metadata is lost":
        (path / "metadata.yaml").unlink()
    messages, problems = read(packed if form == "bare" else path)
    assert messages == written(bag)
    assert [p for p in problems if "metadata.yaml is missing" not in p] == []


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_messages_that_were_compressed_one_by_one_need_no_metadata(bag: Any, tmp_path: Path, storage: str) -> None:
    path = bag.save(tmp_path / "bag", storage, "message")
    (path / "metadata.yaml").unlink()
    assert read(path)[0] == written(bag)
    with open_recording(path) as recording:
        heads = list(recording.heads(["/a", "/b"], 40))
    assert [(h.head, h.length) for h in heads] == [(m.data[:40], len(m.data)) for m in written(bag)]


def test_ros1_bag_names_the_converter(tmp_path: Path) -> None:
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    (tmp_path / "old.mcap").write_bytes(b"#ROSBAG V2.0\n")
    for path in (tmp_path / "old.bag", tmp_path / "old.mcap"):
        with pytest.raises(RecordingError, match="rosbags-convert"):
            open_recording(path)
    (tmp_path / "old.mcap").unlink()
    with pytest.raises(RecordingError, match=r"old\.bag is a ROS 1 bag.*rosbags-convert"):
        open_recording(tmp_path)


def test_recording_without_messages_is_an_error(new_bag: Callable[[], Any], tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="contains no message"):
        open_recording(new_bag().save(tmp_path / "bag"))


def test_messages_left_in_the_write_ahead_log_are_told(bag: Any, tmp_path: Path) -> None:
    path = bag.save(tmp_path / "bag", "sqlite3")
    (path / "bag.db3-wal").write_bytes(b"rest")
    _, problems = read(path)
    assert any("--repair" in p for p in problems)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_makes_a_scan_fail_or_change_messages(
    data: st.DataObject, new_bag: Callable[[], Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    bag = new_bag()
    for index in range(6):
        bag.text("/a", index, "text" * index)
    compression = data.draw(st.sampled_from(["none", "storage", "lz4"]))
    file = bag.save(folder / "bag", "mcap", compression) / "bag.mcap"
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(8, len(content)))])
    found = list(scan_mcap(file, Damage()))
    assert len(found) <= 12  # a changed byte may turn one record into another, but nothing runs away
    try:
        with open_recording(file) as recording:
            list(recording.messages(["/a"]))
    except RecordingError:
        pass  # nothing was left to read
    shutil.rmtree(folder)


def test_scan_of_a_sound_file_reports_no_cut(bag: Any, tmp_path: Path) -> None:
    damage = Damage()
    file = bag.save(tmp_path / "bag", "mcap", "storage") / "bag.mcap"
    assert [(m.channel.topic, m.channel.type, m.log_time_ns, m.data) for m in scan_mcap(file, damage)] == written(bag)
    assert damage == Damage()
