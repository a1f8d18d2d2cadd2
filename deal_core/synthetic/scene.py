"""The contents of a synthetic scene: objects, printed pictures, light and the camera's path, all from one seed.

An object is a body and a part. Bodies (shapes, sizes, colours, patterns) are drawn from the same distribution for all
classes; the part (a handle, a lid, a spout) makes it a mug, a jar or a kettle, and covers about a quarter of the
object. So a network that learns from image-level tags finds the part, while depth shows the whole object.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
import trimesh

from deal_core.structures import Float32Array

Int16Array = npt.NDArray[np.int16]
Color = tuple[float, float, float]


class Pattern(str, Enum):
    """The pattern of a material's two colours in object coordinates."""

    SOLID = "solid"
    STRIPES = "stripes"
    CHECKS = "checks"
    SECTORS = "sectors"
    MARBLE = "marble"
    GRADIENT = "gradient"
    WOOD = "wood"
    WEAVE = "weave"


@dataclass(frozen=True)
class Material:
    """The look of a surface.

    Args:
        pattern: pattern of the two colours.
        first: sRGB colour, 0..1.
        second: sRGB colour, 0..1.
        period: length after which the pattern repeats, metres.
        axis: unit vector across the stripes, in object coordinates.
        gloss: strength of the highlight; 0 is matt.
    """

    pattern: Pattern
    first: Color
    second: Color
    period: float = 0.03
    axis: Color = (0.0, 0.0, 1.0)
    gloss: float = 0.0


@dataclass(frozen=True)
class ObjectClass:
    """A class: its name, and the part that all of its objects and no other objects have."""

    name: str
    part: Callable[[_Body], trimesh.Trimesh]
    material: Material


# Muted sRGB colours, so that no body looks like a part.
_BODY_COLORS: tuple[Color, ...] = (
    (0.82, 0.80, 0.76), (0.62, 0.60, 0.58), (0.36, 0.36, 0.38), (0.20, 0.20, 0.23), (0.70, 0.58, 0.45),
    (0.48, 0.35, 0.26), (0.33, 0.42, 0.50), (0.52, 0.62, 0.68), (0.42, 0.48, 0.38), (0.66, 0.68, 0.56),
    (0.60, 0.45, 0.45), (0.75, 0.65, 0.68), (0.30, 0.38, 0.36), (0.85, 0.78, 0.66),
)  # fmt: skip
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


@dataclass(frozen=True, eq=False)
class Print:
    """A flat picture on the table: edges of colour without an edge of depth.

    Args:
        center: (x, y) on the table, metres.
        yaw: rotation, radians.
        half_size: half width and half height, metres.
        paper: material of the sheet.
        picture: material of the printed object.
        accent: material of a printed detail that resembles a part.
        outline: 0 is a disc, 1 the outline of a jar, 2 bands over the whole sheet.
    """

    center: tuple[float, float]
    yaw: float
    half_size: tuple[float, float]
    paper: Material
    picture: Material
    accent: Material
    outline: int


@dataclass(frozen=True, eq=False)
class Placed:
    """An object on the table.

    Args:
        class_id: id of the class, 1..K.
        x: position on the table, metres.
        y: position on the table, metres.
        yaw: rotation about the vertical, radians.
        footprint: radius of the smallest circle about (x, y) that contains the body, metres.
    """

    class_id: int
    x: float
    y: float
    yaw: float
    footprint: float


@dataclass(frozen=True, eq=False)
class CameraPose:
    """The pose of a camera.

    Args:
        rotation: (3, 3) from the optical frame (x right, y down, z forward) to the world (z up).
        position: (3,) metres.
    """

    rotation: Float32Array
    position: Float32Array


TABLE = -1
"""Index of the table among the faces, for rays that hit no triangle."""


@dataclass(frozen=True, eq=False)
class Tabletop:
    """One scene: the table, the triangles on it, their materials, and the light.

    Arrays over faces have one additional entry: the last, at index `TABLE`, is the table.

    Args:
        vertices: (V, 3) metres, z up; the table is the plane z = 0.
        faces: (F, 3) indices into vertices.
        corner_normals: (F, 3, 3) shading normals at the corners of each face.
        face_material: (F + 1,) indices into `materials`.
        face_object: (F + 1,) i + 1 for `objects[i]`, 0 for the table.
        face_is_part: (F + 1,) whether the face belongs to the part that makes the class.
        materials: materials of the faces.
        objects: objects on the table.
        prints: pictures on the table.
        light_direction: (3,) unit vector towards the light.
        light_color: (3,) strength of the direct light.
        ambient: strength of the light from all directions.
        clouds: (N, N) smooth random texture in 0..1 that repeats seamlessly, for patterns with noise.
    """

    vertices: Float32Array
    faces: npt.NDArray[np.int32]
    corner_normals: Float32Array
    face_material: Int16Array
    face_object: Int16Array
    face_is_part: npt.NDArray[np.bool_]
    materials: tuple[Material, ...]
    objects: tuple[Placed, ...]
    prints: tuple[Print, ...]
    light_direction: Float32Array
    light_color: Float32Array
    ambient: float
    clouds: Float32Array


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
    builder = _Builder(_table_material(rng))
    placed = _place_objects(_draw_classes(num_classes, size, rng), builder, rng)
    prints = tuple(_draw_print(num_classes, rng) for _ in range(rng.integers(size.prints[0], size.prints[1] + 1)))
    azimuth, height = rng.uniform(0, 2 * math.pi), rng.uniform(math.radians(40), math.radians(70))
    towards_light = _spherical(azimuth, height)
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
        clouds=_clouds(rng),
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
    azimuths = math.radians(40) * _wander(time, rng)
    distances = _between(distance, _wander(time, rng))
    elevations = _between(elevation, _wander(time, rng))
    rolls = math.radians(4) * _wander(time, rng)
    targets = np.stack([0.05 * _wander(time, rng), 0.04 * _wander(time, rng), np.full(frames, 0.04)], axis=1)
    return [
        _look_at(target, float(azimuth), float(height), float(far), float(roll))
        for target, azimuth, height, far, roll in zip(targets, azimuths, elevations, distances, rolls, strict=True)
    ]


def _between(ends: tuple[float, float], unit: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return ends[0] + (ends[1] - ends[0]) * (unit + 1) / 2


def _wander(time: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return a smooth random course within [-1, 1]."""
    start, sweep = rng.uniform(-1, 1), rng.uniform(0.5, 2.5)
    # A triangle wave is uniform over the range; a sine would stay near its ends.
    phase = start + sweep * (1 if rng.random() < 0.5 else -1) * time
    return 1 - 2 * np.abs(((phase + 1) / 2) % 2 - 1)


def _look_at(
    target: npt.NDArray[np.float64], azimuth: float, elevation: float, distance: float, roll: float
) -> CameraPose:
    towards_camera = _spherical(azimuth - math.pi / 2, elevation).astype(np.float64)
    forward = -towards_camera
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cos, sin = math.cos(roll), math.sin(roll)
    columns = np.stack([cos * right + sin * down, -sin * right + cos * down, forward], axis=1)
    return CameraPose(columns.astype(np.float32), (target + distance * towards_camera).astype(np.float32))


def _spherical(azimuth: float, elevation: float) -> Float32Array:
    flat = math.cos(elevation)
    return np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)], np.float32)


def _draw_classes(num_classes: int, size: TabletopSize, rng: np.random.Generator) -> list[int]:
    """Return one class id per object; at least one object of each class drawn."""
    count = int(rng.integers(size.objects[0], size.objects[1] + 1))
    most = min(size.classes[1], count, num_classes)
    kinds = rng.permutation(num_classes)[: int(rng.integers(min(size.classes[0], most), most + 1))] + 1
    rest = rng.choice(kinds, count - len(kinds))
    return [int(k) for k in rng.permutation(np.concatenate([kinds, rest]))]


def _place_objects(class_ids: list[int], builder: _Builder, rng: np.random.Generator) -> tuple[Placed, ...]:
    placed: list[Placed] = []
    for class_id in class_ids:
        kind = CATALOGUE[class_id - 1]
        body = _make_body(rng)
        reach = body.radius * 1.35
        x, y = _free_spot(placed, reach, rng)
        # The part faces the camera's side, so that most views show it.
        yaw = -math.pi / 2 + float(rng.uniform(-1, 1)) * math.radians(75)
        index = len(placed) + 1
        pose = trimesh.transformations.rotation_matrix(yaw, [0, 0, 1])
        pose[:3, 3] = x, y, 0.0
        builder.add(body.mesh.copy().apply_transform(pose), _body_material(rng), index, part=False)
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


def _body_material(rng: np.random.Generator) -> Material:
    pattern = (Pattern.SOLID, Pattern.STRIPES, Pattern.CHECKS, Pattern.MARBLE, Pattern.GRADIENT, Pattern.SECTORS)
    first, second = rng.choice(len(_BODY_COLORS), 2, replace=False)
    axis = rng.standard_normal(3)
    axis /= np.linalg.norm(axis)
    return Material(
        pattern[int(rng.integers(len(pattern)))],
        _shade(_BODY_COLORS[first], rng),
        _shade(_BODY_COLORS[second], rng),
        float(rng.uniform(0.02, 0.06)),
        (float(axis[0]), float(axis[1]), float(axis[2])),
        float(rng.choice([0.0, 0.15, 0.4])),
    )


def _table_material(rng: np.random.Generator) -> Material:
    pattern, first, second, period = _TABLES[int(rng.integers(len(_TABLES)))]
    angle = rng.uniform(0, math.pi)
    axis = (math.cos(angle), math.sin(angle), 0.0)
    return Material(pattern, _shade(first, rng), _shade(second, rng), period * float(rng.uniform(0.8, 1.3)), axis)


def _draw_print(num_classes: int, rng: np.random.Generator) -> Print:
    """Return a picture of an object: a body's material, and a plain patch in the colour of some class's part."""
    part = CATALOGUE[int(rng.integers(num_classes))].material
    white = float(rng.uniform(0.75, 0.95))
    paper = Material(Pattern.SOLID, (white, white, white * float(rng.uniform(0.9, 1.0))), (white, white, white))
    accent = Material(Pattern.SOLID, part.first, part.second) if rng.random() < 0.5 else _body_material(rng)
    return Print(
        (float(rng.uniform(-0.26, 0.26)), float(rng.uniform(-0.2, 0.24))),
        float(rng.uniform(0, 2 * math.pi)),
        (float(rng.uniform(0.04, 0.09)), float(rng.uniform(0.05, 0.1))),
        paper,
        _body_material(rng),
        accent,
        int(rng.integers(3)),
    )


def _shade(color: Color, rng: np.random.Generator) -> Color:
    r, g, b = np.clip(np.asarray(color) * rng.uniform(0.85, 1.12) + rng.uniform(-0.03, 0.03, 3), 0.02, 0.97)
    return float(r), float(g), float(b)


def _clouds(rng: np.random.Generator, size: int = 256) -> Float32Array:
    """Return noise in 0..1 with a 1/f spectrum that repeats seamlessly."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij"))
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) / frequency**1.5
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, (size, size))
    return np.clip(0.5 + 0.2 * field / field.std(), 0.0, 1.0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Body:
    """A body at the origin: its mesh, height, largest radius, radius at half height and radius at the top."""

    mesh: trimesh.Trimesh
    height: float
    radius: float
    middle: float
    top: float
    sides: int


def _make_body(rng: np.random.Generator) -> _Body:
    """Return a random body: one of five profiles, round, six-sided or square, 7 to 12.5 cm tall."""
    profiles = (
        ((1.0, 0.0), (1.0, 1.0)),
        ((0.78, 0.0), (1.0, 1.0)),
        ((1.0, 0.0), (0.72, 1.0)),
        ((0.80, 0.0), (0.96, 0.25), (1.0, 0.5), (0.94, 0.75), (0.76, 1.0)),
        ((0.95, 0.0), (1.0, 0.08), (1.0, 0.55), (0.88, 0.72), (0.66, 0.85), (0.64, 1.0)),
    )
    profile = np.array(profiles[int(rng.integers(len(profiles)))])
    sides = int(rng.choice([4, 6, 32, 32]))
    height, radius = float(rng.uniform(0.07, 0.125)), float(rng.uniform(0.042, 0.060))
    line = np.concatenate([[[0.0, 0.0]], profile * [radius, height], [[0.0, height]]])
    mesh = trimesh.creation.revolve(line, sections=sides)
    # A flat side, not a corner, faces +x, where parts are joined.
    mesh.apply_transform(trimesh.transformations.rotation_matrix(math.pi / sides, [0, 0, 1]))
    flat = math.cos(math.pi / sides)
    middle = float(np.interp(0.5, profile[:, 1], profile[:, 0])) * radius * flat
    return _Body(mesh, height, radius, middle, float(profile[-1, 0]) * radius * flat, sides)


def _moved(mesh: trimesh.Trimesh, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> trimesh.Trimesh:
    mesh.apply_translation((x, y, z))
    return mesh


def _turned(mesh: trimesh.Trimesh, angle: float, axis: Color) -> trimesh.Trimesh:
    return mesh.apply_transform(trimesh.transformations.rotation_matrix(angle, axis))


def _handle(body: _Body) -> trimesh.Trimesh:
    ring = trimesh.creation.torus(0.32 * body.height, 0.125 * body.height, major_sections=24, minor_sections=12)
    return _moved(_turned(ring, math.pi / 2, (1, 0, 0)), x=body.middle + 0.10 * body.height, z=0.5 * body.height)


def _lid(body: _Body) -> trimesh.Trimesh:
    tall = 0.16 * body.height
    return _moved(trimesh.creation.cylinder(0.85 * body.top, tall, sections=32), z=body.height + tall / 2)


def _spout(body: _Body) -> trimesh.Trimesh:
    long, wide = 0.88 * body.height, 0.23 * body.height
    line = np.array([[0.0, 0.0], [wide, 0.0], [0.65 * wide, long], [0.0, long]])
    spout = _turned(trimesh.creation.revolve(line, sections=20), math.radians(48), (0, 1, 0))
    return _moved(spout, x=0.55 * body.middle, z=0.42 * body.height)


def _collar(body: _Body) -> trimesh.Trimesh:
    tall = 0.24 * body.height
    return _moved(trimesh.creation.cylinder(1.07 * body.radius, tall, sections=32), z=0.55 * body.height)


def _arch(body: _Body) -> trimesh.Trimesh:
    ring = trimesh.creation.torus(0.80 * body.top, 0.30 * body.top, major_sections=24, minor_sections=12)
    return _moved(_turned(_turned(ring, math.pi / 2, (1, 0, 0)), math.pi / 2, (0, 0, 1)), z=body.height)


def _knob(body: _Body) -> trimesh.Trimesh:
    radius = 0.27 * body.height
    return _moved(trimesh.creation.icosphere(subdivisions=3, radius=radius), z=body.height + 0.75 * radius)


def _cone(body: _Body) -> trimesh.Trimesh:
    return _moved(trimesh.creation.cone(0.85 * body.top, 0.45 * body.height, sections=32), z=body.height)


def _gauge(body: _Body) -> trimesh.Trimesh:
    radius = min(0.27 * body.height, 0.8 * body.middle)
    disc = trimesh.creation.cylinder(radius, body.middle, sections=32)
    return _moved(_turned(disc, math.pi / 2, (0, 1, 0)), x=0.72 * body.middle + 0.005, z=0.55 * body.height)


def _t_bar(body: _Body) -> trimesh.Trimesh:
    thick, long = 0.11 * body.height, 1.9 * body.radius
    bar = _turned(trimesh.creation.capsule(long, thick, count=(12, 12)), math.pi / 2, (1, 0, 0))
    stem = _moved(trimesh.creation.cylinder(0.7 * thick, 2 * thick, sections=16), z=body.height + thick)
    # The capsule starts at the origin and runs along its axis.
    bar = _moved(bar, y=-float(bar.bounds.mean(axis=0)[1]), z=body.height + 2.2 * thick)
    return trimesh.util.concatenate([bar, stem])


def _foot(body: _Body) -> trimesh.Trimesh:
    tall = 0.12 * body.height
    return _moved(trimesh.creation.cylinder(1.25 * body.radius, tall, sections=32), z=tall / 2)


def _ears(body: _Body) -> trimesh.Trimesh:
    radius = 0.19 * body.height
    ears = [trimesh.creation.icosphere(subdivisions=2, radius=radius) for _ in range(2)]
    return trimesh.util.concatenate(
        [_moved(ear, y=s * 0.8 * body.top, z=body.height + 0.4 * radius) for ear, s in zip(ears, (-1, 1), strict=True)]
    )


def _fin(body: _Body) -> trimesh.Trimesh:
    tall = 0.38 * body.height
    return _moved(trimesh.creation.box((0.014, 1.9 * body.top, tall)), z=body.height + tall / 2 - 0.002)


_RED, _YELLOW, _GREEN, _BLUE = (0.86, 0.08, 0.08), (0.98, 0.82, 0.05), (0.10, 0.65, 0.15), (0.08, 0.22, 0.85)
_WHITE, _BLACK, _ORANGE = (0.95, 0.95, 0.93), (0.05, 0.05, 0.06), (0.98, 0.45, 0.03)
_MAGENTA, _CYAN, _LIME, _PURPLE = (0.90, 0.08, 0.60), (0.05, 0.78, 0.85), (0.65, 0.92, 0.15), (0.45, 0.08, 0.70)
_UP, _SIDE, _SLANT = (0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.577, 0.577, 0.577)

CATALOGUE: tuple[ObjectClass, ...] = (
    ObjectClass("mug", _handle, Material(Pattern.STRIPES, _RED, _WHITE, 0.026, _UP, 0.3)),
    ObjectClass("jar", _lid, Material(Pattern.CHECKS, _YELLOW, _BLACK, 0.022, _UP, 0.2)),
    ObjectClass("kettle", _spout, Material(Pattern.STRIPES, _LIME, _GREEN, 0.030, _SLANT, 0.3)),
    ObjectClass("thermos", _collar, Material(Pattern.SECTORS, _BLUE, _ORANGE, 0.030, _UP, 0.2)),
    ObjectClass("lantern", _arch, Material(Pattern.STRIPES, _MAGENTA, _BLACK, 0.034, _SIDE, 0.2)),
    ObjectClass("pepper_mill", _knob, Material(Pattern.CHECKS, _CYAN, _WHITE, 0.026, _UP, 0.4)),
    ObjectClass("oil_bottle", _cone, Material(Pattern.STRIPES, _PURPLE, _YELLOW, 0.024, _UP, 0.2)),
    ObjectClass("kitchen_timer", _gauge, Material(Pattern.CHECKS, _WHITE, _BLACK, 0.024, _UP, 0.3)),
    ObjectClass("coffee_grinder", _t_bar, Material(Pattern.STRIPES, _ORANGE, _BLACK, 0.030, _SIDE, 0.3)),
    ObjectClass("candle_holder", _foot, Material(Pattern.SECTORS, _GREEN, _WHITE, 0.030, _UP, 0.4)),
    ObjectClass("alarm_clock", _ears, Material(Pattern.CHECKS, _RED, _BLUE, 0.026, _UP, 0.4)),
    ObjectClass("letter_stand", _fin, Material(Pattern.STRIPES, _CYAN, _PURPLE, 0.028, _UP, 0.1)),
)
"""The classes in order; a scene uses the first K."""


class _Builder:
    """Collects meshes into the flat arrays of a `Tabletop`."""

    def __init__(self, table: Material) -> None:
        self._vertices: list[Float32Array] = []
        self._faces: list[npt.NDArray[np.int32]] = []
        self._normals: list[Float32Array] = []
        self._labels: list[npt.NDArray[np.int16]] = []
        self.materials = [table]
        self._count = 0

    def add(self, mesh: trimesh.Trimesh, material: Material, index: int, *, part: bool) -> None:
        """Add a mesh in world coordinates that belongs to object `index`, counted from 1."""
        self._vertices.append(np.asarray(mesh.vertices, np.float32))
        self._faces.append(np.asarray(mesh.faces, np.int32) + np.int32(self._count))
        self._normals.append(_corner_normals(mesh))
        self._labels.append(np.tile(np.array([len(self.materials), index, part], np.int16), (len(mesh.faces), 1)))
        self.materials.append(material)
        self._count += len(mesh.vertices)

    def arrays(self) -> dict[str, Any]:
        """Return the arrays over vertices and faces, by their names in `Tabletop`."""
        table = np.zeros((1, 3), np.int16)
        labels = np.concatenate([*self._labels, table])
        return {
            "vertices": np.concatenate(self._vertices),
            "faces": np.concatenate(self._faces),
            "corner_normals": np.concatenate(self._normals),
            "face_material": np.ascontiguousarray(labels[:, 0]),
            "face_object": np.ascontiguousarray(labels[:, 1]),
            "face_is_part": labels[:, 2] > 0,
        }


def _corner_normals(mesh: trimesh.Trimesh, crease: float = math.radians(35)) -> Float32Array:
    """Return (F, 3, 3) normals: smooth over a vertex's faces, except across creases sharper than `crease`."""
    faces, normals = np.asarray(mesh.faces), np.asarray(mesh.face_normals)
    weighted = normals * np.asarray(mesh.area_faces)[:, None]
    # Corners are sorted by vertex; each is paired with all corners at its vertex, including itself.
    order = np.argsort(faces.reshape(-1), kind="stable")
    vertex, face = faces.reshape(-1)[order], order // 3
    count = np.bincount(vertex)
    partners = count[vertex]
    begin = np.cumsum(partners) - partners
    first = (np.cumsum(count) - count)[vertex]
    partner = np.repeat(first - begin, partners) + np.arange(partners.sum())
    own = np.repeat(np.arange(len(order)), partners)
    smooth = np.einsum("ij,ij->i", normals[face[partner]], normals[face[own]]) > math.cos(crease)
    total = np.add.reduceat(weighted[face[partner]] * smooth[:, None], begin)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    corners = np.empty((len(order), 3), np.float32)
    corners[order] = np.where(length > 0, total / np.maximum(length, 1e-30), normals[face])
    return corners.reshape(-1, 3, 3)
