"""Colours as a network expects them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deal_core.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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
