"""Limit the rate of events."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class RateLimit:
    """Decide which events to use so that their mean rate stays below a limit.

    After a late event, the next may be early by the same time. A camera whose frames jitter around the wanted period
    therefore loses no frame.

    Args:
        now_s: monotonic clock, seconds; the limit protects the machine, so simulated time does not matter.

    >>> times = iter([0.0, 0.3, 0.6, 0.9])
    >>> limit = RateLimit(lambda: next(times))
    >>> [limit.allows(max_hz=2.0) for _ in range(4)]
    [True, False, True, False]
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._used_s = -math.inf  # due time of the last used event

    def allows(self, max_hz: float) -> bool:
        """Return whether to use an event that happens now, and count it if so; 0 Hz is no limit."""
        now = self._now_s()
        period = 1 / max_hz if max_hz > 0 else 0.0
        due = self._used_s + period
        if now < due:
            return False
        self._used_s = due if now - due < period else now
        return True
