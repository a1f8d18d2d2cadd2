"""Pair colour and depth by header stamp into frames; the depth mode may allow frames of colour alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Protocol

from deal_core.recording.pairing import Pair, StampPairer, UnpairedCause
from deal_ros.input.conversions import ImageMessage, stamp_to_ns

_NS_PER_MS = 1_000_000
_NOT_WANTED = "no longer wanted"


class DepthMode(str, Enum):
    """Whether frames have depth."""

    OFF = "off"
    """Depth is not subscribed; every colour image is a frame."""
    OPTIONAL = "optional"
    """A colour image waits for its depth image; after a timeout it is a frame without depth."""
    REQUIRED = "required"
    """Only pairs of colour and depth are frames."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A colour image with its depth image.

    Args:
        stamp_ns: header stamp of the colour image, nanoseconds.
        color: the colour image.
        depth: the depth image of the same moment; None for a frame without depth.
    """

    stamp_ns: int
    color: ImageMessage
    depth: ImageMessage | None


@dataclass(frozen=True)
class SyncCounts:
    """Counts of messages by outcome.

    `received_color == paired + color_alone + sum(unpaired_color) + pending_color` and
    `received_depth == paired + sum(unpaired_depth) + pending_depth` at any time. The number of frames is
    `paired + color_alone`. Unpaired messages are counted by cause.
    """

    received_color: int = 0
    received_depth: int = 0
    paired: int = 0
    color_alone: int = 0
    unpaired_color: Counter[str] = field(default_factory=Counter)
    unpaired_depth: Counter[str] = field(default_factory=Counter)
    pending_color: int = 0
    pending_depth: int = 0

    def __add__(self, other: SyncCounts) -> SyncCounts:
        """Return the sum of both counts."""
        return SyncCounts(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def without_pending(self) -> SyncCounts:
        """Return the counts with all pending messages counted as unpaired, because depth is no longer wanted."""
        lost_color, lost_depth = (Counter({_NOT_WANTED: n}) for n in (self.pending_color, self.pending_depth))
        lost = SyncCounts(unpaired_color=lost_color, unpaired_depth=lost_depth)
        return replace(self, pending_color=0, pending_depth=0) + lost


@dataclass(frozen=True)
class SyncLimits:
    """Limits of pairing that may change at run time.

    Args:
        slop_ns: maximum difference between the stamps of a pair; 0 pairs equal stamps only.
        alone_after_s: seconds that a colour image waits before it becomes a frame without depth; None is no timeout.
    """

    slop_ns: int
    alone_after_s: float | None

    @classmethod
    def of(cls, depth_mode: DepthMode, policy: str, slop_ms: float, timeout_ms: float) -> SyncLimits:
        """Return the limits for the node's parameters.

        Args:
            depth_mode: whether frames have depth.
            policy: "exact" pairs equal stamps (RealSense with aligned depth), "approximate" stamps within the slop.
            slop_ms: maximum difference between the stamps of a pair with the approximate policy, milliseconds.
            timeout_ms: how long a colour image waits for depth in mode optional, milliseconds.
        """
        return cls(slop_ns(policy, slop_ms), timeout_ms / 1000 if depth_mode is DepthMode.OPTIONAL else None)


class Synchronizer(Protocol):
    """Interface of the synchronisers; each frame is passed to the callable given at construction."""

    @property
    def counts(self) -> SyncCounts:
        """A snapshot of the counts of messages by outcome."""

    def add_color(self, message: ImageMessage) -> None:
        """Add a colour image."""

    def add_depth(self, message: ImageMessage) -> None:
        """Add a depth image."""

    def expire(self) -> None:
        """Pass on the images whose wait has timed out; call this regularly."""

    def adapt(self, limits: SyncLimits) -> None:
        """Use these limits from now on."""


class ColorOnly:
    """Make a frame of every colour image."""

    def __init__(self, on_frame: Callable[[Frame], None]) -> None:
        self._on_frame = on_frame
        self._received = 0

    @property
    def counts(self) -> SyncCounts:
        """A snapshot of the counts of messages by outcome."""
        return SyncCounts(received_color=self._received, color_alone=self._received)

    def add_color(self, message: ImageMessage) -> None:
        """Pass on the colour image."""
        self._received += 1
        self._on_frame(Frame(stamp_to_ns(message.header.stamp), message, None))

    def add_depth(self, message: ImageMessage) -> None:
        """Raise an error: there is no depth in this mode.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a depth image in depth mode 'off'")

    def expire(self) -> None:
        """Do nothing: no image waits."""

    def adapt(self, limits: SyncLimits) -> None:
        """Do nothing: no images are paired."""


class StampSynchronizer:
    """Pair by header stamp with `deal_core.recording.pairing.StampPairer`: each message is used once or counted.

    Not thread-safe: all calls must come from the executor's thread.

    Args:
        on_frame: called with each frame, within the call that completed it.
        slop_ns: maximum difference between the stamps of a pair; 0 pairs equal stamps only.
        queue_size: maximum number of messages that wait on each stream.
        alone_after_s: seconds that a colour image waits before it becomes a frame without depth; None is no timeout.
        clock: monotonic clock, seconds.
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
        """A snapshot of the counts of messages by outcome."""
        found = self._pairer.counts
        unpaired = {cause.value: n for cause, n in found.unpaired_color.items() if cause is not UnpairedCause.EXPIRED}
        return SyncCounts(
            received_color=found.received_color,
            received_depth=found.received_depth,
            paired=found.paired,
            color_alone=found.unpaired_color[UnpairedCause.EXPIRED],
            unpaired_color=Counter(unpaired),
            unpaired_depth=Counter({cause.value: n for cause, n in found.unpaired_depth.items()}),
            pending_color=self._pairer.pending_color,
            pending_depth=self._pairer.pending_depth,
        )

    def add_color(self, message: ImageMessage) -> None:
        """Add a colour image; pass on the pairs that are now certain."""
        stamp_ns = stamp_to_ns(message.header.stamp)
        if self._alone_after_s is not None:
            self._arrived[stamp_ns] = self._clock()
        self._hand_on(self._pairer.add_color(stamp_ns, message))

    def add_depth(self, message: ImageMessage) -> None:
        """Add a depth image; pass on the pairs that are now certain."""
        self._hand_on(self._pairer.add_depth(stamp_to_ns(message.header.stamp), message))

    def expire(self) -> None:
        """Pass on, without depth, the colour images whose wait for depth has timed out."""
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
        """Use these limits from now on."""
        self._pairer.slop_ns, self._alone_after_s = limits.slop_ns, limits.alone_after_s
        if limits.alone_after_s is None:
            self._arrived.clear()

    def _hand_on(self, pairs: list[Pair[ImageMessage, ImageMessage]]) -> None:
        for pair in pairs:
            self._arrived.pop(pair.stamp_ns, None)
            self._on_frame(Frame(pair.stamp_ns, pair.color, pair.depth))


def slop_ns(policy: str, slop_ms: float) -> int:
    """Return the maximum difference between the stamps of a pair for the parameters `sync_policy`, `sync_slop_ms`."""
    return 0 if policy == "exact" else round(slop_ms * _NS_PER_MS)
