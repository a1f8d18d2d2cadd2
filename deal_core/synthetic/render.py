"""Render a synthetic scene: cast rays against its triangles, and shade the hits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from deal_core.structures import BoolArray, CameraIntrinsics, Float32Array, UInt8Array
from deal_core.synthetic.scene import GROUND, CameraPose, Material, Pattern, Print, Scene

IntArray = npt.NDArray[np.intp]
_ABOVE_SURFACE = np.float32(2e-4)  # secondary rays start this far off a surface (metres), not on it
_CONTACT = np.float32(0.03)  # metres: how far below or above its support an object darkens it
_HORIZON = 20.0  # metres: the edge of the ground


@dataclass(frozen=True, eq=False)
class View:
    """One view, without the errors of any sensor.

    Args:
        radiance: (H, W, 3) float32 linear RGB, about 0..1.
        depth: (H, W) float32 metres along the optical axis, 0 where a ray hits nothing.
        instance: (H, W) uint8, 0 ground and furniture, i + 1 for `Scene.objects[i]`.
        part: (H, W) bool, the parts that define the classes.
        view_cosine: (H, W) float32 cosine between the ray and the surface normal.
        match_loss: (H, W) float32 `Material.match_loss` of the surface.
        seen_by_second: (H, W) bool, whether a second camera, `baseline` to the right, sees the same surface point.
    """

    radiance: Float32Array
    depth: Float32Array
    instance: UInt8Array
    part: BoolArray
    view_cosine: Float32Array
    match_loss: Float32Array
    seen_by_second: BoolArray


class Renderer:
    """Casts rays into one scene.

    Args:
        scene: scene to render.
        camera: intrinsics; distortion is ignored.
    """

    def __init__(self, scene: Scene, camera: CameraIntrinsics) -> None:
        self._scene = scene
        self._camera = camera
        self._losses = np.array([material.match_loss for material in scene.materials], np.float32)
        self._caster = EmbreeScene()
        self._mesh = TriangleMesh(self._caster, scene.vertices, scene.faces)
        columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
        x, y = (columns.ravel() - camera.cx) / camera.fx, (rows.ravel() - camera.cy) / camera.fy
        self._rays = np.stack([x, y, np.ones_like(x)], axis=1).astype(np.float32)
        quarters = np.array([[-0.125, -0.375, 0], [0.375, -0.125, 0], [0.125, 0.375, 0], [-0.375, 0.125, 0]])
        self._within_pixel = (quarters / [camera.fx, camera.fy, 1]).astype(np.float32)

    def view(self, pose: CameraPose, baseline: float) -> View:
        """Render one view.

        Args:
            pose: pose of the camera.
            baseline: distance of the second camera to the right, metres; negative is to the left.
        """
        height, width = self._camera.height, self._camera.width
        hits = self._cast(self._rays, pose)
        radiance = self._shade(hits).reshape(height, width, 3)
        radiance = self._smooth_edges(radiance, pose)
        flat = hits.face
        second = pose.position + np.float32(baseline) * pose.rotation[:, 0]
        seen = ~self._occluded(hits, second - hits.point) & hits.found
        return View(
            radiance=radiance,
            depth=np.where(hits.found, hits.depth, np.float32(0)).reshape(height, width),
            instance=self._scene.face_object[flat].astype(np.uint8).reshape(height, width),
            part=self._scene.face_is_part[flat].reshape(height, width),
            view_cosine=hits.view_cosine.reshape(height, width),
            match_loss=self._losses[self._scene.face_material[flat]].reshape(height, width),
            seen_by_second=seen.reshape(height, width),
        )

    def _cast(self, rays: Float32Array, pose: CameraPose) -> _Hits:
        """Follow (N, 3) rays of the optical frame with z = 1: distance along them is depth along the axis."""
        scene = self._scene
        rays = rays @ np.ascontiguousarray(pose.rotation.T)
        origins = np.empty_like(rays)
        origins[:] = pose.position
        answer = self._caster.run(origins, rays, output=True)
        face, u, v = answer["primID"], answer["u"], answer["v"]
        # Everything stands above the ground, so a ray hits it first; other rays hit the plane z = 0.
        fall = np.maximum(-rays[:, 2], np.float32(1e-6))
        depth = np.where(face == GROUND, pose.position[2] / fall, answer["tfar"])
        found = depth < _HORIZON
        depth = np.where(found, depth, np.float32(_HORIZON))
        length = np.sqrt(np.einsum("ij,ij->i", rays, rays))
        normal = np.zeros_like(rays)
        normal[:, 2] = 1.0
        cosine = np.abs(rays[:, 2]) / length
        solid = np.flatnonzero(face != GROUND)
        corners = scene.corner_normals[face[solid]]
        u, v = u[solid, None], v[solid, None]
        shading = corners[:, 0] * (1 - u - v) + corners[:, 1] * u + corners[:, 2] * v
        shading /= np.maximum(np.sqrt(np.einsum("ij,ij->i", shading, shading)), np.float32(1e-6))[:, None]
        normal[solid] = shading
        cosine[solid] = np.abs(np.einsum("ij,ij->i", rays[solid], shading)) / length[solid]
        point = rays * depth[:, None]
        point += pose.position
        return _Hits(found, face, depth, point, normal, rays, cosine)

    def _occluded(self, hits: _Hits, towards: Float32Array) -> BoolArray:
        """Return whether anything is between each hit and the target in direction `towards`, (N, 3) or (3,)."""
        origins = hits.normal * _ABOVE_SURFACE
        origins += hits.point
        directions = np.empty_like(origins)
        directions[:] = towards
        return np.asarray(self._caster.run(origins, directions, query="OCCLUDED") >= 0)

    def _smooth_edges(self, radiance: Float32Array, pose: CameraPose) -> Float32Array:
        """Replace pixels at edges of colour by the mean of four rays within them."""
        tones = np.sqrt(radiance)  # closer to perception than radiance
        spans = cv2.split(cv2.dilate(tones, _CROSS) - cv2.erode(tones, _CROSS))
        edges = np.flatnonzero(np.maximum.reduce(spans) > np.float32(0.13))
        if not len(edges):
            return radiance
        rays = (self._rays[edges, None, :] + self._within_pixel).reshape(-1, 3)
        smooth = radiance.reshape(-1, 3).copy()
        fine = self._shade(self._cast(rays, pose)).reshape(-1, 4, 3)
        smooth[edges] = (fine[:, 0] + fine[:, 1] + fine[:, 2] + fine[:, 3]) * np.float32(0.25)
        return smooth.reshape(radiance.shape)

    def _shade(self, hits: _Hits) -> Float32Array:
        """Return (N, 3) linear radiance: pattern, diffuse and glossy light with shadows, ambient light."""
        scene = self._scene
        albedo, gloss = self._albedo(hits)
        light = scene.light_direction
        lit = np.maximum(hits.normal @ light, np.float32(0))
        lit *= ~self._occluded(hits, light)
        sky = np.float32(0.75 * scene.ambient) + np.float32(0.25 * scene.ambient) * hits.normal[:, 2]
        sky *= self._openness(hits)
        radiance = lit[:, None] * scene.light_color
        radiance += sky[:, None]
        radiance *= albedo
        glossy = np.flatnonzero((gloss > 0) & (lit > 0))
        view = hits.ray[glossy] / np.linalg.norm(hits.ray[glossy], axis=1, keepdims=True)
        half = light - view
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        shine = gloss[glossy] * np.maximum(np.einsum("ij,ij->i", half, hits.normal[glossy]), 0) ** 40
        radiance[glossy] += shine[:, None] * scene.light_color
        return radiance

    def _albedo(self, hits: _Hits) -> tuple[Float32Array, Float32Array]:
        scene = self._scene
        albedo = np.full((len(hits.face), 3), 0.2, np.float32)
        gloss = np.zeros(len(hits.face), np.float32)
        material_of = scene.face_material[hits.face]
        for index, material in enumerate(scene.materials):
            chosen = np.flatnonzero(material_of == index)
            if not len(chosen):
                continue
            local = hits.point[chosen]
            owner = int(scene.face_object[hits.face[chosen[0]]])
            if owner > 0:
                placed = scene.objects[owner - 1]
                local = _to_local(local, (placed.x, placed.y, placed.z), placed.yaw)
            albedo[chosen] = colors_of(material, local, scene.clouds)
            gloss[chosen] = material.gloss
            if owner == 0 and index == scene.face_material[GROUND]:
                for sheet in scene.prints:
                    _paint_print(albedo, chosen, local, sheet, scene.clouds)
        return albedo, gloss

    def _openness(self, hits: _Hits) -> Float32Array:
        """Return the share of ambient light at each hit: less beside objects that stand there (contact shadows)."""
        open_sky = np.ones(len(hits.face), np.float32)
        support = np.flatnonzero(self._scene.face_object[hits.face] == 0)
        x, y, z = hits.point[support].T
        shade = np.ones(len(support), np.float32)
        for placed in self._scene.objects:
            level = np.flatnonzero(np.abs(z - np.float32(placed.z)) < _CONTACT)
            across, along = x[level] - np.float32(placed.x), y[level] - np.float32(placed.y)
            gap = np.sqrt(across**2 + along**2) - placed.footprint
            shade[level] *= 1 - np.float32(0.55) * np.exp(np.minimum(-gap, 0) / np.float32(0.025))
        open_sky[support] = shade
        return open_sky


_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


@dataclass(frozen=True, eq=False)
class _Hits:
    """The hits of N rays, as arrays of length N; rays do not have unit length."""

    found: BoolArray
    face: IntArray
    depth: Float32Array
    point: Float32Array
    normal: Float32Array
    ray: Float32Array
    view_cosine: Float32Array


def _to_local(points: Float32Array, center: tuple[float, float, float], yaw: float) -> Float32Array:
    cos, sin = np.float32(np.cos(yaw)), np.float32(np.sin(yaw))
    x, y = points[:, 0] - np.float32(center[0]), points[:, 1] - np.float32(center[1])
    return np.stack([cos * x + sin * y, cos * y - sin * x, points[:, 2] - np.float32(center[2])], axis=1)


def colors_of(material: Material, points: Float32Array, clouds: Float32Array) -> Float32Array:
    """Return (N, 3) linear RGB of a material at (N, 3) points in object coordinates (metres)."""
    first, second = _linear(material.first), _linear(material.second)
    blend = _LAYOUTS[material.pattern](material, points, clouds)[:, None]
    mottle = 0.9 + 0.2 * _cloud_at(clouds, points, 0.5)[:, None]
    return (first + (second - first) * blend) * mottle


def _linear(color: tuple[float, float, float]) -> Float32Array:
    return np.asarray(color, np.float32) ** np.float32(2.2)


def _cloud_at(clouds: Float32Array, points: Float32Array, tile: float) -> Float32Array:
    """Return the noise at each point, which repeats after `tile` metres."""
    scale = np.float32(clouds.shape[0] / tile)
    # OpenCV accepts at most 32766 rows, so the list of points is folded into lines.
    lines = np.zeros((2, len(points) // 1024 + 1, 1024), np.float32)
    # A skewed projection gives every side of an object a pattern.
    for line, axis, skew in zip(lines, (0, 1), (0.7, 0.6), strict=True):
        line.ravel()[: len(points)] = (points[:, axis] + np.float32(skew) * points[:, 2]) * scale
    found = cv2.remap(clouds, lines[0], lines[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(found).ravel()[: len(points)]


def _second_half(periods: Float32Array) -> BoolArray:
    """Return whether a length in periods is in the second half of its period."""
    return periods - np.floor(periods) > np.float32(0.5)  # ten times faster than the remainder


def _solid(material: Material, points: Float32Array, clouds: Float32Array) -> Float32Array:
    return np.zeros(len(points), np.float32)


def _stripes(material: Material, points: Float32Array, clouds: Float32Array) -> Float32Array:
    along = points @ np.asarray(material.axis, np.float32) / np.float32(material.period)
    return _second_half(along).astype(np.float32)


def _checks(material: Material, points: Float32Array, clouds: Float32Array) -> Float32Array:
    # The offset keeps flat faces of an object away from the boundaries of cells.
    cells = np.floor(points * np.float32(2 / material.period) + np.float32(0.37)).astype(np.int32)
    return ((cells[:, 0] + cells[:, 1] + cells[:, 2]) & 1).astype(np.float32)


def _sectors(material: Material, points: Float32Array, clouds: Float32Array) -> Float32Array:
    count = max(3, round(2 * np.pi * 0.045 / material.period))
    turn = np.arctan2(points[:, 1], points[:, 0]) * np.float32(count / (2 * np.pi))
    return _second_half(turn).astype(np.float32)


def _marble(material: Material, points: Float32Array, clouds: Float32Array) -> Float32Array:
    field = _cloud_at(clouds, points, 6 * material.period)
    return np.clip((field - np.float32(0.5)) * 6 + np.float32(0.5), 0, 1)


def _gradient(material: Material, points: Float32Array, clouds: Float32Array) -> Float32Array:
    return np.clip(points[:, 2] / np.float32(0.11), 0, 1)


def _wood(material: Material, points: Float32Array, clouds: Float32Array) -> Float32Array:
    axis = np.asarray(material.axis, np.float32)
    across = points @ axis
    along = points @ np.array([-axis[1], axis[0], 0], np.float32)
    stretched = np.stack([across, along * np.float32(0.12), np.zeros_like(across)], axis=1)
    rings = across / np.float32(material.period) + 4 * _cloud_at(clouds, stretched, 0.8)
    return np.float32(0.5) + np.float32(0.5) * np.sin(rings * np.float32(2 * np.pi))


def _weave(material: Material, points: Float32Array, clouds: Float32Array) -> Float32Array:
    scale = np.float32(1 / material.period)
    warp, weft = _second_half(points[:, 0] * scale), _second_half(points[:, 1] * scale)
    return (warp.astype(np.float32) + weft) * np.float32(0.5)


_Layout = Callable[[Material, Float32Array, Float32Array], Float32Array]
_LAYOUTS: dict[Pattern, _Layout] = {
    Pattern.SOLID: _solid,
    Pattern.STRIPES: _stripes,
    Pattern.CHECKS: _checks,
    Pattern.SECTORS: _sectors,
    Pattern.MARBLE: _marble,
    Pattern.GRADIENT: _gradient,
    Pattern.WOOD: _wood,
    Pattern.WEAVE: _weave,
}


def _paint_print(
    albedo: Float32Array, chosen: IntArray, points: Float32Array, sheet: Print, clouds: Float32Array
) -> None:
    """Replace the colours of the ground by those of a sheet on it."""
    half_x, half_y = sheet.half_size
    near = np.flatnonzero(
        (np.abs(points[:, 0] - np.float32(sheet.center[0])) < half_x + half_y)
        & (np.abs(points[:, 1] - np.float32(sheet.center[1])) < half_x + half_y)
    )
    local = _to_local(points[near], (*sheet.center, 0.0), sheet.yaw)
    on = np.flatnonzero((np.abs(local[:, 0]) < half_x) & (np.abs(local[:, 1]) < half_y))
    if not len(on):
        return
    local, near = local[on], near[on]
    u, v = local[:, 0] / np.float32(half_x), local[:, 1] / np.float32(half_y)
    colors = colors_of(sheet.paper, local, clouds)
    picture, accent = _print_layout(sheet.outline, u, v)
    colors[picture] = colors_of(sheet.picture, local[picture], clouds)
    colors[accent] = colors_of(sheet.accent, local[accent], clouds)
    albedo[chosen[near]] = colors


def _print_layout(outline: int, u: Float32Array, v: Float32Array) -> tuple[BoolArray, BoolArray]:
    """Return the pixels of the picture and of its detail, for sheet coordinates in -1..1."""
    if outline == 0:
        distance = np.hypot(u, v)
        return distance < 0.8, distance < 0.35
    if outline == 1:
        body = (np.abs(u) < 0.55) & (v > -0.8) & (v < 0.45)
        return body, (np.abs(u) < 0.4) & (v >= 0.45) & (v < 0.8)
    inside = (np.abs(u) < 0.85) & (np.abs(v) < 0.88)
    return inside & (v < 0.3), inside & (v > 0.55)
