"""One geometric transform for image, depth and validity, with one set of sampled parameters."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop, v2
from torchvision.transforms.v2 import functional as F

from deal_core.config import DataSettings
from deal_core.data.sample import Sample


@dataclass(eq=False)  # not frozen: Fabric moves a batch to its device field by field
class TensorSample:
    """A sample, or a batch of samples, as the network takes it.

    Args:
        image: (3, H, W) float32 RGB in [0, 1].
        depth: (1, H, W) float32 metres, 0 where invalid.
        valid: (1, H, W) bool.
        tags: (K,) float32 in {1, 0, nan}.
    """

    image: Tensor
    depth: Tensor
    valid: Tensor
    tags: Tensor

    def pin_memory(self) -> TensorSample:
        """Return the sample in page-locked memory, from where copies to a GPU are faster; for DataLoader."""
        return TensorSample(*(t.pin_memory() for t in (self.image, self.depth, self.valid, self.tags)))


def resize_sample(sample: Sample, size: tuple[int, int]) -> Sample:
    """Return the sample at `size` (height, width); the image by area, depth and masks by nearest neighbour."""
    if sample.image.shape[:2] == size:
        return sample
    height, width = size
    shrinks = height < sample.image.shape[0]

    def nearest(array: np.ndarray) -> np.ndarray:
        return cv2.resize(array, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)

    return Sample(
        image=cv2.resize(sample.image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR),
        depth=nearest(sample.depth),
        depth_valid=nearest(sample.depth_valid.view(np.uint8)).view(np.bool_),
        tags=sample.tags,
        key=sample.key,
        mask=None if sample.mask is None else nearest(sample.mask),
    )


def to_tensors(sample: Sample) -> TensorSample:
    """Return the sample as tensors, unchanged in size."""
    return TensorSample(
        image=torch.from_numpy(np.ascontiguousarray(sample.image.transpose(2, 0, 1))).float() / 255.0,
        depth=torch.from_numpy(sample.depth)[None],
        valid=torch.from_numpy(sample.depth_valid)[None],
        tags=torch.from_numpy(sample.tags),
    )


class TrainTransform:
    """Random rotation, crop, flip, colour jitter and erasing, as `DataSettings` say.

    Image, depth and validity are moved by the same sampled parameters; what comes in from outside the image,
    and what is erased, has no valid depth.
    """

    def __init__(self, settings: DataSettings) -> None:
        self._settings = settings
        strength = settings.color_jitter
        self._color = v2.ColorJitter(strength, strength, strength) if strength else v2.Identity()

    def __call__(self, sample: Sample, seed: int) -> TensorSample:
        """Return one random view of `sample`; the same `seed` gives the same view."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            image = torch.from_numpy(sample.image).permute(2, 0, 1)
            # Depth and validity travel together, moved by nearest neighbour: a mean of two depths is the depth
            # of nothing.
            geometry = np.stack([sample.depth, sample.depth_valid.astype(np.float32)])
            image, depth = self._move(image, torch.from_numpy(geometry))
            pixels = self._color(image).float() / 255.0
            valid = depth[1:] > 0.5
            if float(torch.rand(())) < self._settings.erase:
                pixels, valid = _erase_box(pixels, valid)
            return TensorSample(pixels, depth[:1].where(valid, 0.0), valid, torch.from_numpy(sample.tags))

    def _move(self, image: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        height, width = image.shape[-2:]
        if self._settings.rotation:
            angle = float((torch.rand(()) * 2 - 1) * self._settings.rotation)
            image = F.rotate(image, angle, InterpolationMode.BILINEAR)
            depth = F.rotate(depth, angle, InterpolationMode.NEAREST)
        box = (0, 0, height, width)
        if self._settings.crop_scale != (1.0, 1.0):
            # Around the image's own shape: the network later sees whole images, and things in that proportion.
            ratios = [width / height * stretch for stretch in (3 / 4, 4 / 3)]
            box = RandomResizedCrop.get_params(image, list(self._settings.crop_scale), ratios)
        size = list(self._settings.image_size)
        image = F.resized_crop(image, *box, size, InterpolationMode.BILINEAR, antialias=True)
        depth = F.resized_crop(depth, *box, size, InterpolationMode.NEAREST_EXACT)
        if self._settings.flip and float(torch.rand(())) < 0.5:
            image, depth = image.flip(-1), depth.flip(-1)
        return image, depth


def _erase_box(image: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Replace a random box of a fifth to half of each side by noise, and its depth by none."""
    sides = image.shape[-2:]
    lengths = [max(int(side * (0.2 + 0.3 * float(torch.rand(())))), 1) for side in sides]
    top, left = (int(torch.randint(0, s - n + 1, ())) for s, n in zip(sides, lengths, strict=True))
    box = (..., slice(top, top + lengths[0]), slice(left, left + lengths[1]))
    image, valid = image.clone(), valid.clone()
    image[box] = torch.rand(image[box].shape)
    valid[box] = False
    return image, valid
