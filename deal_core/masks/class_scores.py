"""Class scores in [0, 1] from the output of a network, over scales and flips; CAMs are gated by tags and normalised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from deal_core.errors import ConfigError
from deal_core.masks.choices import Normalisation
from deal_core.models.output import CamOutput, SegmenterOutput

TAG_THRESHOLD = 0.5
"""Without given tags, a class with a predicted tag probability below this value counts as absent."""


class ScoreNetwork(nn.Module):
    """A network from an image to class scores, as every back end runs it.

    Args:
        network: CAM network or segmenter.

    >>> from deal_core.models.cam_net import CamNet
    >>> scores, tags = ScoreNetwork(CamNet(3, backbone="test_resnet"))(torch.rand(1, 3, 48, 64))
    >>> scores.shape, tags.shape
    (torch.Size([1, 3, 6, 8]), torch.Size([1, 3]))
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, depth: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return class scores (B, K, h, w) in [0, 1] at the network's stride, and tag probabilities (B, K).

        For a CAM network, classes with a probability below `TAG_THRESHOLD` have the score 0, and the largest score of
        every other class is 1. For a segmenter, the tag probability of a class is its largest score.

        Args:
            image: (B, 3, H, W) RGB in [0, 1].
            depth: (B, 1, H, W) metres, 0 where unknown; None for a network without depth.
        """
        output = _output(self.network, image, depth)
        if isinstance(output, SegmenterOutput):
            scores = output.scores
            return scores, scores.amax(dim=(-2, -1))
        tags, maps = _mean_logits(output).sigmoid(), output.activation.float()
        if output.corners:
            maps = _resize(_placed(maps, image.shape[-2:]), (maps.shape[-2], maps.shape[-1]))
        return normalise(maps, tags >= TAG_THRESHOLD), tags


def multi_scale_scores(
    network: nn.Module,
    images: Tensor,
    depth: Tensor | None = None,
    *,
    tags: Tensor | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = True,
    size: tuple[int, int] | None = None,
    normalisation: Normalisation = "max",
) -> Tensor:
    """Return class scores (B, K, H, W) in [0, 1], summed over scales and horizontal flips, then normalised.

    The scores of a segmenter are the mean over the passes, without tags and normalisation: a segmenter predicts the
    present classes itself. An image and its mirror image form one batch, and only the maps of classes that are present
    in some image are resized to full size.

    Args:
        network: Network in evaluation mode.
        images: (B, 3, h, w) RGB in [0, 1], at scale 1.
        depth: (B, 1, h, w) metres, 0 where unknown; None for a network without depth.
        tags: (B, K) with 1 for present classes; all other classes have the score 0. Default: the classes with a
            predicted probability, in the mean over the heads, of at least `TAG_THRESHOLD`.
        scales: Factors on (h, w).
        flip: Whether to add the mirrored image at each scale.
        size: (H, W) of the result; default: the size of `images`.
        normalisation: Normalisation of the sum, map by map.

    Raises:
        ConfigError: the normalisation is unknown.
    """
    size = size or (images.shape[-2], images.shape[-1])
    batch, passes = len(images), len(scales) * (2 if flip else 1)
    maps: list[tuple[Tensor, torch.Size | None]] = []
    logits = torch.zeros(())
    for scale in scales:
        scaled = _rescale(images, scale)
        # By nearest neighbour: a mean of two depths would be a surface that does not exist.
        scaled_depth = None if depth is None else F.interpolate(depth, scaled.shape[-2:], mode="nearest-exact")
        if flip:
            scaled = _with_mirrored(scaled)
            scaled_depth = None if scaled_depth is None else _with_mirrored(scaled_depth)
        output = _output(network, scaled, scaled_depth)
        if isinstance(output, SegmenterOutput):
            found, seen, corners = output.scores / passes, None, None
        else:
            found, seen = output.activation.float(), _mean_logits(output)
            corners = scaled.shape[-2:] if output.corners else None
        # Resampling commutes with mirroring and adding, so one resampling of the sum suffices.
        maps.append((found[:batch] + found[batch:].flip(-1) if flip else found, corners))
        if seen is not None:
            logits = logits.to(seen) + (seen[:batch] + seen[batch:] if flip else seen)
    if seen is None:
        return torch.stack([_resize(found, size) for found, _ in maps]).sum(0)
    # Negated, so that classes with a probability of nan stay present and their nan is noticed.
    present = ~((logits / passes).sigmoid() < TAG_THRESHOLD) if tags is None else (tags == 1)
    used = present.any(0)
    scores = maps[0][0].new_zeros(*present.shape, *size)
    if used.any():
        total = torch.zeros(())
        for found, corners in maps:
            total = total.to(found) + _resize(_placed(found[:, used], corners), size)
        scores[:, used] = normalise(total, present[:, used], normalisation)
    return scores


def normalise(activation: Tensor, present: Tensor, normalisation: Normalisation = "max") -> Tensor:
    """Scale each map of `activation` (B, K, H, W) to [0, 1], and set absent classes to 0.

    Args:
        activation: Non-negative maps.
        present: (B, K) bool mask of present classes.
        normalisation: "max" divides by the maximum; "min_max" first subtracts the minimum, so that a constant map
            becomes 0.

    Raises:
        ConfigError: the normalisation is unknown.
    """
    choices = get_args(Normalisation)
    if normalisation not in choices:
        raise ConfigError(f"expected normalise to be one of {', '.join(choices)}, found '{normalisation}'")
    if normalisation == "min_max":
        activation = activation - activation.amin(dim=(-2, -1), keepdim=True)
    maximum = activation.amax(dim=(-2, -1), keepdim=True)
    scores = activation / maximum.where(maximum > 0, 1.0)
    return scores * present[:, :, None, None].to(scores.dtype)


def _output(network: nn.Module, image: Tensor, depth: Tensor | None) -> CamOutput | SegmenterOutput:
    output: CamOutput | SegmenterOutput = network(image) if depth is None else network(image, depth)
    return output


def _placed(maps: Tensor, corners: torch.Size | None) -> Tensor:
    """Return maps with each cell in the middle of its share of the image; `corners`: see `CamOutput.corners`.

    Maps whose outermost cells lie on the outermost pixels are resized to that size (H, W), where the two kinds agree.
    """
    return maps if corners is None else F.interpolate(maps, corners, mode="bilinear", align_corners=True)


def _with_mirrored(images: Tensor) -> Tensor:
    return torch.cat([images, images.flip(-1)])


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def _mean_logits(output: CamOutput) -> Tensor:
    return torch.stack([logits.float() for logits in output.tag_logits.values()]).mean(0)


def _rescale(images: Tensor, scale: float) -> Tensor:
    if scale == 1.0:
        return images
    size = [max(round(s * scale), 1) for s in images.shape[-2:]]
    # In 8 bit, as PIL resizes the images of published recipes.
    levels = (images * 255).round().to(torch.uint8)
    return resize(levels, size, InterpolationMode.BICUBIC, antialias=True).to(images.dtype) / 255
