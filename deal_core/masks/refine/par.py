"""Pixel-adaptive refinement: repeated averaging of scores over neighbours of similar colour.

Follows PAR of Ru et al. (AFA, CVPR 2022; also in ToCo, CVPR 2023); it has no trained parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from deal_core.masks.refine.inputs import RefinementOptions, check_inputs
from deal_core.settings_file import NotNegative, Positive, PositiveWhole
from deal_core.structures import UInt8Array

_DIRECTIONS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
_SMALLEST_DEVIATION = 1e-8


@dataclass(frozen=True)
class ParSettings(RefinementOptions):
    """Settings of the refinement; the defaults are the published values.

    Args:
        iterations: Number of averaging steps.
        dilations: Distances, in pixels, of the rings of eight neighbours.
        contrast: Colour difference, in local standard deviations, at which a neighbour has weight 1/e.
        position_weight: Share of the weight by distance, relative to the weight by colour.
    """

    method = "par"

    iterations: PositiveWhole = 10
    dilations: Annotated[tuple[PositiveWhole, ...], Field(min_length=1)] = (1, 2, 4, 8, 12, 24)
    contrast: Positive = 0.3
    position_weight: NotNegative = 0.01


def pixel_adaptive_refinement(image: UInt8Array, scores: Tensor, settings: ParSettings | None = None) -> Tensor:
    """Return scores (C, H, W), float32, in which each pixel is a weighted mean over its neighbours.

    The weight of neighbour j at pixel i is softmax_j of -mean_c (|I_i - I_j| / (contrast * sigma_i))^2, with sigma_i
    the standard deviation of colour channel c over the neighbours, plus `position_weight` times the same for the
    distance. The weights are divided by 1 + `position_weight`, so they sum to 1: scores stay within their range, and
    constant scores stay constant. The outermost pixels are repeated beyond the border of the image.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (C, H, W) scores.
        settings: Neighbours and number of iterations.

    Raises:
        ValueError: shapes or types do not fit.
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
    """Return (M, H, W) the weight of each neighbour; the weights sum to 1."""
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
    """Yield `maps` (C, H, W) shifted to each neighbour, ring by ring."""
    height, width = maps.shape[-2:]
    reach = max(dilations)
    padded = F.pad(maps[None], (reach, reach, reach, reach), mode="replicate")[0]
    for dilation in dilations:
        for dy, dx in _DIRECTIONS:
            top, left = reach + dy * dilation, reach + dx * dilation
            yield padded[:, top : top + height, left : left + width]
