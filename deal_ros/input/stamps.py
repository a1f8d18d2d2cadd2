"""Detect invalid message stamps and jumps of the node's clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

_FUTURE_NS = 100_000_000
"""Minimum lead of a stamp over the node's clock that counts as the future; rounding and latency are smaller."""
_STEP_S = 1.0
_NS_PER_S = 1_000_000_000
_NS_PER_MS = 1_000_000


@dataclass(frozen=True)
class StampCounts:
    """Counts of messages with invalid stamps.

    Args:
        zero: stamps that are 0, which means not set.
        backwards: stamps earlier than that of the previous message.
        future: stamps more than 100 ms ahead of the node's clock.
        ahead_ms: lead of the last stamp in the future, milliseconds.
    """

    zero: int = 0
    backwards: int = 0
    future: int = 0
    ahead_ms: float = math.nan


class StampWatch:
    """Count the invalid stamps of one stream."""

    def __init__(self) -> None:
        self._last_ns = 0
        self.counts = StampCounts()
        """The counts so far."""

    def see(self, stamp_ns: int, now_ns: int) -> None:
        """Check the stamp of a message that has just arrived against the time of the node's clock."""
        if stamp_ns == 0:
            self.counts = replace(self.counts, zero=self.counts.zero + 1)
            return
        if stamp_ns < self._last_ns:
            self.counts = replace(self.counts, backwards=self.counts.backwards + 1)
        self._last_ns = stamp_ns
        if stamp_ns - now_ns > _FUTURE_NS:
            ahead_ms = (stamp_ns - now_ns) / _NS_PER_MS
            self.counts = replace(self.counts, future=self.counts.future + 1, ahead_ms=ahead_ms)


class ClockWatch:
    """Detect that the node's clock was set or that simulated time restarted.

    Example:
        >>> watch = ClockWatch()
        >>> for now_s, steady_s in [(10.0, 0.0), (11.0, 1.0), (2.0, 2.0)]:
        ...     watch.see(round(now_s * 1e9), steady_s, is_simulated=True)
        >>> watch.jumps, watch.last_jump
        (1, 'back by 9.0 s')
    """

    def __init__(self) -> None:
        self.jumps = 0
        """Number of jumps."""
        self.last_jump = ""
        """Description of the last jump, for example "back by 9.0 s"."""
        self._before: tuple[int, float] | None = None

    def see(self, now_ns: int, steady_s: float, *, is_simulated: bool) -> None:
        """Compare the clocks; call this about once a second.

        Args:
            now_ns: time of the clock that stamps are compared with; 0 means that simulated time has not started.
            steady_s: time of a monotonic clock.
            is_simulated: whether the first clock is simulated. It may run at another speed, so only a step back is a
                jump.
        """
        before, self._before = self._before, (now_ns, steady_s) if now_ns else None
        if before is None or not now_ns:
            return
        moved_s = (now_ns - before[0]) / _NS_PER_S
        step_s = moved_s - (0 if is_simulated else steady_s - before[1])
        if moved_s < 0 or (not is_simulated and abs(step_s) > _STEP_S):
            self.jumps += 1
            self.last_jump = f"{'back' if step_s < 0 else 'ahead'} by {abs(step_s):.1f} s"
