"""The map of places, against a dictionary of cubes."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deal_core.views.place_map import PlaceMap, fused_scores

SIDE = 0.1
View = tuple[np.ndarray, np.ndarray, np.ndarray]


def views_of(seed: int, count: int, num_classes: int = 2) -> list[View]:
    rng = np.random.default_rng(seed)
    tags = np.array([0.0, 1.0, np.nan], np.float32)
    return [
        (
            rng.uniform(-0.5, 0.5, (60, 3)),
            rng.random((60, num_classes)).astype(np.float32),
            rng.choice(tags, num_classes),
        )
        for _ in range(count)
    ]


def slowly(views: list[View], points: np.ndarray, power: int = 3) -> np.ndarray:
    """Each cube's scores, cube by cube and view by view."""
    said: dict[tuple, list] = defaultdict(list)
    for places, scores, tags in views:
        inside: dict[tuple, list] = defaultdict(list)
        for place, score in zip(places, scores, strict=True):
            inside[tuple(np.floor(place / SIDE).astype(int))].append(score)
        for cube, found in inside.items():
            said[cube].append((np.mean(found, axis=0), tags))
    result = np.zeros((len(points), views[0][1].shape[1]))
    for number, point in enumerate(points):
        entries = said.get(tuple(np.floor(point / SIDE).astype(int)), [])
        for k in range(result.shape[1]):
            tagged = [score[k] for score, tags in entries if tags[k] == 1]
            known = [score[k] for score, tags in entries if tags[k] in (0, 1)]
            if tagged:
                result[number, k] = np.mean(tagged) * (len(tagged) / len(known)) ** power
    return result


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_a_place_has_what_a_slow_search_finds(seed: int, count: int) -> None:
    views, places = views_of(seed, count), PlaceMap(2, side_m=SIDE)
    for view in views:
        places.add(*view)
    points = np.random.default_rng(seed).uniform(-0.6, 0.6, (200, 3))
    np.testing.assert_allclose(places.look_up(points)[0], slowly(views, points), atol=2 / 255)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.permutations(range(6)), st.sampled_from([2**28, 4_000, 400]))
def test_the_order_of_the_views_changes_no_bit(seed: int, order: list[int], most: int) -> None:
    views = views_of(seed, 6)
    one, two = PlaceMap(2, side_m=SIDE, max_bytes=most), PlaceMap(2, side_m=SIDE, max_bytes=most)
    for view in views:
        one.add(*view)
    for number in order:
        two.add(*views[number])
    points = np.random.default_rng(seed).uniform(-0.6, 0.6, (200, 3))
    assert one.side_m == two.side_m and len(one) == len(two)
    for first, second in zip(one.look_up(points), two.look_up(points), strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_bounded_map_grows_its_cubes_and_still_knows_every_place() -> None:
    views, places = views_of(1, 30), PlaceMap(2, side_m=SIDE, max_bytes=2_000)
    for view in views:
        places.add(*view)
    assert len(places) * 40 <= 2_000 and places.side_m > SIDE
    assert all(places.look_up(view[0])[1].all() for view in views)


def test_a_place_that_nobody_saw_is_not_found() -> None:
    places = PlaceMap(1)
    assert not places.look_up(np.zeros((2, 3)))[1].any()
    places.add(np.zeros((1, 3)), np.ones((1, 1), np.float32), np.ones(1, np.float32))
    scores, found = places.look_up(np.array([[0.0, 0, 0], [1e9, 0, 0], [-1e9, 0, 0]]))
    assert found.tolist() == [True, False, False] and scores.ravel().tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("sums", "tagged", "known", "expected"), [(0.0, 0, 4, 0.0), (0.0, 0, 0, 0.0), (2.0, 4, 4, 0.5), (1.0, 2, 4, 0.0625)]
)
def test_the_share_of_tagged_views_counts_cubed(sums: float, tagged: float, known: float, expected: float) -> None:
    arguments = (np.array([value], np.float32) for value in (sums, tagged, known))
    assert fused_scores(*arguments)[0] == pytest.approx(expected)
