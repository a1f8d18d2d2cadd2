"""The recogniser across segments, against slow formulations and on masks that can and cannot be repeated."""

from __future__ import annotations

import cv2
import numpy as np
from helpers.judged_scenes import CLASSES, HEIGHT, WIDTH, scenes

from deal_core.quality.second_opinion import (
    FOLDS,
    cell_grid,
    describe_cells,
    folds_of,
    mask_shares,
    second_opinion,
)


def test_cells_are_at_most_as_many_as_pixels() -> None:
    assert cell_grid((120, 160), 48) == (36, 48)
    assert cell_grid((10, 20), 48) == (10, 20)
    assert cell_grid((1, 500), 50) == (1, 50)


def test_shares_count_the_pixels_of_each_cell() -> None:
    rng = np.random.default_rng(0)
    mask = rng.choice(np.array([0, 1, 2, 255], np.uint8), (12, 16))
    shares = mask_shares(mask, (3, 4), 2)
    for row in range(3):
        for column in range(4):
            cell = mask[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            expected = [(cell == k).sum() / 16 for k in range(3)]
            np.testing.assert_allclose(shares[4 * row + column], expected, atol=1e-6)


def test_descriptions_begin_with_the_mean_colour_of_each_cell() -> None:
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, 24:] = (200, 60, 30)
    cells = describe_cells(image, (8, 12)).reshape(8, 12, -1)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[0, -1] / 64.0
    np.testing.assert_allclose(cells[4, -1, :3], lab, atol=1e-5)
    np.testing.assert_allclose(
        cells[4, 0, 3:6], np.square(cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[0, 0] / 64.0), atol=1e-4
    )
    assert np.ptp(cells[:, :3], axis=(0, 1)).max() < 1e-5, "cells of one colour are described alike"


def test_whole_segments_are_in_one_part_and_few_segments_are_cut_in_time() -> None:
    segments = [("a", index // 3) for index in range(24)]
    folds = folds_of(segments)
    assert set(folds.tolist()) == set(range(FOLDS))
    assert all(len({fold for fold, own in zip(folds, segments, strict=True) if own == one}) == 1 for one in segments)
    assert folds_of([("a", 0)] * 6).tolist() == [0, 1, 2, 0, 1, 2]
    assert set(folds_of([("a", 0)] * 12).tolist()) == set(range(FOLDS))


def test_each_part_is_predicted_by_a_regression_on_the_others() -> None:
    rng = np.random.default_rng(1)
    cells = rng.normal(size=(6, 5, 4)).astype(np.float32)
    shares = rng.dirichlet(np.ones(3), size=(6, 5)).astype(np.float32)
    folds = np.array([0, 0, 1, 1, 2, 2])
    found = second_opinion(cells, shares, folds)
    flat = cells.reshape(-1, 4).astype(float)
    known = np.concatenate([(flat - flat.mean(0)) / flat.std(0), np.ones((30, 1))], 1)
    wanted = shares.reshape(-1, 3).astype(float)
    for part in range(3):
        own = np.repeat(folds == part, 5)
        inputs, outputs = known[~own], wanted[~own]
        weight = (outputs / outputs.sum(0)).sum(1) * len(outputs) / 3
        square = sum(w * np.outer(x, x) for w, x in zip(weight, inputs, strict=True))
        square = square + 1e-3 * np.trace(square) / 5 * np.eye(5)
        right = sum(w * np.outer(x, y) for w, x, y in zip(weight, inputs, outputs, strict=True))
        expected = known[own] @ np.linalg.inv(square) @ right
        np.testing.assert_allclose(found.reshape(-1, 3)[own], expected, atol=1e-6)


def test_it_repeats_masks_of_one_kind_of_thing_and_no_others() -> None:
    made = scenes()
    grid = cell_grid((HEIGHT, WIDTH), 24)
    cells = np.stack([describe_cells(s.sample.image, grid) for s in made])
    folds = folds_of([s.segment for s in made])

    def repeated(masks: list[np.ndarray]) -> float:
        shares = np.stack([mask_shares(mask, grid, len(CLASSES)) for mask in masks])
        found, ours = second_opinion(cells, shares, folds).argmax(-1), shares.argmax(-1)
        return float(((found == ours) & (ours > 0)).sum() / ((found > 0) | (ours > 0)).sum())

    rng = np.random.default_rng(2)
    right = [s.truth for s in made]
    elsewhere = [np.roll(mask, (int(rng.integers(10, 30)), int(rng.integers(10, 40))), (0, 1)) for mask in right]
    assert repeated(right) > 0.8
    assert repeated(elsewhere) < 0.3


def test_one_part_alone_has_no_opinion() -> None:
    cells = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    assert not second_opinion(cells, np.ones((2, 4, 2), np.float32), np.zeros(2, np.int64)).any()
