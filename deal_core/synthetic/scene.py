"""The scene that the renderer renders: triangles and a ground, their materials, objects, pictures and light."""

from __future__ import annotations

import math
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
        match_loss: share of its surface at which a stereo camera finds no match, as on dark or shiny things.
    """

    pattern: Pattern
    first: Color
    second: Color
    period: float = 0.03
    axis: Color = (0.0, 0.0, 1.0)
    gloss: float = 0.0
    match_loss: float = 0.0


@dataclass(frozen=True, eq=False)
class Print:
    """A flat picture on the ground: edges of colour without an edge of depth.

    Args:
        center: (x, y) on the ground, metres.
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
    """An object in its place.

    Args:
        class_id: id of the class, 1..K; 0 is an object of no class.
        x: position, metres.
        y: position, metres.
        yaw: rotation about the vertical, radians.
        footprint: radius of the smallest circle about (x, y) that contains the body, metres.
        z: height of its lowest point, metres.
    """

    class_id: int
    x: float
    y: float
    yaw: float
    footprint: float
    z: float = 0.0


@dataclass(frozen=True, eq=False)
class CameraPose:
    """The pose of a camera.

    Args:
        rotation: (3, 3) from the optical frame (x right, y down, z forward) to the world (z up).
        position: (3,) metres.
    """

    rotation: Float32Array
    position: Float32Array


GROUND = -1
"""Index of the ground among the faces, for rays that hit no triangle."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What the renderer needs: the ground, the triangles above it, their materials, and the light.

    Arrays over faces have one additional entry: the last, at index `GROUND`, is the ground.

    Args:
        vertices: (V, 3) metres, z up; the ground is the plane z = 0.
        faces: (F, 3) indices into vertices.
        corner_normals: (F, 3, 3) shading normals at the corners of each face.
        face_material: (F + 1,) indices into `materials`.
        face_object: (F + 1,) i + 1 for `objects[i]`, 0 for the ground and for furniture.
        face_is_part: (F + 1,) whether the face belongs to the part that makes the class.
        materials: materials of the faces.
        objects: objects on the ground and on the furniture.
        prints: pictures on the ground.
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


class SceneBuilder:
    """Collects meshes into the flat arrays of a `Scene`.

    Args:
        ground: material of the ground.
    """

    def __init__(self, ground: Material) -> None:
        self._vertices: list[Float32Array] = []
        self._faces: list[npt.NDArray[np.int32]] = []
        self._normals: list[Float32Array] = []
        self._labels: list[npt.NDArray[np.int16]] = []
        self.materials = [ground]
        self._count = 0

    def add(self, mesh: trimesh.Trimesh, material: Material, index: int, *, part: bool) -> None:
        """Add a mesh in world coordinates that belongs to object `index`, counted from 1; 0 is furniture."""
        self._vertices.append(np.asarray(mesh.vertices, np.float32))
        self._faces.append(np.asarray(mesh.faces, np.int32) + np.int32(self._count))
        self._normals.append(corner_normals(mesh))
        self._labels.append(np.tile(np.array([len(self.materials), index, part], np.int16), (len(mesh.faces), 1)))
        self.materials.append(material)
        self._count += len(mesh.vertices)

    def arrays(self) -> dict[str, Any]:
        """Return the arrays over vertices and faces, by their names in `Scene`."""
        ground = np.zeros((1, 3), np.int16)
        labels = np.concatenate([*self._labels, ground])
        return {
            "vertices": np.concatenate(self._vertices),
            "faces": np.concatenate(self._faces),
            "corner_normals": np.concatenate(self._normals),
            "face_material": np.ascontiguousarray(labels[:, 0]),
            "face_object": np.ascontiguousarray(labels[:, 1]),
            "face_is_part": labels[:, 2] > 0,
        }


def corner_normals(mesh: trimesh.Trimesh, crease: float = math.radians(35)) -> Float32Array:
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


def clouds(rng: np.random.Generator, size: int = 256) -> Float32Array:
    """Return noise in 0..1 with a 1/f spectrum that repeats seamlessly."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij"))
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) / frequency**1.5
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, (size, size))
    return np.clip(0.5 + 0.2 * field / field.std(), 0.0, 1.0).astype(np.float32)
