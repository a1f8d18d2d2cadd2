"""Restriction of a segmentation to some classes and to confident pixels."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from deal_core.errors import UsageError, nearest_hint
from deal_core.runtime.segmenter import Segmentation
from deal_core.structures import BACKGROUND, UNLABELLED, ClassList

OTHER_LABELS = {"background": BACKGROUND, "unlabelled": UNLABELLED}
"""Names of the mask ids that are no classes."""


def label_ids(classes: ClassList, names: Sequence[str]) -> frozenset[int] | None:
    """Return the mask ids of named labels, which are the classes, "background" and "unlabelled"; None without names.

    Raises:
        UsageError: a name is neither a class of the model nor one of the two others.
    """
    known = {**OTHER_LABELS, **{name: classes.id_of(name) for name in classes.names}}
    for name in names:
        if name not in known:
            expected = ", ".join([*classes.names, *OTHER_LABELS])
            raise UsageError(f"unknown class '{name}': expected one of {expected}.{nearest_hint(name, known)}")
    return frozenset(known[name] for name in names) or None


def kept_ids(classes: ClassList, names: Sequence[str]) -> frozenset[int]:
    """Return the mask ids of the named classes; without names, of all classes.

    Raises:
        UsageError: a name is not a class of the model.
    """
    return frozenset(classes.id_of(name) for name in names or classes.names)


def restrict(result: Segmentation, kept: frozenset[int], min_confidence: float = 0.0) -> Segmentation:
    """Return the segmentation with only some classes and only confident pixels.

    Classes that are not kept become background. Pixels of any id, background included, with a confidence below
    `min_confidence` become unlabelled (255). The confidence stays unchanged.

    Args:
        result: Segmentation by the network.
        kept: Ids to keep, from `kept_ids`.
        min_confidence: Smallest confidence, in [0, 1].
    """
    ids = np.arange(256, dtype=np.uint8)
    table = np.where(np.isin(ids, [*kept, UNLABELLED]), ids, BACKGROUND).astype(np.uint8)
    mask = np.asarray(cv2.LUT(result.mask, table), np.uint8)
    if min_confidence > 0:
        mask |= cv2.compare(result.confidence, min_confidence, cv2.CMP_LT)  # 255 where unsure, which is unlabelled
    return Segmentation(mask, lambda: result.confidence, result.forward_ms)
