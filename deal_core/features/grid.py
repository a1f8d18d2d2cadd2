"""Views along the cells of feature maps: a flip, and a crop that begins and ends at cells of the coarsest map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deal_core.errors import ConfigError


@dataclass(frozen=True)
class Grid:
    """The cells of the coarsest feature map of an image, and the crops that views take.

    Args:
        cells: (rows, columns) of the map.
        crop: (rows, columns) of a crop.
        pixels: (height, width) of a cell, in pixels of the image; (0, 0) if cells do not lie on pixels, where crops
            have the size of the map.
    """

    cells: tuple[int, int]
    crop: tuple[int, int]
    pixels: tuple[int, int]

    @property
    def is_whole(self) -> bool:
        """Whether views show the whole image."""
        return self.crop == self.cells

    def view(self, seed: int, *, flip: bool) -> GridView:
        """Return a random view; the same seed gives the same view. `flip` mirrors half of the views."""
        rng = np.random.default_rng(seed)
        is_flipped = bool(flip and rng.random() < 0.5)
        top, left = (int(rng.integers(n - c + 1)) for n, c in zip(self.cells, self.crop, strict=True))
        return GridView(is_flipped, (top, left, *self.crop))

    def pixel_slices(self, view: GridView) -> tuple[slice, slice]:
        """Return the rows and columns of the image that a view shows."""
        if self.is_whole:
            return slice(None), slice(None)
        (top, left, rows, columns), (height, width) = view.box, self.pixels
        return slice(top * height, (top + rows) * height), slice(left * width, (left + columns) * width)


@dataclass(frozen=True)
class GridView:
    """A view: whether the image is mirrored first, and the crop (top, left, rows, columns) in cells after that."""

    flip: bool
    box: tuple[int, int, int, int]


def plan_grid(maps: Sequence[tuple[int, ...]], size: tuple[int, int], share: float) -> Grid:
    """Return the grid of an image.

    Args:
        maps: Shapes (..., h, w) of the feature maps of the image.
        size: (height, width) of the image.
        share: Share of the area that a crop keeps, in (0, 1].

    Raises:
        ConfigError: crops are smaller than the image, and the cells of the maps do not lie on pixels of the image and
            on each other.
    """
    coarsest = min((tuple(shape[-2:]) for shape in maps), key=math.prod)
    rows, columns = coarsest
    if share == 1:
        return Grid((rows, columns), (rows, columns), (0, 0))
    fitting = [
        all(side % cells == 0 for side, cells in zip(sides, coarsest, strict=True))
        for sides in (size, *(shape[-2:] for shape in maps))
    ]
    if not all(fitting):
        raise ConfigError(
            f"data.image_size {size[0]}x{size[1]} cannot be cropped along the cells of its feature maps, "
            f"{', '.join(f'{shape[-2]}x{shape[-1]}' for shape in maps)}: choose a multiple of the coarsest stride, or "
            "set data.crop_scale=[1, 1]"
        )
    crop = tuple(max(round(cells * math.sqrt(share)), 1) for cells in coarsest)
    return Grid((rows, columns), (crop[0], crop[1]), (size[0] // rows, size[1] // columns))


def crop_maps(maps: Sequence[Tensor], boxes: Tensor) -> list[Tensor]:
    """Return the crops of feature maps.

    Args:
        maps: (B, C, h, w) maps, whose sides are multiples of those of the coarsest one.
        boxes: (B, 6) top, left, rows and columns in cells of the coarsest map, and the rows and columns of all of it;
            all but the first two are the same for all images.
    """
    cropped = []
    for level in maps:
        parts = []
        for one, (top, left, rows, columns, *cells) in zip(level, boxes.tolist(), strict=True):
            high, wide = level.shape[-2] // cells[0], level.shape[-1] // cells[1]
            parts.append(one[:, top * high : (top + rows) * high, left * wide : (left + columns) * wide])
        cropped.append(torch.stack(parts))
    return cropped
