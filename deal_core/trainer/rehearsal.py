"""Rehearsal: frames of an earlier dataset among the training frames, so that what was learnt from it is not lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deal_core.structures import Sample
from deal_core.trainer.views import Frames


@dataclass(frozen=True)
class RehearsedFrames:
    """New frames, and old frames after them, that make up a share of every epoch.

    Args:
        new: New frames.
        old: Frames of the earlier dataset, for the classes of the new one.
        share: Share of an epoch for the old frames, in [0, 1).
    """

    new: Frames
    old: Frames
    share: float

    def __len__(self) -> int:
        return len(self.new) + len(self.old)

    def load(self, frame: int) -> Sample:
        """Read one frame; raise `DatasetError` if a file is missing or damaged."""
        count = len(self.new)
        return self.new.load(frame) if frame < count else self.old.load(frame - count)

    @property
    def epoch(self) -> int:
        """Number of frames that an epoch shows: each new one once, and as many old ones as make up the share."""
        return round(len(self.new) / (1 - self.share))

    def weights(self, of_new: Sequence[float] | None) -> list[float]:
        """Return how often to show each frame, relative to the others.

        An epoch has few of many old frames, and the next one has others.

        Args:
            of_new: Weights of the new frames, relative to each other; default: equal.
        """
        wanted = of_new or [1.0] * len(self.new)
        each = self.share / (1 - self.share) * sum(wanted) / len(self.old)
        return [*wanted, *[each] * len(self.old)]
