"""Masks and figures counted by hand, and copies of a dataset to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from deal_core.dataset.dataset import Dataset


def iou_by_hand(masks: list[np.ndarray], truths: list[np.ndarray], classes: int) -> list[float]:
    """IoU of background and every class over all pixels of all images; nan where a class is in neither."""
    result = []
    for c in range(classes + 1):
        both = either = 0
        for mask, truth in zip(masks, truths, strict=True):
            for ours, theirs in zip(mask.ravel().tolist(), truth.ravel().tolist(), strict=True):
                if theirs != 255:
                    both += ours == c and theirs == c
                    either += ours == c or theirs == c
        result.append(both / either if either else float("nan"))
    return result


def masks_by_hand(all_scores: list[np.ndarray], threshold: float) -> list[np.ndarray]:
    masks = []
    for scores in all_scores:
        best = scores.max(axis=0).astype(np.float64)
        masks.append(np.where(best > threshold, scores.argmax(axis=0) + 1, 0))
    return masks


def copy_of(dataset: Dataset, folder: Path) -> Path:
    return Path(shutil.copytree(dataset.path, folder / "copy"))
