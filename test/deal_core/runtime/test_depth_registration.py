"""Registered depth against the SDK's own align block, and against a loop over pixels with OpenCV's projection."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deal_core.runtime.camera_rays import CameraModelError
from deal_core.runtime.depth_registration import DepthRegistration
from deal_core.structures import CameraIntrinsics

PLUMB_BOB = (0.12, -0.25, 0.002, -0.001, 0.08)
RATIONAL = (0.3, -0.1, 0.001, 0.002, 0.05, 0.4, -0.05, 0.02)
FISHEYE = (0.05, -0.02, 0.003, 0.001)
INNER = slice(3, -3), slice(3, -3)


def camera(size: tuple[int, int], focal: float, distortion: tuple[float, ...] = (), **more: str) -> CameraIntrinsics:
    height, width = size
    center = (width / 2, height / 2)
    return CameraIntrinsics(width, height, focal, focal, *center, distortion or (0.0,) * 5, **more)


def pose(shift: tuple[float, float, float], turn: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = cv2.Rodrigues(np.array(turn))[0], shift
    return matrix


def scene(size: tuple[int, int]) -> np.ndarray:
    """Metres, whole millimetres: a wall, a box before it, holes."""
    random = np.random.default_rng(0)
    height, width = size
    depth = np.full(size, 1600) + random.integers(-3, 4, size) + np.arange(width) // 2
    depth[height // 4 : height // 2, width // 3 : width // 2] = 600
    depth[random.random(size) < 0.1] = 0
    return (depth / 1000).astype(np.float32)


def project(point: np.ndarray, lens: CameraIntrinsics) -> tuple[float, float]:
    matrix = np.array([[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1]])
    points, none, coefficients = point.reshape(1, 1, 3), np.zeros(3), np.array(lens.distortion)
    if lens.distortion_model == "equidistant":
        found, _ = cv2.fisheye.projectPoints(points, none, none, matrix, coefficients)
    else:
        found, _ = cv2.projectPoints(points, none, none, matrix, coefficients)
    column, row = found.ravel()
    return float(column), float(row)


def register_slowly(
    depth: np.ndarray, lens: CameraIntrinsics, color: CameraIntrinsics, to_color: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the registered depth, and where a corner is so near to the middle between pixels that rounding decides."""
    out, doubtful = np.full((color.height, color.width), np.inf), np.zeros((color.height, color.width), bool)
    for (row, column), z in np.ndenumerate(depth):
        if not z > 0:
            continue

        def at(x: float, y: float, z: float = float(z)) -> np.ndarray:
            point = np.array([(x - lens.cx) / lens.fx * z, (y - lens.cy) / lens.fy * z, z])
            return to_color[:3, :3] @ point + to_color[:3, 3]

        half = 0.5 if color.fx > lens.fx else 0.0
        edges = [*project(at(column - half, row - half), color), *project(at(column + half, row + half), color)]
        left, top, right, bottom = (math.floor(edge + 0.5) for edge in edges)
        box = slice(max(top - 1, 0), bottom + 2), slice(max(left - 1, 0), right + 2)
        if any(abs(edge + 0.5 - round(edge + 0.5)) < 5e-4 for edge in edges):
            doubtful[box] = True
        if left < 0 or top < 0 or right >= color.width or bottom >= color.height:
            continue
        covered = out[top : bottom + 1, left : right + 1]
        np.minimum(covered, at(column, row)[2], out=covered)
    return np.where(np.isfinite(out), out, 0), doubtful


@pytest.mark.parametrize(
    ("depth_size", "color_size", "focal"),
    [((48, 64), (48, 64), 60.0), ((60, 80), (90, 160), 115.0), ((90, 160), (48, 64), 52.0)],
)
@pytest.mark.parametrize(
    "lens",
    [((),), (PLUMB_BOB,), (RATIONAL, "rational_polynomial"), (FISHEYE, "equidistant")],
    ids=lambda lens: lens[1] if len(lens) > 1 else "plumb_bob" if lens[0] else "pinhole",
)
def test_each_depth_pixel_covers_what_it_covers(
    depth_size: tuple[int, int], color_size: tuple[int, int], focal: float, lens: tuple
) -> None:
    model = {"distortion_model": lens[1]} if len(lens) > 1 else {}
    color = camera(color_size, focal, lens[0], **model)
    depth_camera = camera(depth_size, depth_size[1] * 0.9)
    to_color = pose((0.03, -0.004, 0.006), (0.01, -0.02, 0.015))
    depth = scene(depth_size)
    expected, doubtful = register_slowly(depth, depth_camera, color, to_color)
    found = DepthRegistration(depth_camera, color, to_color)(depth)
    assert found.shape == color_size and found.dtype == np.float32
    assert doubtful.mean() < 0.2 < (found > 0).mean()
    np.testing.assert_allclose(found[~doubtful], expected[~doubtful], atol=1e-5)


def test_a_distorted_depth_image_is_straightened_first() -> None:
    """A wall across the optical axis stays where its rays are, whatever the lens of the depth camera."""
    bent, straight = camera((48, 64), 60.0, PLUMB_BOB), camera((48, 64), 60.0)
    wall = np.full((48, 64), 2.0, np.float32)
    found = DepthRegistration(bent, straight, pose((0.0, 0.0, 0.5)))(wall)
    inner = found[10:-10, 10:-10]
    assert np.count_nonzero(inner) > 0.95 * inner.size and np.isin(found, [0.0, 2.5]).all()
    same = DepthRegistration(bent, bent, pose((0.0, 0.0, 0.0)))(wall)
    assert (same[2:-2, 2:-2] == 2).all()


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(-0.2, 0.2),
    st.floats(-0.2, 0.2),
    st.floats(-3.0, 3.0),
)
def test_any_pose_gives_depths_of_the_scene_or_none(seed: int, x: float, z: float, turn: float) -> None:
    random = np.random.default_rng(seed)
    depth = random.choice([0.0, np.nan, np.inf, 0.05, 0.4, 3.0, 60.0], (12, 16)).astype(np.float32)
    to_color = pose((x, 0.0, z), (0.0, turn, 0.0))
    found = DepthRegistration(camera((12, 16), 14.0), camera((20, 24), 25.0), to_color)(depth)
    assert np.isfinite(found).all() and (found >= 0).all()
    if not turn:
        possible = np.array([0.05, 0.4, 3.0, 60.0]) + z
        seen = found[found > 0]
        assert all(np.isclose(seen[:, None], possible, rtol=1e-5, atol=1e-6).any(1))


def test_an_image_of_another_size_is_refused() -> None:
    register = DepthRegistration(camera((48, 64), 60.0), camera((48, 64), 60.0), np.eye(4))
    with pytest.raises(CameraModelError, match="expected the camera of the depth image \\(32x24\\), found 64x48"):
        register(np.zeros((24, 32), np.float32))


def test_a_lens_that_cannot_be_inverted_is_refused() -> None:
    with pytest.raises(CameraModelError, match="distortion"):
        DepthRegistration(
            camera((48, 64), 60.0), camera((48, 64), 60.0, distortion_model="fov", distortion=(0.9,)), np.eye(4)
        )


@pytest.mark.parametrize(
    ("focal", "shift"), [((57.3, 60.0), 0.015), ((45.0, 70.0), 0.03), ((30.2, 70.0), 0.0)], ids=str
)
def test_the_align_block_of_the_sdk_finds_the_same(focal: tuple[float, float], shift: float) -> None:
    """Within 1 mm, but at the border, where the SDK lets what falls beside the image end."""
    found, expected = found_and_expected(focal, shift)
    is_same = np.abs(found - expected)[INNER] <= 1e-3
    assert (found > 0).mean() > 0.5 and is_same.mean() > 0.995
    assert (np.abs(around(expected) - found) <= 1e-3).any(0)[INNER].all()


@pytest.mark.parametrize("focal", [(60.1, 60.0), (70.3, 52.0)], ids=str)
def test_where_the_sdk_rounds_another_way_it_is_half_a_pixel_away(focal: tuple[float, float]) -> None:
    """Points of different depths lie at most a pixel from where the SDK has them, and on the average half of one."""
    points = np.zeros((90, 120), np.float32)
    points[15:-15:6, 15:-15:6] = np.arange(600, 600 + 10 * 15, dtype=np.float32).reshape(10, 15) / 1000
    found, expected = found_and_expected(focal, 0.03, points)
    offsets = [np.argwhere(np.isclose(found, z)) - np.argwhere(np.isclose(expected, z)) for z in points[points > 0]]
    assert all(offset.shape == (1, 2) for offset in offsets)
    assert np.abs(offsets).max() <= 1 and np.abs(np.mean(offsets, 0)).max() <= 0.5


def found_and_expected(
    focal: tuple[float, float], shift: float, depth: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    pytest.importorskip("pyrealsense2", reason="pyrealsense2 has no wheel for this machine", exc_type=ImportError)
    size = (90, 120)
    depth = scene(size) if depth is None else depth
    register = DepthRegistration(camera(size, focal[0]), camera(size, focal[1]), pose((-shift, 0.0, 0.0)))
    return register(depth), align_by_sdk(size, focal, shift, depth)


def around(image: np.ndarray) -> np.ndarray:
    """Return (9, H, W): each pixel and its neighbours."""
    return np.stack([np.roll(image, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)])


def align_by_sdk(size: tuple[int, int], focal: tuple[float, float], shift: float, depth: np.ndarray) -> np.ndarray:
    from helpers.software_camera import SoftwareCamera

    from deal_core.recorder.realsense import RealSense, StreamRequest

    device = SoftwareCamera(size, focal=focal, shift=shift)
    with RealSense(device.device, StreamRequest(size[1], size[0], 30)) as source:
        frames = source.frames()
        for number in (1, 2):
            device.give(number, np.zeros((*size, 3), np.uint8), np.round(depth * 1000).astype(np.uint16))
        return next(frames).depth.pixels() / 1000
