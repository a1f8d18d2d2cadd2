"""Restriction of a segmentation to some classes, and to pixels that are confident enough."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from deal_core.runtime.segmenter import Segmentation
from deal_core.structures import BACKGROUND, UNLABELLED, ClassList


def kept_ids(classes: ClassList, names: Sequence[str]) -> frozenset[int]:
    """Return the mask ids of the named classes; of all classes for no name.

    Raises:
        UsageError: a name is not a class of the model; the message suggests the nearest one.
    """
    return frozenset(classes.id_of(name) for name in names or classes.names)


def restrict(result: Segmentation, kept: frozenset[int], min_confidence: float = 0.0) -> Segmentation:
    """Return the answer without the classes that are not kept and without what is too unsure.

    A class that is not kept becomes background: to somebody who asks for mugs, a drill is part of the scene.
    A pixel of any id (background too, and classes that are not kept) whose confidence is below `min_confidence`
    becomes unlabelled (255): it may be anything. The confidence stays that of the network's own choice.

    Args:
        result: the network's answer.
        kept: of `kept_ids`.
        min_confidence: 0 to 1; 0 makes nothing unlabelled.
    """
    ids = np.arange(256, dtype=np.uint8)
    table = np.where(np.isin(ids, [*kept, UNLABELLED]), ids, BACKGROUND).astype(np.uint8)
    mask = cv2.LUT(result.mask, table)
    unsure = cv2.compare(result.confidence, min_confidence, cv2.CMP_LT)  # 255 where it is, and 255 is unlabelled
    return Segmentation(np.asarray(mask | unsure, np.uint8), result.confidence)
