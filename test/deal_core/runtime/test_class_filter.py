"""What of an answer is passed on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.errors import UsageError
from deal_core.runtime.class_filter import kept_ids, label_ids, restrict
from deal_core.runtime.segmenter import Segmentation
from deal_core.structures import ClassList

CLASSES = ClassList(("mug", "drill", "box"))


def test_names_are_checked_against_the_model() -> None:
    assert kept_ids(CLASSES, []) == {1, 2, 3}
    assert kept_ids(CLASSES, ["box", "mug", "box"]) == {1, 3}
    with pytest.raises(UsageError, match=r"unknown class 'dril'.*Did you mean 'drill'"):
        kept_ids(CLASSES, ["mug", "dril"])


def test_labels_are_the_classes_and_the_two_others() -> None:
    assert label_ids(CLASSES, []) is None
    assert label_ids(CLASSES, ["box", "background"]) == {0, 3} and label_ids(CLASSES, ["unlabelled"]) == {255}
    assert label_ids(ClassList(("background",)), ["background"]) == {1}, "a class of this name is meant"
    expected = r"unknown class 'backgroud': expected one of mug, drill, box, background, unlabelled.* mean 'background'"
    with pytest.raises(UsageError, match=expected):
        label_ids(CLASSES, ["mug", "backgroud"])


@given(st.integers(0, 2**32 - 1), st.sets(st.sampled_from(CLASSES.names)), st.sampled_from([0.0, 0.25, 0.6, 1.0]))
def test_each_pixel_follows_the_rules(seed: int, names: set[str], least: float) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (5, 7))
    confidence = rng.choice(np.array([0, 0.25, 0.5, 0.75, 1], np.float32), (5, 7))
    result = Segmentation(mask.copy(), confidence.copy())
    found = restrict(result, kept_ids(CLASSES, sorted(names)), least)
    for place in np.ndindex(mask.shape):
        id_ = int(mask[place])
        if confidence[place] < least:
            expected = 255
        elif 1 <= id_ <= 3 and names and CLASSES.names[id_ - 1] not in names:
            expected = 0
        else:
            expected = id_
        assert found.mask[place] == expected
    np.testing.assert_array_equal(result.mask, mask)
    np.testing.assert_array_equal(found.confidence, confidence)


def test_the_confidence_is_not_computed_without_a_limit() -> None:
    def never() -> np.ndarray:
        raise AssertionError("nobody reads the confidence")

    mask = np.array([[0, 1, 2, 255]], np.uint8)
    assert restrict(Segmentation(mask, never), frozenset({2})).mask.tolist() == [[0, 0, 2, 255]]
