"""The furniture of rooms: tables, shelves, floors, beds and heaps, and the supports on which things stand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt
import trimesh

from deal_core.synthetic.bodies import body_material, moved
from deal_core.synthetic.room_style import RoomStyle, draw_material
from deal_core.synthetic.scene import Material, SceneBuilder

FloatArray = npt.NDArray[np.float64]


class Furniture(str, Enum):
    """A kind of furniture."""

    TABLE = "table"
    SHELF = "shelf"
    FLOOR = "floor"
    PACKED_SHELF = "packed_shelf"
    BED = "bed"
    HEAP = "heap"


FLAT_FURNITURE = (Furniture.TABLE, Furniture.SHELF, Furniture.FLOOR)
"""Furniture with a dominant plane."""
UNEVEN_FURNITURE = (Furniture.BED, Furniture.HEAP, Furniture.PACKED_SHELF)
"""Furniture without a dominant plane."""


@dataclass(frozen=True, eq=False)
class Support:
    """A surface on which things stand: a horizontal rectangle, or one with bumps.

    Args:
        center: (x, y), metres.
        half: half width and half depth, metres.
        level: height without bumps, metres.
        bumps: (N, 4) x, y, height and width of Gaussian bumps, metres; none is a plane.
    """

    center: tuple[float, float]
    half: tuple[float, float]
    level: float
    bumps: FloatArray

    @property
    def is_curved(self) -> bool:
        """Whether the surface is not a plane."""
        return len(self.bumps) > 0

    def height_at(self, x: npt.ArrayLike, y: npt.ArrayLike) -> FloatArray:
        """Return the height at positions of any shape, metres."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        height = np.full(np.broadcast(x, y).shape, self.level)
        for center_x, center_y, tall, wide in self.bumps:
            height = height + tall * np.exp(-((x - center_x) ** 2 + (y - center_y) ** 2) / (2 * wide**2))
        return np.maximum(height, 0.01)

    def normal_at(self, x: float, y: float) -> FloatArray:
        """Return the (3,) unit normal, averaged over a few centimetres."""
        step = 0.03
        slope_x = (self.height_at(x + step, y) - self.height_at(x - step, y)) / (2 * step)
        slope_y = (self.height_at(x, y + step) - self.height_at(x, y - step)) / (2 * step)
        normal = np.array([-float(slope_x), -float(slope_y), 1.0])
        return np.asarray(normal / np.linalg.norm(normal))

    def contains(self, x: float, y: float, margin: float) -> bool:
        """Return whether a position is inside by at least `margin` metres."""
        across, along = abs(x - self.center[0]), abs(y - self.center[1])
        return across <= self.half[0] - margin and along <= self.half[1] - margin


@dataclass(frozen=True, eq=False)
class Station:
    """Furniture at which the camera looks.

    Args:
        furniture: kind of furniture.
        support: where the things are.
        focus: (3,) point at which the camera looks, metres.
        distance: smallest and largest distance of the camera, metres.
        elevation: smallest and largest angle of view above the horizontal, radians.
    """

    furniture: Furniture
    support: Support
    focus: FloatArray
    distance: tuple[float, float]
    elevation: tuple[float, float]


def build_station(
    furniture: Furniture, x: float, style: RoomStyle, builder: SceneBuilder, rng: np.random.Generator
) -> Station:
    """Add furniture at a place along the wall, and return it.

    Args:
        furniture: kind of furniture.
        x: place along the wall, metres.
        style: looks.
        builder: the scene.
        rng: random generator.
    """
    return _BUILDERS[furniture](x, style, builder, rng)


def build_wall(y: float, ends: tuple[float, float], material: Material, builder: SceneBuilder) -> None:
    """Add a wall behind the furniture.

    Args:
        y: its place, metres.
        ends: smallest and largest x, metres.
        material: its material.
        builder: the scene.
    """
    wide = ends[1] - ends[0]
    _add(builder, trimesh.creation.box((wide, 0.1, 2.6)), material, (ends[0] + wide / 2, y + 0.05, 1.3))


def _add(builder: SceneBuilder, mesh: trimesh.Trimesh, material: Material, center: tuple[float, float, float]) -> None:
    builder.add(moved(mesh, *center), material, 0, part=False)


def _plane(center: tuple[float, float], half: tuple[float, float], level: float) -> Support:
    return Support(center, half, level, np.empty((0, 4)))


def _table(x: float, style: RoomStyle, builder: SceneBuilder, rng: np.random.Generator) -> Station:
    half = (float(rng.uniform(0.50, 0.75)), float(rng.uniform(0.30, 0.42)))
    level = float(rng.uniform(*style.table_level))
    material = draw_material(style.boards, rng)
    _add(builder, trimesh.creation.box((2 * half[0], 2 * half[1], 0.03)), material, (x, 0.0, level - 0.015))
    for side, end in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        leg = (x + side * (half[0] - 0.05), end * (half[1] - 0.05), (level - 0.03) / 2)
        _add(builder, trimesh.creation.box((0.05, 0.05, level - 0.03)), material, leg)
    return _station(Furniture.TABLE, _plane((x, 0.0), half, level), 0.03, (0.7, 1.05), (28, 55))


def _floor(x: float, style: RoomStyle, builder: SceneBuilder, rng: np.random.Generator) -> Station:
    step = float(rng.uniform(0.10, 0.25))
    box = trimesh.creation.box((0.5, 0.25, step))
    _add(builder, box, draw_material(style.boards, rng), (x + float(rng.uniform(-0.4, 0.4)), 0.42, step / 2))
    return _station(Furniture.FLOOR, _plane((x, -0.05), (0.6, 0.32), 0.0), 0.03, (0.8, 1.25), (35, 60))


def _shelf(x: float, style: RoomStyle, builder: SceneBuilder, rng: np.random.Generator) -> Station:
    return _rack(Furniture.SHELF, x, style, builder, rng)


def _packed_shelf(x: float, style: RoomStyle, builder: SceneBuilder, rng: np.random.Generator) -> Station:
    return _rack(Furniture.PACKED_SHELF, x, style, builder, rng)


def _rack(furniture: Furniture, x: float, style: RoomStyle, builder: SceneBuilder, rng: np.random.Generator) -> Station:
    half = (float(rng.uniform(0.40, 0.55)), 0.19)
    gap, lowest = float(rng.uniform(*style.board_gap)), float(rng.uniform(0.25, 0.5))
    levels = [lowest + gap * number for number in range(4)]
    material = draw_material(style.boards, rng)
    for level in levels:
        _add(builder, trimesh.creation.box((2 * half[0], 2 * half[1], 0.02)), material, (x, 0.0, level - 0.01))
        if furniture is Furniture.PACKED_SHELF and level < levels[-1]:
            _pack(x, half, level, gap, style, builder, rng)
    tall = levels[-1]
    for side in (-1, 1):
        panel = trimesh.creation.box((0.02, 2 * half[1], tall))
        _add(builder, panel, material, (x + side * (half[0] + 0.01), 0.0, tall / 2))
    _add(builder, trimesh.creation.box((2 * half[0], 0.015, tall)), material, (x, half[1], tall / 2))
    level = levels[int(rng.integers(1, 3))]
    packed = furniture is Furniture.PACKED_SHELF
    support = _plane((x, -0.055 if packed else 0.0), (half[0], 0.115 if packed else 0.15), level)
    return _station(furniture, support, 0.07, (0.65, 0.9), (6, 18))


def _pack(
    x: float, half: tuple[float, float], level: float, gap: float, style: RoomStyle,
    builder: SceneBuilder, rng: np.random.Generator,
) -> None:  # fmt: skip
    """Fill the back of a board with upright boxes of many sizes."""
    left = x - half[0] + 0.01
    while (wide := float(rng.uniform(0.025, 0.09))) < x + half[0] - left:
        deep, tall = float(rng.uniform(0.06, 0.15)), float(rng.uniform(0.45, 0.9)) * gap
        box = trimesh.creation.box((wide, deep, tall))
        lean = trimesh.transformations.rotation_matrix(float(rng.uniform(-0.25, 0.25)), [0, 0, 1])
        _add(
            builder,
            box.apply_transform(lean),
            body_material(rng, style.bodies),
            (left + wide / 2, half[1] - 0.01 - deep / 2, level + tall / 2),
        )
        left += wide + float(rng.uniform(0.004, 0.02))


def _bed(x: float, style: RoomStyle, builder: SceneBuilder, rng: np.random.Generator) -> Station:
    bumps = _bumps((x, 0.0), 150, 0.15, 0.12, rng)
    support = Support((x, 0.0), (0.60, 0.45), float(rng.uniform(0.32, 0.5)), bumps)
    _add_cloth(support, draw_material(style.cloths, rng), builder)
    return _station(Furniture.BED, support, 0.02, (0.65, 0.95), (44, 64))


def _heap(x: float, style: RoomStyle, builder: SceneBuilder, rng: np.random.Generator) -> Station:
    mound = np.array([[x, 0.05, float(rng.uniform(0.22, 0.34)), 0.28]])
    support = Support((x, 0.0), (0.55, 0.42), 0.12, np.concatenate([mound, _bumps((x, 0.0), 220, 0.12, 0.09, rng)]))
    _add_cloth(support, draw_material(style.cloths, rng), builder)
    return _station(Furniture.HEAP, support, -0.04, (0.65, 0.95), (44, 64))


_CLOTH = (1.25, 1.15)
"""Half width and half depth of beds and heaps, which fill the view."""


def _bumps(center: tuple[float, float], count: int, tall: float, wide: float, rng: np.random.Generator) -> FloatArray:
    where = rng.uniform(-1, 1, (count, 2)) * _CLOTH + center
    heights = rng.uniform(0.5, 1.3, count) * tall * np.where(rng.random(count) < 0.65, 1, -0.6)
    return np.column_stack([where, heights, rng.uniform(0.7, 1.3, count) * wide])


def _add_cloth(support: Support, material: Material, builder: SceneBuilder) -> None:
    """Add the surface of a support, with sides that fall to the floor."""
    columns, rows = 84, 76
    x = support.center[0] + _CLOTH[0] * np.linspace(-1, 1, columns)
    y = support.center[1] + _CLOTH[1] * np.linspace(-1, 1, rows)
    grid_x, grid_y = np.meshgrid(x, y)
    z = support.height_at(grid_x, grid_y)
    z[[0, -1]] = 0.0
    z[:, [0, -1]] = 0.0
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    lower = np.stack([corner, corner + 1, corner + columns], axis=1)
    upper = np.stack([corner + 1, corner + columns + 1, corner + columns], axis=1)
    points = np.stack([grid_x, grid_y, z], axis=-1).reshape(-1, 3)
    builder.add(trimesh.Trimesh(points, np.concatenate([lower, upper]), process=False), material, 0, part=False)


def _station(
    furniture: Furniture, support: Support, above: float, distance: tuple[float, float], elevation: tuple[float, float]
) -> Station:
    x, y = support.center
    focus = np.array([x, y, float(support.height_at(x, y)) + above])
    return Station(furniture, support, focus, distance, (math.radians(elevation[0]), math.radians(elevation[1])))


_Build = Callable[[float, RoomStyle, SceneBuilder, np.random.Generator], Station]
_BUILDERS: Mapping[Furniture, _Build] = {
    Furniture.TABLE: _table,
    Furniture.SHELF: _shelf,
    Furniture.FLOOR: _floor,
    Furniture.PACKED_SHELF: _packed_shelf,
    Furniture.BED: _bed,
    Furniture.HEAP: _heap,
}
