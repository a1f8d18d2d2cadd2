r"""The feature similarity loss (FSL), from "High-fidelity Pseudo-labels for Boosting Weakly-Supervised Segmentation".

Jonnarth, Zhang, Felsberg; WACV 2024, arXiv 2304.02621. Neighbouring cells should have one class where their
colours are similar, and different classes where they are not:

.. math::
    L = -\frac{1}{B h w} \sum_{b} \sum_{i,j} W_{ij}\, \tfrac12 \lVert y_i - y_j \rVert^2, \qquad
    W_{ij} = \frac{1}{2\pi\sigma^2} e^{-\lVert p_i - p_j \rVert^2 / 2\sigma^2}\, g(d_{ij})

with ``y_i`` the prediction of a cell (each present class's map scaled to [0, 1], and the rest to 1 as background),
``p_i`` its position, ``d_ij`` in [0, 1] the mean absolute difference of the two colours, and g the squashing function
of `depth_edge.edge_sign`, negative for similar colours. The sum is a quadratic form,

.. math::
    \sum_{i,j} W_{ij}\, \tfrac12 \lVert y_i - y_j \rVert^2 = \operatorname{tr} Y^\top (D - W) Y,
    \qquad D = \operatorname{diag}(W 1)

in which W does not depend on the network: the gradient is twice (D - W) Y, from which the value is computed, too. The
loss has a first derivative only.

The reference adds 1e-5 in two places. Here g has no epsilon: the closed form of `edge_sign` needs none (and differs by
up to 2e-4 from the reference). The scaling of the maps keeps it, see `class_shares`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from deal_core.losses.depth_edge import edge_sign
from deal_core.losses.equivariance import max_norm
from deal_core.losses.tags import check_cams

_REACH = 6.0
"""Rows of the grid farther apart than this many sigma are not compared: 2e-9 of the spatial weight lies there."""


def feature_similarity_loss(cams: Tensor, image: Tensor, tags: Tensor, *, sigma: float, mu: float = 2.5) -> Tensor:
    """Return the feature similarity loss, a scalar (arXiv 2304.02621).

    The published weight is 1 on VOC and 0.2 on COCO, on maps of 56x56 cells of 8 pixels.

    Args:
        cams: (B, K, h, w) class activation maps of the foreground classes; negative values count as 0.
        image: (B, 3, H, W) RGB in [0, 1], of any size; resampled bilinearly (corners aligned) to (h, w).
        tags: (B, K), 1 present, 0 absent, nan unknown. Only present classes count; an image without one
            contributes 0.
        sigma: reach of the comparison between cells, in cells; published with 5 (40 pixels).
        mu: colours that differ by less than sigmoid(-mu), 0.076 for 2.5, should have one class, others two.

    Raises:
        ValueError: the shapes do not fit each other, or sigma is not positive.

    >>> cams = torch.rand(2, 3, 8, 8, requires_grad=True)
    >>> image, tags = torch.rand(2, 3, 64, 64), torch.tensor([[1.0, 0.0, float("nan")], [0.0, 1.0, 1.0]])
    >>> feature_similarity_loss(cams, image, tags, sigma=5.0).shape
    torch.Size([])
    """
    _check_shapes(cams, image, tags)
    _check_sigma(sigma)
    # Sums over thousands of cells of both signs: under autocast, too, the arithmetic stays in float32.
    with torch.autocast(device_type=cams.device.type, enabled=False):
        dtype = torch.promote_types(cams.dtype, torch.float32)
        colours = F.interpolate(image.to(dtype), cams.shape[-2:], mode="bilinear", align_corners=True).clamp(0.0, 1.0)
        disagreement: Tensor = _Disagreement.apply(class_shares(cams.to(dtype), tags), colours, sigma, mu)
        return -disagreement / (cams.shape[0] * cams.shape[2] * cams.shape[3])


def class_shares(cams: Tensor, tags: Tensor) -> Tensor:
    """Return the prediction (B, 1 + K, h, w) in [0, 1], background first, of maps (B, K, h, w).

    After ReLU, each map of a present class is scaled by its minimum and maximum to [0, 1]; maps of other classes are
    0. Background is 1 minus the largest map. The epsilon 1e-5 is from SEAM: without it the gradient of a vanishing map
    would be unbounded.
    """
    foreground = max_norm(cams) * (tags == 1).to(cams.dtype)[:, :, None, None]
    return torch.cat([1.0 - foreground.amax(dim=1, keepdim=True), foreground], dim=1)


class FeatureSimilarityLoss(nn.Module):
    """Feature similarity loss (Jonnarth, Zhang, Felsberg; arXiv 2304.02621).

    Keeps the options of `feature_similarity_loss`; has no parameters and no state.

    >>> criterion = FeatureSimilarityLoss(sigma=2.0)
    >>> cams = torch.rand(2, 4, 8, 8)
    >>> one_colour = torch.full((2, 3, 64, 64), 0.5)
    >>> bool(criterion(cams, one_colour, torch.ones(2, 4)) > 0)  # any difference between cells costs
    True
    """

    def __init__(self, sigma: float, mu: float = 2.5) -> None:
        super().__init__()
        _check_sigma(sigma)
        self.sigma, self.mu = sigma, mu

    def forward(self, cams: Tensor, image: Tensor, tags: Tensor) -> Tensor:
        """Return the scalar loss; shapes as in `feature_similarity_loss`."""
        return feature_similarity_loss(cams, image, tags, sigma=self.sigma, mu=self.mu)


class _Disagreement(torch.autograd.Function):
    """tr Y^T (D - W) Y of shares (B, C, h, w); the forward pass already computes its gradient."""

    @staticmethod
    def forward(ctx: Any, shares: Tensor, colours: Tensor, sigma: float, mu: float) -> Tensor:
        product = _laplacian_product(shares, colours, sigma, mu)
        ctx.save_for_backward(product)
        return (shares * product).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (product,) = ctx.saved_tensors
        return 2.0 * gradient * product, None, None, None


def _laplacian_product(shares: Tensor, colours: Tensor, sigma: float, mu: float) -> Tensor:
    """Return (D - W) Y, (B, C, h, w), without storing W.

    Row i of the grid is compared with row i + s for all i at once, a w x w block of W each; W is symmetric, so the
    block serves both rows. A column of ones beside Y collects D.
    """
    height, width = shares.shape[-2:]
    values = F.pad(shares.permute(0, 2, 3, 1), (0, 1), value=1.0)  # (B, h, w, C + 1)
    total = torch.zeros_like(values)
    place = torch.arange(max(height, width), dtype=shares.dtype, device=shares.device)
    fall = torch.exp(-place.square() / (2.0 * sigma**2))
    columns = torch.arange(width, device=shares.device)
    near = fall[(columns[:, None] - columns).abs()] / (2.0 * math.pi * sigma**2)  # (w, w)
    for shift in range(min(height, math.ceil(_REACH * sigma) + 1)):
        upper, lower = slice(0, height - shift), slice(shift, height)
        difference = colours[:, :, upper, :, None] - colours[:, :, lower, None, :]
        weight = edge_sign(difference.abs_().mean(1), mu) * (near * fall[shift])  # (B, h - shift, w, w)
        total[:, upper] += weight @ values[:, lower]
        if shift:
            total[:, lower] += weight.transpose(-2, -1) @ values[:, upper]
    degree = total[..., -1:]
    return (degree * values - total)[..., :-1].permute(0, 3, 1, 2)


def _check_shapes(cams: Tensor, image: Tensor, tags: Tensor) -> None:
    check_cams(cams, tags)
    if image.ndim != 4 or tuple(image.shape[:2]) != (len(cams), 3):
        raise ValueError(f"expected image of shape ({len(cams)}, 3, H, W), got {tuple(image.shape)}")


def _check_sigma(sigma: float) -> None:
    if not sigma > 0:
        raise ValueError(f"expected sigma above 0, in cells, got {sigma}")
