r"""The Depth Edge Alignment Loss (DEAL), arXiv 2509.17702.

The class activation maps of present tags should have edges where the depth map has edges, and nowhere else:

.. math::
    L = -\frac{1}{H'W'} \sum_{ij} \frac{1}{\sum_k y_k} \sum_k y_k\, g(a_{kij})\, g(d_{ij}),
    \qquad g(x) = \tanh\!\Big(\mu + \log\frac{x}{1-x}\Big)

with ``a_k`` and ``d`` the Sobel magnitudes of CAM k and of the depth, both in [0, 1]. The published definition leaves
open how the two are scaled to [0, 1], which decides whether the loss helps or flattens the CAM; each choice is an
argument here, and the defaults rank the true mask first and a flat map last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deal_core.losses.activation import activate
from deal_core.losses.tags import check_cams, nan_unless_finite
from deal_core.structures import DepthKind, valid_depth
from deal_core.surfaces.filling import fill_depth

CamValue = Literal["relu_max", "above_mean_max", "min_max", "sigmoid", "none"]
CamEdge = Literal["max", "bound", "min_max", "sigmoid"]
DepthValue = Literal["min_max", "inverse_min_max", "none"]
DepthEdge = Literal["bound", "max", "min_max", "sigmoid"]
DepthResize = Literal["antialias", "bicubic"]
DepthSlope = Literal["keep", "remove"]
Holes = Literal["ignore", "fill", "edges"]
_CHOICES = {
    "cam_value": CamValue,
    "cam_edge": CamEdge,
    "depth_value": DepthValue,
    "depth_edge": DepthEdge,
    "depth_slope": DepthSlope,
    "depth_resize": DepthResize,
    "depth_kind": DepthKind,
    "holes": Holes,
}

SOBEL_BOUND = math.sqrt(20.0)
"""The largest Sobel magnitude that a 3x3 patch with values in [0, 1] can have."""


@dataclass(frozen=True)
class DepthEdgeOptions:
    """Options that turn CAM and depth into edges in [0, 1], and compare them.

    Args:
        size: (H', W') at which edges are compared; half of the depth's size when left out.
        mu: where g changes sign: an edge strength of sigmoid(-mu), 0.076 for 2.5, separates edge from no edge.
        cam_value: CAM before the Sobel filter: ReLU divided by the maximum of each map; the same, cut at the mean of
            the map where that is negative (`activate`), so that a map without any positive value keeps its gradient;
            min-max of each map, sigmoid, or unchanged.
        cam_edge: Sobel magnitude of the CAM divided by the maximum of each map, or by `SOBEL_BOUND`; or its min-max
            over each map, or its sigmoid, which is at least 1/2: every pixel is then an edge.
        depth_value: depth before the Sobel filter: min-max over the valid pixels of each image, the same for
            inverse depth, or unchanged. Depth of kind "inverse" is not inverted again.
        depth_edge: Sobel magnitude of the depth divided by `SOBEL_BOUND`, or by the maximum of each image; or its
            min-max over each image, or its sigmoid, as for the CAM.
        depth_slope: "remove" subtracts the median slope of each image before the magnitude is taken: the slope of the
            largest surface. Inverse depth of a plane is linear in the image, so with `depth_value="inverse_min_max"` a
            table at any angle makes no edges.
        depth_gain: factor on the edge strength of the depth; the product is clipped at 1.
        depth_resize: how depth gets the size at which edges are compared: bicubically with the antialiasing filter, or
            plainly "bicubic", from 16 pixels for each cell, whatever the factor.
        depth_kind: "metric", or "inverse" for relative inverse depth of any scale, as Depth Anything estimates it.
        holes: pixels without depth: "ignore" gives weight 0 to every cell whose 3x3 neighbourhood includes one, which
            on stereo cameras are most outlines of near things; "fill" fills them with `deal_core.surfaces.fill_depth`
            and weights each cell by the least confidence of its neighbourhood; "edges" leaves them at 0, as a camera
            gives them: the outline of a hole is then an edge of the depth, and every cell has weight 1.

    Raises:
        ValueError: an option is unknown.
    """

    size: tuple[int, int] | None = None
    mu: float = 2.5
    cam_value: CamValue = "relu_max"
    cam_edge: CamEdge = "max"
    depth_value: DepthValue = "min_max"
    depth_edge: DepthEdge = "bound"
    depth_slope: DepthSlope = "keep"
    depth_gain: float = 1.0
    depth_resize: DepthResize = "antialias"
    depth_kind: DepthKind = "metric"
    holes: Holes = "ignore"

    def __post_init__(self) -> None:
        for name in _CHOICES:
            _check_option(name, getattr(self, name))


@dataclass(frozen=True)
class DepthEdges:
    """Edges of a depth map at the size at which the loss compares edges.

    Args:
        strength: (B, 1, H', W') in [0, 1].
        weight: (B, 1, H', W') in [0, 1]: how far the strength can be trusted; where holes are ignored, 0 if the 3x3
            neighbourhood includes a pixel without depth, else 1.
    """

    strength: Tensor
    weight: Tensor


@dataclass(frozen=True)
class AlignmentTerms:
    """The loss, and the loss of a flat CAM for comparison.

    Args:
        loss: scalar in [-1, 1]; nan if a CAM of a present class contains nan or infinity.
        flat: scalar in [-1, 1], the loss of a CAM without edges on the same batch. Only the difference between
            the two describes the CAM.
    """

    loss: Tensor
    flat: Tensor


def depth_edge_alignment_loss(
    cams: Tensor, depth: Tensor, tags: Tensor, *, valid: Tensor | None = None, **options: Any
) -> Tensor:
    """Return the Depth Edge Alignment Loss, a scalar in [-1, 1] (arXiv 2509.17702).

    It is nan if a CAM of a class that is present in the batch contains nan or infinity, so that a training can stop.

    Args:
        cams: (B, K, h, w) class activation maps, raw logits; resampled bilinearly to `size`.
        depth: (B, 1, H, W) of `depth_kind`, larger than 0; resampled bicubically to `size`.
        tags: (B, K), 1 present, 0 absent, nan unknown. Only present classes count; an image without one
            contributes 0.
        valid: (B, 1, H, W) bool, where depth was measured; if None, where depth is finite and positive. An image
            without a valid pixel contributes 0.
        **options: the fields of `DepthEdgeOptions`.

    Raises:
        ValueError: a shape does not fit the others, or an option is unknown.
        TypeError: an option that `DepthEdgeOptions` does not have.

    >>> cams = torch.rand(2, 3, 8, 8, requires_grad=True)
    >>> depth, tags = torch.rand(2, 1, 32, 32) + 0.5, torch.tensor([[1.0, 0.0, float("nan")], [0.0, 1.0, 1.0]])
    >>> depth_edge_alignment_loss(cams, depth, tags).shape
    torch.Size([])
    """
    return DepthEdgeAlignmentLoss(**options)(cams, depth, tags, valid)


def edge_sign(strength: Tensor, mu: float = 2.5) -> Tensor:
    """Return g(x) = tanh(mu + log(x / (1 - x))) in [-1, 1] for edge strengths in [0, 1].

    Computed as the equal rational function (c x^2 - (1-x)^2) / (c x^2 + (1-x)^2) with c = exp(2 mu), which is finite
    on the closed interval without an epsilon.
    """
    edge = math.exp(2.0 * mu) * strength.square()
    flat = (1.0 - strength).square()
    return (edge - flat) / (edge + flat)


def cam_edges(
    cams: Tensor,
    *,
    size: tuple[int, int],
    value: CamValue = "relu_max",
    edge: CamEdge = "max",
    corners: bool = False,
) -> Tensor:
    """Return the edge strength (B, K, H', W') in [0, 1] of each map in `cams` (B, K, h, w).

    With `edge="max"` or "min_max", a map without edges has strength 1 everywhere: it is the limit of ever weaker
    slopes, in which every pixel is as steep as the steepest. So a CAM gains nothing by becoming flat.

    Args:
        cams: CAM logits.
        size: (H', W') of the result.
        value: As `DepthEdgeOptions.cam_value`.
        edge: As `DepthEdgeOptions.cam_edge`.
        corners: Whether the outermost cells of `cams` lie on the outermost pixels, see `CamOutput.corners`.
    """
    _check_option("cam_value", value)
    _check_option("cam_edge", edge)
    if tuple(cams.shape[-2:]) != tuple(size):
        cams = F.interpolate(cams, size, mode="bilinear", align_corners=corners)
    if value == "relu_max":
        cams = _divide_by_maximum(cams.relu())
    elif value == "above_mean_max":
        cams = _divide_by_maximum(activate(cams))
    elif value == "min_max":
        cams = _divide_by_maximum(cams - cams.amin(dim=(-2, -1), keepdim=True))
    elif value == "sigmoid":
        cams = cams.sigmoid()
    magnitude = sobel_magnitude(cams)
    if edge == "bound":
        return (magnitude / SOBEL_BOUND).clamp(max=1.0)
    if edge == "sigmoid":
        return magnitude.sigmoid()
    if edge == "min_max":
        magnitude = magnitude - magnitude.amin(dim=(-2, -1), keepdim=True)
    has_edge = magnitude.amax(dim=(-2, -1), keepdim=True) > 0
    return _divide_by_maximum(magnitude).where(has_edge, 1.0)


def depth_edges(
    depth: Tensor,
    valid: Tensor | None = None,
    *,
    size: tuple[int, int],
    value: DepthValue = "min_max",
    edge: DepthEdge = "bound",
    slope: DepthSlope = "keep",
    gain: float = 1.0,
    resize: DepthResize = "antialias",
    kind: DepthKind = "metric",
    holes: Holes = "ignore",
) -> DepthEdges:
    """Return the edges of `depth` (B, 1, H, W) at `size`, for the options of `DepthEdgeOptions`.

    A cell of the smaller grid counts as known if at least half of its area was measured or, with `holes="fill"`, if its
    mean confidence is at least 1/2; with `holes="edges"`, every cell does. Only known cells scale the depth. An image
    without depth has weight 0 everywhere.
    """
    _check_option("depth_value", value)
    _check_option("depth_edge", edge)
    _check_option("depth_slope", slope)
    _check_option("depth_resize", resize)
    _check_option("depth_kind", kind)
    _check_option("holes", holes)
    inverted = value == "inverse_min_max" and kind == "metric"
    valid = valid_depth(depth, valid)
    if holes == "fill":
        known_depth = fill_depth(depth, valid, kind)
        depth, confidence = known_depth.depth, known_depth.confidence
    filled = depth.where(depth > 0, 1.0).reciprocal() if inverted else depth
    if holes == "ignore":
        # Resampling and the Sobel filter need numbers; what is computed from them gets weight 0.
        filled, confidence = _fill_holes(filled.where(valid, 0.0), valid), valid.to(depth.dtype)
    elif holes == "edges":
        has_depth = valid.amax(dim=(-2, -1), keepdim=True).to(depth.dtype)
        filled, confidence = filled.where(valid, 0.0), has_depth.expand_as(depth)
    if tuple(depth.shape[-2:]) != tuple(size):
        filled = F.interpolate(filled, size, mode="bicubic", align_corners=False, antialias=resize == "antialias")
        confidence = F.interpolate(confidence, size, mode="area")
    known = confidence >= 0.5
    if value != "none":
        filled = _min_max_where(filled, known)
    weight = -F.max_pool2d(-(known.to(depth.dtype) if holes == "ignore" else confidence), 3, stride=1, padding=1)
    dx, dy = sobel(filled)
    if slope == "remove":
        dx, dy = (d - _median_where(d, weight >= 0.5) for d in (dx, dy))
    magnitude = _magnitude(dx, dy)
    strength = _edge_strength(magnitude, weight, edge)
    return DepthEdges((gain * strength).clamp(0.0, 1.0), weight)


def _edge_strength(magnitude: Tensor, weight: Tensor, edge: DepthEdge) -> Tensor:
    if edge == "bound":
        return magnitude / SOBEL_BOUND
    if edge == "sigmoid":
        return magnitude.sigmoid()
    if edge == "min_max":
        return _min_max_where(magnitude, weight > 0)
    return _divide_by_maximum(magnitude * weight)


def sobel_magnitude(maps: Tensor) -> Tensor:
    """Return the Euclidean Sobel magnitude of maps (B, C, H, W), as large; at most `SOBEL_BOUND` for maps in [0, 1]."""
    return _magnitude(*sobel(maps))


def sobel(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Sobel derivatives (kernel 1-2-1, replicate padding) of maps (B, C, H, W) along x and y.

    The kernel is separable: smoothed along one axis, differenced along the other.
    """
    padded = F.pad(maps, (1, 1, 1, 1), mode="replicate")
    smooth_rows = padded[..., :-2, :] + 2.0 * padded[..., 1:-1, :] + padded[..., 2:, :]
    smooth_columns = padded[..., :-2] + 2.0 * padded[..., 1:-1] + padded[..., 2:]
    dx = smooth_rows[..., 2:] - smooth_rows[..., :-2]
    dy = smooth_columns[..., 2:, :] - smooth_columns[..., :-2, :]
    return dx, dy


class DepthEdgeAlignmentLoss(nn.Module):
    """Depth Edge Alignment Loss (Schmidt, Belagiannis, Nalpantidis; arXiv 2509.17702).

    Has no parameters and no state.

    Args:
        **options: the fields of `DepthEdgeOptions`.

    Raises:
        ValueError: an option is unknown.
        TypeError: an option that `DepthEdgeOptions` does not have.

    >>> criterion = DepthEdgeAlignmentLoss(size=(16, 16))
    >>> cams = torch.randn(2, 4, 8, 8, requires_grad=True)
    >>> terms = criterion.terms(cams, torch.rand(2, 1, 32, 32) + 0.5, torch.ones(2, 4))
    >>> bool(terms.loss.abs() <= 1)
    True
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = DepthEdgeOptions(**options)

    def forward(self, cams: Tensor, depth: Tensor, tags: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return the scalar loss; shapes as in `depth_edge_alignment_loss`."""
        return self.terms(cams, depth, tags, valid).loss

    def edges(self, depth: Tensor, valid: Tensor | None = None) -> DepthEdges:
        """Return the edges of `depth` (B, 1, H, W) with these options, which are most of the work of `terms`."""
        options = self.options
        size = options.size or (max(depth.shape[-2] // 2, 1), max(depth.shape[-1] // 2, 1))
        with torch.autocast(device_type=depth.device.type, enabled=False):
            return depth_edges(
                depth,
                valid,
                size=size,
                value=options.depth_value,
                edge=options.depth_edge,
                slope=options.depth_slope,
                gain=options.depth_gain,
                resize=options.depth_resize,
                kind=options.depth_kind,
                holes=options.holes,
            )

    def terms(
        self,
        cams: Tensor,
        depth: Tensor,
        tags: Tensor,
        valid: Tensor | None = None,
        *,
        corners: bool = False,
        edges: DepthEdges | None = None,
    ) -> AlignmentTerms:
        """Return the loss and the loss of a flat CAM; shapes as in `depth_edge_alignment_loss`.

        With `corners`, the outermost cells of the CAMs lie on the outermost pixels, see `CamOutput.corners`. `edges`
        are those of the depth, if they are known.
        """
        _check_shapes(cams, depth, tags, valid)
        options = self.options
        # Edges of low-precision maps are quantisation noise: under autocast, too, the arithmetic stays in float32.
        with torch.autocast(device_type=cams.device.type, enabled=False):
            dtype = torch.promote_types(cams.dtype, torch.float32)
            edges = edges or self.edges(depth.to(dtype), valid)
            size = (edges.strength.shape[-2], edges.strength.shape[-1])
            target = edge_sign(edges.strength, options.mu) * edges.weight
            present = (tags == 1).to(dtype)
            share = present / present.sum(1, keepdim=True).clamp_min(1)
            # Classes that are absent from the whole batch have no weight, so their edges are not computed.
            used = _used_classes(present)
            cams, share = cams[:, used], share[:, used]
            edges_of = partial(cam_edges, size=size, value=options.cam_value, edge=options.cam_edge, corners=corners)
            agreement = (edge_sign(edges_of(cams.to(dtype)), options.mu) * target).mean(dim=(-2, -1))
            loss = nan_unless_finite(-(share * agreement).sum(1).mean(), cams)
            without_edges = edges_of(torch.zeros_like(cams[:1, :1]))
            flat_agreement = (edge_sign(without_edges.to(dtype), options.mu) * target).mean(dim=(-2, -1))
            flat = -(flat_agreement * share.sum(1, keepdim=True)).mean().detach()
        return AlignmentTerms(loss, flat)


def _used_classes(present: Tensor) -> Tensor:
    """Return the indices of the classes that are present in any row of (B, K), at least one index."""
    used = present.any(dim=0).nonzero()[:, 0]
    return used if len(used) else used.new_zeros(1)


def _magnitude(dx: Tensor, dy: Tensor) -> Tensor:
    squared = dx.square() + dy.square()
    # The square root has infinite slope at 0; a flat pixel gets the subgradient 0 instead of nan.
    flat = squared == 0
    return squared.masked_fill(flat, 1.0).sqrt().masked_fill(flat, 0.0)


def _median_where(values: Tensor, usable: Tensor) -> Tensor:
    """Return the median over the usable pixels of each image, (B, C, 1, 1); 0 without usable pixels."""
    median = values.masked_fill(~usable, math.nan).flatten(2).nanmedian(dim=-1).values
    return median.nan_to_num(0.0)[..., None, None]


def _divide_by_maximum(maps: Tensor) -> Tensor:
    """Divide each non-negative map by its maximum; a map of zeros stays zero."""
    maximum = maps.amax(dim=(-2, -1), keepdim=True)
    return maps / maximum.where(maximum > 0, 1.0)


def _min_max_where(values: Tensor, valid: Tensor) -> Tensor:
    """Scale each image so that its valid pixels span [0, 1]; 0 for a constant image or one without valid pixels."""
    low = values.masked_fill(~valid, math.inf).amin(dim=(-2, -1), keepdim=True)
    high = values.masked_fill(~valid, -math.inf).amax(dim=(-2, -1), keepdim=True)
    spread = (high - low).where(high > low, 1.0)
    return torch.where(high > low, (values - low) / spread, 0.0)


def _fill_holes(depth: Tensor, valid: Tensor) -> Tensor:
    """Fill invalid pixels with the mean of the nearest coarser 2x2 cell that contains valid ones."""
    if max(depth.shape[-2:]) == 1:
        return depth
    share = F.avg_pool2d(valid.to(depth.dtype), 2, ceil_mode=True)
    total = F.avg_pool2d(depth.where(valid, 0.0), 2, ceil_mode=True)
    has_any = share > 0
    coarse = _fill_holes(torch.where(has_any, total / share.where(has_any, 1.0), 0.0), has_any)
    return depth.where(valid, F.interpolate(coarse, depth.shape[-2:], mode="nearest"))


def _check_shapes(cams: Tensor, depth: Tensor, tags: Tensor, valid: Tensor | None) -> None:
    check_cams(cams, tags)
    batch = len(cams)
    if depth.ndim != 4 or depth.shape[0] != batch or depth.shape[1] != 1:
        raise ValueError(f"expected depth of shape ({batch}, 1, H, W), got {tuple(depth.shape)}")
    if valid is not None and (valid.shape != depth.shape or valid.dtype != torch.bool):
        raise ValueError(f"expected valid as bool {tuple(depth.shape)}, got {valid.dtype} {tuple(valid.shape)}")


def _check_option(name: str, value: str) -> None:
    known = get_args(_CHOICES[name])
    if value not in known:
        raise ValueError(f"expected {name} to be one of {', '.join(known)}, got '{value}'")
