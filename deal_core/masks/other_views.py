"""Class scores of a frame that other views have a part in."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from deal_core.structures import Sample


class OtherViews(Protocol):
    """A source of class scores that are fused from several frames."""

    @property
    def digest(self) -> str:
        """Text that is equal for sources that fuse the same frames in the same way, and only for those."""
        ...

    def scores(self, sample: Sample) -> Tensor | None:
        """Return the fused scores (K, h, w) in [0, 1] of a frame; None for a frame that has its own alone."""
        ...
