"""A small dataset of two recordings with drawn masks, and the parsers of other tools that read what is exported."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.paths import PROJECT

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.writer import DatasetWriter
from deal_core.masks.mask_folder import new_mask_folder, read_mask
from deal_core.structures import ClassList, RgbdPair, TagMarker, TagState

CLASSES = ClassList(("mug", "jar", "box"))
HEIGHT, WIDTH = 36, 48
PARSERS = PROJECT / ".venv-label-tools" / "bin" / "python"


def make_frames(folder: Path, *, frames: int = 3, recordings: tuple[str, ...] = ("hall", "shop")) -> Dataset:
    """A dataset whose frames have the same names in each recording; tags are complete and follow the masks.

    The things stand 0.3 m before a wall at 1 m; the frames have random boxes as masks.
    """
    rng = np.random.default_rng(3)
    writer = DatasetWriter(folder, CLASSES)
    for recording in recordings:
        with writer.recording(recording) as written:
            for place in range(frames):
                mask = boxes(rng)
                color = rng.integers(0, 60, (HEIGHT, WIDTH, 3)).astype(np.uint8) + np.uint8(60) * mask[..., None]
                depth = np.where(mask > 0, 700, 1000).astype(np.uint16)
                present = tuple(CLASSES.names[number - 1] for number in np.unique(mask[mask > 0]))
                tags = TagState(present, marker=TagMarker.COMPLETE)
                written.write(RgbdPair(10**9 * (place + 1), color, depth), tags, place, mask)
    return Dataset.open(folder)


def boxes(rng: np.random.Generator) -> np.ndarray:
    """(36, 48) ids of two or three boxes that may overlap."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number in rng.choice(3, int(rng.integers(2, 4)), replace=False) + 1:
        top, left = rng.integers(0, HEIGHT - 12), rng.integers(0, WIDTH - 14)
        mask[top : top + 12, left : left + 14] = number
    return mask


def drawn(dataset: Dataset) -> dict[str, np.ndarray]:
    """The drawn mask of each frame, by its key."""
    found = {}
    for frame in dataset.frames:
        mask = dataset.load(frame).mask
        assert mask is not None
        found[frame.key] = mask
    return found


def mask_folder(folder: Path, dataset: Dataset, masks: dict[str, np.ndarray]) -> Path:
    """A folder with these masks, as `deal masks import` writes it."""
    with new_mask_folder(folder, dataset.classes, {"made": "by hand"}) as write:
        for key, mask in masks.items():
            write(key, mask)
    return folder


def masks_in(folder: Path, dataset: Dataset) -> dict[str, np.ndarray]:
    """The masks of a folder, by the key of their frame."""
    found = {}
    for frame in dataset.frames:
        if (folder / f"{frame.key}.png").is_file():
            found[frame.key] = read_mask(folder, frame.key, (HEIGHT, WIDTH), len(dataset.classes))
    return found


def odd_masks(dataset: Dataset, seed: int = 0) -> dict[str, np.ndarray]:
    """Masks with specks, holes, unlabelled pixels and an empty one."""
    rng = np.random.default_rng(seed)
    found = {}
    for place, frame in enumerate(dataset.frames):
        mask = boxes(rng)
        mask[rng.random(mask.shape) < 0.05] = 0
        mask[rng.random(mask.shape) < 0.05] = 2
        mask[5:9, 7:30] = 255
        mask[0, 0] = mask[-1, -1] = 3
        found[frame.key] = mask if place else np.zeros_like(mask)
    return found


def parse(script: str, *arguments: Any) -> Any:
    """Run a script with the parsers of other tools, in their environment, and return the JSON that it prints."""
    if not PARSERS.exists():
        pytest.skip("the parsers of other label tools are not installed here: make label-tools")
    done = subprocess.run(
        [PARSERS, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
