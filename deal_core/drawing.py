"""Draw depth, edges, CAM heat, masks and confidence as pictures."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from deal_core.structures import BACKGROUND, UNLABELLED, BoolArray, ClassList, Float32Array, UInt8Array, valid_depth


def depth_picture(depth: Float32Array, valid: BoolArray | None = None) -> UInt8Array:
    """Return depth (H, W) in metres as (H, W, 3) RGB: near is bright, far is dark blue, no measurement is black.

    The colours span the middle 96 % of the measured depths of this image.
    """
    known = valid_depth(depth, valid)
    picture = np.zeros((*depth.shape, 3), np.uint8)
    if known.any():
        near, far = np.percentile(depth[known], [2, 98])
        closeness = np.where(known, (far - depth) / max(far - near, 1e-6), 0).clip(0, 1)
        picture = np.where(known[..., None], _colormap(closeness, cv2.COLORMAP_VIRIDIS), np.uint8(0))
    return picture


def depth_edge_picture(depth: Float32Array, valid: BoolArray | None = None) -> UInt8Array:
    """Return the edges of min-max depth as (H, W, 3) RGB: strong edges are white, unknown pixels are blue.

    The edges are those of the loss with its default options; a training that removes the slope sees fainter tables.
    """
    import torch

    from deal_core.losses.depth_edge import depth_edges

    known = valid_depth(depth, valid)
    height, width = depth.shape
    edges = depth_edges(
        torch.from_numpy(np.ascontiguousarray(depth, np.float32))[None, None],
        torch.from_numpy(known)[None, None],
        size=(max(height // 2, 1), max(width // 2, 1)),
    )
    # The loss takes 0.076 for an edge; the square root makes that visible.
    strength = edges.strength.sqrt()[0, 0].numpy()
    weight = edges.weight[0, 0].numpy()
    gray = np.rint(strength * weight * 255).astype(np.uint8)
    picture = np.where(weight[..., None] > 0, gray[..., None], np.array([38, 52, 92], np.uint8))
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST).astype(np.uint8)


def heat_overlay(image: UInt8Array, heat: npt.NDArray[Any]) -> UInt8Array:
    """Return a heat map (H, W) in [0, 1] over the greyed image (H, W, 3), as RGB."""
    strength = heat.astype(np.float32).clip(0, 1)
    colored = _colormap(strength, cv2.COLORMAP_INFERNO).astype(np.float32)
    opacity = (0.25 + 0.6 * strength)[..., None]
    return np.rint((1 - opacity) * 0.8 * _gray(image) + opacity * colored).clip(0, 255).astype(np.uint8)


def mask_overlay(image: UInt8Array, mask: UInt8Array, classes: ClassList) -> UInt8Array:
    """Return a mask (H, W) in its classes' colours over the dimmed, greyed image (H, W, 3), as RGB.

    Outlines are drawn in full colour; unlabelled pixels (255) are hatched.
    """
    palette = classes.palette().astype(np.float32)
    gray = _gray(image)
    colors = palette[mask]
    fill = 0.45 * gray + 0.55 * colors
    filled = (mask != BACKGROUND)[..., None]
    picture = np.where(filled, fill, 0.7 * gray)
    rows, columns = np.indices(mask.shape)
    hatch = (mask == UNLABELLED) & ((rows + columns) // 2 % 3 == 0)
    picture[hatch] = 225
    outline = _outline(mask) & (mask != BACKGROUND) & (mask != UNLABELLED)
    picture[outline] = colors[outline]
    return np.rint(picture).clip(0, 255).astype(np.uint8)


def color_overlay(rgb: UInt8Array, mask: UInt8Array, palette: UInt8Array, alpha: float) -> UInt8Array:
    """Return the image with its mask in colour: background unchanged, classes tinted, unlabelled pixels grey.

    Args:
        rgb: (H, W, 3) uint8.
        mask: (H, W) uint8 class ids.
        palette: (256, 3) RGB of every id, as `ClassList.palette` gives it.
        alpha: opacity of the colours, 0 (the image alone) to 1 (the colours alone).
    """
    colors = cv2.LUT(cv2.merge([mask, mask, mask]), palette[None])
    tinted = cv2.addWeighted(rgb, 1 - alpha, colors, alpha, 0)
    # Background is 0: the mask itself says which pixels to replace.
    return np.asarray(cv2.copyTo(tinted, mask, rgb.copy()), np.uint8)


def confidence_image(confidence: Float32Array) -> UInt8Array:
    """Return a confidence (H, W) in [0, 1] as (H, W) uint8, rounded, 255 for 1."""
    return np.asarray(cv2.convertScaleAbs(confidence, alpha=255), np.uint8)


def _colormap(values: npt.NDArray[Any], colormap: int) -> UInt8Array:
    indices = np.rint(np.asarray(values, np.float32) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(indices, colormap), cv2.COLOR_BGR2RGB).astype(np.uint8)


def _gray(image: UInt8Array) -> Float32Array:
    """Return the image as (H, W, 1) luminance, 0..255."""
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]


def _outline(mask: UInt8Array) -> BoolArray:
    """Return the pixels that touch another id to the right or below, on both sides of the border."""
    edge = np.zeros(mask.shape, np.bool_)
    across, down = mask[:, 1:] != mask[:, :-1], mask[1:] != mask[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge
