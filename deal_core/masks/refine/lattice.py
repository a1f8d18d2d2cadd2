"""Gaussian filtering in many dimensions on the permutohedral lattice (Adams, Baek and Davis 2010)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deal_core.errors import ConfigError

_LARGEST_CODE = 2**62


class PermutohedralLattice:
    """Sums over all pairs of N points with the weights exp(-|f_i - f_j|^2 / 2), in time linear in N.

    The values of the points are spread onto the vertices of the lattice simplices that contain the points, blurred
    along each of the d + 1 directions of the lattice, and read back from the same vertices. The result is the sum up to
    a constant factor and an error of a few per cent of the kernel. Only the vertices around points exist.

    Args:
        features: (N, d) float features, divided by the standard deviations of the kernel.

    Raises:
        ConfigError: the features span more standard deviations than the lattice has room for.
    """

    def __init__(self, features: Tensor) -> None:
        points = _elevate(features)
        origin, rank = _enclosing_simplex(points)
        self._weight = _barycentric(points, origin, rank)
        codes, strides = _vertex_codes(origin, rank)
        vertices, self._index = torch.unique(codes, return_inverse=True)
        self._neighbours = [(_find(vertices, vertices - s), _find(vertices, vertices + s)) for s in strides]
        self._num_vertices = len(vertices)

    def filter(self, values: Tensor) -> Tensor:
        """Return (N, C) the weighted sum of `values` (N, C) over all points, for each point."""
        # The last row represents all vertices that do not exist, and stays 0.
        lattice = values.new_zeros(self._num_vertices + 1, values.shape[1])
        for index, weight in zip(self._index, self._weight, strict=True):
            lattice.index_add_(0, index, weight[:, None] * values)
        for below, above in self._neighbours:
            lattice[:-1] = lattice[:-1] + 0.5 * (lattice[below] + lattice[above])
        result = torch.zeros_like(values)
        for index, weight in zip(self._index, self._weight, strict=True):
            result += weight[:, None] * lattice[index]
        return result


def _elevate(features: Tensor) -> Tensor:
    """Return (N, d + 1): the features in the hyperplane of coordinates that sum to 0, scaled to the lattice's blur."""
    d = features.shape[1]
    column = torch.arange(d, dtype=features.dtype, device=features.device)
    row = torch.arange(d + 1, dtype=features.dtype, device=features.device)[:, None]
    basis = torch.where(column >= row, 1.0, torch.where(column == row - 1, -row, 0.0))
    scale = math.sqrt(2.0 / 3.0) * (d + 1) / ((column + 1) * (column + 2)).sqrt()
    return features @ (basis * scale).T


def _enclosing_simplex(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the simplex around each point: its vertex of remainder 0 (N, d + 1), and the rank of each coordinate.

    The ranks, (N, d + 1) int64, are permutations of 0..d by decreasing distance from that vertex.
    """
    size = points.shape[1]
    origin = (points / size).round() * size
    rank = (points - origin).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    # Rounding may leave the hyperplane: coordinates at the ends of the order are moved one step back into it.
    rank = rank + (origin.sum(1, keepdim=True) / size).round().long()
    below, above = rank < 0, rank >= size
    wrap = size * (below.long() - above.long())
    return origin + wrap, rank + wrap


def _barycentric(points: Tensor, origin: Tensor, rank: Tensor) -> Tensor:
    """Return (d + 1, N) the barycentric coordinates of each point in its simplex; they sum to 1."""
    ordered = torch.empty_like(points).scatter_(1, rank, (points - origin) / points.shape[1])
    following = torch.cat([ordered[:, 1:], ordered[:, :1] - 1.0], dim=1)
    # The vertex of remainder r differs from the next one in the coordinate that is r-th from the end of the order.
    return (ordered - following).flip(1).T.contiguous()


def _vertex_codes(origin: Tensor, rank: Tensor) -> tuple[Tensor, list[int]]:
    """Return one integer per vertex (d + 1, N), and the step to the next vertex in each direction."""
    size = origin.shape[1]
    remainder = torch.arange(size, device=origin.device)[:, None, None]
    step = torch.where(rank < size - remainder, remainder, remainder - size)
    # The coordinates sum to 0, so the last one is redundant.
    keys = (origin.long() + step)[..., :-1]
    lowest, highest = keys.amin((0, 1)) - size, keys.amax((0, 1)) + size
    radix, strides = 1, []
    for span in (highest - lowest + 1).tolist():
        strides.append(radix)
        radix *= span
    if radix > _LARGEST_CODE:
        raise ConfigError("the standard deviations of the CRF are too small for this image: choose larger ones")
    codes = ((keys - lowest) * torch.tensor(strides, device=keys.device)).sum(-1)
    everywhere = sum(strides)
    return codes, [everywhere - size * stride for stride in strides] + [everywhere]


def _find(vertices: Tensor, wanted: Tensor) -> Tensor:
    """Return the index of each code in the sorted `vertices`; `len(vertices)` for a code that is not among them."""
    index = torch.searchsorted(vertices, wanted).clamp(max=len(vertices) - 1)
    return index.where(vertices[index] == wanted, len(vertices))
