"""The walk against dense matrices, affinities against one pair at a time, and tables, edges and holes in depth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deal_core.errors import ConfigError
from deal_core.masks.refine.walk import WalkSettings, random_walk, walk_on_surfaces
from deal_core.surfaces.parts import depth_affinity, feature_affinity

SHAPE = (6, 7)


def dense(values: torch.Tensor, offsets: tuple[tuple[int, int], ...]) -> np.ndarray:
    """The affinity as a matrix (cells, cells), 1 on its diagonal."""
    height, width = values.shape[1:]
    matrix = np.eye(height * width)
    for (dy, dx), of_offset in zip(offsets, values.double().numpy(), strict=True):
        for y in range(height):
            for x in range(width):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    matrix[y * width + x, (y + dy) * width + x + dx] = of_offset[y, x]
                else:
                    assert of_offset[y, x] == 0
    return matrix


@pytest.mark.parametrize("radius", [2, 5])
def test_squaring_the_transition_matrix_is_walking(radius: int) -> None:
    """AffinityNet: affinity to the power of beta, columns normalised, squared t times, scores times matrix."""
    generator = torch.Generator().manual_seed(1)
    features, scores = torch.rand(8, *SHAPE, generator=generator), torch.rand(3, *SHAPE, generator=generator)
    beta, t = 8, 4
    flat = features.reshape(8, -1).double().numpy()
    matrix = np.zeros((42, 42))
    for i in range(42):
        for j in range(42):
            if math.hypot(i // 7 - j // 7, i % 7 - j % 7) < radius:
                matrix[i, j] = math.exp(-np.abs(flat[:, i] - flat[:, j]).mean()) ** beta
    transition = matrix / matrix.sum(axis=0, keepdims=True)
    for _ in range(t):
        transition = transition @ transition
    expected = scores.reshape(3, -1).double().numpy() @ transition

    affinity = feature_affinity(features, radius=radius, scale=1 / beta)
    assert len(affinity.offsets) == {2: 8, 5: 68}[radius]
    np.testing.assert_allclose(dense(affinity.values, affinity.offsets), matrix, atol=1e-6)
    found = random_walk(scores, affinity, steps=2**t)
    np.testing.assert_allclose(found.reshape(3, -1).numpy(), expected, atol=1e-5)


def test_a_walk_with_restart_ends_where_the_equation_says() -> None:
    scores, features = torch.rand(2, *SHAPE), torch.rand(3, *SHAPE)
    affinity = feature_affinity(features, radius=2, scale=0.3, power=2.0)
    matrix = dense(affinity.values, affinity.offsets)
    transition = matrix / matrix.sum(axis=1, keepdims=True)
    start = scores.reshape(2, -1).double().numpy()
    expected = 0.1 * np.linalg.solve(np.eye(42) - 0.9 * transition, start.T).T
    found = random_walk(scores, affinity, steps=300, restart=0.1)
    np.testing.assert_allclose(found.reshape(2, -1).numpy(), expected, atol=1e-5)
    assert found.min() >= scores.min() and found.max() <= scores.max()


def test_a_grid_smaller_than_the_radius() -> None:
    for shape in ((1, 1), (1, 4), (3, 1)):
        affinity = feature_affinity(torch.zeros(1, *shape), radius=5, scale=1.0)
        walked = random_walk(torch.rand(1, *shape), affinity, steps=200)
        assert float(walked.std(unbiased=False)) < 1e-5, "all cells are one surface"
        assert depth_affinity(torch.ones(shape), radius=5, scale=1.0).values.shape == (68, *shape)


def test_depth_affinity_one_pair_at_a_time() -> None:
    depth = torch.rand(8, 9, generator=torch.Generator().manual_seed(2))
    values = depth.double().numpy()

    def difference(y: int, x: int, axis: int) -> float:
        n = (8, 9)[axis]
        at = (y, x)[axis]
        low, high = max(at - 1, 0), min(at + 1, n - 1)
        ends = [values[high, x], values[low, x]] if axis == 0 else [values[y, high], values[y, low]]
        return float(ends[0] - ends[1]) / (high - low)

    def slope(y: int, x: int, axis: int) -> float:
        around = [
            difference(min(max(y + i, 0), 7), min(max(x + j, 0), 8), axis) for i in range(-3, 4) for j in range(-3, 4)
        ]
        return sorted(around)[24]

    affinity = depth_affinity(depth, radius=2, scale=0.2)
    for (dy, dx), found in zip(affinity.offsets, affinity.values.tolist(), strict=True):
        for y in range(8):
            for x in range(9):
                v, u = y + dy, x + dx
                expected = 0.0
                if 0 <= v < 8 and 0 <= u < 9:
                    explained = sum(
                        step * (slope(y, x, axis) + slope(v, u, axis)) / 2 for axis, step in enumerate((dy, dx))
                    )
                    expected = math.exp(-(((values[v, u] - values[y, x] - explained) / 0.2) ** 2))
                assert found[y][x] == pytest.approx(expected, abs=1e-5)


def table_with_a_box(*, box: float = 0.04) -> tuple[np.ndarray, np.ndarray]:
    """Depth of a table seen at an angle with a box on it, and where the box is; both of one colour."""
    rows = np.linspace(1.0, 0.7, 60)[:, None]
    depth = np.tile(rows, (1, 80)).astype(np.float32)
    inside = np.zeros((60, 80), bool)
    inside[20:45, 30:55] = True
    depth[inside] -= box
    return depth, inside


def test_scores_fill_the_box_and_stay_off_the_sloping_table() -> None:
    depth, inside = table_with_a_box()
    image = np.full((60, 80, 3), 128, np.uint8)
    scores = torch.zeros(2, 60, 80)
    scores[0] = 1.0
    scores[:, 28:36, 38:46] = torch.tensor([0.0, 1.0])[:, None, None]

    def share_found(**changes: object) -> tuple[float, float]:
        walked = walk_on_surfaces(image, scores, WalkSettings(restart=0.0, **changes), depth=depth)  # type: ignore[arg-type]
        ratio = (walked[1] / walked.sum(0)).numpy()
        return float(ratio[inside].min()), float(ratio[~inside].max())

    worst_inside, best_outside = share_found()
    assert worst_inside > 2 * best_outside
    worst_inside, best_outside = share_found(affinity="colour")
    assert worst_inside < 1.2 * best_outside, "colour sees no box"
    inverse = (1 / depth).astype(np.float32)
    walked = walk_on_surfaces(image, scores, WalkSettings(restart=0.0), depth=7 * inverse, depth_kind="inverse")
    again = walk_on_surfaces(image, scores, WalkSettings(restart=0.0), depth=2 * inverse, depth_kind="inverse")
    assert torch.allclose(walked, again, atol=1e-3), "the scale of relative depth means nothing"
    ratio = (walked[1] / walked.sum(0)).numpy()
    assert ratio[inside].min() > 2 * ratio[~inside].max()


def test_a_hole_takes_the_depth_beside_it_and_no_depth_is_colour_alone() -> None:
    depth, _ = table_with_a_box()
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    scores = torch.rand(2, 60, 80, generator=torch.Generator().manual_seed(0))
    coarse = WalkSettings(size=64)
    holed = depth.copy()
    holed[20:45, 28:31] = 0  # at the edge, as stereo cameras do
    whole = walk_on_surfaces(image, scores, coarse, depth=depth)
    with_hole = walk_on_surfaces(image, scores, coarse, depth=holed)
    assert float((whole - with_hole).abs().max()) < 0.1
    valid = np.ones((60, 80), bool)
    valid[20:45, 28:31] = False
    unmeasured = walk_on_surfaces(image, scores, coarse, depth=depth, depth_valid=valid)
    torch.testing.assert_close(unmeasured, with_hole)
    colour = walk_on_surfaces(image, scores, WalkSettings("colour", size=64))
    nowhere = walk_on_surfaces(image, scores, coarse, depth=np.zeros((60, 80), np.float32))
    torch.testing.assert_close(nowhere, colour)
    assert not torch.allclose(whole, colour, atol=1e-2)


def test_wrong_use() -> None:
    for values, said in (
        ({"affinity": "deep"}, "'depth' or 'colour'"),
        ({"size": 1}, "size"),
        ({"radius": 1}, "radius"),
        ({"steps": 0}, "steps"),
        ({"restart": 1.0}, "restart"),
        ({"depth_scale": 0.0}, "depth_scale"),
        ({"colour_scale": float("nan")}, "colour_scale"),
        ({"alpha": -1.0}, "alpha"),
    ):
        with pytest.raises(ConfigError, match=said):
            WalkSettings(**values)  # type: ignore[arg-type]
    image, scores = np.zeros((4, 5, 3), np.uint8), torch.ones(2, 4, 5)
    with pytest.raises(ValueError, match="needs depth"):
        walk_on_surfaces(image, scores)
    with pytest.raises(ValueError, match="image's size"):
        walk_on_surfaces(image, scores, depth=np.ones((5, 4), np.float32))
    with pytest.raises(ValueError, match=r"\(C, 4, 5\)"):
        walk_on_surfaces(image, scores[0], depth=np.ones((4, 5), np.float32))
    with pytest.raises(ValueError, match="uint8"):
        walk_on_surfaces(image[..., 0], scores)
