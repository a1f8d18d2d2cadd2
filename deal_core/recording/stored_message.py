"""The stored messages of a recording in any format, and the damage to them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

_SHOWN = 5  # places named in a sentence


@dataclass(frozen=True)
class StoredChannel:
    """The description of a topic in a file.

    Attributes:
        topic: name of the topic.
        type: message type, as in `sensor_msgs/msg/Image`.
        definition_format: "ros2msg", "ros2idl", or empty if the file has no definition.
        definition: text of the message definition.
        qos: offered QoS profiles as YAML text of rosbag2; may be empty.
        type_hash: hash of the type, as in `RIHS01_…`; may be empty.
    """

    topic: str
    type: str
    definition_format: str = ""
    definition: str = ""
    qos: str = ""
    type_hash: str = ""


class StoredMessage(NamedTuple):
    """One stored message; if the file lacks them, the publish time is the log time and the sequence is 0.

    `length` is that of the whole message, if `data` is only its beginning; 0 otherwise.
    """

    channel: StoredChannel
    log_time_ns: int
    publish_time_ns: int
    sequence: int
    data: bytes
    length: int = 0


@dataclass
class Damage:
    """The damage that a scan found.

    Attributes:
        broken_chunks: number of complete chunks that do not decompress, or fail their checksum.
        lost_bytes: number of invalid bytes, or bytes after the point of truncation.
        lost_messages: number of messages known to be lost; truncation may have lost more.
        places: descriptions of the damage, one phrase each.
        foreign: number of sound messages that are not in CDR, the encoding of ROS 2, by their encoding.
        is_finished: whether the recorder finished the file.
    """

    broken_chunks: int = 0
    lost_bytes: int = 0
    lost_messages: int = 0
    places: list[str] = field(default_factory=list)
    foreign: Counter[str] = field(default_factory=Counter)
    is_finished: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        shown = self.places[:_SHOWN]
        if hidden := len(self.places) - len(shown):
            shown.append(f"{hidden} more places")
        return "; ".join(shown) or "its index is missing, its messages are complete"
