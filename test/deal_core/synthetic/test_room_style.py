"""The looks of rooms: what a part's colours tell, and that the splits share none."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("trimesh", reason="trimesh (extra 'train') makes the meshes")

from deal_core.synthetic.bodies import CATALOGUE
from deal_core.synthetic.room_style import ROOM_STYLES, Split, draw_material


@pytest.mark.parametrize("split", list(Split))
def test_a_part_keeps_its_pattern_and_varies_its_colours(split):
    style, rng = ROOM_STYLES[split], np.random.default_rng(0)
    looks = [style.part_material(CATALOGUE[0].material, 1, rng) for _ in range(60)]
    assert {(look.pattern, look.period, look.axis) for look in looks} == {
        (CATALOGUE[0].material.pattern, CATALOGUE[0].material.period, CATALOGUE[0].material.axis)
    }
    assert np.ptp([look.first for look in looks], axis=0).max() > 0.5


@pytest.mark.parametrize("split", list(Split))
def test_each_colour_of_a_part_occurs_on_other_classes_and_on_look_alikes(split):
    style, rng = ROOM_STYLES[split], np.random.default_rng(0)
    hues = np.array([style.hue(rng) for _ in range(400)])
    parts = {
        class_id: [style.part_material(CATALOGUE[0].material, class_id, rng) for _ in range(80)]
        for class_id in range(1, 7)
    }
    for class_id, looks in parts.items():
        own = np.array(style.hues[(class_id - 1) % len(style.hues)])
        assert all(min(np.abs(own - look.first).max(), np.abs(own - look.second).max()) < 0.2 for look in looks)
        assert np.abs(hues - own).max(axis=1).min() < 0.1
    colors = {k: np.array([[look.first, look.second] for look in looks]).reshape(-1, 3) for k, looks in parts.items()}
    shared = [
        class_id
        for class_id in parts
        if any(
            np.abs(colors[other] - style.hues[(class_id - 1) % len(style.hues)]).max(axis=1).min() < 0.1
            for other in parts
            if other != class_id
        )
    ]
    assert len(shared) >= 4


def test_the_splits_share_no_colour_shape_or_material():
    dev, final = ROOM_STYLES[Split.DEV], ROOM_STYLES[Split.FINAL]
    assert not set(dev.bodies.profiles) & set(final.bodies.profiles)
    assert not set(dev.bodies.colors) & set(final.bodies.colors)
    assert not set(dev.hues) & set(final.hues)
    for one, other in ((dev.boards, final.boards), (dev.walls, final.walls), (dev.cloths, final.cloths)):
        assert not set(one) & set(other)
    assert dev.table_level != final.table_level
    assert dev.light != final.light


def test_a_stock_gives_all_of_its_materials():
    stock, rng = ROOM_STYLES[Split.DEV].boards, np.random.default_rng(0)
    drawn = [draw_material(stock, rng) for _ in range(100)]
    assert {look.pattern for look in drawn} == {pattern for pattern, *_ in stock}
    assert all(0 < channel < 1 for look in drawn for channel in look.first)
    assert all(np.hypot(*look.axis[:2]) == pytest.approx(1.0) for look in drawn)
