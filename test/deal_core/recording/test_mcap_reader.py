"""MCAP files that lack what the format makes optional, with long chunks, or with messages of other systems."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcap.writer import CompressionType, IndexType, Writer

from deal_core.dataset.check import check_recording
from deal_core.errors import RecordingError
from deal_core.recording import mcap_reader
from deal_core.recording.mcap_reader import open_mcap
from deal_core.recording.reader import RawMessage, open_recording
from deal_core.recording.repair import repair_recording

TOPICS = ["/camera/camera/color/image_raw", "/camera/camera/aligned_depth_to_color/image_raw"]


@pytest.fixture
def bag(new_bag: Callable[[], Any]) -> Any:
    """Twelve pairs."""
    made = new_bag()
    for stamp in range(100, 1300, 100):
        made.pair(stamp)
    return made


def write(
    path: Path, bag: Any, *, encoding: str = "cdr", schema: str = "ros2msg", profile: str = "ros2", **options: Any
) -> Path:
    """Write the messages of a bag with the reference library and its options."""
    with path.open("wb") as file:
        writer = Writer(file, **{"chunk_size": 1024, **options})
        writer.start(profile=profile, library="test")
        channels: dict[str, int] = {}
        for topic, kind, log_time, data in bag.messages:
            if topic not in channels:
                number = writer.register_schema(name=kind, encoding=schema, data=b"")
                channels[topic] = writer.register_channel(topic=topic, message_encoding=encoding, schema_id=number)
            writer.add_message(channel_id=channels[topic], log_time=log_time, publish_time=log_time, data=data)
        writer.finish()
    return path


OPTIONAL: dict[str, dict[str, Any]] = {
    "everything": {},
    "no channels in the summary": {"repeat_channels": False},
    "no schemas in the summary": {"repeat_schemas": False},
    "no statistics": {"use_statistics": False},
    "no summary offsets": {"use_summary_offsets": False},
    "no message index": {"index_types": IndexType.CHUNK | IndexType.METADATA},
    "no chunk index": {"index_types": IndexType.MESSAGE},
    "no index": {"index_types": IndexType.NONE},
    "no chunks": {"use_chunking": False},
    "no checksums": {"enable_crcs": False},
    "no summary at all": {
        "index_types": IndexType.NONE,
        "repeat_channels": False,
        "repeat_schemas": False,
        "use_statistics": False,
        "use_summary_offsets": False,
    },
}


@pytest.mark.parametrize("compression", [CompressionType.NONE, CompressionType.LZ4, CompressionType.ZSTD])
@pytest.mark.parametrize("name", OPTIONAL)
def test_every_part_that_is_optional_may_be_missing(
    bag: Any, tmp_path: Path, name: str, compression: CompressionType
) -> None:
    file = write(tmp_path / "bag.mcap", bag, compression=compression, **OPTIONAL[name])
    with open_recording(file) as recording:
        messages = list(recording.messages(TOPICS))
        heads = list(recording.heads(TOPICS, 64))
        assert recording.problems == [] and {t.count for t in recording.topics} == {12}
    assert messages == [RawMessage(*message) for message in bag.messages]
    assert [head.head for head in heads] == [message.data[:64] for message in messages]
    assert [head.length for head in heads] == [len(message.data) for message in messages]
    report = check_recording(file)
    assert report.errors == [] and report.frames == report.pairs == 12
    assert repair_recording(file).messages == dict.fromkeys(sorted(TOPICS), 12)


@pytest.mark.parametrize("compression", [CompressionType.NONE, CompressionType.LZ4, CompressionType.ZSTD])
def test_long_chunks_are_unpacked_to_a_file(
    bag: Any, tmp_path: Path, compression: CompressionType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcap_reader, "_IN_MEMORY", 500)
    monkeypatch.setattr(mcap_reader, "_PIECE", 100)
    file = write(tmp_path / "bag.mcap", bag, compression=compression, chunk_size=2**20)
    assert open_mcap(file) is not None
    with open_recording(file) as recording:
        assert list(recording.messages(TOPICS)) == [RawMessage(*message) for message in bag.messages]


def test_a_checksum_that_fails_loses_the_pairs_of_its_chunk_and_nothing_else(bag: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "bag.mcap", bag, compression=CompressionType.NONE, chunk_size=1)
    content = bytearray(file.read_bytes())
    pixels = bag.messages[6][3][-60:]  # of the fourth colour image
    content[content.index(pixels) + 20] ^= 1
    file.write_bytes(content)
    report = check_recording(file)
    assert report.frames == 11 and report.pairs == 12
    assert report.skipped == {"it lies in a damaged part of the file": 1}
    assert any("damaged after the message logged at" in error for error in report.errors)


@pytest.mark.parametrize(
    ("encoding", "schema", "profile", "said"),
    [
        ("ros1", "ros1msg", "ros1", "ROS 1 messages .24 messages in ros1.*rosbags-convert"),
        ("protobuf", "protobuf", "", "no ROS 2 message .24 messages in protobuf.*rosbags-convert"),
        ("json", "jsonschema", "", "24 messages in json"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"repeat_channels": False}])
def test_messages_of_other_systems_are_called_what_they_are(
    bag: Any, tmp_path: Path, encoding: str, schema: str, profile: str, said: str, options: dict[str, Any]
) -> None:
    file = write(tmp_path / "b.mcap", bag, encoding=encoding, schema=schema, profile=profile, **options)
    with pytest.raises(RecordingError, match=said) as caught:
        open_recording(file)
    assert "damaged" not in str(caught.value)


def test_messages_of_other_systems_beside_ours_are_no_damage(bag: Any, tmp_path: Path) -> None:
    file = tmp_path / "mixed.mcap"
    with file.open("wb") as out:
        writer = Writer(out)
        writer.start(profile="", library="test")
        foreign = writer.register_channel(topic="/log", message_encoding="json", schema_id=0)
        writer.add_message(channel_id=foreign, log_time=1, publish_time=1, data=b"{}")
        for topic, kind, log_time, data in bag.messages:
            number = writer.register_schema(name=kind, encoding="ros2msg", data=b"")
            channel = writer.register_channel(topic=topic, message_encoding="cdr", schema_id=number)
            writer.add_message(channel_id=channel, log_time=log_time, publish_time=log_time, data=data)
        writer.finish()
    report = check_recording(file)
    assert report.errors == [] and report.frames == 12


def test_records_for_applications_are_skipped(bag: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "bag.mcap", bag, use_chunking=False)
    content = file.read_bytes()
    header_end = 8 + 9 + int.from_bytes(content[9:17], "little")
    private = b"\x81" + (5).to_bytes(8, "little") + b"hello"
    file.write_bytes(content[:header_end] + private + content[header_end:])
    with open_recording(file) as recording:
        assert list(recording.messages(TOPICS)) == [RawMessage(*message) for message in bag.messages]
        assert recording.problems == []
