"""Which pairs of a recording are wanted, and which of them never came."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

_NS_PER_S = 1_000_000_000
_STEPS = 64
_SLOWER = 1.2  # ratio of the periods from which one stream counts as slower than the other
MISSED_KEYFRAME = "keyframe without a pair"


class PairDemand:
    """Tell the images without a partner that cost a wanted pair from those that do not.

    A camera may send colour twice as often as depth: every second colour image has no partner, and nothing is lost.
    With keyframes rarer than the slower stream, a pair is missed if a period of the keyframes has an image but no pair.
    Otherwise, each image of the slower stream is wanted; if both are equally fast, each image of both.

    Args:
        rate_hz: keyframes per second; 0 wants all pairs.
    """

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._last: dict[str, int] = {}
        self._steps: dict[str, deque[int]] = {stream: deque(maxlen=_STEPS) for stream in ("color", "depth")}
        self._origin_ns: int | None = None
        self._seen: set[int] = set()
        self._filled: set[int] = set()

    def see(self, stream: str, stamp_ns: int) -> None:
        """Note an image of a stream, "color" or "depth"."""
        step = stamp_ns - self._last.get(stream, stamp_ns)
        self._last[stream] = stamp_ns
        if step > 0:
            self._steps[stream].append(step)
        if self._rate_hz:
            self._seen.add(self._slot(stamp_ns))

    def fill(self, stamp_ns: int) -> None:
        """Note a pair."""
        if self._rate_hz:
            self._filled.add(self._slot(stamp_ns))

    def rate_hz(self, stream: str) -> float:
        """Return the rate of a stream, from the median of its last periods; 0 if it is unknown."""
        steps = self._steps[stream]
        return _NS_PER_S / float(np.median(steps)) if steps else 0.0

    def missed(
        self, unpaired: Mapping[str, Mapping[str, int]], paired: int, pending_ns: int | None
    ) -> tuple[dict[str, int], int]:
        """Return the wanted pairs that never came, by cause, and the number of wanted pairs.

        Args:
            unpaired: number of images without a partner, by stream and cause.
            paired: number of pairs.
            pending_ns: earliest stamp of the images that still wait for a partner; None if none waits.
        """
        rates = {stream: self.rate_hz(stream) for stream in unpaired}
        slowest = min((rate for rate in rates.values() if rate), default=0.0)
        if 0 < self._rate_hz < slowest:
            end = None if pending_ns is None else self._slot(pending_ns)
            empty = sum(end is None or slot < end for slot in self._seen - self._filled)
            return ({MISSED_KEYFRAME: empty} if empty else {}), len(self._filled) + empty
        wanted = [stream for stream in unpaired if not rates[stream] or rates[stream] <= slowest * _SLOWER]
        found = {f"{stream}: {cause}": n for stream in wanted for cause, n in unpaired[stream].items()}
        return found, paired + sum(found.values())

    def _slot(self, stamp_ns: int) -> int:
        if self._origin_ns is None:
            self._origin_ns = stamp_ns
        return int((stamp_ns - self._origin_ns) * self._rate_hz // _NS_PER_S)
