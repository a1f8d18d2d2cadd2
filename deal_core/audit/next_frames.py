"""The frames that would help most: those about which the heads are unsure, each unlike those chosen before."""

from __future__ import annotations

import numpy as np

from deal_core.structures import BoolArray, Float32Array, Float64Array, Int64Array

UNSURE = 0.2
"""A class with a probability from this to 1 - this is unsure."""


def choose_frames(
    presence: Float64Array, unknown: BoolArray, looks: Float32Array, spans: Int64Array, count: int
) -> list[int]:
    """Return the numbers of at most `count` frames, the most helpful first, and one of each span at most.

    A frame counts with the sum of the entropies of its classes, those with an unknown tag threefold, times its distance
    from the frames that were chosen before (Sener and Savarese 2018 choose by the distance alone). A frame without
    an unsure class is not chosen.

    Args:
        presence: (F, K) probability that a class is in a frame.
        unknown: (F, K) whether the tag is unknown.
        looks: (F, C) features of the frames.
        spans: (F,) number of the span of each frame.
        count: Largest number of frames.
    """
    p = np.clip(presence, 1e-6, 1 - 1e-6)
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    gain = (entropy * np.where(unknown, 3.0, 1.0)).sum(1)
    gain[~is_unsure(presence).any(1)] = 0.0
    scaled = (looks - looks.mean(0)) / max(float(looks.std()), 1e-6) / np.sqrt(looks.shape[1])
    apart = np.ones(len(gain))
    chosen: list[int] = []
    while len(chosen) < count and (gain * apart).max(initial=0.0) > 0:
        best = int((gain * apart).argmax())
        chosen.append(best)
        gain[spans == spans[best]] = 0.0
        apart = np.minimum(apart, np.square(scaled - scaled[best]).sum(1))
    return chosen


def is_unsure(presence: Float64Array) -> BoolArray:
    """Return whether each probability is neither near 0 nor near 1."""
    return (presence > UNSURE) & (presence < 1 - UNSURE)
