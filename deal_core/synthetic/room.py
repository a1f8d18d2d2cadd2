"""One room: its furniture, the things in it, its light, and the camera's way through it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from deal_core.synthetic.bodies import ObjectClass
from deal_core.synthetic.furniture import (
    FLAT_FURNITURE,
    UNEVEN_FURNITURE,
    FloatArray,
    Furniture,
    Station,
    build_station,
    build_wall,
)
from deal_core.synthetic.path import look_at, spherical, wander
from deal_core.synthetic.room_style import RoomStyle, draw_material
from deal_core.synthetic.scene import CameraPose, Color, Material, Scene, SceneBuilder, clouds
from deal_core.synthetic.things import Arrangement, RoomObject, Thing, make_clutter, make_look_alike, make_thing


class Difficulty(str, Enum):
    """What can make a room hard."""

    TOUCHING = "touching"
    """Things of different classes touch."""
    CLUTTER = "clutter"
    """Objects of no class stand between the things."""
    NO_PLANE = "no-plane"
    """No plane dominates the view: beds, heaps, packed shelves."""
    HOLES = "holes"
    """Rings without depth around near things, and dark and shiny things without depth."""
    SMALL = "small"
    """The camera is far away."""
    FLAT = "flat"
    """Some classes are flat and thin things."""
    LOOK_ALIKES = "look-alikes"
    """Objects of no class have the bodies of things and the colours of their parts."""
    STACKED = "stacked"
    """Things stand on each other."""


@dataclass(frozen=True)
class RoomPlan:
    """What to put into a room.

    Args:
        kinds: the K classes in order.
        difficulties: what makes the room hard.
        co_occurring: whether pairs of classes (1 and 2, 3 and 4, ...) are nearly always together.
        style: looks.
    """

    kinds: tuple[ObjectClass, ...]
    difficulties: frozenset[Difficulty]
    co_occurring: bool
    style: RoomStyle

    def has(self, difficulty: Difficulty) -> bool:
        """Return whether the room has a difficulty."""
        return difficulty in self.difficulties


@dataclass(frozen=True, eq=False)
class Room(Scene):
    """A scene with furniture along a wall.

    Args:
        objects: the objects in the room.
        stations: the furniture at which the camera looks, in order.
    """

    objects: tuple[RoomObject, ...]
    stations: tuple[Station, ...]


def make_room(plan: RoomPlan, rng: np.random.Generator) -> Room:
    """Return a random room."""
    style = plan.style
    builder = SceneBuilder(draw_material(style.boards, rng))
    stations = _furnish(plan, builder, rng)
    if plan.has(Difficulty.HOLES):
        builder.materials[:] = [_unmatched(look, 0.15, rng) for look in builder.materials]
    arrangement = Arrangement(builder, rng)
    for station in stations:
        _fill(station, plan, arrangement, rng)
    # The light comes from the side of the camera, so that the wall does not shade the room.
    light = spherical(-math.pi / 2 + float(rng.uniform(-1, 1)), float(rng.uniform(*style.light_height)))
    warmth, strength = float(rng.uniform(*style.warmth)), np.float32(rng.uniform(*style.light))
    return Room(
        **builder.arrays(),
        materials=tuple(builder.materials),
        objects=tuple(arrangement.objects),
        prints=(),
        light_direction=light,
        light_color=np.array([1 + warmth, 1.0, 1 - warmth], np.float32) * strength,
        ambient=float(rng.uniform(*style.ambient)),
        clouds=clouds(rng),
        stations=stations,
    )


def sweep(room: Room, plan: RoomPlan, frames: int, rng: np.random.Generator) -> list[CameraPose]:
    """Return the poses of a hand-held camera that goes from the first station to the last.

    Args:
        room: the room.
        plan: what is in it.
        frames: number of poses.
        rng: random generator.
    """
    style, stations = plan.style, room.stations
    is_far = plan.has(Difficulty.SMALL) and (len(plan.difficulties) == 1 or rng.random() < 0.35)
    time = np.linspace(0.0, 1.0, frames) if frames > 1 else np.array([0.5])
    progress = time * (len(stations) - 1)
    here = np.minimum(progress.astype(int), max(len(stations) - 2, 0))
    ahead = np.minimum(here + 1, len(stations) - 1)
    share = np.clip((progress - here - 0.3) / 0.4, 0.0, 1.0)
    share = share**2 * (3 - 2 * share)

    def along(values: Sequence[float]) -> FloatArray:
        at = np.asarray(values, np.float64)
        return np.asarray(at[here] * (1 - share) + at[ahead] * share)

    ranges = [_FAR[station.furniture] if is_far else station.distance for station in stations]
    distance = style.nearness * along([float(rng.uniform(*ends)) for ends in ranges]) * (1 + 0.15 * wander(time, rng))
    elevation = along([float(rng.uniform(*station.elevation)) for station in stations]) + style.steepness
    elevation += math.radians(4) * wander(time, rng)
    azimuth, roll = style.swing * wander(time, rng), math.radians(5) * wander(time, rng)
    shift = np.stack([0.10 * wander(time, rng), 0.05 * wander(time, rng), np.zeros(frames)], axis=1)
    focus = np.stack([along([float(station.focus[axis]) for station in stations]) for axis in range(3)], axis=1)
    return [
        look_at(target, float(turn), float(height), float(far), float(lean))
        for target, turn, height, far, lean in zip(focus + shift, azimuth, elevation, distance, roll, strict=True)
    ]


_FAR: Mapping[Furniture, tuple[float, float]] = {
    Furniture.TABLE: (1.1, 1.6),
    Furniture.SHELF: (1.0, 1.4),
    Furniture.FLOOR: (1.2, 1.7),
    # Not so far that the room around them comes into view.
    Furniture.PACKED_SHELF: (0.95, 1.1),
    Furniture.BED: (1.0, 1.3),
    Furniture.HEAP: (1.0, 1.2),
}
_HALF_WIDTH: Mapping[Furniture, float] = {
    Furniture.TABLE: 0.75,
    Furniture.SHELF: 0.57,
    Furniture.FLOOR: 0.65,
    Furniture.PACKED_SHELF: 0.57,
    Furniture.BED: 1.25,
    Furniture.HEAP: 1.25,
}


def _furnish(plan: RoomPlan, builder: SceneBuilder, rng: np.random.Generator) -> tuple[Station, ...]:
    many = len(plan.difficulties) > 1
    uneven = plan.has(Difficulty.NO_PLANE) and (not many or rng.random() < 0.5)
    choice = UNEVEN_FURNITURE if uneven else FLAT_FURNITURE if many else (Furniture.TABLE,)
    kinds = [choice[int(n)] for n in rng.permutation(len(choice))[: 2 if many else 1]]
    stations, left = [], 0.0
    for kind in kinds:
        stations.append(build_station(kind, left + _HALF_WIDTH[kind], plan.style, builder, rng))
        left += 2 * _HALF_WIDTH[kind] + 0.1
    # Behind uneven furniture the wall is far away, so that it is no dominant plane.
    build_wall(3.0 if uneven else 0.55, (-3.0, left + 3.0), draw_material(plan.style.walls, rng), builder)
    return tuple(stations)


def _fill(station: Station, plan: RoomPlan, arrangement: Arrangement, rng: np.random.Generator) -> None:
    """Put things, look-alikes and clutter onto a station."""
    many = len(plan.difficulties) > 1
    for class_id in _draw_classes(plan, (3, 5) if many else (2, 4), rng):
        thing = _treated(make_thing(plan.kinds[class_id - 1], class_id, plan.style, rng), plan, rng)
        placed = False
        if plan.has(Difficulty.STACKED) and rng.random() < 0.6:
            tops = [top for top in arrangement.free_tops() if arrangement.objects[top - 1].class_id != class_id]
            placed = any(arrangement.put_on(thing, top) for top in reversed(tops))
        if not placed and plan.has(Difficulty.TOUCHING) and rng.random() < 0.85:
            others = arrangement.things_on(station.support, except_class=class_id)
            placed = any(arrangement.put_beside(thing, station.support, other) for other in others)
        if not placed:
            arrangement.put(thing, station.support, clearance=0.03)
    extras: list[Thing] = []
    if plan.has(Difficulty.LOOK_ALIKES):
        extras += [make_look_alike(plan.style, rng) for _ in range(rng.integers(1, 4))]
    if plan.has(Difficulty.CLUTTER):
        extras += [make_clutter(plan.style, rng) for _ in range(rng.integers(5, 10))]
    for extra in extras:
        arrangement.put(_treated(extra, plan, rng), station.support, clearance=0.008)


def _draw_classes(plan: RoomPlan, count: tuple[int, int], rng: np.random.Generator) -> list[int]:
    """Return one class id per thing, those first on which others can stand."""
    total = len(plan.kinds)
    mixed = plan.has(Difficulty.TOUCHING) or plan.has(Difficulty.STACKED)
    order = [int(k) for k in rng.permutation(total) + 1]
    chosen = set(order[: rng.integers(2 if mixed else 1, 4)])
    carriers = [k for k in order if plan.kinds[k - 1].carries]
    if plan.has(Difficulty.STACKED) and carriers:
        chosen.add(carriers[0])
    if plan.co_occurring:
        partners = {k + 1 if k % 2 else k - 1 for k in chosen if rng.random() < 0.95}
        chosen |= {k for k in partners if k <= total}
    rest = rng.choice(sorted(chosen), max(0, int(rng.integers(count[0], count[1] + 1)) - len(chosen)))
    ids = [int(k) for k in rng.permutation([*sorted(chosen), *rest])]
    return sorted(ids, key=lambda k: not plan.kinds[k - 1].carries) if plan.has(Difficulty.STACKED) else ids


def _treated(thing: Thing, plan: RoomPlan, rng: np.random.Generator) -> Thing:
    """Make some things dark or shiny, so that the stereo camera finds few matches on them."""
    if not plan.has(Difficulty.HOLES):
        return thing
    kind = rng.random()
    solids = []
    for mesh, look, is_part in thing.solids:
        if kind < 0.25 and not is_part:
            look = replace(look, first=_darker(look.first), second=_darker(look.second), match_loss=0.85)
        elif kind < 0.45:
            look = replace(look, gloss=0.9, match_loss=0.5)
        solids.append((mesh, look, is_part))
    return replace(thing, solids=tuple(solids))


def _unmatched(look: Material, most: float, rng: np.random.Generator) -> Material:
    return replace(look, match_loss=float(rng.uniform(0, most)))


def _darker(color: Color) -> Color:
    return 0.2 * color[0], 0.2 * color[1], 0.2 * color[2]
