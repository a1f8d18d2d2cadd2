"""The dominant plane of a depth image, found without camera intrinsics."""

from __future__ import annotations

from typing import Literal

import numpy as np

from deal_core.structures import BoolArray, DepthKind, Float32Array, Float64Array, valid_depth

PlaneUse = Literal["keep", "background"]

PLANE_TOLERANCE_M = 0.008
"""Distance from the plane, along the line of sight, above which a pixel stands out."""
_INVERSE_TOLERANCE = 0.02
_SAMPLES = 1500
_DRAWS = 256
_SEED = 0
_LEAST_SHARE = 0.2


def dominant_plane(
    depth: Float32Array,
    valid: BoolArray | None = None,
    depth_kind: DepthKind = "metric",
    tolerance: float | None = None,
) -> BoolArray | None:
    """Return the mask (H, W) of the largest plane of the image; None if no plane covers a fifth of the known pixels.

    The inverse depth of a plane is linear in row and column for every focal length. RANSAC (Fischler and Bolles 1981)
    draws planes through three pixels and takes the one with the most inliers, which is then fitted to its inliers. The
    random numbers have a fixed seed, so the same image always gives the same plane.

    Args:
        depth: (H, W) depth of `depth_kind`; 0 or not finite where unknown.
        valid: (H, W) mask of measured depth.
        depth_kind: Metres, or relative inverse depth.
        tolerance: Largest distance of an inlier: metres along the line of sight, or a share of the range of inverse
            depth in the image.

    Raises:
        ValueError: shapes do not fit, or the tolerance is not positive.
    """
    if depth.ndim != 2 or (valid is not None and valid.shape != depth.shape):
        raise ValueError(f"expected depth (H, W) and valid of the same size, got {depth.shape}")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"expected a positive tolerance, got {tolerance}")
    known = valid_depth(depth, valid)
    rows, columns = np.nonzero(known)
    if len(rows) < 3:
        return None
    height, width = depth.shape
    measured = depth[known].astype(np.float64)
    inverse = 1.0 / measured if depth_kind == "metric" else measured
    # The tolerance t in depth corresponds to t / depth^2 in inverse depth.
    if depth_kind == "metric":
        allowed = (tolerance or PLANE_TOLERANCE_M) / measured**2
    else:
        allowed = np.full(len(inverse), (tolerance or _INVERSE_TOLERANCE) * (float(np.ptp(inverse)) or 1.0))
    places = np.stack([rows / height, columns / width, np.ones(len(rows))], axis=1)
    chosen = np.random.default_rng(_SEED).choice(len(rows), min(len(rows), _SAMPLES), replace=False)
    plane = _most_agreed(places[chosen], inverse[chosen], allowed[chosen])
    if plane is None:
        return None
    for _ in range(3):
        near = np.abs(places @ plane - inverse) <= allowed
        if near.sum() < 3:
            return None
        plane = np.linalg.lstsq(places[near], inverse[near], rcond=None)[0]
    near = np.abs(places @ plane - inverse) <= allowed
    if near.mean() < _LEAST_SHARE:
        return None
    on_plane = np.zeros(depth.shape, bool)
    on_plane[known] = near
    return on_plane


def _most_agreed(places: Float64Array, inverse: Float64Array, allowed: Float64Array) -> Float64Array | None:
    """Return the plane (3,) through three of the points that has the most inliers."""
    generator = np.random.default_rng(_SEED)
    triples = generator.integers(len(places), size=(_DRAWS, 3))
    corners = places[triples]
    apart = np.abs(np.linalg.det(corners)) > 1e-4
    if not apart.any():
        return None
    planes = np.linalg.solve(corners[apart], inverse[triples][apart][..., None])[..., 0]
    agreeing = (np.abs(places @ planes.T - inverse[:, None]) <= allowed[:, None]).sum(0)
    return np.asarray(planes[int(agreeing.argmax())])
