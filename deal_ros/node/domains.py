"""ROS domains in which no process of this machine takes part, for what must neither hear others nor be heard."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator

LARGEST_DOMAIN = 101
"""From 102 on, domains use ports that Linux hands out to others."""

# DDSI-RTPS 9.6.2.3: participant p of domain d listens on UDP port 7400 + 250 d + 10 + 2 p.
_PORT_BASE, _DOMAIN_GAIN, _UNICAST_OFFSET, _PARTICIPANT_GAIN = 7400, 250, 10, 2
_PARTICIPANTS = 10


def unused_domains(start: int = 0, step: int = 1, largest: int = LARGEST_DOMAIN) -> Iterator[int]:
    """Yield ROS domains from 1 to `largest` in which nobody on this machine takes part at that moment, without end.

    Args:
        start: where to begin; processes that begin apart seldom meet.
        step: how far to go from one to the next. Processes with starts below one `step` never meet if `largest` is a
            multiple of it.
        largest: the largest domain.

    Raises:
        RuntimeError: all of them are in use.
    """
    refused = 0
    for number in itertools.count(start, step):
        domain = 1 + number % largest
        refused = 0 if _is_unused(domain) else refused + 1
        if refused > largest:
            raise RuntimeError(f"expected a ROS domain from 1 to {largest} without a process, found all of them in use")
        if not refused:
            yield domain


def _is_unused(domain: int) -> bool:
    first = _PORT_BASE + _DOMAIN_GAIN * domain + _UNICAST_OFFSET
    return all(_is_free(first + _PARTICIPANT_GAIN * participant) for participant in range(_PARTICIPANTS))


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        try:
            end.bind(("", port))
        except OSError:
            return False
    return True
