"""Masks that are known without a model, and that its scores give way to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from deal_core.structures import BoolArray, UInt8Array

if TYPE_CHECKING:
    from deal_core.masks.score_dataset import ScoredFrame


@dataclass(frozen=True, eq=False)
class KnownMask:
    """What is known of an image.

    Args:
        mask: (H, W) uint8; the id of a class where a thing of it is known to be, 0 elsewhere.
        reached: (K,) bool, the classes of which all things in the image are known.
    """

    mask: UInt8Array
    reached: BoolArray


class KnownMasks(Protocol):
    """A source of known masks.

    Attributes:
        digest: equal for sources that know the same.
    """

    @property
    def digest(self) -> str:
        """Text that is equal for sources that know the same, and only for those."""
        ...

    def of(self, key: str) -> KnownMask | None:
        """Return what is known of a frame, None for nothing."""
        ...


def with_known(frame: ScoredFrame, known: KnownMask | None) -> ScoredFrame:
    """Return a frame whose scores give way to what is known of it.

    The scores of a class that is known are 1 on its mask and 0 elsewhere, and there the other classes have 0. The
    other classes keep their scores elsewhere. A frame of which nothing is known stays the same object.

    Args:
        frame: Frame with scores (K, H, W).
        known: What is known of it.
    """
    if known is None or not known.reached.any():
        return frame
    ids = np.arange(1, len(frame.scores) + 1, dtype=np.uint8)[:, None, None]
    mine = (known.mask == ids) & known.reached[:, None, None]
    others = np.where(mine.any(0), 0, frame.scores)
    scores = np.where(known.reached[:, None, None], mine, others)
    return replace(frame, scores=scores.astype(np.float32))
