"""The objects of synthetic scenes: bodies that all classes share, and the parts that make the classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import trimesh

from deal_core.synthetic.scene import Color, Material, Pattern


@dataclass(frozen=True, eq=False)
class Body:
    """A body at the origin: its mesh, height, largest radius, radius at half height and radius at the top."""

    mesh: trimesh.Trimesh
    height: float
    radius: float
    middle: float
    top: float
    sides: int


@dataclass(frozen=True)
class BodyStyle:
    """The stock from which the bodies of a world are drawn.

    Args:
        profiles: outlines as (radius, height) pairs from the bottom to the top, in shares of the largest.
        sides: numbers of sides; each is equally likely.
        height: smallest and largest height, metres.
        radius: smallest and largest radius, metres.
        colors: sRGB colours.
    """

    profiles: tuple[tuple[tuple[float, float], ...], ...]
    sides: tuple[int, ...]
    height: tuple[float, float]
    radius: tuple[float, float]
    colors: tuple[Color, ...]


# Muted sRGB colours, so that no body looks like a part.
_BODY_COLORS: tuple[Color, ...] = (
    (0.82, 0.80, 0.76), (0.62, 0.60, 0.58), (0.36, 0.36, 0.38), (0.20, 0.20, 0.23), (0.70, 0.58, 0.45),
    (0.48, 0.35, 0.26), (0.33, 0.42, 0.50), (0.52, 0.62, 0.68), (0.42, 0.48, 0.38), (0.66, 0.68, 0.56),
    (0.60, 0.45, 0.45), (0.75, 0.65, 0.68), (0.30, 0.38, 0.36), (0.85, 0.78, 0.66),
)  # fmt: skip


TABLETOP_BODIES = BodyStyle(
    profiles=(
        ((1.0, 0.0), (1.0, 1.0)),
        ((0.78, 0.0), (1.0, 1.0)),
        ((1.0, 0.0), (0.72, 1.0)),
        ((0.80, 0.0), (0.96, 0.25), (1.0, 0.5), (0.94, 0.75), (0.76, 1.0)),
        ((0.95, 0.0), (1.0, 0.08), (1.0, 0.55), (0.88, 0.72), (0.66, 0.85), (0.64, 1.0)),
    ),
    sides=(4, 6, 32, 32),
    height=(0.07, 0.125),
    radius=(0.042, 0.060),
    colors=_BODY_COLORS,
)


def make_body(rng: np.random.Generator, style: BodyStyle = TABLETOP_BODIES) -> Body:
    """Return a random body of a style, standing at the origin."""
    profile = np.array(style.profiles[int(rng.integers(len(style.profiles)))])
    sides = int(rng.choice(style.sides))
    height, radius = float(rng.uniform(*style.height)), float(rng.uniform(*style.radius))
    line = np.concatenate([[[0.0, 0.0]], profile * [radius, height], [[0.0, height]]])
    mesh = trimesh.creation.revolve(line, sections=sides)
    # A flat side, not a corner, faces +x, where parts are joined.
    mesh.apply_transform(trimesh.transformations.rotation_matrix(math.pi / sides, [0, 0, 1]))
    flat = math.cos(math.pi / sides)
    middle = float(np.interp(0.5, profile[:, 1], profile[:, 0])) * radius * flat
    return Body(mesh, height, radius, middle, float(profile[-1, 0]) * radius * flat, sides)


def body_material(rng: np.random.Generator, style: BodyStyle = TABLETOP_BODIES) -> Material:
    """Return a random material for a body of a style."""
    pattern = (Pattern.SOLID, Pattern.STRIPES, Pattern.CHECKS, Pattern.MARBLE, Pattern.GRADIENT, Pattern.SECTORS)
    first, second = rng.choice(len(style.colors), 2, replace=False)
    axis = rng.standard_normal(3)
    axis /= np.linalg.norm(axis)
    return Material(
        pattern[int(rng.integers(len(pattern)))],
        shade(style.colors[first], rng),
        shade(style.colors[second], rng),
        float(rng.uniform(0.02, 0.06)),
        (float(axis[0]), float(axis[1]), float(axis[2])),
        float(rng.choice([0.0, 0.15, 0.4])),
    )


def shade(color: Color, rng: np.random.Generator) -> Color:
    """Return a random shade of an sRGB colour."""
    r, g, b = np.clip(np.asarray(color) * rng.uniform(0.85, 1.12) + rng.uniform(-0.03, 0.03, 3), 0.02, 0.97)
    return float(r), float(g), float(b)


@dataclass(frozen=True)
class ObjectClass:
    """A class: its name, and the part that all of its objects and no other objects have.

    Args:
        name: name of the class.
        part: makes the part for a body.
        material: material of the part.
        body: makes a body of a style.
        carries: whether the top is flat and free, so that another object can stand on it.
        is_flat: whether it is flat and thin, so that depth hardly shows it.
    """

    name: str
    part: Callable[[Body], trimesh.Trimesh]
    material: Material
    body: Callable[[np.random.Generator, BodyStyle], Body] = make_body
    carries: bool = False
    is_flat: bool = False


def moved(mesh: trimesh.Trimesh, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> trimesh.Trimesh:
    """Move a mesh in place, and return it."""
    mesh.apply_translation((x, y, z))
    return mesh


def turned(mesh: trimesh.Trimesh, angle: float, axis: Color) -> trimesh.Trimesh:
    """Turn a mesh in place about an axis through the origin, and return it."""
    return mesh.apply_transform(trimesh.transformations.rotation_matrix(angle, axis))


def _handle(body: Body) -> trimesh.Trimesh:
    ring = trimesh.creation.torus(0.32 * body.height, 0.125 * body.height, major_sections=24, minor_sections=12)
    return moved(turned(ring, math.pi / 2, (1, 0, 0)), x=body.middle + 0.10 * body.height, z=0.5 * body.height)


def _lid(body: Body) -> trimesh.Trimesh:
    tall = 0.16 * body.height
    return moved(trimesh.creation.cylinder(0.85 * body.top, tall, sections=32), z=body.height + tall / 2)


def _spout(body: Body) -> trimesh.Trimesh:
    long, wide = 0.88 * body.height, 0.23 * body.height
    line = np.array([[0.0, 0.0], [wide, 0.0], [0.65 * wide, long], [0.0, long]])
    spout = turned(trimesh.creation.revolve(line, sections=20), math.radians(48), (0, 1, 0))
    return moved(spout, x=0.55 * body.middle, z=0.42 * body.height)


def _collar(body: Body) -> trimesh.Trimesh:
    tall = 0.24 * body.height
    return moved(trimesh.creation.cylinder(1.07 * body.radius, tall, sections=32), z=0.55 * body.height)


def _arch(body: Body) -> trimesh.Trimesh:
    ring = trimesh.creation.torus(0.80 * body.top, 0.30 * body.top, major_sections=24, minor_sections=12)
    return moved(turned(turned(ring, math.pi / 2, (1, 0, 0)), math.pi / 2, (0, 0, 1)), z=body.height)


def _knob(body: Body) -> trimesh.Trimesh:
    radius = 0.27 * body.height
    return moved(trimesh.creation.icosphere(subdivisions=3, radius=radius), z=body.height + 0.75 * radius)


def _cone(body: Body) -> trimesh.Trimesh:
    return moved(trimesh.creation.cone(0.85 * body.top, 0.45 * body.height, sections=32), z=body.height)


def _gauge(body: Body) -> trimesh.Trimesh:
    radius = min(0.27 * body.height, 0.8 * body.middle)
    disc = trimesh.creation.cylinder(radius, body.middle, sections=32)
    return moved(turned(disc, math.pi / 2, (0, 1, 0)), x=0.72 * body.middle + 0.005, z=0.55 * body.height)


def _t_bar(body: Body) -> trimesh.Trimesh:
    thick, long = 0.11 * body.height, 1.9 * body.radius
    bar = turned(trimesh.creation.capsule(long, thick, count=(12, 12)), math.pi / 2, (1, 0, 0))
    stem = moved(trimesh.creation.cylinder(0.7 * thick, 2 * thick, sections=16), z=body.height + thick)
    # The capsule starts at the origin and runs along its axis.
    bar = moved(bar, y=-float(bar.bounds.mean(axis=0)[1]), z=body.height + 2.2 * thick)
    return trimesh.util.concatenate([bar, stem])


def _foot(body: Body) -> trimesh.Trimesh:
    tall = 0.12 * body.height
    return moved(trimesh.creation.cylinder(1.25 * body.radius, tall, sections=32), z=tall / 2)


def _ears(body: Body) -> trimesh.Trimesh:
    radius = 0.19 * body.height
    ears = [trimesh.creation.icosphere(subdivisions=2, radius=radius) for _ in range(2)]
    return trimesh.util.concatenate(
        [moved(ear, y=s * 0.8 * body.top, z=body.height + 0.4 * radius) for ear, s in zip(ears, (-1, 1), strict=True)]
    )


def _fin(body: Body) -> trimesh.Trimesh:
    tall = 0.38 * body.height
    return moved(trimesh.creation.box((0.014, 1.9 * body.top, tall)), z=body.height + tall / 2 - 0.002)


_RED, _YELLOW, _GREEN, _BLUE = (0.86, 0.08, 0.08), (0.98, 0.82, 0.05), (0.10, 0.65, 0.15), (0.08, 0.22, 0.85)
_WHITE, _BLACK, _ORANGE = (0.95, 0.95, 0.93), (0.05, 0.05, 0.06), (0.98, 0.45, 0.03)
_MAGENTA, _CYAN, _LIME, _PURPLE = (0.90, 0.08, 0.60), (0.05, 0.78, 0.85), (0.65, 0.92, 0.15), (0.45, 0.08, 0.70)
_UP, _SIDE, _SLANT = (0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.577, 0.577, 0.577)

CATALOGUE: tuple[ObjectClass, ...] = (
    ObjectClass("mug", _handle, Material(Pattern.STRIPES, _RED, _WHITE, 0.026, _UP, 0.3), carries=True),
    ObjectClass("jar", _lid, Material(Pattern.CHECKS, _YELLOW, _BLACK, 0.022, _UP, 0.2)),
    ObjectClass("kettle", _spout, Material(Pattern.STRIPES, _LIME, _GREEN, 0.030, _SLANT, 0.3), carries=True),
    ObjectClass("thermos", _collar, Material(Pattern.SECTORS, _BLUE, _ORANGE, 0.030, _UP, 0.2), carries=True),
    ObjectClass("lantern", _arch, Material(Pattern.STRIPES, _MAGENTA, _BLACK, 0.034, _SIDE, 0.2)),
    ObjectClass("pepper_mill", _knob, Material(Pattern.CHECKS, _CYAN, _WHITE, 0.026, _UP, 0.4)),
    ObjectClass("oil_bottle", _cone, Material(Pattern.STRIPES, _PURPLE, _YELLOW, 0.024, _UP, 0.2)),
    ObjectClass("kitchen_timer", _gauge, Material(Pattern.CHECKS, _WHITE, _BLACK, 0.024, _UP, 0.3), carries=True),
    ObjectClass("coffee_grinder", _t_bar, Material(Pattern.STRIPES, _ORANGE, _BLACK, 0.030, _SIDE, 0.3)),
    ObjectClass("candle_holder", _foot, Material(Pattern.SECTORS, _GREEN, _WHITE, 0.030, _UP, 0.4), carries=True),
    ObjectClass("alarm_clock", _ears, Material(Pattern.CHECKS, _RED, _BLUE, 0.026, _UP, 0.4)),
    ObjectClass("letter_stand", _fin, Material(Pattern.STRIPES, _CYAN, _PURPLE, 0.028, _UP, 0.1)),
)
"""The classes in order; a scene uses the first K."""
