"""Pixel-adaptive refinement: scores averaged, again and again, over neighbours of the same colour.

After PAR of Ru et al. (AFA, CVPR 2022; also in ToCo, CVPR 2023): no parameters, no training, no compiler.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deal_core.errors import ConfigError
from deal_core.masks.refine.inputs import check_inputs
from deal_core.structures import UInt8Array

_DIRECTIONS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
_SMALLEST_DEVIATION = 1e-8


@dataclass(frozen=True)
class ParSettings:
    """The defaults are the published ones.

    Args:
        iterations: how often scores are averaged.
        dilations: distances, in pixels, of the eight neighbours that take part; one ring each.
        contrast: a neighbour whose colour differs by this many local standard deviations has weight 1/e.
        position_weight: share of a weight by distance alone, relative to that by colour.

    Raises:
        ConfigError: a value out of range.
    """

    iterations: int = 10
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)
    contrast: float = 0.3
    position_weight: float = 0.01

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ConfigError(f"par: expected at least 1 iteration, found {self.iterations}")
        if not self.dilations or min(self.dilations) < 1:
            raise ConfigError(f"par: expected dilations of at least 1 pixel, found {self.dilations}")
        if not self.contrast > 0 or not self.position_weight >= 0:
            raise ConfigError(
                "par: expected a positive contrast and a position_weight of at least 0, found "
                f"{self.contrast} and {self.position_weight}"
            )


def pixel_adaptive_refinement(image: UInt8Array, scores: Tensor, settings: ParSettings | None = None) -> Tensor:
    """Return scores (C, H, W), float32, each pixel's a weighted mean of its neighbours'.

    The weight of neighbour j at pixel i is softmax_j of -mean_c (|I_i - I_j| / (contrast * sigma_i))^2, with sigma_i
    the standard deviation of colour channel c over the neighbours, plus `position_weight` times the same of the
    distance. The sum is divided by 1 + `position_weight`, so that every weight is a share: scores stay within the
    range they had, and a constant stays. Beyond the border the image is continued by its outermost pixels.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (C, H, W).
        settings: which neighbours, and how often.

    Raises:
        ValueError: shapes or types that do not fit.
    """
    settings = settings or ParSettings()
    check_inputs(image, scores)
    colour = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).to(scores.device).float() / 255.0
    weights = _weights(colour, settings)
    refined = scores.float()
    for _ in range(settings.iterations):
        total = torch.zeros_like(refined)
        for weight, neighbour in zip(weights, _neighbours(refined, settings.dilations), strict=True):
            total.addcmul_(weight, neighbour)
        refined = total
    return refined


def _weights(colour: Tensor, settings: ParSettings) -> Tensor:
    """Return (M, H, W) the share of each neighbour, summing to 1."""
    count = 8 * len(settings.dilations)
    mean, square = torch.zeros_like(colour), torch.zeros_like(colour)
    for neighbour in _neighbours(colour, settings.dilations):
        difference = neighbour - colour
        mean += difference / count
        square += difference.square()
    deviation = ((square - count * mean.square()) / (count - 1)).clamp(min=0).sqrt()
    scale = 1.0 / (settings.contrast * (deviation + _SMALLEST_DEVIATION))
    logits = torch.stack(
        [-((neighbour - colour) * scale).square().mean(0) for neighbour in _neighbours(colour, settings.dilations)]
    )
    by_position = _position_logits(settings).to(colour)[:, None, None].softmax(0)
    return (logits.softmax(0) + settings.position_weight * by_position) / (1.0 + settings.position_weight)


def _position_logits(settings: ParSettings) -> Tensor:
    distance = torch.tensor([d * float(np.hypot(*step)) for d in settings.dilations for step in _DIRECTIONS])
    return -(distance / (settings.contrast * distance.std())).square()


def _neighbours(maps: Tensor, dilations: tuple[int, ...]) -> Iterator[Tensor]:
    """Yield `maps` (C, H, W) as seen from each pixel's neighbours, ring by ring."""
    height, width = maps.shape[-2:]
    reach = max(dilations)
    padded = F.pad(maps[None], (reach, reach, reach, reach), mode="replicate")[0]
    for dilation in dilations:
        for dy, dx in _DIRECTIONS:
            top, left = reach + dy * dilation, reach + dx * dilation
            yield padded[:, top : top + height, left : left + width]
