"""Transform image, depth, validity and mask together, with the same random parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop, v2
from torchvision.transforms.v2 import functional as F

from deal_core.dataset.network_input import image_to_input, resize_image, resize_nearest
from deal_core.dataset.rand_augment import FILL, rand_augment
from deal_core.dataset.settings import DataSettings
from deal_core.structures import IMAGENET_STD, UNLABELLED, Float32Array, Sample, UInt8Array


@dataclass(eq=False)  # not frozen: Fabric moves a batch to its device field by field
class TensorSample:
    """A sample, or a batch of samples, as input of a network.

    Args:
        image: (3, H, W) float32 RGB in [0, 1].
        depth: (1, H, W) float32 depth of the dataset's kind, 0 where invalid.
        valid: (1, H, W) bool.
        tags: (K,) float32 in {1, 0, nan}.
        mask: (H, W) uint8 ids, 255 where unlabelled; None if masks were not requested.
        maps: Feature maps (C, h, w) of the view, from fine to coarse, in the place of the image, which is empty; None
            for views with an image.
        box: (6,) int64 crop of the feature maps of the image, in cells of the coarsest one: top, left, rows, columns,
            and the rows and columns of the whole map; depth, validity and mask are those of the crop. None without one.
        view: (1,) int64 number of the view, where a training has few of them and sees each again and again; else None.
    """

    image: Tensor
    depth: Tensor
    valid: Tensor
    tags: Tensor
    mask: Tensor | None = None
    maps: tuple[Tensor, ...] | None = None
    box: Tensor | None = None
    view: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> TensorSample:
        """Return the sample with a function applied to each of its tensors."""
        mask = None if self.mask is None else function(self.mask)
        maps = None if self.maps is None else tuple(function(level) for level in self.maps)
        box, view = (None if values is None else function(values) for values in (self.box, self.view))
        moved = [function(tensor) for tensor in (self.image, self.depth, self.valid, self.tags)]
        return TensorSample(moved[0], moved[1], moved[2], moved[3], mask, maps, box, view)

    def pin_memory(self) -> TensorSample:
        """Return the sample in page-locked memory, for faster copies to a GPU; DataLoader calls it."""
        return self.map(lambda tensor: tensor.pin_memory())


def resize_sample(sample: Sample, size: tuple[int, int]) -> Sample:
    """Return the sample at `size` (height, width); the image by area, depth and masks by nearest neighbour."""
    if sample.image.shape[:2] == size:
        return sample
    return Sample(
        image=resize_image(sample.image, size),
        depth=resize_nearest(sample.depth, size),
        depth_valid=resize_nearest(sample.depth_valid.view(np.uint8), size).view(np.bool_),
        tags=sample.tags,
        key=sample.key,
        mask=None if sample.mask is None else resize_nearest(sample.mask, size),
    )


def image_to_tensor(image: UInt8Array) -> Tensor:
    """Return an image (H, W, 3) as (3, H, W) float32 RGB in [0, 1]."""
    return torch.from_numpy(image_to_input(image))


def to_tensors(sample: Sample, *, with_mask: bool = False) -> TensorSample:
    """Return the sample as tensors of the same size, with its mask if `with_mask`."""
    return TensorSample(
        image=image_to_tensor(sample.image),
        depth=torch.from_numpy(sample.depth)[None],
        valid=torch.from_numpy(sample.depth_valid)[None],
        tags=torch.from_numpy(sample.tags),
        mask=torch.from_numpy(sample.mask) if with_mask and sample.mask is not None else None,
    )


class TrainTransform:
    """Random rotation, crop, flip, RandAugment, colour jitter and erasing, set by `DataSettings`.

    Image, depth and validity use the same random parameters; pixels from outside the image and erased pixels have no
    valid depth and no label.

    Args:
        settings: changes and their strengths.
        with_mask: return masks, too; every sample must have one.
    """

    def __init__(self, settings: DataSettings, *, with_mask: bool = False) -> None:
        self._settings, self._with_mask = settings, with_mask
        strength, hue = settings.color_jitter, settings.color_hue
        self._color = v2.ColorJitter(strength, strength, strength, hue) if strength or hue else v2.Identity()

    def __call__(self, sample: Sample, seed: int) -> TensorSample:
        """Return one random view of `sample`; the same `seed` gives the same view."""
        settings = self._settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            image = torch.from_numpy(sample.image).permute(2, 0, 1)
            # Depth and validity move together by nearest neighbour: a mean of two depths is not a real depth.
            planes = [sample.depth, sample.depth_valid.astype(np.float32)]
            if self._with_mask:
                planes.append(_labels_from_1(sample))
            geometry = np.stack(planes)
            image, depth = self._move(image, torch.from_numpy(geometry))
            image, depth = rand_augment(image, depth, settings.rand_augment, settings.rand_augment_magnitude)
            pixels = self._color(image).float() / 255.0
            if float(torch.rand(())) < settings.erase:
                pixels, depth = _erase_box(pixels, depth)
            valid = depth[1:2] > 0.5
            # Labels count from 1, so 0, which means outside the image, becomes 255.
            mask = (depth[2].to(torch.int16) - 1).to(torch.uint8) if self._with_mask else None
            return TensorSample(pixels, depth[:1].where(valid, 0.0), valid, torch.from_numpy(sample.tags), mask)

    def _move(self, image: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        settings = self._settings
        if settings.rotation:
            angle = float((torch.rand(()) * 2 - 1) * settings.rotation)
            image = F.rotate(image, angle, InterpolationMode.BILINEAR)
            depth = F.rotate(depth, angle, InterpolationMode.NEAREST)
        crop = _canvas_crop if settings.crop == "canvas" else _resized_crop
        image, depth = crop(image, depth, settings)
        if settings.flip and float(torch.rand(())) < 0.5:
            image, depth = image.flip(-1), depth.flip(-1)
        return image, depth


def _labels_from_1(sample: Sample) -> Float32Array:
    """Return the mask (H, W) with ids from 1; 0 is unlabelled, as are pixels from outside the image."""
    assert sample.mask is not None  # `with_mask` requires a mask
    return np.where(sample.mask == UNLABELLED, 0, sample.mask.astype(np.float32) + 1).astype(np.float32)


def _resized_crop(image: Tensor, depth: Tensor, settings: DataSettings) -> tuple[Tensor, Tensor]:
    """Resize a random part of the image, or all of it, to the network's input size."""
    height, width = image.shape[-2:]
    box = (0, 0, height, width)
    if settings.crop_scale != (1.0, 1.0):
        # Near the image's aspect ratio, because the network is later applied to whole images.
        like_height, like_width = (height, width) if settings.crop_shape == "image" else settings.image_size
        ratios = [like_width / like_height * stretch for stretch in (1 / settings.crop_stretch, settings.crop_stretch)]
        box = RandomResizedCrop.get_params(image, list(settings.crop_scale), ratios)
    size = list(settings.image_size)
    image = F.resized_crop(image, *box, size, InterpolationMode(settings.crop_resample), antialias=True)
    return image, F.resized_crop(depth, *box, size, InterpolationMode.NEAREST_EXACT)


def _canvas_crop(image: Tensor, depth: Tensor, settings: DataSettings) -> tuple[Tensor, Tensor]:
    """Resize the image randomly and put it at a random place on a canvas of the network's input size (SEAM)."""
    sides = image.shape[-2:]
    shortest, longest = settings.long_side
    factor = int(torch.randint(shortest, longest + 1, ())) / max(sides)
    size = [max(round(side * factor), 1) for side in sides]
    rows, columns = (_overlap(n, m) for n, m in zip(size, settings.image_size, strict=True))
    source, target = (..., rows[0], columns[0]), (..., rows[1], columns[1])
    canvas = torch.tensor(FILL, dtype=image.dtype)[:, None, None].repeat(1, *settings.image_size)
    canvas[target] = F.resize(image, size, InterpolationMode.BICUBIC, antialias=True)[source]
    depth_canvas = depth.new_zeros(len(depth), *settings.image_size)
    depth_canvas[target] = F.resize(depth, size, InterpolationMode.NEAREST_EXACT)[source]
    return canvas, depth_canvas


def _overlap(length: int, window: int) -> tuple[slice, slice]:
    """Return the slices, along one axis, of the image and of the window where a random placement overlaps."""
    start = int(torch.randint(abs(length - window) + 1, ()))
    inner, outer = slice(0, min(length, window)), slice(start, start + min(length, window))
    return (outer, inner) if length > window else (inner, outer)


def _erase_box(image: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Replace a random box by noise, and its depth by 0; sizes as in Random Erasing (Zhong et al. 2020).

    As in timm, the noise is normal with the mean and the deviation of ImageNet's colours, here within [0, 1].
    """
    sides = image.shape[-2:]
    area = math.prod(sides) * (0.02 + (1 / 3 - 0.02) * float(torch.rand(())))
    ratio = 0.3 ** (2 * float(torch.rand(())) - 1)
    wanted = (math.sqrt(area * ratio), math.sqrt(area / ratio))
    lengths = [min(max(round(length), 1), side) for length, side in zip(wanted, sides, strict=True)]
    top, left = (int(torch.randint(0, s - n + 1, ())) for s, n in zip(sides, lengths, strict=True))
    box = (..., slice(top, top + lengths[0]), slice(left, left + lengths[1]))
    image, depth = image.clone(), depth.clone()
    mean, std = (torch.tensor(values)[:, None, None] for values in (FILL, IMAGENET_STD))
    image[box] = (mean / 255 + std * torch.randn(image[box].shape)).clamp(0, 1)
    depth[box] = 0.0
    return image, depth
