"""Boxes on a table, seen by a pinhole camera: exact depth, one colour a thing, and true masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deal_core.structures import CameraIntrinsics, Float64Array, Int64Array, Sample
from deal_core.taps.carry import View

CAMERA = CameraIntrinsics(width=96, height=72, fx=80.0, fy=80.0, cx=47.5, cy=35.5)
COLORS = np.array([[120, 120, 110], [200, 40, 40], [40, 60, 200], [210, 200, 40]], np.uint8)


@dataclass(frozen=True)
class Block:
    """A block with a face towards the camera: x and y ranges at a distance, in metres; `number` is its colour."""

    number: int
    left: float
    right: float
    top: float
    bottom: float
    distance: float


BLOCKS = (Block(1, -0.24, -0.09, -0.08, 0.06, 0.8), Block(2, 0.08, 0.20, -0.05, 0.12, 0.85))


def camera_at(x: float, y: float = 0.0, z: float = 0.0, turn: float = 0.0) -> Float64Array:
    """The pose (4, 4) of a camera that looks along z, turned about y."""
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    pose[:3, 3] = x, y, z
    return pose


def ray_cast(pose: Float64Array, blocks: tuple[Block, ...] = BLOCKS, wall: float = 1.2) -> tuple[View, Int64Array]:
    """The view of a camera, and the number of the block at each pixel; 0 is the wall behind the blocks."""
    columns, rows = np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height))
    rays = np.stack([(columns - CAMERA.cx) / CAMERA.fx, (rows - CAMERA.cy) / CAMERA.fy, np.ones(columns.shape)], -1)
    directions = rays @ pose[:3, :3].T
    depth = (wall - pose[2, 3]) / directions[..., 2]
    number = np.zeros(depth.shape, np.int64)
    for block in blocks:
        reach = (block.distance - pose[2, 3]) / directions[..., 2]
        places = pose[:3, 3] + reach[..., None] * directions
        inside = (places[..., 0] >= block.left) & (places[..., 0] < block.right)
        inside &= (places[..., 1] >= block.top) & (places[..., 1] < block.bottom) & (reach < depth)
        depth, number = np.where(inside, reach, depth), np.where(inside, block.number, number)
    noise = np.random.default_rng(0).integers(-6, 7, (*depth.shape, 3))
    image = (COLORS[number].astype(int) + noise).clip(0, 255).astype(np.uint8)
    known = depth > 0
    return View(image, depth.astype(np.float32), known, known, CAMERA, pose), number


def sample_of(view: View, tags: tuple[float, ...], key: str = "a/0") -> Sample:
    """A sample of a view."""
    return Sample(view.image, view.depth, view.measured, np.array(tags, np.float32), key)
