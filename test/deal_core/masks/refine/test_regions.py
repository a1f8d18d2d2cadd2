"""Regions grown in depth: things on a table."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deal_core.masks.refine.refinement import refine_scores
from deal_core.masks.refine.regions import RegionSettings, average_over_regions


@pytest.fixture
def tabletop() -> tuple[np.ndarray, torch.Tensor, np.ndarray, np.ndarray]:
    """Two boxes on a sloping table; each class is seen best in a corner of its box."""
    y, _ = np.mgrid[:60, :80]
    depth = (1 / (1 + 0.5 * (y / 60 - 0.5))).astype(np.float32)
    truth = np.zeros((60, 80), np.uint8)
    truth[10:30, 10:30], truth[30:50, 45:70] = 1, 2
    depth[truth > 0] -= 0.06
    y, x = np.mgrid[:60, :80]
    blobs = [np.exp(-(((y - a) ** 2 + (x - b) ** 2) / 50)) for a, b in ((16, 16), (40, 55))]
    scores = torch.from_numpy(np.stack(blobs).astype(np.float32))
    return np.full((60, 80, 3), 120, np.uint8), scores, depth, truth


def test_a_thing_seen_in_a_corner_is_whole(tabletop: tuple[np.ndarray, torch.Tensor, np.ndarray, np.ndarray]) -> None:
    image, scores, depth, truth = tabletop
    found = refine_scores(image, scores, RegionSettings(), threshold=0.2, depth=depth).numpy()
    mask = np.where(found.max(0) > 0.5, found.argmax(0) + 1, 0)
    for k in (1, 2):
        assert ((mask == k) & (truth == k)).sum() / ((mask == k) | (truth == k)).sum() > 0.9


def test_a_class_that_lies_in_the_plane_needs_it_kept(
    tabletop: tuple[np.ndarray, torch.Tensor, np.ndarray, np.ndarray],
) -> None:
    image, _, depth, truth = tabletop
    table = torch.from_numpy((truth == 0)[None].astype(np.float32))
    kept, removed = (
        refine_scores(image, table, RegionSettings(plane=use), threshold=0.3, depth=depth)[0].numpy() > 0.5
        for use in ("keep", "background")
    )
    assert kept[truth == 0].mean() > 0.9 and removed[truth == 0].mean() < 0.05


def test_without_depth_it_says_so() -> None:
    with pytest.raises(ValueError, match="needs depth"):
        average_over_regions(np.zeros((4, 4, 3), np.uint8), torch.ones(2, 4, 4))
