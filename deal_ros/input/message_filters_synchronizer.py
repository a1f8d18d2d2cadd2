"""Pair colour and depth with message_filters, as other ROS nodes do, and count the outcome of every message."""

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
"""Cause for messages that wait when stamps go back; message_filters would block until the old stamps return."""
NEGATIVE_STAMP = "negative stamp"
"""Cause for negative stamps: message_filters raises an exception for them and never releases its lock."""


class FiltersSynchronizer:
    """Pair with `message_filters.TimeSynchronizer`, or with `ApproximateTimeSynchronizer` if there is a slop.

    The node keeps its own subscriptions and passes each message to message_filters. After each message, the queues
    of message_filters show which messages it kept, paired or dropped. The callback of message_filters only stores
    the pair, because it runs while message_filters holds its lock.

    Differences from `StampSynchronizer`, due to message_filters:
    - With a slop, a message pairs at once with the nearest message that waits. This saves up to one frame period of
      latency, but misses a closer message that arrives later.
    - A full queue drops the smallest stamp, not the message that arrived first. Newer versions also drop all messages
      older than a pair of equal stamps. A dropped colour image with an older stamp than the newest depth image becomes
      a frame without depth at once if `alone_after_s` is set.
    - If stamps go back by more than a queue, all waiting messages are dropped, because they would block the queue.

    Not thread-safe. The arguments are those of `StampSynchronizer`.
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
        """A snapshot of the counts of messages by outcome."""
        return SyncCounts(
            received_color=self._received[_COLOR],
            received_depth=self._received[_DEPTH],
            paired=self._paired,
            color_alone=self._alone,
            unpaired_color=self._unpaired[_COLOR].copy(),
            unpaired_depth=self._unpaired[_DEPTH].copy(),
            pending_color=len(self._waiting[_COLOR]),
            pending_depth=len(self._waiting[_DEPTH]),
        )

    def add_color(self, message: ImageMessage) -> None:
        """Add a colour image; pass on the pair that it completes."""
        self._add(_COLOR, message)

    def add_depth(self, message: ImageMessage) -> None:
        """Add a depth image; pass on the pair that it completes."""
        self._add(_DEPTH, message)

    def expire(self) -> None:
        """Pass on, without depth, the colour images whose wait for depth has timed out."""
        if self._alone_after_s is None:
            return
        limit = self._clock() - self._alone_after_s
        overdue = sorted(stamp for stamp, arrived in self._arrived.items() if arrived <= limit)
        frames = [Frame(stamp, self._waiting[_COLOR].pop(stamp), None) for stamp in overdue]
        for stamp in overdue:
            del self._arrived[stamp]
        self._hand_on(frames)

    def adapt(self, limits: SyncLimits) -> None:
        """Use these limits from now on."""
        self._alone_after_s = limits.alone_after_s
        if limits.slop_ns != self._slop_ns:
            self._pair_by(limits.slop_ns)

    def _pair_by(self, slop_ns: int) -> None:
        """Replace the pairer; messages that wait move to the new one."""
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
        """Return the new pairs and remove their messages from `fed`."""
        frames = []
        for color, depth in self._made:
            stamp_ns = stamp_to_ns(color.header.stamp)
            del fed[_COLOR][stamp_ns], fed[_DEPTH][stamp_to_ns(depth.header.stamp)], self._arrived[stamp_ns]
            frames.append(Frame(stamp_ns, color, depth))
        self._made.clear()
        return frames

    def _count_given_up(self, fed: list[dict[int, ImageMessage]]) -> list[Frame]:
        """Count the messages that were neither paired nor kept; return the colour images that become frames alone."""
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
    # message_filters compares with < and truncates the seconds to whole nanoseconds.
    return message_filters.ApproximateTimeSynchronizer(inputs, queue_size, (slop_ns + 1.5) / _NS_PER_S)
