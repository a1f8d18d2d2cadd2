"""From the output of a CAM network to class scores in [0, 1]: gating by tags, scales and flips, normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deal_core.models.output import CamOutput

TAG_THRESHOLD = 0.5
"""A class whose predicted tag probability is below this counts as absent where no tags are given."""


def cam_scores(output: CamOutput, *, size: tuple[int, int], tags: Tensor | None = None) -> Tensor:
    """Return class scores (B, K, H, W) in [0, 1] at `size` from one forward pass.

    Args:
        output: of a CAM network.
        size: (H, W) of the result.
        tags: (B, K), 1 where a class is present; classes that are not score 0. Predicted by the network itself,
            with a probability of at least `TAG_THRESHOLD` in the mean of its heads, when left out.
    """
    present = predicted_tags(output) if tags is None else (tags == 1)
    return normalise(F.interpolate(output.activation.float(), size, mode="bilinear", align_corners=False), present)


def multi_scale_scores(
    network: nn.Module,
    images: Tensor,
    *,
    tags: Tensor | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = True,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Return class scores (B, K, H, W) in [0, 1], summed over scales and horizontal flips, then normalised.

    Args:
        network: a CAM network in evaluation mode.
        images: (B, 3, h, w) RGB in [0, 1], at the scale 1.
        tags: as in `cam_scores`.
        scales: factors on (h, w).
        flip: add the pass over the mirrored image at each scale.
        size: (H, W) of the result; that of `images` when left out.
    """
    size = size or (images.shape[-2], images.shape[-1])
    total, logits, passes = torch.zeros(()), torch.zeros(()), 0
    for scale in scales:
        scaled = _rescale(images, scale)
        for mirrored in (False, True) if flip else (False,):
            output: CamOutput = network(scaled.flip(-1) if mirrored else scaled)
            maps = F.interpolate(output.activation.float(), size, mode="bilinear", align_corners=False)
            total = total.to(maps) + (maps.flip(-1) if mirrored else maps)
            logits = logits.to(maps) + _mean_logits(output)
            passes += 1
    present = (logits / passes).sigmoid() >= TAG_THRESHOLD if tags is None else (tags == 1)
    return normalise(total, present)


def normalise(activation: Tensor, present: Tensor) -> Tensor:
    """Divide each map of `activation` (B, K, H, W) by its maximum, and set absent classes to 0.

    Args:
        activation: not negative.
        present: (B, K) bool.
    """
    maximum = activation.amax(dim=(-2, -1), keepdim=True)
    scores = activation / maximum.where(maximum > 0, 1.0)
    return scores * present[:, :, None, None].to(scores.dtype)


def predicted_tags(output: CamOutput) -> Tensor:
    """Return (B, K) bool: which classes the network itself holds present."""
    return _mean_logits(output).sigmoid() >= TAG_THRESHOLD


def _mean_logits(output: CamOutput) -> Tensor:
    return torch.stack([logits.float() for logits in output.tag_logits.values()]).mean(0)


def _rescale(images: Tensor, scale: float) -> Tensor:
    if scale == 1.0:
        return images
    height, width = (max(round(s * scale), 1) for s in images.shape[-2:])
    return F.interpolate(images, (height, width), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
