"""A loss on the parts of an image where a person showed things."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deal_core.losses.activation import activate
from deal_core.structures import UNLABELLED


def seed_loss(cams: Tensor, shown: Tensor) -> Tensor:
    """Return the share of the class activation outside of the things that were shown, a scalar in [0, 1].

    It is the mean over the pairs of an image and a class of which things were shown. The activation is that of
    `deal_core.losses.activation.activate`; its scale does not matter, so the loss says where a map is high and leaves
    how high to the tags. A map without activation, and a batch in which nothing was shown, cost 0.

    Args:
        cams: (B, K, h, w) raw CAM logits.
        shown: (B, H, W) uint8, the id of the class on things that were shown, 0 where there is none of the classes
            that occur in the image, and 255 where nothing is known.

    Raises:
        ValueError: the shapes do not fit.

    >>> cams = torch.tensor([[[[3.0, 1.0, 0.0]]]])
    >>> float(seed_loss(cams, torch.tensor([[[1, 0, 0]]], dtype=torch.uint8)))
    0.25
    """
    if cams.ndim != 4 or shown.ndim != 3 or len(cams) != len(shown):
        raise ValueError(
            f"expected cams (B, K, h, w) and shown (B, H, W), got {tuple(cams.shape)} and {tuple(shown.shape)}"
        )
    pairs = [(image, int(id_)) for image in range(len(shown)) for id_ in shown[image].unique() if 0 < id_ < UNLABELLED]
    if not pairs:
        return cams.new_zeros(())
    images = torch.tensor([image for image, _ in pairs], device=cams.device)
    ids = torch.tensor([id_ for _, id_ in pairs], device=cams.device)
    masks = shown[images]
    size = cams.shape[-2:]
    inside, known = (
        F.interpolate(part.to(cams.dtype)[None], size, mode="area")[0]
        for part in (masks == ids[:, None, None], masks != UNLABELLED)
    )
    activation = activate(cams[images, ids - 1][None])[0]
    outside = (activation * (known - inside)).sum((1, 2))
    total = (activation * known).sum((1, 2))
    return (outside / total.clamp_min(torch.finfo(cams.dtype).tiny)).mean()
