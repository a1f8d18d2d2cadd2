"""Views along the cells of feature maps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deal_core.errors import ConfigError
from deal_core.features.grid import crop_maps, plan_grid

MAPS = [(1, 8, 12, 16), (1, 4, 6, 8)]


@given(st.integers(0, 10**6), st.floats(0.05, 0.95))
def test_a_view_lies_inside_and_follows_from_its_seed(seed: int, share: float) -> None:
    grid = plan_grid(MAPS, (96, 128), share)
    view = grid.view(seed, flip=True)
    top, left, rows, columns = view.box
    assert view == grid.view(seed, flip=True) and (rows, columns) == grid.crop
    assert top >= 0 and top + rows <= 6 and left >= 0 and left + columns <= 8
    down, right = grid.pixel_slices(view)
    pixels = torch.arange(96)[down], torch.arange(128)[right]
    assert (int(pixels[0][0]), len(pixels[0]), int(pixels[1][0])) == (16 * top, 16 * rows, 16 * left)
    assert not grid.view(seed, flip=False).flip


def test_half_of_the_views_are_mirrored_and_crops_lie_everywhere() -> None:
    grid = plan_grid(MAPS, (96, 128), 0.4)
    views = [grid.view(seed, flip=True) for seed in range(400)]
    assert 160 < sum(view.flip for view in views) < 240
    assert {view.box[:2] for view in views} == {(top, left) for top in range(3) for left in range(4)}


def test_crops_of_maps_show_what_the_crop_of_the_image_shows() -> None:
    """Each cell of the maps holds the number of its place in the coarsest one."""
    grid = plan_grid(MAPS, (96, 128), 0.4)
    image = torch.arange(6 * 8).reshape(1, 1, 6, 8).float().repeat(2, 1, 1, 1)
    maps = [image.repeat_interleave(n, 2).repeat_interleave(n, 3) for n in (2, 1)]
    views = [grid.view(seed, flip=False) for seed in (3, 8)]
    boxes = torch.tensor([[*view.box, *grid.cells] for view in views])
    pixels = image.repeat_interleave(16, 2).repeat_interleave(16, 3)
    for index, view in enumerate(views):
        shown = pixels[index][(..., *grid.pixel_slices(view))]
        for level, found in zip((8, 16), crop_maps(maps, boxes), strict=True):
            assert torch.equal(found[index].repeat_interleave(level, 1).repeat_interleave(level, 2), shown)


def test_whole_images_may_have_any_size_and_crops_need_cells_on_pixels() -> None:
    whole = plan_grid([(1, 8, 17, 22)], (240, 320), 1.0)
    assert whole.is_whole and whole.pixel_slices(whole.view(1, flip=True)) == (slice(None), slice(None))
    with pytest.raises(ConfigError, match=r"data.image_size 240x320 cannot be cropped .* 17x22: choose a multiple"):
        plan_grid([(1, 8, 17, 22)], (240, 320), 0.5)
    with pytest.raises(ConfigError, match="15x20, 8x10"):
        plan_grid([(1, 8, 15, 20), (1, 8, 8, 10)], (240, 320), 0.5)
