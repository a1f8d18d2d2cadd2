"""Connected parts of depth against a search that floods pixel by pixel, on images and on grids of cells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deal_core.surfaces.parts import cell_medians, connected_cells, connected_parts, feature_affinity

Pixel = tuple[int, int]


def flooded(shape: Pixel, is_connected: Callable[[Pixel, Pixel], bool]) -> np.ndarray:
    labels, following = -np.ones(shape, int), 0
    for start in np.ndindex(shape):
        if labels[start] >= 0:
            continue
        queue = [start]
        while queue:
            y, x = queue.pop()
            if labels[y, x] >= 0:
                continue
            labels[y, x] = following
            for other in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if 0 <= other[0] < shape[0] and 0 <= other[1] < shape[1] and is_connected((y, x), other):
                    queue.append(other)
        following += 1
    return labels


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = {(int(a), int(b)) for a, b in zip(one.flat, other.flat, strict=True)}
    return len(pairs) == len(np.unique(one)) == len(np.unique(other))


@given(height=st.integers(1, 7), width=st.integers(1, 7), seed=st.integers(0, 99), join=st.floats(0.2, 0.9))
def test_cells_are_those_of_a_flood(height: int, width: int, seed: int, join: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    affinity = feature_affinity(torch.rand(1, height, width, generator=generator), radius=2, scale=0.5)
    values = dict(zip(affinity.offsets, affinity.values.numpy(), strict=True))

    def is_connected(here: Pixel, there: Pixel) -> bool:
        return bool(values[there[0] - here[0], there[1] - here[1]][here] >= join)

    assert same_partition(connected_cells(affinity, join), flooded((height, width), is_connected))


@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    seed=st.integers(0, 99),
    jump=st.floats(0.02, 0.6),
    kind=st.sampled_from(["metric", "inverse"]),
)
def test_parts_are_those_of_a_flood(height: int, width: int, seed: int, jump: float, kind: str) -> None:
    generator = np.random.default_rng(seed)
    depth = generator.uniform(0.5, 1.5, (height, width)).astype(np.float32)
    within = generator.random((height, width)) < 0.8
    extent = (float(np.ptp(depth[within])) if within.any() else 0.0) or 1.0

    def is_connected(here: Pixel, there: Pixel) -> bool:
        a, b = float(depth[here]), float(depth[there])
        gap = max(a, b) / min(a, b) - 1 if kind == "metric" else abs(a - b) / extent
        return bool(within[here] and within[there] and gap <= jump)

    found = connected_parts(depth, within, jump=jump, kind=kind)  # type: ignore[arg-type]
    expected = flooded((height, width), is_connected)
    assert np.array_equal(found > 0, within)
    assert same_partition(found[within], expected[within])


def test_infinity_divides_the_mask_alone_and_unknown_depth_is_outside() -> None:
    depth = np.array([[0.5, 5.0, 0.0, 1.0]], np.float32)
    assert connected_parts(depth, jump=float("inf")).tolist() == [[1, 1, 0, 2]]
    assert connected_parts(depth).tolist() == [[1, 2, 0, 3]]


def test_a_cell_takes_the_median_of_what_is_known() -> None:
    depth = np.arange(1, 82, dtype=np.float32).reshape(9, 9)
    known = np.ones((9, 9), bool)
    known[:3, :3] = False
    known[3, 3] = False
    cells = cell_medians(depth, known, (3, 3))
    assert np.isnan(cells[0, 0]) and cells[0, 1] == np.median(depth[:3, 3:6])
    kept = np.sort(depth[3:6, 3:6][known[3:6, 3:6]])
    assert cells[1, 1] in kept[3:5]


def test_what_does_not_fit() -> None:
    flat = np.ones((4, 5), np.float32)
    with pytest.raises(ValueError, match="same size"):
        connected_parts(flat, np.ones((4, 4), bool))
    with pytest.raises(ValueError, match="positive jump"):
        connected_parts(flat, jump=0)
