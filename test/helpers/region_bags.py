"""Bags of regions whose classes are known: a class has a feature of its own, and each frame shows some classes."""

from __future__ import annotations

import torch
from torch import Tensor

from deal_core.regions.bags import RegionBags

LEARNABLE = (0, 1, 2)


def made_up_bags(frames: int = 60, regions: int = 6, features: int = 12) -> tuple[RegionBags, Tensor]:
    """Return bags, and the class (R,) of each region from 0, which is none of the classes."""
    generator = torch.Generator().manual_seed(3)
    centres = 3 * torch.randn(4, features, generator=generator)
    truth = torch.randint(4, (frames, regions), generator=generator)
    # Half of the regions are none of the classes.
    truth = torch.where(torch.rand(truth.shape, generator=generator) < 0.5, 0, truth)
    values = centres[truth.flatten()] + torch.randn(frames * regions, features, generator=generator)
    tags = torch.stack([(truth == k).any(1) for k in (1, 2, 3)], 1).float()
    bags = RegionBags(
        features=values,
        frame=torch.arange(frames).repeat_interleave(regions),
        votes=torch.ones(frames * regions),
        tags=tags,
        segments=torch.arange(frames) // 6,
        links=torch.zeros(0, 2, dtype=torch.int64),
    )
    return bags, truth.flatten()
