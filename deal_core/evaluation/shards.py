"""Shares of an evaluation for several processes or machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deal_core.dataset.dataset import FrameRecord
from deal_core.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """One of several shares of the frames.

    Args:
        number: From 1 to `count`.
        count: Number of shares.

    Example:
        >>> Shard.parse("2/4")
        Shard(number=2, count=4)
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the share that a text like `2/4` names; raise `UsageError` for another text."""
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise UsageError(f"expected a shard like 2/4, from 1/4 to 4/4, found '{text}'")
        return cls(int(number), int(count))

    @property
    def name(self) -> str:
        """The name of the file with the decisions of this share."""
        return f"{self.number}-of-{self.count}.frames"

    def batches(self, frames: Sequence[FrameRecord], at_once: int) -> list[Sequence[FrameRecord]]:
        """Return the share as batches, which are those of the whole, so that a network computes exactly the same."""
        starts = range(0, len(frames), at_once)[self.number - 1 :: self.count]
        return [frames[start : start + at_once] for start in starts]


WHOLE = Shard()
"""All frames, for one process."""
