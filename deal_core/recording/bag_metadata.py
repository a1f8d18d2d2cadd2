"""The metadata of a rosbag2 folder with one MCAP file, in the file and beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deal_core.recording.mcap_writer import McapWriter


def finish_bag(writer: McapWriter, *, ros_distro: str = "", custom_data: Mapping[str, str] | None = None) -> None:
    """Write what is buffered and the file's index, close it, and write metadata.yaml beside it.

    Version 8 is what Humble to the newest distribution read: from 9 on, QoS is a list where Humble expects a string.

    Args:
        writer: of the folder's only file.
        ros_distro: where the messages come from.
        custom_data: as of `ros2 bag record --custom-data`.

    Raises:
        OSError: the disk is full.
    """
    import yaml

    writer.flush()
    metadata = _metadata(writer, ros_distro, custom_data)
    writer.write_metadata("rosbag2", {"serialized_metadata": yaml.safe_dump(metadata, sort_keys=False)})
    writer.close()
    text = yaml.safe_dump({"rosbag2_bagfile_information": metadata}, sort_keys=False)
    (writer.path.parent / "metadata.yaml").write_text(text, encoding="utf-8")


def _metadata(writer: McapWriter, ros_distro: str, custom_data: Mapping[str, str] | None) -> dict[str, Any]:
    count, file = writer.counts.total(), writer.path.name
    start_ns = writer.start_ns if count else 0
    duration = {"nanoseconds": writer.end_ns - start_ns}
    start = {"nanoseconds_since_epoch": start_ns}
    return {
        "version": 8,
        "storage_identifier": "mcap",
        "relative_file_paths": [file],
        "duration": dict(duration),
        "starting_time": dict(start),
        "message_count": count,
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": channel.topic,
                    "type": channel.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": channel.qos,
                    "type_description_hash": channel.type_hash,
                },
                "message_count": writer.counts[number],
            }
            for number, channel in writer.channels.items()
        ],
        "compression_format": "",
        "compression_mode": "",
        "files": [{"path": file, "starting_time": start, "duration": duration, "message_count": count}],
        "custom_data": dict(custom_data) if custom_data is not None else None,
        "ros_distro": ros_distro,
    }
