"""Agreement of several masks, against counting pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.evaluation.agreement import AGREEMENT, AgreementEvaluator
from deal_core.structures import ClassList

CLASSES = ClassList(("mug", "jar"))


def slow_iou(pairs: list[tuple[int, int]]) -> float:
    """Mean IoU of (ours, theirs) ids, over the classes in either; undecided pixels are left out."""
    pairs = [pair for pair in pairs if 255 not in pair]
    ious = []
    for class_id in range(3):
        either = sum(class_id in pair for pair in pairs)
        if either:
            ious.append(sum(pair == (class_id, class_id) for pair in pairs) / either)
    return sum(ious) / len(ious) if ious else math.nan


def same(found: float, expected: float) -> bool:
    return found == pytest.approx(expected, nan_ok=True)


@given(st.integers(2, 4), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_it_is_what_counting_pixel_by_pixel_gives(makers: int, frames: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = rng.choice(np.array([0, 1, 2, 255], np.uint8), (frames, makers, 3, 4))
    agreement = AgreementEvaluator(makers, 2)
    for index, of_frame in enumerate(masks):
        agreement.update(list(of_frame), f"kitchen/{index}")
    table = agreement.pairs()
    for ours in range(makers):
        others = [theirs for theirs in range(makers) if theirs != ours]
        for theirs in others:
            pairs = [*zip(masks[:, ours].flat, masks[:, theirs].flat, strict=True)]
            assert same(table[ours, theirs], slow_iou(pairs))
        score = agreement.score(ours, CLASSES)
        pairs = [pair for t in others for pair in zip(masks[:, ours].flat, masks[:, t].flat, strict=True)]
        assert score.rule == AGREEMENT and same(score.miou, slow_iou(pairs))
        for index, frame in enumerate(agreement.frames[ours]):
            pairs = [pair for t in others for pair in zip(masks[index, ours].flat, masks[index, t].flat, strict=True)]
            assert frame.key == f"kitchen/{index}" and same(frame.iou, slow_iou(pairs))


def test_wrong_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        AgreementEvaluator(1, 2)
    agreement = AgreementEvaluator(2, 2)
    small, large = np.zeros((2, 2), np.uint8), np.zeros((3, 2), np.uint8)
    with pytest.raises(ValueError, match="expected 2 masks, found 1"):
        agreement.update([small], "x")
    with pytest.raises(ValueError, match="of one shape"):
        agreement.update([small, large], "x")
    with pytest.raises(ValueError, match=r"expected ids 0\.\.2"):
        agreement.update([small, small + 7], "x")


def test_counts_of_two_processes_merge_into_those_of_one() -> None:
    rng = np.random.default_rng(1)
    images = [[rng.choice(np.array([0, 1, 2, 255], np.uint8), (6, 7)) for _ in range(3)] for _ in range(4)]
    whole, first, second = (AgreementEvaluator(3, 2) for _ in range(3))
    for index, masks in enumerate(images):
        whole.update(masks, str(index))
        (first if index < 2 else second).update(masks, str(index))
    first.merge(second)
    np.testing.assert_array_equal(first.pairs(), whole.pairs())
    assert first.frames == whole.frames
    with pytest.raises(ValueError, match="same makers and classes"):
        first.merge(AgreementEvaluator(2, 2))
