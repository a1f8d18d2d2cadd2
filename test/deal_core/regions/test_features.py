"""Means of feature maps in regions, against a loop over pixels."""

from __future__ import annotations

import numpy as np
import torch

from deal_core.regions.features import pool_regions


def test_a_region_has_the_mean_of_its_cells() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(1, 2, 4, 6, generator=generator), torch.rand(1, 3, 2, 3, generator=generator)]
    masks = np.random.default_rng(0).random((3, 8, 12)) < 0.4
    found = pool_regions(maps, masks)
    for mask, row in zip(masks, found, strict=True):
        expected = []
        for features in maps:
            cell = 8 // features.shape[2]
            pixels = [features[0, :, y // cell, x // cell] for y, x in np.argwhere(mask)]
            expected.append(torch.stack(pixels).mean(0))
        torch.testing.assert_close(row, torch.cat(expected))


def test_a_region_smaller_than_a_cell_has_its_features() -> None:
    features = torch.arange(6.0).reshape(1, 1, 2, 3)
    mask = np.zeros((1, 20, 30), bool)
    mask[0, 12, 25] = True
    assert pool_regions([features], mask).tolist() == [[5.0]]


def test_no_regions_have_no_features() -> None:
    assert pool_regions([torch.rand(1, 4, 2, 2)], np.zeros((0, 8, 8), bool)).shape == (0, 4)
