"""Classes of flat and thin things, whose height hardly shows in depth."""

from __future__ import annotations

import math

import numpy as np
import trimesh

from deal_core.synthetic.bodies import Body, BodyStyle, ObjectClass, moved
from deal_core.synthetic.scene import Material, Pattern


def _slab(length: float, width: float, height: float) -> Body:
    """Return a box that lies on the ground, long along x."""
    mesh = moved(trimesh.creation.box((length, width, height)), z=height / 2)
    return Body(mesh, height, math.hypot(length, width) / 2, length / 2, min(length, width) / 2, 4)


def _book(rng: np.random.Generator, style: BodyStyle) -> Body:
    return _slab(float(rng.uniform(0.13, 0.20)), float(rng.uniform(0.10, 0.14)), float(rng.uniform(0.014, 0.032)))


def _ruler(rng: np.random.Generator, style: BodyStyle) -> Body:
    return _slab(float(rng.uniform(0.20, 0.30)), float(rng.uniform(0.032, 0.045)), float(rng.uniform(0.004, 0.006)))


def _blade(rng: np.random.Generator, style: BodyStyle) -> Body:
    return _slab(float(rng.uniform(0.13, 0.18)), float(rng.uniform(0.024, 0.032)), 0.003)


def _plate(rng: np.random.Generator, style: BodyStyle) -> Body:
    radius, rim = float(rng.uniform(0.06, 0.085)), 0.015
    line = [(0, 0), (0.6 * radius, 0), (radius, rim), (0.95 * radius, rim + 0.002), (0.57 * radius, 0.004), (0, 0.004)]
    return Body(trimesh.creation.revolve(np.array(line), sections=32), rim, radius, radius, 0.55 * radius, 32)


def _band(body: Body) -> trimesh.Trimesh:
    length, width, height = body.mesh.extents
    band = trimesh.creation.box((0.34 * length, width + 0.002, height + 0.002))
    return moved(band, x=0.22 * length, z=height / 2 + 0.001)


def _rim(body: Body) -> trimesh.Trimesh:
    return moved(trimesh.creation.torus(0.93 * body.radius, 0.10 * body.radius, 32, 8), z=body.height)


def _scale_marks(body: Body) -> trimesh.Trimesh:
    length, width, height = body.mesh.extents
    marks = trimesh.creation.box((0.42 * length, width + 0.001, height + 0.001))
    return moved(marks, x=0.25 * length, z=height / 2 + 0.0005)


def _grip(body: Body) -> trimesh.Trimesh:
    length, width, _ = body.mesh.extents
    return moved(trimesh.creation.box((0.6 * length, 1.1 * width, 0.014)), x=0.75 * length, z=0.007)


_RED, _BLUE, _GREEN, _YELLOW = (0.86, 0.08, 0.08), (0.08, 0.22, 0.85), (0.10, 0.65, 0.15), (0.98, 0.82, 0.05)
_WHITE, _BLACK = (0.95, 0.95, 0.93), (0.05, 0.05, 0.06)
_ALONG, _ACROSS = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)

FLAT_CATALOGUE: tuple[ObjectClass, ...] = (
    ObjectClass(
        "book", _band, Material(Pattern.STRIPES, _BLUE, _WHITE, 0.030, _ACROSS), _book, carries=True, is_flat=True
    ),
    ObjectClass("plate", _rim, Material(Pattern.SECTORS, _GREEN, _WHITE, 0.030, _ALONG, 0.4), _plate, is_flat=True),
    ObjectClass("ruler", _scale_marks, Material(Pattern.STRIPES, _YELLOW, _BLACK, 0.024, _ALONG), _ruler, is_flat=True),
    ObjectClass("knife", _grip, Material(Pattern.STRIPES, _RED, _BLACK, 0.030, _ALONG, 0.2), _blade, is_flat=True),
)
