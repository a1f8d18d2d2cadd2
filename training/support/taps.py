"""The taps and boxes of a dataset, for the commands that learn from them or make masks of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deal_core.dataset.dataset import Dataset
    from deal_core.taps.masks import TapMasks


def tap_masks(frames: Dataset) -> TapMasks | None:
    """Return the masks of the taps and boxes of a dataset; None without any."""
    if not any(frame.marks for frame in frames.frames):
        return None
    from deal_core.taps.masks import TapMasks
    from training.support.console import console

    found = TapMasks(frames)
    if not len(found):
        return None
    told = "carried to other frames by poses.json" if found.can_carry else "used in their own frames (no poses.json)"
    console().print(f"taps and boxes in {len(found)} frames, {told}", markup=False)
    return found
