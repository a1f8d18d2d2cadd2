"""Normalisation of colours and depth for networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deal_core.errors import ConfigError
from deal_core.structures import valid_depth

_NEAREST_M = 0.1
"""Smallest depth; nearer values, which no common camera measures, are set to it."""


class ColourNormalisation(nn.Module):
    """Subtracts the mean of each colour channel, in [0, 1], and divides by its standard deviation.

    Both are arguments of the network in the model file, and not part of the weights.

    Raises:
        ConfigError: mean or std are not three numbers, or a std is not above 0.
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
        """Return the normalised `image` (B, 3, H, W), which is RGB in [0, 1]."""
        return (image - self.mean) / self.std


class DepthNormalisation(nn.Module):
    """Converts metres to two channels: normalised inverse depth, and the mask of known depth.

    Errors of inverse depth are similar at all distances.

    Args:
        mean: Mean of the inverse depth, in 1/m.
        std: Standard deviation of the inverse depth, in 1/m.

    Raises:
        ConfigError: the std is not above 0.

    >>> DepthNormalisation(1.0, 0.5)(torch.tensor([[[[0.5, 1.0, 0.0]]]]))[0, :, 0].tolist()
    [[2.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    """

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        if not std > 0:
            raise ConfigError(f"expected depth_std above 0, found {std!r}")
        self.mean, self.std = float(mean), float(std)

    def forward(self, depth: Tensor) -> Tensor:
        """Return (B, 2, H, W) from `depth` (B, 1, H, W) in metres; both channels are 0 for invalid depth."""
        known = valid_depth(depth)
        inverse = (depth.clamp(min=_NEAREST_M).reciprocal() - self.mean) / self.std
        return torch.cat([torch.where(known, inverse, 0.0), known.to(inverse.dtype)], dim=1)


def freeze_batch_norm(module: nn.Module) -> None:
    """Freeze statistics and affine parameters of every BatchNorm in `module`; call this after each `train()`."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval().requires_grad_(False)
