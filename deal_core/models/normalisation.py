"""Colours and depth as a network expects them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deal_core.errors import ConfigError
from deal_core.structures import valid_depth

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_NEAREST_M = 0.1
"""What is nearer counts as this near; no camera that we know of measures it."""


class ColourNormalisation(nn.Module):
    """Subtracts a mean from each colour channel and divides by a standard deviation.

    Both are arguments of the network and so in its model file; they are no part of its weights.

    Args:
        mean: of the RGB channels in [0, 1].
        std: of the RGB channels in [0, 1].

    Raises:
        ConfigError: not three numbers each, or a std that is not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != 3 or len(std) != 3 or not all(s > 0 for s in std):
            raise ConfigError(f"expected mean and std as three numbers each, std above 0, found {mean!r}, {std!r}")
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std)).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return `image` (B, 3, H, W), RGB in [0, 1], with mean 0 and deviation 1 in each channel of such a dataset."""
        return (image - self.mean) / self.std


class DepthNormalisation(nn.Module):
    """Brings metres to two channels: inverse depth, in which errors are alike near and far, and where it is known.

    Args:
        mean: of the inverse depth, 1/m, subtracted from it.
        std: of the inverse depth, 1/m, by which it is divided.

    Raises:
        ConfigError: a std that is not above 0.

    >>> DepthNormalisation(1.0, 0.5)(torch.tensor([[[[0.5, 1.0, 0.0]]]]))[0, :, 0].tolist()
    [[2.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    """

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        if not std > 0:
            raise ConfigError(f"expected depth_std above 0, found {std!r}")
        self.mean, self.std = float(mean), float(std)

    def forward(self, depth: Tensor) -> Tensor:
        """Return (B, 2, H, W) of `depth` (B, 1, H, W), metres; both are 0 where it is not valid."""
        known = valid_depth(depth)
        inverse = (depth.clamp(min=_NEAREST_M).reciprocal() - self.mean) / self.std
        return torch.cat([torch.where(known, inverse, 0.0), known.to(inverse.dtype)], dim=1)
