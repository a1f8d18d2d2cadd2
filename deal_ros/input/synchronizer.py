"""Two image topics in, frames out: pairs by header stamp, or colour alone where the depth mode allows it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from deal_core.recording.pairing import Pair, StampPairer, UnpairedCause
from deal_ros.input.conversions import ImageMessage, stamp_to_ns

if TYPE_CHECKING:
    pass

_NS_PER_MS = 1_000_000
_NOT_WANTED = "no longer wanted"


class DepthMode(str, Enum):
    """What the node wants of depth."""

    OFF = "off"
    """Not subscribed; every colour image is a frame."""
    OPTIONAL = "optional"
    """Colour waits a little for its depth, then goes on alone."""
    REQUIRED = "required"
    """Only pairs are frames."""


@dataclass(frozen=True, eq=False)
class Frame:
    """The messages of one moment.

    Args:
        stamp_ns: header stamp of the colour image, nanoseconds.
        color: the colour image.
        depth: the depth image of the same moment; None where colour goes alone.
    """

    stamp_ns: int
    color: ImageMessage
    depth: ImageMessage | None


@dataclass(frozen=True)
class SyncCounts:
    """What became of every message.

    `received_color == paired + color_alone + sum(unpaired_color) + pending_color` and
    `received_depth == paired + sum(unpaired_depth) + pending_depth` at any time;
    `paired + color_alone` frames were handed on.
    """

    received_color: int = 0
    received_depth: int = 0
    paired: int = 0
    color_alone: int = 0
    unpaired_color: Mapping[str, int] = field(default_factory=dict)
    unpaired_depth: Mapping[str, int] = field(default_factory=dict)
    pending_color: int = 0
    pending_depth: int = 0

    def __add__(self, other: SyncCounts) -> SyncCounts:
        """Return what became of the messages of both."""
        return SyncCounts(
            received_color=self.received_color + other.received_color,
            received_depth=self.received_depth + other.received_depth,
            paired=self.paired + other.paired,
            color_alone=self.color_alone + other.color_alone,
            unpaired_color=Counter(self.unpaired_color) + Counter(other.unpaired_color),
            unpaired_depth=Counter(self.unpaired_depth) + Counter(other.unpaired_depth),
            pending_color=self.pending_color + other.pending_color,
            pending_depth=self.pending_depth + other.pending_depth,
        )

    def without_pending(self) -> SyncCounts:
        """Return the counts once nothing waits any more, as nobody wants depth any longer."""
        lost_color, lost_depth = ({_NOT_WANTED: n} for n in (self.pending_color, self.pending_depth))
        return replace(self, pending_color=0, pending_depth=0) + SyncCounts(
            unpaired_color=lost_color, unpaired_depth=lost_depth
        )


@dataclass(frozen=True)
class SyncLimits:
    """What of pairing may change while it goes on.

    Args:
        slop_ns: largest difference between the stamps of a pair; 0 wants equal stamps.
        alone_after_s: seconds a colour image waits for its depth before it goes on alone; None means for ever.
    """

    slop_ns: int
    alone_after_s: float | None

    @classmethod
    def of(cls, depth_mode: DepthMode, policy: str, slop_ms: float, timeout_ms: float) -> SyncLimits:
        """Return the limits for the node's parameters, as `create_synchronizer` takes them."""
        return cls(
            slop_ns=slop_ns(policy, slop_ms),
            alone_after_s=timeout_ms / 1000 if depth_mode is DepthMode.OPTIONAL else None,
        )


class Synchronizer(Protocol):
    """What the node needs to know of whoever pairs; frames go to the callable given at construction."""

    @property
    def counts(self) -> SyncCounts:
        """A snapshot of what became of every message."""

    def add_color(self, message: ImageMessage) -> None:
        """Take a colour image."""

    def add_depth(self, message: ImageMessage) -> None:
        """Take a depth image."""

    def expire(self) -> None:
        """Hand on what has waited long enough; to be called regularly."""

    def adapt(self, limits: SyncLimits) -> None:
        """Pair by these limits from now on."""


class ColorOnly:
    """Every colour image is a frame."""

    def __init__(self, on_frame: Callable[[Frame], None]) -> None:
        self._on_frame = on_frame
        self._received = 0

    @property
    def counts(self) -> SyncCounts:
        """A snapshot of what became of every message."""
        return SyncCounts(received_color=self._received, color_alone=self._received)

    def add_color(self, message: ImageMessage) -> None:
        """Hand the colour image on."""
        self._received += 1
        self._on_frame(Frame(stamp_to_ns(message.header.stamp), message, None))

    def add_depth(self, message: ImageMessage) -> None:
        """Refuse: there is no depth in this mode.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a depth image in depth mode 'off'")

    def expire(self) -> None:
        """Nothing waits."""

    def adapt(self, limits: SyncLimits) -> None:
        """Nothing is paired."""


class StampSynchronizer:
    """Pairs by header stamp, each message used once, every loss counted (see `StampPairer`); needs no library.

    Not thread-safe: all calls come from the executor's thread.

    Args:
        on_frame: called with each frame, within the call that completed it.
        slop_ns: largest difference between the stamps of a pair; 0 wants equal stamps.
        queue_size: messages that may wait on each stream.
        alone_after_s: seconds a colour image waits for its depth before it goes on alone; None means for ever.
        clock: seconds, never going back.
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
        self._on_frame, self._alone_after_s, self._clock = on_frame, alone_after_s, clock
        self._pairer: StampPairer[ImageMessage, ImageMessage] = StampPairer(slop_ns=slop_ns, queue_size=queue_size)
        self._arrived: dict[int, float] = {}

    @property
    def counts(self) -> SyncCounts:
        """A snapshot of what became of every message."""
        found = self._pairer.counts
        unpaired = {cause.value: n for cause, n in found.unpaired_color.items() if cause is not UnpairedCause.EXPIRED}
        return SyncCounts(
            received_color=found.received_color,
            received_depth=found.received_depth,
            paired=found.paired,
            color_alone=found.unpaired_color[UnpairedCause.EXPIRED],
            unpaired_color=unpaired,
            unpaired_depth={cause.value: n for cause, n in found.unpaired_depth.items()},
            pending_color=self._pairer.pending_color,
            pending_depth=self._pairer.pending_depth,
        )

    def add_color(self, message: ImageMessage) -> None:
        """Take a colour image; hand on the pairs that are certain now."""
        stamp_ns = stamp_to_ns(message.header.stamp)
        if self._alone_after_s is not None:
            self._arrived[stamp_ns] = self._clock()
        self._hand_on(self._pairer.add_color(stamp_ns, message))

    def add_depth(self, message: ImageMessage) -> None:
        """Take a depth image; hand on the pairs that are certain now."""
        self._hand_on(self._pairer.add_depth(stamp_to_ns(message.header.stamp), message))

    def expire(self) -> None:
        """Hand on, alone, the colour images that waited too long for their depth."""
        if self._alone_after_s is None:
            return
        limit = self._clock() - self._alone_after_s
        overdue = [stamp for stamp, arrived in self._arrived.items() if arrived <= limit]
        if not overdue:
            return
        newest = max(overdue)
        for stamp_ns, message in self._pairer.expire_color(newest + 1):
            self._on_frame(Frame(stamp_ns, message, None))
        self._arrived = {stamp: arrived for stamp, arrived in self._arrived.items() if stamp > newest}

    def adapt(self, limits: SyncLimits) -> None:
        """Pair by these limits from now on."""
        self._pairer.slop_ns, self._alone_after_s = limits.slop_ns, limits.alone_after_s
        if limits.alone_after_s is None:
            self._arrived.clear()

    def _hand_on(self, pairs: list[Pair[ImageMessage, ImageMessage]]) -> None:
        for pair in pairs:
            self._arrived.pop(pair.stamp_ns, None)
            self._on_frame(Frame(pair.stamp_ns, pair.color, pair.depth))


def slop_ns(policy: str, slop_ms: float) -> int:
    """Return the largest difference between the stamps of a pair, for the parameters of these names."""
    return 0 if policy == "exact" else round(slop_ms * _NS_PER_MS)
