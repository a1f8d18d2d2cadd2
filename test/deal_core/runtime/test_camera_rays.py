"""Directions of pixels: against the lens equations, written out."""

from __future__ import annotations

import doctest
from dataclasses import replace

import numpy as np
import pytest

from deal_core.runtime import camera_rays
from deal_core.runtime.camera_rays import CameraModelError, measured, pixel_rays, project
from deal_core.structures import CameraIntrinsics

PINHOLE = CameraIntrinsics(48, 36, 40.0, 42.0, 23.0, 18.5)
PLUMB_BOB = (0.12, -0.25, 0.002, -0.001, 0.08)
RATIONAL = (0.3, -0.1, 0.001, 0.002, 0.02, 0.2, -0.05, 0.01)
EQUIDISTANT = (0.02, -0.01, 0.003, -0.001)


def seen_at(x: float, y: float, camera: CameraIntrinsics) -> tuple[float, float]:
    """Return the pixel of the direction (x, y, 1)."""
    d, r2 = camera.distortion, x * x + y * y
    if camera.distortion_model == "equidistant":
        radius, angle = np.sqrt(r2), np.arctan(np.sqrt(r2))
        bent = angle * (1 + sum(k * angle ** (2 * i + 2) for i, k in enumerate(d)))
        x, y = x * bent / max(radius, 1e-12), y * bent / max(radius, 1e-12)
    else:
        k1, k2, p1, p2, k3 = d[:5]
        k4, k5, k6 = d[5:8] or (0, 0, 0)
        radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
        x, y = (
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        )
    return camera.fx * x + camera.cx, camera.fy * y + camera.cy


@pytest.mark.parametrize("stride", [1, 5])
@pytest.mark.parametrize(
    ("model", "distortion"),
    [
        ("plumb_bob", ()),
        ("plumb_bob", (0.0,) * 5),
        ("none of them", (0.0,)),
        ("plumb_bob", PLUMB_BOB),
        ("rational_polynomial", RATIONAL),
        ("equidistant", EQUIDISTANT),
    ],
)
def test_every_direction_is_seen_at_its_pixel(model: str, distortion: tuple[float, ...], stride: int) -> None:
    camera = replace(PINHOLE, distortion_model=model, distortion=distortion)
    right, down = pixel_rays(camera, stride)
    assert right.shape == down.shape == (-(-36 // stride), -(-48 // stride)) and right.dtype == np.float32
    lens = camera if any(distortion) else replace(PINHOLE, distortion=(0.0,) * 5)
    for row in range(right.shape[0]):
        for column in range(right.shape[1]):
            pixel = seen_at(float(right[row, column]), float(down[row, column]), lens)
            assert pixel == pytest.approx((column * stride, row * stride), abs=0.01)


def test_directions_are_computed_once_a_camera_and_cannot_be_changed() -> None:
    found = pixel_rays(PINHOLE)
    assert pixel_rays(replace(PINHOLE)) is found
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0, 0] = 1


@pytest.mark.parametrize(
    ("model", "distortion", "said"),
    [
        ("fov", (0.9,), "expected a distortion model of plumb_bob, .*; found 'fov'"),
        ("plumb_bob", (0.1, 0.2), "expected 4 or 5 coefficients of plumb_bob, found 2"),
        ("plumb_bob", (-2.0, 0.0, 0.0, 0.0, 0.0), r"over the whole image, found plumb_bob with \[-2.0, "),
    ],
)
def test_a_lens_that_cannot_be_undone_is_refused(model: str, distortion: tuple[float, ...], said: str) -> None:
    with pytest.raises(CameraModelError, match=said):
        pixel_rays(replace(PINHOLE, distortion_model=model, distortion=distortion))


def test_measured_depth_is_finite_positive_and_in_range() -> None:
    depth = np.array([0, np.nan, np.inf, -np.inf, -1, 0.5, 1, 2, 2.5], np.float32)
    assert measured(depth, 0.0, np.inf).tolist() == [False] * 5 + [True] * 4
    assert measured(depth, 1.0, 2.0).tolist() == [False] * 6 + [True, True, False]


def test_example() -> None:
    assert doctest.testmod(camera_rays).failed == 0


@pytest.mark.parametrize(
    ("model", "distortion"),
    [
        ("plumb_bob", (0.0,) * 5),
        ("plumb_bob", PLUMB_BOB),
        ("rational_polynomial", RATIONAL),
        ("equidistant", EQUIDISTANT),
    ],
)
def test_a_ray_is_seen_where_the_lens_equations_say(model: str, distortion: tuple[float, ...]) -> None:
    camera = replace(PINHOLE, distortion_model=model, distortion=distortion)
    rays = np.random.default_rng(0).uniform(-0.4, 0.4, (3, 4, 2))
    found = project(rays, camera)
    assert found.shape == rays.shape
    for place in np.ndindex(3, 4):
        np.testing.assert_allclose(found[place], seen_at(*rays[place], camera), atol=1e-6)
    with pytest.raises(CameraModelError, match="none of them"):
        project(rays, replace(camera, distortion_model="none of them", distortion=(0.1,)))
