"""Pair colour and depth messages by header stamp, and count unpaired messages by cause."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, TypeVar

from deal_core.errors import UsageError

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")


class UnpairedCause(str, Enum):
    """Why a message was not paired."""

    NO_PARTNER = "no partner within slop"
    """The other stream passed this stamp without a close message."""
    QUEUE_FULL = "queue full"
    """The other stream had not reached this stamp when the queue was full: it is silent or far behind."""
    DUPLICATE = "duplicate stamp"
    """The same stream recently had a message with this stamp."""
    EXPIRED = "waited too long"
    """The caller removed the message (`StampPairer.expire_color`)."""
    NO_STAMP = "stamp 0"
    """The driver does not set the stamps: several messages of the stream have stamp 0."""
    ODD_STAMP = "stamp far from the time of recording"
    """The stamp is a day or more away from where those of most messages are."""


@dataclass(frozen=True)
class Pair(Generic[A, B]):
    """One colour item and one depth item whose stamps differ by at most the slop."""

    stamp_ns: int
    color: A
    depth_stamp_ns: int
    depth: B

    @property
    def offset_ns(self) -> int:
        """Depth stamp minus colour stamp, nanoseconds."""
        return self.depth_stamp_ns - self.stamp_ns


@dataclass
class PairingCounts:
    """Counts of all messages by outcome.

    On each stream, `received == paired + sum(unpaired) + pending` at any time; `pending` messages are in the queue.
    """

    received_color: int = 0
    received_depth: int = 0
    paired: int = 0
    unpaired_color: Counter[UnpairedCause] = field(default_factory=Counter)
    unpaired_depth: Counter[UnpairedCause] = field(default_factory=Counter)
    backwards_color: int = 0
    """Messages with an older stamp than the message before; they may have been paired."""
    backwards_depth: int = 0

    @property
    def unpaired(self) -> dict[str, int]:
        """Counts by stream and cause, as in `{"depth: duplicate stamp": 2}`; only causes that occurred."""
        streams = (("color", self.unpaired_color), ("depth", self.unpaired_depth))
        return {f"{name}: {cause.value}": n for name, found in streams for cause, n in sorted(found.items())}


class StampPairer(Generic[A, B]):
    """Pair two streams by header stamp; each message is used at most once.

    With `slop_ns=0` only equal stamps pair, and the call that completes a pair returns it, in any order of arrival. Use
    it if one driver gives both images the same stamp (RealSense with aligned depth).

    With a slop, the pairs are those of a greedy choice by (offset, colour stamp, depth stamp) over the whole input: the
    closest messages pair first. Such a pair is returned only when no closer message can arrive. Equal stamps return at
    once; otherwise, the stream of the *earlier* message must pass the later one by their offset, which costs up to one
    frame period of latency. Messages out of order pair with waiting messages; they cannot revoke a returned pair.

    Each queue has `queue_size` waiting messages. When another arrives, the message that arrived first leaves: with its
    partner if it has one, else counted with a cause. Removal by arrival, and progress by the last `queue_size` stamps,
    let pairing recover after a clock jumped back.

    Not thread-safe. Time per message is O(queue_size log queue_size).

    Args:
        slop_ns: largest difference between the stamps of a pair, nanoseconds.
        queue_size: number of messages that may wait on each stream, at least 1.

    Raises:
        UsageError: the slop is negative, or the queue size is below 1.

    Example:
        >>> pairer = StampPairer[str, str](slop_ns=0)
        >>> pairer.add_color(100, "color"), pairer.add_depth(100, "depth")
        ([], [Pair(stamp_ns=100, color='color', depth_stamp_ns=100, depth='depth')])
    """

    def __init__(self, *, slop_ns: int = 0, queue_size: int = 10) -> None:
        if slop_ns < 0:
            raise UsageError(f"the pairing slop must be 0 (equal stamps) or more, found {slop_ns} ns")
        if queue_size < 1:
            raise UsageError(f"the pairing queue must have a size of at least 1, found {queue_size}")
        self.slop_ns = slop_ns
        self.queue_size = queue_size
        self.counts = PairingCounts()
        self._color: _Stream[A] = _Stream(queue_size)
        self._depth: _Stream[B] = _Stream(queue_size)

    @property
    def pending_color(self) -> int:
        """Colour messages waiting for a partner."""
        return len(self._color.items)

    @property
    def pending_depth(self) -> int:
        """Depth messages waiting for a partner."""
        return len(self._depth.items)

    @property
    def earliest_pending(self) -> int | None:
        """Earliest stamp of the messages that wait for a partner; None if none waits."""
        return min((*self._color.stamps[:1], *self._depth.stamps[:1]), default=None)

    def add_color(self, stamp_ns: int, item: A) -> list[Pair[A, B]]:
        """Add a colour message; return the pairs that are certain now, by colour stamp."""
        self.counts.received_color += 1
        self.counts.backwards_color += self._color.is_backwards(stamp_ns)
        return self._add(stamp_ns, item, self._color, self._depth, self.counts.unpaired_color, 0)

    def add_depth(self, stamp_ns: int, item: B) -> list[Pair[A, B]]:
        """Add a depth message; return the pairs that are certain now, by colour stamp."""
        self.counts.received_depth += 1
        self.counts.backwards_depth += self._depth.is_backwards(stamp_ns)
        return self._add(stamp_ns, item, self._depth, self._color, self.counts.unpaired_depth, 1)

    def flush(self, *, cut: bool = False) -> list[Pair[A, B]]:
        """End the input: return the pairs that waited for certainty, and count the rest as unpaired.

        Args:
            cut: whether the streams continue after the end: messages later than the whole other stream then stay
                pending, because their partner would still come.
        """
        pairs = [self._take(c, d) for c, d in self._greedy()]
        ends = [stream.latest() + self.slop_ns if cut else 2**63 for stream in (self._depth, self._color)]
        self.counts.unpaired_color[UnpairedCause.NO_PARTNER] += self._color.drop_until(ends[0])
        self.counts.unpaired_depth[UnpairedCause.NO_PARTNER] += self._depth.drop_until(ends[1])
        self.counts.unpaired_color += Counter()  # drops causes that did not occur
        self.counts.unpaired_depth += Counter()
        return _by_stamp(pairs)

    def expire_color(self, older_than_ns: int) -> list[tuple[int, A]]:
        """Remove the colour messages stamped before `older_than_ns`; return (stamp, item) by stamp.

        A node calls it to continue without depth.
        """
        stamps = self._color.stamps[: bisect_left(self._color.stamps, older_than_ns)]
        self.counts.unpaired_color[UnpairedCause.EXPIRED] += len(stamps)
        return [(stamp, self._color.pop(stamp)) for stamp in stamps]

    def _certain_pairs(self, stamp_ns: int) -> list[Pair[A, B]]:
        if self.slop_ns == 0:
            both = stamp_ns in self._color.items and stamp_ns in self._depth.items
            return [self._take(stamp_ns, stamp_ns)] if both else []
        pairs = []
        # A taken pair can make a neighbour's pair certain, so the search repeats until nothing changes.
        while certain := [(c, d) for c, d in self._mutual_nearest() if self._is_certain(c, d)]:
            pairs += [self._take(c, d) for c, d in certain]
        return pairs

    def _is_certain(self, color: int, depth: int) -> bool:
        offset = abs(color - depth)
        # Later messages have stamps of at least latest + 1; the earlier stamp wins a tie.
        return self._color.latest() + 1 >= depth + offset and self._depth.latest() + 1 >= color + offset

    def _mutual_nearest(self) -> list[tuple[int, int]]:
        """Return the (colour, depth) stamps that are nearest to each other; the greedy choice takes them all."""
        found = []
        for color in self._color.stamps:
            depth = _nearest(self._depth.stamps, color)
            if depth is None or abs(depth - color) > self.slop_ns:
                continue
            if _nearest(self._color.stamps, depth) == color:
                found.append((color, depth))
        return found

    def _greedy(self) -> list[tuple[int, int]]:
        """Return the greedy matching of all waiting messages."""
        colors, depths, taken = list(self._color.stamps), list(self._depth.stamps), []
        while found := self._mutual_nearest():
            taken += found
            for color, depth in found:
                self._color.stamps.remove(color)
                self._depth.stamps.remove(depth)
        self._color.stamps, self._depth.stamps = colors, depths
        return taken

    def _add(
        self, stamp: int, item: T, own: _Stream[T], other: _Stream[Any], unpaired: Counter[UnpairedCause], side: int
    ) -> list[Pair[A, B]]:
        if not own.add(stamp, item):
            unpaired[UnpairedCause.DUPLICATE] += 1
            return []
        pairs = self._certain_pairs(stamp)
        if len(own.items) > self.queue_size:
            pairs += self._make_room(own, other, unpaired, side)
        return _by_stamp(pairs)

    def _make_room(
        self, full: _Stream[T], other: _Stream[Any], unpaired: Counter[UnpairedCause], side: int
    ) -> list[Pair[A, B]]:
        oldest = next(iter(full.items))
        for pair in self._greedy() if self.slop_ns else []:
            if pair[side] == oldest:
                return [self._take(*pair)]
        passed = other.latest() > oldest + self.slop_ns
        unpaired[UnpairedCause.NO_PARTNER if passed else UnpairedCause.QUEUE_FULL] += 1
        full.pop(oldest)
        return []

    def _take(self, color: int, depth: int) -> Pair[A, B]:
        self.counts.paired += 1
        return Pair(color, self._color.pop(color), depth, self._depth.pop(depth))


class _Stream(Generic[T]):
    """The waiting messages of one stream, and the stamps of its last arrivals."""

    def __init__(self, queue_size: int) -> None:
        self.items: dict[int, T] = {}  # by order of arrival
        self.stamps: list[int] = []  # the same, sorted
        self.recent: deque[int] = deque(maxlen=queue_size)

    def add(self, stamp: int, item: T) -> bool:
        if stamp in self.items or stamp in self.recent:
            return False
        self.items[stamp] = item
        insort(self.stamps, stamp)
        self.recent.append(stamp)
        return True

    def pop(self, stamp: int) -> T:
        del self.stamps[bisect_left(self.stamps, stamp)]
        return self.items.pop(stamp)

    def drop_until(self, end: int) -> int:
        dropped = self.stamps[: bisect_right(self.stamps, end)]
        for stamp in dropped:
            self.pop(stamp)
        return len(dropped)

    def latest(self) -> int:
        return max(self.recent, default=-(2**63))

    def is_backwards(self, stamp: int) -> bool:
        return bool(self.recent) and stamp < self.recent[-1]


def pair_stamps(colors: Iterable[int], depths: Iterable[int], slop_ns: int) -> dict[int, int]:
    """Return the depth stamp of each colour stamp that has a partner, for whole streams in any order.

    The pairs are those of a greedy choice by (offset, colour stamp, depth stamp), as of `StampPairer` with an unlimited
    queue. The closest two stamps of different streams are always neighbours among all stamps. O(n log n).

    Args:
        colors: colour stamps; repeated ones count once.
        depths: depth stamps; repeated ones count once.
        slop_ns: largest difference between the stamps of a pair, nanoseconds.
    """
    if slop_ns == 0:
        return {stamp: stamp for stamp in set(colors) & set(depths)}
    stamps = sorted([(stamp, 0) for stamp in set(colors)] + [(stamp, 1) for stamp in set(depths)])
    before, after = list(range(-1, len(stamps) - 1)), [*range(1, len(stamps)), -1]
    waiting: list[tuple[int, int, int, int, int]] = []

    def offer(one: int, other: int) -> None:
        """Offer two neighbours as a pair, if they are of different streams and within the slop."""
        if one < 0 or other < 0 or stamps[one][1] == stamps[other][1]:
            return
        color, depth = (one, other) if stamps[one][1] == 0 else (other, one)
        offset = abs(stamps[color][0] - stamps[depth][0])
        if offset <= slop_ns:
            heapq.heappush(waiting, (offset, stamps[color][0], stamps[depth][0], color, depth))

    for place in range(len(stamps) - 1):
        offer(place, place + 1)
    pairs: dict[int, int] = {}
    is_taken = bytearray(len(stamps))
    while waiting:
        _, color_ns, depth_ns, color, depth = heapq.heappop(waiting)
        if is_taken[color] or is_taken[depth]:
            continue
        pairs[color_ns] = depth_ns
        is_taken[color] = is_taken[depth] = 1
        first, last = before[min(color, depth)], after[max(color, depth)]
        if first >= 0:
            after[first] = last
        if last >= 0:
            before[last] = first
        offer(first, last)
    return pairs


def _nearest(stamps: Sequence[int], stamp: int) -> int | None:
    """Return the nearest of sorted stamps; the earlier one wins a tie."""
    at = bisect_left(stamps, stamp)
    return min(stamps[max(at - 1, 0) : at + 1], key=lambda s: (abs(s - stamp), s), default=None)


def _by_stamp(pairs: list[Pair[A, B]]) -> list[Pair[A, B]]:
    return sorted(pairs, key=lambda pair: pair.stamp_ns)
