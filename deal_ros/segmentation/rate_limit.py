"""At most so many times a second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class RateLimit:
    """Say which of the moments that come by are used.

    The mean rate is what is held: after a moment that came late, the next may come early by as much, so that a
    camera whose frames jitter around the wanted period loses none.

    Args:
        now_s: the clock, seconds; steady, for it is the machine's load that is limited, not simulated time's.

    >>> moments = iter([0.0, 0.3, 0.6, 0.9])
    >>> limit = RateLimit(lambda: next(moments))
    >>> [limit.allows(max_hz=2.0) for _ in range(4)]
    [True, False, True, False]
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._used_s = -math.inf  # when the last moment was due

    def allows(self, max_hz: float) -> bool:
        """Return whether this moment may be used, and count it if so; 0 Hz is no limit."""
        now = self._now_s()
        period = 1 / max_hz if max_hz > 0 else 0.0
        due = self._used_s + period
        if now < due:
            return False
        self._used_s = due if now - due < period else now
        return True
