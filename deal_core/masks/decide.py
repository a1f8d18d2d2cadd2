"""From class scores at a network's stride to a mask and its confidence at the size of the image."""

from __future__ import annotations

import cv2
import numpy as np

from deal_core.structures import Float32Array, UInt8Array


def decide(
    scores: Float32Array, size: tuple[int, int], threshold: float, *, relative: bool = True
) -> tuple[UInt8Array, Float32Array]:
    """Return the mask (H, W) of class ids, 0 is background, and the confidence (H, W) in [0, 1] in it.

    Scores are brought to full size bilinearly, relative ones are divided by the maximum of their map there, the largest
    wins (the first of equals), and what does not exceed the threshold is background, with a confidence of 1 - score.

    Classes whose score is 0 everywhere, which are most, cost nothing; each of the others a few passes over the image,
    in numpy and OpenCV, whose loops are faster here than PyTorch's.

    Args:
        scores: (K, h, w) in [0, 1], finite.
        size: (H, W).
        threshold: of the background.
        relative: whether scores are relative to the largest of their map, as CAMs are.
    """
    height, width = size
    top = np.zeros(size, np.float32)
    mask = np.zeros(size, np.uint8)
    found = False
    for index, score in enumerate(scores):
        if not score.any():
            continue
        full = cv2.resize(score, (width, height), interpolation=cv2.INTER_LINEAR)
        if relative:
            peak = full.max()
            if not peak > 0:
                continue
            full /= peak
        if not found:
            top, found = full, True
            mask.fill(index + 1)
            continue
        better = full > top
        # Ids grow, so the larger of the two is that of the later class where it is better.
        np.maximum(mask, better.view(np.uint8) * np.uint8(index + 1), out=mask)
        np.maximum(top, full, out=top)
    foreground = top > np.float32(threshold)
    mask *= foreground.view(np.uint8)
    # 1 - top where background, top elsewhere: |background - top|, without a branch.
    confidence = np.subtract(~foreground, top, dtype=np.float32)
    return mask, np.abs(confidence, out=confidence)
