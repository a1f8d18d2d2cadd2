"""Depth with its holes filled, and how far each filled pixel can be trusted.

A stereo camera leaves two kinds of holes. Beside a near surface, one of its two imagers does not see the far surface:
this shadow lies along the baseline, belongs to the far surface, and is at most ``f b (1/near - 1/far)`` pixels wide. A
dropout is a patch that the matching lost, dark or shiny or without texture, and belongs to the surface around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy.typing as npt
import torch
from torch import Tensor

from deal_core.structures import BoolArray, DepthKind, Float32Array, valid_depth

# Priors for a camera with unknown intrinsics: the baseline of a RealSense D435, and the focal length of a wide lens.
# Holes across true outlines are 1.2 to 2.0 times as wide on RealSense frames and 1.4 to 2.7 times on those of an Xtion:
# longer focal lengths, the offset to the colour camera, and pixels that the matching lost beside the shadow.
_BASELINE_M = 0.05
_FOCAL_OF_WIDTH = 0.75
_SLACK = 3.0
_REACH_OF_WIDTH = 0.05
"""Share of the image's width over which the confidence of a fill falls by a factor of e."""
_SHADOW_REACH = 4.0
"""How many times farther the fill of a shadow can be trusted than that of a dropout."""
_AGREEMENT = 0.02
"""Relative difference of two sides, in inverse depth, at which their interpolation counts half."""


@dataclass(frozen=True)
class FilledDepth:
    """Depth without holes.

    Args:
        depth: (B, 1, H, W), measured pixels unchanged; 0 in an image without any measured pixel.
        confidence: (B, 1, H, W) in [0, 1]: 1 where measured, less where filled, 0 where nothing is known.
    """

    depth: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class _Sides:
    """The nearest known values before and after each pixel along one axis; `gap` is the width of the hole.

    At a hole that reaches the border of the image, both values are the one that exists, and the gap is twice the
    distance to it. Without a known value on either side, the gap is infinite.
    """

    before: Tensor
    after: Tensor
    to_before: Tensor
    to_after: Tensor
    gap: Tensor
    is_between: Tensor

    @property
    def distance(self) -> Tensor:
        return torch.minimum(self.to_before, self.to_after)

    @property
    def jump(self) -> Tensor:
        return (self.before - self.after).abs()


def fill_depth(depth: Tensor, valid: Tensor | None = None, kind: DepthKind = "metric") -> FilledDepth:
    """Return `depth` with its holes filled, and the confidence of each pixel.

    A stereo shadow takes the depth of its far side. Every other hole is interpolated between its sides, in inverse
    depth, so that a plane is continued exactly; an axis counts more if the hole is narrow along it and its sides agree.
    A pixel with no measured pixel in its row and column gets a value of confidence 0.

    Args:
        depth: (B, 1, H, W) of `kind`; larger than 0 where valid.
        valid: (B, 1, H, W) bool, where depth was measured; if None, where depth is finite and positive.
        kind: "metric", or "inverse" for relative inverse depth, whose scale is taken such that the median of each image
            is a distance of one metre.

    Raises:
        ValueError: the shape is not (B, 1, H, W), `valid` has another one or another type, or the kind is unknown.

    >>> row = torch.tensor([2.0, 2.0, 2.0, 2.0, 0.0, 0.5, 0.5, 0.5])  # a near thing on the right, and its shadow
    >>> fill_depth(row.repeat_interleave(20)[None, None, None]).depth[0, 0, 0, ::20].tolist()
    [2.0, 2.0, 2.0, 2.0, 2.0, 0.5, 0.5, 0.5]
    """
    _check(depth, valid, kind)
    valid = valid_depth(depth, valid)
    inverse = depth.where(valid, 1.0)
    inverse = (inverse.reciprocal() if kind == "metric" else inverse).where(valid, 0.0)
    scale = 1.0 if kind == "metric" else _per_metre(inverse, valid)
    filled, confidence = _fill(inverse, valid, scale)
    reached = valid | (confidence > 0)
    if not reached.all():
        # What neither rows nor columns reach is filled from the filled pixels: it is a number, and not known.
        filled, _ = _fill(filled, reached, scale)
    known = filled > 0
    values = filled.where(known, 1.0).reciprocal() if kind == "metric" else filled
    return FilledDepth(depth.where(valid, values.where(known, 0.0)), confidence)


def fill_depth_image(
    depth: npt.NDArray[Any], valid: BoolArray | None = None, kind: DepthKind = "metric"
) -> tuple[Float32Array, Float32Array]:
    """Return one image (H, W) filled, and its confidence (H, W) in [0, 1]; both float32.

    Args:
        depth: (H, W) of `kind`, as in `fill_depth`.
        valid: (H, W) bool, where depth was measured; if None, where depth is finite and positive.
        kind: as in `fill_depth`.

    Raises:
        ValueError: as `fill_depth`.
    """
    values = torch.as_tensor(depth, dtype=torch.float32)[None, None]
    known = None if valid is None else torch.as_tensor(valid)[None, None]
    filled = fill_depth(values, known, kind)
    return filled.depth[0, 0].numpy(), filled.confidence[0, 0].numpy()


def _fill(inverse: Tensor, valid: Tensor, scale: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return inverse depth filled along rows and columns, 0 where neither reaches, and its confidence."""
    width = inverse.shape[-1]
    rows, columns = _sides(inverse, valid), _transposed(_sides(inverse.mT, valid.mT))
    widest = _SLACK * _BASELINE_M * _FOCAL_OF_WIDTH * width * scale * rows.jump
    is_shadow = rows.is_between & (rows.gap <= widest)
    between, gap = _weighted(rows, columns)
    filled = torch.where(is_shadow, torch.minimum(rows.before, rows.after), between)
    gap = torch.where(is_shadow, rows.gap / _SHADOW_REACH, gap)
    distance = torch.minimum(rows.distance, columns.distance)
    distance = torch.where(is_shadow, distance / _SHADOW_REACH, distance)
    confidence = torch.exp(-(gap + distance) / (_REACH_OF_WIDTH * width))
    return inverse.where(valid, filled), confidence.where(~valid, 1.0)


def _weighted(*axes: _Sides) -> tuple[Tensor, Tensor]:
    """Return the mean of the interpolations along the axes, and the gap of the narrowest."""
    total, weights = torch.zeros_like(axes[0].before), torch.zeros_like(axes[0].before)
    for sides in axes:
        share = sides.to_before / (sides.to_before + sides.to_after)
        # Not before * (1 - share) + after * share: equal sides must give exactly their value.
        value = sides.before + share.nan_to_num(0.0) * (sides.after - sides.before)
        disagreement = sides.jump / (_AGREEMENT * torch.maximum(sides.before, sides.after)).clamp(min=1e-12)
        weight = 1.0 / (sides.gap.square() * (1.0 + disagreement.square()))
        total, weights = total + weight * value, weights + weight
    mean = total / weights.where(weights > 0, 1.0)
    return mean, torch.minimum(axes[0].gap, axes[1].gap)


def _sides(values: Tensor, valid: Tensor) -> _Sides:
    """Return the sides of every pixel along the last axis."""
    length = values.shape[-1]
    place = torch.arange(length, device=values.device).expand_as(values)
    before = place.where(valid, -1).cummax(dim=-1).values
    after = place.where(valid, length).flip(-1).cummin(dim=-1).values.flip(-1)
    has_before, has_after = before >= 0, after < length
    index_before = torch.where(has_before, before, after).clamp(0, length - 1)
    index_after = torch.where(has_after, after, before).clamp(0, length - 1)
    infinite = torch.full((), torch.inf, dtype=values.dtype, device=values.device)
    to_before = (place - before).to(values.dtype).where(has_before, infinite)
    to_after = (after - place).to(values.dtype).where(has_after, infinite)
    both = has_before & has_after
    gap = torch.where(both, to_before + to_after - 1.0, 2.0 * torch.minimum(to_before, to_after))
    return _Sides(
        values.gather(-1, index_before), values.gather(-1, index_after), to_before, to_after, gap.clamp(min=1.0), both
    )


def _transposed(sides: _Sides) -> _Sides:
    return _Sides(*(getattr(sides, name).mT for name in _Sides.__dataclass_fields__))


def _per_metre(inverse: Tensor, valid: Tensor) -> Tensor:
    """Return the factor (B, 1, 1, 1) that makes the median of the valid inverse depth of each image 1."""
    median = inverse.masked_fill(~valid, torch.nan).flatten(1).nanmedian(dim=1).values.nan_to_num(1.0)
    return median.reciprocal()[:, None, None, None]


def _check(depth: Tensor, valid: Tensor | None, kind: str) -> None:
    if depth.ndim != 4 or depth.shape[1] != 1:
        raise ValueError(f"expected depth of shape (B, 1, H, W), got {tuple(depth.shape)}")
    if valid is not None and (valid.shape != depth.shape or valid.dtype != torch.bool):
        raise ValueError(f"expected valid as bool {tuple(depth.shape)}, got {valid.dtype} {tuple(valid.shape)}")
    if kind not in get_args(DepthKind):
        raise ValueError(f"expected kind to be one of {', '.join(get_args(DepthKind))}, got '{kind}'")
