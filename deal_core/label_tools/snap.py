"""Move the outlines of masks to regions of depth."""

from __future__ import annotations

import cv2
import numpy as np

from deal_core.masks.refine.regions import RegionSettings, find_regions
from deal_core.structures import BACKGROUND, UNLABELLED, DepthKind, Float32Array, Sample, UInt8Array

_OPEN_SHARE = 0.3
"""A region with more of the image is no thing, but what depth could not divide: its pixels stay as they are."""
_MAJORITY = 0.5
"""Share of a region from which it takes one name as a whole."""


def snap_mask(sample: Sample, mask: UInt8Array, kind: DepthKind = "metric") -> UInt8Array:
    """Return a mask (H, W) whose objects end where regions of depth end.

    A region off the planes that support things takes the name that most of its pixels have, background included, if
    that is the majority. On tables, walls and floors, what juts out of an object becomes background; an object that
    lies there with most of its pixels is flat, and stays. Without any depth, the mask stays as it is.

    Args:
        sample: Image and depth.
        mask: (H, W) ids, 255 where unlabelled.
        kind: Kind of the depth.
    """
    if not sample.depth_valid.any() or not ((mask != BACKGROUND) & (mask != UNLABELLED)).any():
        return mask
    regions = find_regions(sample.image, sample.depth, sample.depth_valid, kind, RegionSettings())
    size = (mask.shape[1], mask.shape[0])
    labels = cv2.resize(regions.labels.astype(np.int32), size, interpolation=cv2.INTER_NEAREST_EXACT)
    count = len(regions.is_support)
    of_region = np.bincount((labels * 256 + mask).ravel(), minlength=256 * count).reshape(count, 256)
    total = np.maximum(of_region.sum(1), 1)
    is_open = total > _OPEN_SHARE * mask.size
    decides = ~regions.is_support & ~is_open & (of_region.max(1) > _MAJORITY * total)
    snapped = np.where(decides[labels], of_region.argmax(1).astype(np.uint8)[labels], mask)
    return _without_spill(snapped, regions.is_support[labels].astype(np.float32))


def _without_spill(mask: UInt8Array, on_support: Float32Array) -> UInt8Array:
    """Return a mask without the pixels on supports of objects that lie off them with most of their pixels."""
    found = mask.copy()
    for number in np.unique(mask).tolist():
        if number in (BACKGROUND, UNLABELLED):
            continue
        parts, labels = cv2.connectedComponents((mask == number).astype(np.uint8))
        inside = np.bincount(labels.ravel(), minlength=parts)
        supported = np.bincount(labels.ravel(), on_support.ravel(), minlength=parts)
        spills = supported < 0.5 * inside
        spills[0] = False
        found[spills[labels] & (on_support > 0)] = BACKGROUND
    return found
