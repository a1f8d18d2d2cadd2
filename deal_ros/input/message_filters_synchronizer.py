"""Frames through message_filters, the pairing that other ROS nodes use, with an account of every message."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable

import message_filters

from deal_core.recording.pairing import UnpairedCause
from deal_ros.input.conversions import ImageMessage, stamp_to_ns
from deal_ros.input.synchronizer import Frame, SyncCounts, SyncLimits

_COLOR, _DEPTH = 0, 1
_NS_PER_S = 1_000_000_000

WENT_BACK = "stamps went back"
"""What waited when a stream began anew further back; message_filters would wait for the old time to come again."""
NEGATIVE_STAMP = "negative stamp"
"""message_filters cannot take it, and in raising keeps its lock for ever."""


class FiltersSynchronizer:
    """Pairs by `message_filters.TimeSynchronizer`, or with a slop by its `ApproximateTimeSynchronizer`.

    The node's subscriptions stay its own: messages are fed by hand, and what message_filters kept, paired or gave
    up is read from its queues after each. Its callback only takes the pair down, as it runs within its lock.

    Beside `StampSynchronizer`, by nature of message_filters:
    - With a slop, a message pairs at once with the nearest one that waits. That saves up to a frame period of
      latency, and misses the closer one that may still come.
    - A full queue lets go of the smallest stamp rather than of the first arrived. Newer versions also let go of
      everything older than a pair of equal stamps. Colour that is let go after depth went past it goes on alone
      at once where `alone_after_s` is set.
    - When stamps go back by more than a queue, all that waits is given up, as it would block the queue.

    Not thread-safe, and with the arguments of `StampSynchronizer`.
    """

    def __init__(
        self,
        on_frame: Callable[[Frame], None],
        *,
        slop_ns: int,
        queue_size: int,
        alone_after_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_frame, self._alone_after_s, self._clock, self._queue_size = on_frame, alone_after_s, clock, queue_size
        self._made: list[tuple[ImageMessage, ImageMessage]] = []
        self._waiting: list[dict[int, ImageMessage]] = [{}, {}]
        self._pair_by(slop_ns)
        self._recent: tuple[deque[int], deque[int]] = (deque(maxlen=queue_size), deque(maxlen=queue_size))
        self._arrived: dict[int, float] = {}
        self._received = [0, 0]
        self._unpaired: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._paired = self._alone = 0

    @property
    def counts(self) -> SyncCounts:
        """A snapshot of what became of every message."""
        return SyncCounts(
            received_color=self._received[_COLOR],
            received_depth=self._received[_DEPTH],
            paired=self._paired,
            color_alone=self._alone,
            unpaired_color=dict(self._unpaired[_COLOR]),
            unpaired_depth=dict(self._unpaired[_DEPTH]),
            pending_color=len(self._waiting[_COLOR]),
            pending_depth=len(self._waiting[_DEPTH]),
        )

    def add_color(self, message: ImageMessage) -> None:
        """Take a colour image; hand on the pair it completes."""
        self._add(_COLOR, message)

    def add_depth(self, message: ImageMessage) -> None:
        """Take a depth image; hand on the pair it completes."""
        self._add(_DEPTH, message)

    def expire(self) -> None:
        """Hand on, alone, the colour images that waited too long for their depth."""
        if self._alone_after_s is None:
            return
        limit = self._clock() - self._alone_after_s
        overdue = sorted(stamp for stamp, arrived in self._arrived.items() if arrived <= limit)
        frames = [Frame(stamp, self._waiting[_COLOR].pop(stamp), None) for stamp in overdue]
        for stamp in overdue:
            del self._arrived[stamp]
        self._hand_on(frames)

    def adapt(self, limits: SyncLimits) -> None:
        """Pair by these limits from now on."""
        self._alone_after_s = limits.alone_after_s
        if limits.slop_ns != self._slop_ns:
            self._pair_by(limits.slop_ns)

    def _pair_by(self, slop_ns: int) -> None:
        """Begin with a new pairer; what waits goes on waiting in it."""
        self._slop_ns = slop_ns
        self._inputs = (message_filters.SimpleFilter(), message_filters.SimpleFilter())
        pairer = _new_pairer(self._inputs, slop_ns, self._queue_size)
        pairer.registerCallback(lambda color, depth: self._made.append((color, depth)))
        for queue, waiting in zip(pairer.queues, self._waiting, strict=True):
            queue.update(waiting)
        self._waiting = pairer.queues

    def _add(self, stream: int, message: ImageMessage) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp)
        self._received[stream] += 1
        if refusal := self._refusal(stream, stamp_ns):
            self._unpaired[stream][refusal] += 1
            return
        recent = self._recent[stream]
        if len(recent) == recent.maxlen and stamp_ns < min(recent):
            self._begin_anew()
        recent.append(stamp_ns)
        if stream == _COLOR:
            self._arrived[stamp_ns] = self._clock()
        self._feed(stream, stamp_ns, message)

    def _feed(self, stream: int, stamp_ns: int, message: ImageMessage) -> None:
        fed = [dict(waiting) for waiting in self._waiting]
        fed[stream][stamp_ns] = message
        self._inputs[stream].signalMessage(message)
        frames = self._take_pairs(fed)
        frames += self._count_given_up(fed)
        self._hand_on(sorted(frames, key=lambda frame: frame.stamp_ns))

    def _refusal(self, stream: int, stamp_ns: int) -> str:
        if stamp_ns < 0:
            return NEGATIVE_STAMP
        is_duplicate = stamp_ns in self._waiting[stream] or stamp_ns in self._recent[stream]
        return UnpairedCause.DUPLICATE.value if is_duplicate else ""

    def _begin_anew(self) -> None:
        for waiting, recent, unpaired in zip(self._waiting, self._recent, self._unpaired, strict=True):
            if waiting:
                unpaired[WENT_BACK] += len(waiting)
            waiting.clear()
            recent.clear()
        self._arrived.clear()

    def _take_pairs(self, fed: list[dict[int, ImageMessage]]) -> list[Frame]:
        """Return the pairs made, and take them out of what was fed."""
        frames = []
        for color, depth in self._made:
            stamp_ns = stamp_to_ns(color.header.stamp)
            del fed[_COLOR][stamp_ns], fed[_DEPTH][stamp_to_ns(depth.header.stamp)], self._arrived[stamp_ns]
            frames.append(Frame(stamp_ns, color, depth))
        self._made.clear()
        return frames

    def _count_given_up(self, fed: list[dict[int, ImageMessage]]) -> list[Frame]:
        """Count what was fed and is neither paired nor waiting; return the colour images that may go on alone."""
        frames = []
        for stream, messages in enumerate(fed):
            newest_other = max(self._recent[1 - stream], default=-1)
            for stamp_ns in messages.keys() - self._waiting[stream].keys():
                passed = newest_other > stamp_ns + self._slop_ns
                if stream == _COLOR:
                    del self._arrived[stamp_ns]
                    if passed and self._alone_after_s is not None:
                        frames.append(Frame(stamp_ns, messages[stamp_ns], None))
                        continue
                cause = UnpairedCause.NO_PARTNER if passed else UnpairedCause.QUEUE_FULL
                self._unpaired[stream][cause.value] += 1
        return frames

    def _hand_on(self, frames: list[Frame]) -> None:
        self._paired += sum(frame.depth is not None for frame in frames)
        self._alone += sum(frame.depth is None for frame in frames)
        for frame in frames:
            self._on_frame(frame)


def _new_pairer(
    inputs: tuple[message_filters.SimpleFilter, message_filters.SimpleFilter], slop_ns: int, queue_size: int
) -> message_filters.TimeSynchronizer:
    if not slop_ns:
        return message_filters.TimeSynchronizer(inputs, queue_size)
    # Its comparison is strict, and seconds become whole nanoseconds by truncation.
    return message_filters.ApproximateTimeSynchronizer(inputs, queue_size, (slop_ns + 1.5) / _NS_PER_S)
