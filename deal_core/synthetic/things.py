"""Things in rooms: objects of a class, look-alikes, and clutter of no class; and how they are placed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

import cv2
import numpy as np
import trimesh

from deal_core.synthetic.bodies import ObjectClass, body_material, make_body, moved, turned
from deal_core.synthetic.furniture import FloatArray, Support
from deal_core.synthetic.room_style import RoomStyle
from deal_core.synthetic.scene import Material, Pattern, Placed, SceneBuilder


class Role(str, Enum):
    """What an object is for the tags."""

    THING = "thing"
    """An object of a class."""
    LOOK_ALIKE = "look_alike"
    """An object of no class with the body of a thing, and with a patch in the colours of a telling part."""
    CLUTTER = "clutter"
    """An object of no class that does not look like a thing."""


@dataclass(frozen=True, eq=False)
class RoomObject(Placed):
    """An object in a room.

    Args:
        role: what it is for the tags.
        is_flat: whether its class is one of flat and thin things.
        on_curved: whether its support is not a plane.
        touches: the object that it touches, counted from 1; 0 is none.
        carrier: the object on which it stands, counted from 1; 0 is furniture or the ground.
    """

    role: Role = Role.THING
    is_flat: bool = False
    on_curved: bool = False
    touches: int = 0
    carrier: int = 0


@dataclass(frozen=True, eq=False)
class Thing:
    """An object at the origin, before it has a place.

    Args:
        solids: meshes with their materials, and whether each is the telling part.
        class_id: id of its class, 0 for none.
        role: what it is for the tags.
        top: height and radius of the flat top on which another thing can stand, metres; radius 0 is none.
        is_flat: whether its class is one of flat and thin things.
    """

    solids: tuple[tuple[trimesh.Trimesh, Material, bool], ...]
    class_id: int
    role: Role
    top: tuple[float, float] = (0.0, 0.0)
    is_flat: bool = False

    def scaled(self, factor: float) -> Thing:
        """Return a smaller or larger copy."""
        solids = tuple((mesh.copy().apply_scale(factor), look, part) for mesh, look, part in self.solids)
        return replace(self, solids=solids, top=(self.top[0] * factor, self.top[1] * factor))

    @cached_property
    def points(self) -> FloatArray:
        """(N, 3) vertices of all its meshes."""
        return np.concatenate([np.asarray(mesh.vertices, np.float64) for mesh, _, _ in self.solids])

    @cached_property
    def outline(self) -> FloatArray:
        """(M, 2) corners of its convex hull as seen from above."""
        return np.asarray(cv2.convexHull(self.points[:, :2].astype(np.float32))[:, 0], np.float64)


def make_thing(kind: ObjectClass, class_id: int, style: RoomStyle, rng: np.random.Generator) -> Thing:
    """Return an object of a class."""
    body = kind.body(rng, style.bodies)
    look = style.part_material(kind.material, class_id, rng)
    top = (body.height, body.top) if kind.carries else (0.0, 0.0)
    part = kind.part(body) if kind.is_flat else _enlarged(kind.part(body))
    solids = ((body.mesh, body_material(rng, style.bodies), False), (part, look, True))
    return Thing(solids, class_id, Role.THING, top, kind.is_flat)


def _enlarged(part: trimesh.Trimesh, factor: float = 1.2) -> trimesh.Trimesh:
    """Enlarge a part about its middle: things are smaller in the image than on tabletops."""
    middle = part.bounds.mean(axis=0)
    part = moved(moved(part, *-middle).apply_scale(factor), *middle)
    return moved(part, z=max(0.0, -float(part.bounds[0, 2])))


def make_look_alike(style: RoomStyle, rng: np.random.Generator) -> Thing:
    """Return an object of no class: the body of a thing, and a plain block in the colour of a part."""
    body = make_body(rng, style.bodies)
    size = float(rng.uniform(0.25, 0.4)) * body.height
    block = trimesh.creation.box((size, float(rng.uniform(1.0, 1.8)) * size, size))
    place = (0.85 * body.middle, 0.0, 0.5 * body.height) if rng.random() < 0.5 else (0.0, 0.0, body.height + 0.4 * size)
    look = Material(Pattern.SOLID, style.hue(rng), style.hue(rng))
    solids = ((body.mesh, body_material(rng, style.bodies), False), (moved(block, *place), look, False))
    return Thing(solids, 0, Role.LOOK_ALIKE)


def make_clutter(style: RoomStyle, rng: np.random.Generator) -> Thing:
    """Return an object of no class: a box, roll, ball, cone or slab."""
    size = float(rng.uniform(0.04, 0.13))
    shape = int(rng.integers(5))
    top = (0.0, 0.0)
    if shape == 0:
        sides = size * rng.uniform(0.5, 1.3, 3)
        mesh = moved(trimesh.creation.box(sides), z=float(sides[2]) / 2)
        top = (float(sides[2]), float(min(sides[:2])) / 2)
    elif shape == 1:
        radius = 0.35 * size
        roll = trimesh.creation.cylinder(radius, 1.6 * size, sections=24)
        mesh = moved(turned(roll, math.pi / 2, (1, 0, 0)), z=radius)
    elif shape == 2:
        mesh = moved(trimesh.creation.icosphere(subdivisions=3, radius=size / 2), z=size / 2)
    elif shape == 3:
        mesh = trimesh.creation.cone(0.5 * size, 1.1 * size, sections=24)
    else:
        sides = np.array([1.6, 1.1, 0.2]) * size
        mesh = moved(trimesh.creation.box(sides), z=float(sides[2]) / 2)
        top = (float(sides[2]), float(sides[1]) / 2)
    look = body_material(rng, style.bodies)
    if rng.random() < 0.15:
        look = replace(look, pattern=Pattern.SOLID, first=style.hue(rng))
    return Thing(((mesh, look, False),), 0, Role.CLUTTER, top)


class Arrangement:
    """Places things on supports, one after the other, so that they do not run into each other.

    Args:
        builder: the scene.
        rng: random generator.

    Attributes:
        objects: the placed objects.
    """

    def __init__(self, builder: SceneBuilder, rng: np.random.Generator) -> None:
        self.objects: list[RoomObject] = []
        self._builder = builder
        self._rng = rng
        self._things: list[Thing] = []
        self._outlines: list[FloatArray] = []
        self._poses: list[FloatArray] = []
        self._supports: list[Support] = []

    def put(self, thing: Thing, support: Support, *, clearance: float) -> bool:
        """Place a thing at a free spot near the middle of a support; return False if there is none."""
        for attempt in range(60):
            spread = min(1.0, 0.45 + 0.015 * attempt)
            across, along = self._rng.uniform(-spread, spread, 2) * support.half
            x, y = float(support.center[0] + across), float(support.center[1] + along)
            yaw = self._draw_yaw(thing)
            if self._is_free(self._outline(thing, x, y, yaw), support, clearance):
                self._add(thing, support, x, y, yaw)
                return True
        return False

    def put_beside(self, thing: Thing, support: Support, other: int) -> bool:
        """Place a thing so that it touches object `other` (counted from 1); return False if there is no room."""
        against = self._outlines[other - 1]
        center = against.mean(axis=0)
        for _ in range(24):
            yaw = self._draw_yaw(thing)
            # Side by side as the camera sees them, or one partly in front of the other.
            angle = float(self._rng.choice([0, math.pi])) + self._rng.uniform(-1, 1) * math.radians(50)
            direction = np.array([math.cos(angle), math.sin(angle)])
            outline = self._outline(thing, 0.0, 0.0, yaw)
            place = center + _touching_distance(against, outline, center, direction) * direction
            if self._is_free(outline + place, support, 0.0005):
                self._add(thing, support, float(place[0]), float(place[1]), yaw, touches=other)
                return True
        return False

    def put_on(self, thing: Thing, carrier: int) -> bool:
        """Place a thing on object `carrier` (counted from 1); return False if it is too large or something is there."""
        below = self._things[carrier - 1]
        height, radius = below.top
        reach = float(np.hypot(*thing.points[thing.points[:, 2] < 0.01][:, :2].T).max())
        if radius < 0.02 or any(placed.carrier == carrier for placed in self.objects):
            return False
        if reach > 1.15 * radius:
            thing = thing.scaled(max(0.5, 1.15 * radius / reach))
            if reach * max(0.5, 1.15 * radius / reach) > 1.5 * radius:
                return False
        yaw = self._draw_yaw(thing)
        pose = self._poses[carrier - 1] @ moved_pose(0, 0, height)
        base = self.objects[carrier - 1]
        pose = pose @ trimesh.transformations.rotation_matrix(yaw - base.yaw, [0, 0, 1])
        self._insert(thing, self._supports[carrier - 1], pose, yaw, carrier=carrier)
        return True

    def free_tops(self) -> list[int]:
        """Return the objects, counted from 1, on which another thing can stand."""
        taken = {placed.carrier for placed in self.objects}
        return [n for n, thing in enumerate(self._things, 1) if thing.top[1] >= 0.02 and n not in taken]

    def things_on(self, support: Support, *, except_class: int) -> list[int]:
        """Return the things of other classes that stand on a support, counted from 1, in random order."""
        found = [
            n
            for n, (placed, where) in enumerate(zip(self.objects, self._supports, strict=True), 1)
            if where is support and not placed.carrier and placed.class_id not in (0, except_class)
        ]
        return [int(n) for n in self._rng.permutation(found)]

    def _draw_yaw(self, thing: Thing) -> float:
        # The part faces the camera's side, so that most views show it; flat things show theirs from everywhere.
        half = math.pi if thing.is_flat else math.radians(75)
        return -math.pi / 2 + float(self._rng.uniform(-1, 1)) * half

    def _outline(self, thing: Thing, x: float, y: float, yaw: float) -> FloatArray:
        """Return the (N, 2) corners of the convex hull as seen from above."""
        cos, sin = math.cos(yaw), math.sin(yaw)
        return thing.outline @ np.array([[cos, sin], [-sin, cos]]) + np.array([x, y])

    def _is_free(self, outline: FloatArray, support: Support, clearance: float) -> bool:
        x, y = outline.mean(axis=0)
        half = (outline.max(axis=0) - outline.min(axis=0)) / 2
        if not support.contains(x, y, 0.75 * float(half.min())):
            return False
        return all(
            _gap(outline, other) >= clearance
            for other, where in zip(self._outlines, self._supports, strict=True)
            if where is support
        )

    def _add(self, thing: Thing, support: Support, x: float, y: float, yaw: float, touches: int = 0) -> None:
        pose = trimesh.transformations.rotation_matrix(yaw, [0, 0, 1])
        if support.is_curved:
            pose = _tilt(support.normal_at(x, y), math.radians(25)) @ pose
        points = thing.points @ pose[:3, :3].T + (x, y, 0.0)
        low = points[points[:, 2] <= np.quantile(points[:, 2], 0.3) + 1e-6]
        # Soft supports give way a little under the points that stand highest over them.
        gaps = support.height_at(low[:, 0], low[:, 1]) - low[:, 2]
        rise = float(np.quantile(gaps, 0.85 if support.is_curved else 1.0))
        pose[:3, 3] = x, y, rise
        self._insert(thing, support, pose, yaw, touches=touches)

    def _insert(
        self, thing: Thing, support: Support, pose: FloatArray, yaw: float, *, touches: int = 0, carrier: int = 0
    ) -> None:
        index = len(self.objects) + 1
        lowest = math.inf
        for mesh, look, is_part in thing.solids:
            solid = mesh.copy().apply_transform(pose)
            lowest = min(lowest, float(solid.bounds[0, 2]))
            self._builder.add(solid, look, index, part=is_part)
        x, y = float(pose[0, 3]), float(pose[1, 3])
        body = np.asarray(thing.solids[0][0].vertices)
        radius = float(np.hypot(body[:, 0], body[:, 1]).max())
        self._things.append(thing)
        self._poses.append(pose)
        self._supports.append(support)
        self._outlines.append(self._outline(thing, x, y, yaw))
        self.objects.append(
            RoomObject(
                thing.class_id, x, y, yaw, radius, lowest,
                thing.role, thing.is_flat, support.is_curved, touches, carrier,
            )
        )  # fmt: skip


def moved_pose(x: float, y: float, z: float) -> FloatArray:
    """Return the (4, 4) pose of a shift."""
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    return pose


def _tilt(normal: FloatArray, most: float) -> FloatArray:
    """Return the (4, 4) rotation of the vertical to a normal, by at most `most` radians."""
    axis = np.cross([0.0, 0.0, 1.0], normal)
    if np.linalg.norm(axis) < 1e-9:
        return np.eye(4)
    return np.asarray(trimesh.transformations.rotation_matrix(min(most, math.acos(min(1.0, normal[2]))), axis))


def _gap(first: FloatArray, second: FloatArray) -> float:
    """Return the largest distance of two convex outlines along the normals of their sides; negative if they overlap."""
    return max(_gap_along_sides(first, second), _gap_along_sides(second, first))


def _gap_along_sides(sides_of: FloatArray, other: FloatArray) -> float:
    side = np.roll(sides_of, -1, axis=0) - sides_of
    normal = np.stack([side[:, 1], -side[:, 0]], axis=1)
    normal = normal[np.hypot(*normal.T) > 1e-9]
    normal /= np.hypot(*normal.T)[:, None]
    own, others = normal @ sides_of.T, normal @ other.T
    ahead = others.min(axis=1) - own.max(axis=1)
    behind = own.min(axis=1) - others.max(axis=1)
    return float(np.maximum(ahead, behind).max())


def _touching_distance(fixed: FloatArray, moving: FloatArray, start: FloatArray, direction: FloatArray) -> float:
    """Return how far from `start` along `direction` an outline stands a millimetre beside a fixed one."""
    inside, outside = 0.0, 1.0
    for _ in range(14):
        middle = (inside + outside) / 2
        if _gap(fixed, moving + start + middle * direction) > 0.001:
            outside = middle
        else:
            inside = middle
    return outside
