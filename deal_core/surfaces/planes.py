"""Planes and curved supports of a depth image, found without camera intrinsics.

The inverse depth of a plane is linear in row and column for every focal length. Planes are found one after the other by
RANSAC (Fischler and Bolles 1981), and each is fitted to its inliers. Where no plane supports the scene, one surface of
second order (a cushion, a bed) is tried.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from deal_core.structures import BoolArray, DepthKind, Float32Array, Float64Array, UInt8Array, valid_depth
from deal_core.surfaces.parts import cell_medians, image_grid

MOST_PLANES = 5
LEAST_SHARE = 0.05
"""Share of the known pixels that the smallest plane has."""

# The prior tolerance, before the residuals of a plane say how exact its depth is.
_TOLERANCE_M, _TOLERANCE_A_SQUARE_METRE = 0.008, 0.006
_INVERSE_TOLERANCE = 0.02
_SIGMAS = 3.0
_LEAST_FACTOR, _MOST_FACTOR = 0.4, 2.0  # of the prior tolerance
_NO_PLANE_FACTOR = 2.2  # residuals of this size are those of things, not of a plane
_WIDEST = 3.0  # prior tolerances within which residuals are looked at

_LONGEST = 160  # cells on the longer side of the grid on which planes are found
_DRAWS, _SEED = 384, 0
_SAMPLES = 1200
_NEAR = 0.12  # two thirds of the draws are this near to each other, as a share of the longer side
_CURVED_SHARE = 0.4  # a curved support explains at least this share of the known pixels
_SUPPORT_SHARE = 0.2  # a curved support is tried if the planes have less than this share
_DENSE, _DENSE_WINDOW = 0.6, 5
_MOST_TORN = 0.5
_MOST_CUT = 0.3
_ATTEMPTS, _FITS = 3, 4
_LEAST_DETERMINANT = {3: 1e-4, 6: 1e-12}
_SURROUNDED = 7  # known pixels of nine
_OUTLIER = 2.0  # tolerances up to which a pixel can be noise of the surface
_TOUCHING = 3.0  # tolerances within which the pixel beside a plane touches it


@dataclass(frozen=True, eq=False)
class Planes:
    """The P planes of a depth image, largest first.

    Args:
        labels: (H, W) uint8; 0 off every plane, 1 to P on a plane.
        coefficients: (P, 6) inverse depth at row y and column x, both from 0 to 1 over the image, is the product with
            [1, y, x, y², yx, x²]. The last three are 0 for a plane. For relative depth, "inverse depth" is the depth
            image itself.
        tolerances: (P,) largest distance of an inlier along the line of sight, as a factor of the prior tolerance of
            8 mm + 6 mm z² (z in metres), or of 2 % of the range of relative inverse depth.
        supports: (P,) bool; whether things stand in front of the plane, as on a table, a floor or a wall. The top of
            a box is no support: what lies beside it is farther away.
    """

    labels: UInt8Array
    coefficients: Float64Array
    tolerances: Float64Array
    supports: BoolArray

    def __len__(self) -> int:
        return len(self.coefficients)

    def inverse_depth(self, plane: int) -> Float64Array:
        """Return the inverse depth (H, W) of plane 1 to P at every pixel; not positive beyond its horizon."""
        return _surface_values(self.coefficients[plane - 1], self.labels.shape)

    def on_support(self) -> BoolArray:
        """Return the mask (H, W) of all planes that support things."""
        return np.concatenate([[False], self.supports])[self.labels]


def find_planes(
    depth: Float32Array,
    valid: BoolArray | None = None,
    kind: DepthKind = "metric",
    *,
    most: int = MOST_PLANES,
    least_share: float = LEAST_SHARE,
    tolerance: float | None = None,
) -> Planes:
    """Return the planes of a depth image; none where it shows no plane, as in a heap.

    A pixel is on a plane if its distance along the line of sight is within a tolerance that grows with the square of
    the depth, as the error of a stereo camera does. The tolerance is three standard deviations of the residuals of the
    plane itself, within limits around 8 mm + 6 mm z². The planes of a heap cut through things: their inliers are
    scattered, or the surface continues smoothly beyond them both nearer and farther. Such planes are dropped. The same
    image always gives the same planes.

    Args:
        depth: (H, W) depth of `kind`; 0 or not finite where unknown.
        valid: (H, W) mask of measured depth.
        kind: Metres, or relative inverse depth.
        most: Largest number of planes.
        least_share: Share of the known pixels that the smallest plane has, in (0, 1].
        tolerance: Fixed tolerance: a factor of the prior one, instead of one from the residuals.

    Raises:
        ValueError: shapes do not fit, or a number is out of range.
    """
    if depth.ndim != 2 or (valid is not None and valid.shape != depth.shape):
        raise ValueError(f"expected depth (H, W) and valid of the same size, got {depth.shape}")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"expected a positive tolerance, got {tolerance}")
    if most < 1 or not 0 < least_share <= 1:
        raise ValueError(f"expected at least one plane and a share in (0, 1], got {most} and {least_share}")
    cells = _Cells.of(depth, valid_depth(depth, valid), kind)
    surfaces = _one_after_the_other(cells, [], most, least_share, tolerance)
    if sum(surface.share for surface in surfaces if surface.is_support) < _SUPPORT_SHARE:
        curved = _next_surface(cells, cells.known, 6, _CURVED_SHARE, tolerance)
        if curved is not None:
            surfaces = _one_after_the_other(cells, [curved], most, least_share, tolerance)
    surfaces.sort(key=lambda surface: -surface.share)
    return _planes(depth, valid_depth(depth, valid), kind, cells, surfaces)


@dataclass(frozen=True, eq=False)
class _Cells:
    """Inverse depth (h, w) on a grid, and the prior tolerance of it; both 0 where unknown."""

    inverse: Float64Array
    allowed: Float64Array
    known: BoolArray
    extent: float  # range of relative inverse depth

    @classmethod
    def of(cls, depth: Float32Array, known: BoolArray, kind: DepthKind) -> _Cells:
        cells = cell_medians(depth, known, image_grid(depth.shape, _LONGEST))
        found = np.isfinite(cells)
        extent = float(np.ptp(cells[found])) if found.any() else 0.0
        inverse, allowed = _inverse_and_tolerance(cells, found, kind, extent)
        return cls(inverse, allowed, found, extent)

    def residuals(self, coefficients: Float64Array) -> Float64Array:
        """Return (h, w) how many prior tolerances a cell lies in front of the surface; 0 where unknown."""
        gap = self.inverse - _surface_values(coefficients, self.inverse.shape)
        return np.divide(gap, self.allowed, out=np.zeros(gap.shape), where=self.known)


@dataclass(frozen=True, eq=False)
class _Surface:
    """A surface on the grid.

    Args:
        coefficients: As in `Planes`.
        tolerance: As in `Planes`.
        spread: The tolerance that the residuals alone would give.
        cells: (h, w) mask of its cells.
        share: Its share of the known cells.
        is_support: As in `Planes`.
    """

    coefficients: Float64Array
    tolerance: float
    spread: float
    cells: BoolArray
    share: float
    is_support: bool


def _inverse_and_tolerance(
    depth: Float32Array, known: BoolArray, kind: DepthKind, extent: float
) -> tuple[Float64Array, Float64Array]:
    """Return inverse depth and its prior tolerance; a tolerance t in depth is t / z² in inverse depth."""
    values = np.where(known, depth, 1.0).astype(np.float64)
    if kind == "inverse":
        return np.where(known, values, 0.0), np.full(depth.shape, _INVERSE_TOLERANCE * (extent or 1.0))
    return np.where(known, 1.0 / values, 0.0), _TOLERANCE_M / values**2 + _TOLERANCE_A_SQUARE_METRE


def _places(height: int, width: int) -> Float64Array:
    """Return (H W, 6) the terms [1, y, x, y², yx, x²] of every pixel."""
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    y, x = (y + 0.5) / height, (x + 0.5) / width
    return np.stack([np.ones(y.shape), y, x, y * y, y * x, x * x], axis=1)


def _surface_values(coefficients: Float64Array, size: tuple[int, ...]) -> Float64Array:
    """Return the inverse depth (H, W) of a surface at every pixel."""
    y, x = ((np.arange(length) + 0.5) / length for length in size)
    constant, of_y, of_x, of_yy, of_yx, of_xx = coefficients
    along_x = constant + of_x * x + of_xx * x * x
    return (of_y * y + of_yy * y * y)[:, None] + of_yx * y[:, None] * x + along_x


def _one_after_the_other(
    cells: _Cells, first: list[_Surface], most: int, least_share: float, tolerance: float | None
) -> list[_Surface]:
    """Return the surfaces `first` and the planes beside them, `most` in all."""
    surfaces, left = list(first), cells.known.copy()
    for surface in first:
        left &= ~surface.cells
    while len(surfaces) < most and (found := _next_surface(cells, left, 3, least_share, tolerance)) is not None:
        surfaces.append(found)
        left &= ~found.cells
    return surfaces


def _next_surface(
    cells: _Cells, left: BoolArray, terms: int, least_share: float, tolerance: float | None
) -> _Surface | None:
    """Return the surface with the most inliers among the cells `left` that is no cut through things; or None."""
    tried = left.copy()
    for _ in range(_ATTEMPTS):
        if tried.sum() < max(least_share * cells.known.sum(), terms):
            return None
        start = _most_agreed(cells, tried, terms)
        if start is None:
            return None
        surface = _fitted(cells, left, start, terms, tolerance)
        exact = tolerance is not None or surface.spread <= _NO_PLANE_FACTOR
        if exact and surface.share >= least_share and not _cuts_through(cells, surface, left):
            return surface
        tried = tried & ~surface.cells & (np.abs(cells.residuals(start)) > 1)
    return None


def _most_agreed(cells: _Cells, among: BoolArray, terms: int) -> Float64Array | None:
    """Return the coefficients of the surface through a few cells that has the most inliers (RANSAC)."""
    generator = np.random.default_rng(_SEED)
    height, width = among.shape
    places = _places(height, width)[:, :terms]
    candidates = np.flatnonzero(among)
    first = candidates[generator.integers(len(candidates), size=(_DRAWS, 1))]
    anywhere = candidates[generator.integers(len(candidates), size=(_DRAWS, terms - 1))]
    reach = max(round(_NEAR * max(height, width)), 2)
    steps = generator.integers(-reach, reach + 1, size=(2, _DRAWS, terms - 1))
    near = (first // width + steps[0]).clip(0, height - 1) * width + (first % width + steps[1]).clip(0, width - 1)
    is_near = (np.arange(_DRAWS) % 3 > 0)[:, None] & (terms == 3)
    drawn = np.concatenate([first, np.where(is_near, near, anywhere)], axis=1)
    corners = places[drawn]
    usable = among.ravel()[drawn].all(1) & (np.abs(np.linalg.det(corners)) > _LEAST_DETERMINANT[terms])
    if not usable.any():
        return None
    surfaces = np.linalg.solve(corners[usable], cells.inverse.ravel()[drawn[usable]][..., None])[..., 0]
    sample = generator.choice(candidates, min(len(candidates), _SAMPLES), replace=False)
    gaps = places[sample] @ surfaces.T - cells.inverse.ravel()[sample][:, None]
    agreeing = (np.abs(gaps) <= cells.allowed.ravel()[sample][:, None]).sum(0)
    return _padded(surfaces[int(agreeing.argmax())])


def _padded(coefficients: Float64Array) -> Float64Array:
    return np.concatenate([coefficients, np.zeros(6 - len(coefficients))])


def _fitted(
    cells: _Cells, left: BoolArray, coefficients: Float64Array, terms: int, tolerance: float | None
) -> _Surface:
    """Return the surface by least squares on its inliers, with a tolerance from their residuals."""
    places = _places(*left.shape)[:, :terms]
    spread = factor = tolerance or 1.0
    for _ in range(_FITS):
        residuals = np.abs(cells.residuals(coefficients))
        if tolerance is None:
            near = residuals[left & (residuals <= _WIDEST)]
            sigma = 1.4826 * float(np.median(near)) if len(near) else 1.0
            spread = _SIGMAS * sigma
            factor = float(np.clip(spread, _LEAST_FACTOR, _MOST_FACTOR))
        inliers = (left & (residuals <= factor)).ravel()
        if inliers.sum() < terms:
            break
        weight = 1.0 / cells.allowed.ravel()[inliers]
        solved = np.linalg.lstsq(places[inliers] * weight[:, None], cells.inverse.ravel()[inliers] * weight, rcond=None)
        coefficients = _padded(solved[0].astype(np.float64))
    inliers = left & (np.abs(cells.residuals(coefficients)) <= factor)
    dense = _dense(inliers, cells.known)
    share = float(dense.sum()) / max(int(cells.known.sum()), 1)
    solid = inliers & _grown(dense, _DENSE_WINDOW)
    return _Surface(coefficients, factor, spread, solid, share, _is_support(cells, solid, coefficients, factor))


def _dense(inliers: BoolArray, known: BoolArray) -> BoolArray:
    """Return the inliers whose neighbourhood consists of inliers for the most part, among known cells."""
    side = (_DENSE_WINDOW, _DENSE_WINDOW)
    count, of = (
        cv2.boxFilter(mask.astype(np.float32), -1, side, normalize=False, borderType=cv2.BORDER_CONSTANT)
        for mask in (inliers, known)
    )
    dense: BoolArray = inliers & (count >= _DENSE * of)
    return dense


def _grown(mask: BoolArray, side: int) -> BoolArray:
    return cv2.dilate(mask.view(np.uint8), np.ones((side, side), np.uint8)).astype(bool)


def _ring(cells: _Cells, mask: BoolArray) -> BoolArray:
    """Return the known cells two and three steps beside a mask whose small holes are closed."""
    closed = cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)).astype(bool)
    return _grown(closed, 7) & ~_grown(closed, 3) & cells.known


def _cuts_through(cells: _Cells, surface: _Surface, left: BoolArray) -> bool:
    """Return whether inliers are scattered, or what is around them touches the surface in front and behind alike."""
    residuals = cells.residuals(surface.coefficients) / surface.tolerance
    inliers = int((left & (np.abs(residuals) <= 1)).sum())
    if surface.share * cells.known.sum() < _MOST_TORN * inliers:
        return True
    ring = _ring(cells, surface.cells) & left
    around = residuals[ring]
    front = ((around > 1) & (around <= _TOUCHING)).sum()
    behind = ((around < -1) & (around >= -_TOUCHING)).sum()
    return bool(min(front, behind) > _MOST_CUT * max(len(around), 1))


def _is_support(cells: _Cells, mask: BoolArray, coefficients: Float64Array, factor: float) -> bool:
    """Return whether most of what lies around the surface is in front of it."""
    around = cells.residuals(coefficients)[_ring(cells, mask) & ~mask]
    front, behind = (around > factor).sum(), (around < -factor).sum()
    return bool(front >= behind)


def _planes(depth: Float32Array, known: BoolArray, kind: DepthKind, cells: _Cells, surfaces: list[_Surface]) -> Planes:
    """Return the planes at the size of the image, from the surfaces on the grid."""
    inverse, allowed = _inverse_and_tolerance(depth, known, kind, cells.extent)
    # The median of the residuals removes the noise of single pixels, but beside holes it would be that of the holes.
    surrounded = cv2.boxFilter(known.astype(np.float32), -1, (3, 3), normalize=False) >= _SURROUNDED
    best = np.full(depth.shape, 1.0, np.float32)
    labels = np.zeros(depth.shape, np.uint8)
    for number, surface in enumerate(surfaces, 1):
        zone = cv2.resize(_grown(surface.cells, 3).view(np.uint8), depth.shape[::-1], interpolation=cv2.INTER_NEAREST)
        residuals = (inverse - _surface_values(surface.coefficients, depth.shape)) / (allowed * surface.tolerance)
        residuals = np.where(known, residuals, 0).astype(np.float32)
        gap = np.abs(np.where(surrounded, cv2.medianBlur(residuals, 3), residuals))
        on_surface = known & (zone > 0) & (gap <= best) & (np.abs(residuals) <= _OUTLIER)
        labels[on_surface], best[on_surface] = number, gap[on_surface]
    return Planes(
        labels,
        np.array([surface.coefficients for surface in surfaces]).reshape(-1, 6),
        np.array([surface.tolerance for surface in surfaces]),
        np.array([surface.is_support for surface in surfaces], bool),
    )
