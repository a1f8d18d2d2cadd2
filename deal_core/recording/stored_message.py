"""What the file of a recording stores, whatever its format, and what damage took of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

_SHOWN = 5  # places named in a sentence


@dataclass(frozen=True)
class StoredChannel:
    """A topic as a file describes it.

    Attributes:
        topic: its name.
        type: as in `sensor_msgs/msg/Image`.
        definition_format: "ros2msg", "ros2idl", or empty where the file has no definition.
        definition: text of the message definition.
        qos: the offered profiles, the YAML text of rosbag2; may be empty.
        type_hash: as in `RIHS01_…`; may be empty.
    """

    topic: str
    type: str
    definition_format: str = ""
    definition: str = ""
    qos: str = ""
    type_hash: str = ""


class StoredMessage(NamedTuple):
    """One serialised message as it is stored; where a file does not know, published is logged and sequence is 0."""

    channel: StoredChannel
    log_time_ns: int
    publish_time_ns: int
    sequence: int
    data: bytes


@dataclass
class Damage:
    """What a scan could not read.

    Attributes:
        broken_chunks: chunks that are complete but do not decompress, or fail their checksum.
        lost_bytes: bytes that make no sense, or lie behind the place where the file is cut.
        lost_messages: messages that are known to be lost; a cut may have taken more.
        places: what is wrong and where, one phrase each.
    """

    broken_chunks: int = 0
    lost_bytes: int = 0
    lost_messages: int = 0
    places: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        shown = self.places[:_SHOWN]
        if hidden := len(self.places) - len(shown):
            shown.append(f"{hidden} more places")
        return "; ".join(shown) or "its index is missing, its messages are complete"
