"""The world of tabletops: objects, printed pictures, light and the camera's path, all from one seed.

An object is a body and a part. Bodies (shapes, sizes, colours, patterns) are drawn from the same distribution for all
classes; the part (a handle, a lid, a spout) makes it a mug, a jar or a kettle, and covers about a quarter of the
object. So a network that learns from image-level tags finds the part, while depth shows the whole object.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import trimesh

from deal_core.synthetic.bodies import CATALOGUE, body_material, make_body, shade
from deal_core.synthetic.path import between, look_at, spherical, wander
from deal_core.synthetic.scene import CameraPose, Color, Material, Pattern, Placed, Print, Scene, SceneBuilder, clouds

_TABLES: tuple[tuple[Pattern, Color, Color, float], ...] = (
    (Pattern.WOOD, (0.72, 0.55, 0.38), (0.58, 0.41, 0.26), 0.06),
    (Pattern.WOOD, (0.45, 0.31, 0.21), (0.34, 0.22, 0.15), 0.05),
    (Pattern.WOOD, (0.86, 0.77, 0.63), (0.77, 0.66, 0.51), 0.08),
    (Pattern.MARBLE, (0.80, 0.79, 0.77), (0.66, 0.66, 0.66), 0.20),
    (Pattern.MARBLE, (0.36, 0.38, 0.40), (0.27, 0.29, 0.31), 0.15),
    (Pattern.WEAVE, (0.62, 0.66, 0.68), (0.74, 0.76, 0.75), 0.035),
    (Pattern.WEAVE, (0.50, 0.40, 0.37), (0.60, 0.52, 0.47), 0.05),
    (Pattern.SOLID, (0.55, 0.60, 0.57), (0.5, 0.5, 0.5), 0.1),
)


class Tabletop(Scene):
    """A scene whose ground is the table."""


@dataclass(frozen=True)
class TabletopSize:
    """Numbers of things on a table, as (lowest, highest), both included.

    Args:
        objects: number of objects.
        classes: number of different classes among them.
        prints: number of flat pictures.
    """

    objects: tuple[int, int]
    classes: tuple[int, int]
    prints: tuple[int, int]


def make_tabletop(num_classes: int, size: TabletopSize, rng: np.random.Generator) -> Tabletop:
    """Return a random tabletop.

    Args:
        num_classes: K; the first K classes of `CATALOGUE` are used.
        size: numbers of things on the table.
        rng: random generator.
    """
    builder = SceneBuilder(_table_material(rng))
    placed = _place_objects(_draw_classes(num_classes, size, rng), builder, rng)
    prints = tuple(_draw_print(num_classes, rng) for _ in range(rng.integers(size.prints[0], size.prints[1] + 1)))
    azimuth, height = rng.uniform(0, 2 * math.pi), rng.uniform(math.radians(40), math.radians(70))
    towards_light = spherical(azimuth, height)
    warmth = rng.uniform(-0.08, 0.08)
    strength = rng.uniform(0.55, 0.85)
    return Tabletop(
        **builder.arrays(),
        materials=tuple(builder.materials),
        objects=placed,
        prints=prints,
        light_direction=towards_light,
        light_color=np.array([1 + warmth, 1.0, 1 - warmth], np.float32) * np.float32(strength),
        ambient=float(rng.uniform(0.35, 0.55)),
        clouds=clouds(rng),
    )


def camera_path(
    frames: int, distance: tuple[float, float], elevation: tuple[float, float], rng: np.random.Generator
) -> list[CameraPose]:
    """Return the poses of a hand-held camera that moves around the table, looking at its middle.

    Args:
        frames: number of poses.
        distance: smallest and largest distance to the middle of the table, metres.
        elevation: smallest and largest angle of view above the table, radians.
        rng: random generator.

    Azimuth stays within 40 degrees of 0 (the world's -y side), the side of the objects' parts.
    """
    time = np.linspace(0.0, 1.0, frames) if frames > 1 else np.array([0.5])
    azimuths = math.radians(40) * wander(time, rng)
    distances = between(distance, wander(time, rng))
    elevations = between(elevation, wander(time, rng))
    rolls = math.radians(4) * wander(time, rng)
    targets = np.stack([0.05 * wander(time, rng), 0.04 * wander(time, rng), np.full(frames, 0.04)], axis=1)
    return [
        look_at(target, float(azimuth), float(height), float(far), float(roll))
        for target, azimuth, height, far, roll in zip(targets, azimuths, elevations, distances, rolls, strict=True)
    ]


def _draw_classes(num_classes: int, size: TabletopSize, rng: np.random.Generator) -> list[int]:
    """Return one class id per object; at least one object of each class drawn."""
    count = int(rng.integers(size.objects[0], size.objects[1] + 1))
    most = min(size.classes[1], count, num_classes)
    kinds = rng.permutation(num_classes)[: int(rng.integers(min(size.classes[0], most), most + 1))] + 1
    rest = rng.choice(kinds, count - len(kinds))
    return [int(k) for k in rng.permutation(np.concatenate([kinds, rest]))]


def _place_objects(class_ids: list[int], builder: SceneBuilder, rng: np.random.Generator) -> tuple[Placed, ...]:
    placed: list[Placed] = []
    for class_id in class_ids:
        kind = CATALOGUE[class_id - 1]
        body = make_body(rng)
        reach = body.radius * 1.35
        x, y = _free_spot(placed, reach, rng)
        # The part faces the camera's side, so that most views show it.
        yaw = -math.pi / 2 + float(rng.uniform(-1, 1)) * math.radians(75)
        index = len(placed) + 1
        pose = trimesh.transformations.rotation_matrix(yaw, [0, 0, 1])
        pose[:3, 3] = x, y, 0.0
        builder.add(body.mesh.copy().apply_transform(pose), body_material(rng), index, part=False)
        builder.add(kind.part(body).apply_transform(pose), kind.material, index, part=True)
        placed.append(Placed(class_id, x, y, yaw, body.radius))
    return tuple(placed)


def _free_spot(placed: list[Placed], reach: float, rng: np.random.Generator) -> tuple[float, float]:
    """Return a free spot near the middle; the search area grows until there is one."""
    for attempt in range(10_000):
        spread = 0.13 + 0.002 * attempt
        x, y = rng.uniform(-spread, spread), rng.uniform(-0.8 * spread, 0.8 * spread)
        if all(math.hypot(x - other.x, y - other.y) > reach + 1.35 * other.footprint for other in placed):
            return float(x), float(y)
    raise AssertionError("a growing circle always finds room")


def _table_material(rng: np.random.Generator) -> Material:
    pattern, first, second, period = _TABLES[int(rng.integers(len(_TABLES)))]
    angle = rng.uniform(0, math.pi)
    axis = (math.cos(angle), math.sin(angle), 0.0)
    return Material(pattern, shade(first, rng), shade(second, rng), period * float(rng.uniform(0.8, 1.3)), axis)


def _draw_print(num_classes: int, rng: np.random.Generator) -> Print:
    """Return a picture of an object: a body's material, and a plain patch in the colour of some class's part."""
    part = CATALOGUE[int(rng.integers(num_classes))].material
    white = float(rng.uniform(0.75, 0.95))
    paper = Material(Pattern.SOLID, (white, white, white * float(rng.uniform(0.9, 1.0))), (white, white, white))
    accent = Material(Pattern.SOLID, part.first, part.second) if rng.random() < 0.5 else body_material(rng)
    return Print(
        (float(rng.uniform(-0.26, 0.26)), float(rng.uniform(-0.2, 0.24))),
        float(rng.uniform(0, 2 * math.pi)),
        (float(rng.uniform(0.04, 0.09)), float(rng.uniform(0.05, 0.1))),
        paper,
        body_material(rng),
        accent,
        int(rng.integers(3)),
    )
