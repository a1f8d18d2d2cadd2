"""Features of regions: the maps of a frozen backbone, averaged in each region."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from deal_core.dataset.transforms import resize_sample, to_tensors
from deal_core.models.region_mil import RegionMil
from deal_core.regions.proposals import Proposals
from deal_core.structures import BoolArray, Sample


@torch.inference_mode()
def region_features(network: RegionMil, sample: Sample, size: tuple[int, int], proposals: Proposals) -> Tensor:
    """Return the features (N, D) of the regions of a frame, float32 on the device of the network.

    Args:
        network: Network whose backbone makes the maps.
        sample: The frame.
        size: (height, width) to which the image is resized; the network then scales it.
        proposals: Regions of the frame, at its own size.
    """
    device = network.feature_mean.device
    image = to_tensors(resize_sample(sample, size)).image[None].to(device)
    return pool_regions(network.maps(image), proposals.masks)


def pool_regions(maps: Sequence[Tensor], masks: BoolArray) -> Tensor:
    """Return (N, sum C): the mean of each map (1, C, h, w) over each mask (N, H, W), which has at least one pixel.

    A cell of a map counts with the share of its area that is in the mask, so a region smaller than a cell has the
    features of the cells around it.
    """
    inside = torch.from_numpy(masks)[:, None].float()
    pooled = []
    for features in maps:
        share = F.interpolate(inside, features.shape[-2:], mode="area")[:, 0].flatten(1).to(features.device)
        share = share / share.sum(1, keepdim=True).clamp(min=1e-12)
        pooled.append(share @ features[0].flatten(1).T.float())
    return torch.cat(pooled, 1)
