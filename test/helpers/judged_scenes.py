"""Small scenes on a table whose masks can be spoilt in one way at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from deal_core.dataset.dataset import Dataset
from deal_core.masks.mask_folder import CAMS_FILE, cam_paths
from deal_core.structures import ClassList, Sample, UInt8Array

CLASSES = ClassList(("mug", "jar", "box"))
COLORS = ((200, 40, 40), (40, 60, 200), (40, 180, 60))
HEIGHT, WIDTH, SIDE = 48, 64, 15
SEGMENTS, PER_SEGMENT = 8, 4


@dataclass(frozen=True, eq=False)
class Scene:
    """A frame with its true mask and the segment that it belongs to."""

    sample: Sample
    truth: UInt8Array
    segment: tuple[str, int]


Spoil = Callable[[Scene, np.random.Generator], UInt8Array]


def scenes(seed: int = 0) -> list[Scene]:
    """Tables seen at an angle; one or two of the three classes stand on each, and all tags are complete."""
    rng = np.random.default_rng(seed)
    made = []
    for segment in range(SEGMENTS):
        for view in range(PER_SEGMENT):
            kinds = rng.choice(3, int(rng.integers(1, 3)), replace=False)
            made.append(_scene(rng, kinds.tolist(), segment, view))
    return made


def _scene(rng: np.random.Generator, kinds: list[int], segment: int, view: int) -> Scene:
    inverse = np.broadcast_to(np.linspace(1.0, 1.4, HEIGHT)[:, None], (HEIGHT, WIDTH))
    depth = (1.0 / inverse).astype(np.float32)
    image = np.full((HEIGHT, WIDTH, 3), 150, np.float64) + rng.normal(0, 6, (HEIGHT, WIDTH, 1))
    truth = np.zeros((HEIGHT, WIDTH), np.uint8)
    for place, kind in enumerate(kinds):
        left = int(rng.integers(2, 14)) + place * WIDTH // 2
        top = int(rng.integers(2, HEIGHT - SIDE - 2))
        inside = np.s_[top : top + SIDE, left : left + SIDE]
        depth[inside] = depth[top + SIDE - 1, left] - 0.06
        image[inside] = np.array(COLORS[kind]) + rng.normal(0, 12, (SIDE, SIDE, 1))
        truth[inside] = kind + 1
    tags = np.zeros(3, np.float32)
    tags[kinds] = 1
    valid = np.ones(depth.shape, bool)
    sample = Sample(image.clip(0, 255).astype(np.uint8), depth, valid, tags, f"kitchen/{segment}_{view}", truth)
    return Scene(sample, truth, ("kitchen", segment))


def perfect(scene: Scene, rng: np.random.Generator) -> UInt8Array:
    return scene.truth


def empty(scene: Scene, rng: np.random.Generator) -> UInt8Array:
    return np.zeros_like(scene.truth)


def everything(scene: Scene, rng: np.random.Generator) -> UInt8Array:
    """The whole image has the name of the first tag."""
    return np.full_like(scene.truth, np.flatnonzero(scene.sample.tags == 1)[0] + 1)


def shifted(scene: Scene, rng: np.random.Generator) -> UInt8Array:
    """The right shapes at another place."""
    return np.roll(scene.truth, (HEIGHT // 3, WIDTH // 5), (0, 1))


def blobs(scene: Scene, rng: np.random.Generator) -> UInt8Array:
    """A square anywhere for each tag."""
    mask = np.zeros_like(scene.truth)
    for kind in np.flatnonzero(scene.sample.tags == 1):
        top, left = rng.integers(0, HEIGHT - SIDE), rng.integers(0, WIDTH - SIDE)
        mask[top : top + SIDE, left : left + SIDE] = kind + 1
    return mask


def named_by_lot(scene: Scene, rng: np.random.Generator) -> UInt8Array:
    """The right regions, each with a name drawn among the tags."""
    mask = np.zeros_like(scene.truth)
    tags = np.flatnonzero(scene.sample.tags == 1) + 1
    for kind in tags:
        mask[scene.truth == kind] = rng.choice(tags)
    return mask


def half_missing(scene: Scene, rng: np.random.Generator) -> UInt8Array:
    """Every second frame has no mask."""
    return scene.truth if int(scene.sample.key[-1]) % 2 else np.zeros_like(scene.truth)


SPOILT: dict[str, Spoil] = {
    name.__name__: name for name in (empty, everything, shifted, blobs, named_by_lot, half_missing)
}


def write_masks(
    folder: Path, dataset: Dataset, count: int, spoil: Callable[[UInt8Array], UInt8Array] | None = None
) -> Path:
    """Write the drawn masks of the first frames, or what `spoil` makes of them, as `deal cams` writes pseudo masks."""
    for frame in dataset.frames[:count]:
        mask = dataset.load(frame).mask
        assert mask is not None
        file = cam_paths(folder, frame.key)[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), spoil(mask) if spoil else mask)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"model": "0" * 64, "classes": list(dataset.classes.names), "threshold": 0.3, "threshold_rule": "otsu"}
    (folder / CAMS_FILE).write_text(json.dumps(about))
    return folder
