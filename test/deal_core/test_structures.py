"""What crosses the borders between rooms: above all, what valid depth is, wherever depth is used."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deal_core.drawing import depth_edge_picture, depth_picture
from deal_core.losses.depth_edge import depth_edges
from deal_core.masks.refine.walk import WalkSettings, grid_affinity
from deal_core.masks.threshold_rules import DepthReliefRule
from deal_core.models.normalisation import DepthNormalisation
from deal_core.recording.image_encodings import to_depth_m, to_depth_mm
from deal_core.runtime.camera_rays import measured
from deal_core.runtime.labelled_points import labelled_points
from deal_core.runtime.segmenter import Segmentation
from deal_core.structures import (
    CameraIntrinsics,
    ClassList,
    Float32Array,
    TagMarker,
    TagState,
    metres_to_depth,
    pose_matrix,
    valid_depth,
)
from deal_core.surfaces.planes import find_planes

SHAPE = (12, 16)
NEVER_VALID = (math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, -1e-30)
IMAGE = np.random.default_rng(1).integers(0, 256, (*SHAPE, 3), np.uint8)
CAMERA = CameraIntrinsics(SHAPE[1], SHAPE[0], 20.0, 20.0, 8.0, 6.0)


def _edges(depth: Float32Array) -> tuple[Any, ...]:
    edges = depth_edges(torch.from_numpy(depth)[None, None], size=(6, 8))
    return edges.strength.numpy(), edges.weight.numpy()


def _relief(depth: Float32Array) -> tuple[Any, ...]:
    rule = DepthReliefRule()
    rule.update(np.linspace(0, 1, depth.size, dtype=np.float32).reshape(1, *depth.shape), depth)
    return (rule.agreement(),)


def _points(depth: Float32Array) -> tuple[Any, ...]:
    result = Segmentation(np.ones(SHAPE, np.uint8), np.ones(SHAPE, np.float32))
    points = labelled_points(IMAGE, depth, result, CAMERA)
    return tuple(points[name] for name in points.dtype.names or ())


USES: dict[str, Callable[[Float32Array], tuple[Any, ...]]] = {
    "valid_depth": lambda depth: (valid_depth(depth),),
    "valid_depth of tensors": lambda depth: (valid_depth(torch.from_numpy(depth)).numpy(),),
    "loss": _edges,
    "planes": lambda depth: (find_planes(depth).labels,),
    "walk": lambda depth: (grid_affinity(IMAGE, (6, 8), WalkSettings(), depth).values.numpy(),),
    "threshold rule": _relief,
    "picture": lambda depth: (depth_picture(depth),),
    "picture of edges": lambda depth: (depth_edge_picture(depth),),
    "metres of an image message": lambda depth: to_depth_m(depth, "32FC1"),
    "millimetres of an image message": lambda depth: (to_depth_mm(depth, "32FC1"),),
    "millimetres": lambda depth: (metres_to_depth(depth),),
    "range": lambda depth: (measured(depth, 0.0, math.inf),),
    "points": _points,
    "normalisation": lambda depth: (DepthNormalisation(1.0, 0.5)(torch.from_numpy(depth)[None, None]).numpy(),),
}


@pytest.mark.parametrize("use", USES)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_nan_infinite_zero_and_negative_depth_is_never_valid(use: str, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.3, 3.0, SHAPE).astype(np.float32)
    holes = rng.random(SHAPE) < share
    none, bad = depth.copy(), depth.copy()
    none[holes] = 0
    bad[holes] = rng.choice(np.array(NEVER_VALID, np.float32), int(holes.sum()))
    assert (valid_depth(bad) == ~holes).all()
    for expected, found in zip(USES[use](none), USES[use](bad), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_is_given_as_invalid_stays_so() -> None:
    depth, given_valid = np.array([0.5, 1.0, np.nan]), np.array([True, False, True])
    assert valid_depth(depth, given_valid).tolist() == [True, False, False]
    assert valid_depth(torch.from_numpy(depth), torch.from_numpy(given_valid)).tolist() == [True, False, False]


def test_tags_for_other_classes_say_nothing_about_what_was_not_asked() -> None:
    ours, others = ClassList(("mug", "drill")), ClassList(("kettle", "drill"))
    complete = TagState(("mug",), marker=TagMarker.COMPLETE).for_classes(ours, others)
    assert np.isnan(complete.vector(others)[0]) and complete.vector(others)[1] == 0
    partial = TagState(("drill",), ("mug",)).for_classes(ours, others)
    assert np.isnan(partial.vector(others)[0]) and partial.vector(others)[1] == 1
    assert np.isnan(TagState(("drill",), marker=TagMarker.IGNORE).for_classes(ours, others).vector(others)).all()


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4), st.floats(0.1, 5))
def test_a_quaternion_turns_points_as_its_product_does(numbers: list[float], length: float) -> None:
    quaternion = np.array(numbers)
    if np.linalg.norm(quaternion) < 0.1:
        return
    x, y, z, w = quaternion / np.linalg.norm(quaternion)
    axis, point = np.array([x, y, z]), np.array([0.3, -1.0, 2.0])
    expected = point + 2 * w * np.cross(axis, point) + 2 * np.cross(axis, np.cross(axis, point))
    found = pose_matrix((1, 2, 3), length * quaternion)
    np.testing.assert_allclose(found @ [*point, 1], [*(expected + np.array([1, 2, 3])), 1], atol=1e-9)
