"""Diagnostic statuses and their message on /diagnostics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue


class Level(IntEnum):
    """Levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True)
class Status:
    """One diagnostic status.

    Args:
        concern: what the status is about, for example "color input".
        level: how serious it is.
        message: one line for users.
        values: details by key.
    """

    concern: str
    level: Level
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


def to_message(statuses: Sequence[Status], node_name: str, stamp: Time) -> DiagnosticArray:
    """Convert statuses to a message; the name of each status starts with the node name."""
    message = DiagnosticArray()
    message.header.stamp = stamp
    message.status = [
        DiagnosticStatus(
            level=bytes([status.level]),
            name=f"{node_name}: {status.concern}",
            message=status.message,
            hardware_id=node_name,
            values=[KeyValue(key=key, value=value) for key, value in status.values.items()],
        )
        for status in statuses
    ]
    return message
