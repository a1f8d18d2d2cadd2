"""Training frames with masks of what taps and boxes show."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace

import numpy as np

from deal_core.dataset.dataset import Dataset
from deal_core.structures import UNLABELLED, Sample, UInt8Array
from deal_core.taps.masks import TapMasks


@dataclass(frozen=True)
class TappedFrames:
    """Frames whose mask is what a person showed, and never the drawn one.

    A mask has the id of the class on things that were shown, and 0 elsewhere in their frame; it is 255 where a person
    showed nothing. It is made once.

    Args:
        frames: The frames.
        taps: What was shown; None for nothing.
    """

    frames: Dataset
    taps: TapMasks | None
    _made: dict[int, bytes] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.frames)

    def load(self, frame: int) -> Sample:
        """Read one frame; raise `DatasetError` if a file is missing or damaged."""
        sample = self.frames.load(frame)
        return replace(sample, mask=self._mask(frame, sample))

    def _mask(self, frame: int, sample: Sample) -> UInt8Array:
        shape = sample.image.shape[:2]
        if self.taps is None:
            return np.full(shape, UNLABELLED, np.uint8)
        if frame not in self._made:
            known = self.taps.of(sample.key)
            mask = np.full(shape, UNLABELLED, np.uint8) if known is None else known.mask
            self._made[frame] = zlib.compress(mask.tobytes(), 1)
        return np.frombuffer(zlib.decompress(self._made[frame]), np.uint8).reshape(shape)
