"""A small dataset with depth, in which the colour of a box is its class, and settings of a short training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deal_core.dataset.writer import DatasetWriter
from deal_core.regions.settings import RegionTrainSettings
from deal_core.structures import ClassList, RgbdPair, TagMarker, TagState, metres_to_depth

CLASSES = ("red", "green", "blue")
COLOURS = ((230, 30, 30), (30, 200, 40), (40, 60, 220))
GREY = (150, 150, 150)
SIZE = (72, 96)
PLACES = ((20, 8), (30, 40), (22, 70))


def write_boxes(
    path: Path, segments: int = 8, frames: int = 2, classes: Sequence[str] = CLASSES, **options: Any
) -> Path:
    """Write a dataset of a sloping table with two boxes of a class and one of none in each segment."""
    writer = DatasetWriter(path, ClassList(tuple(classes)))
    with writer.recording("boxes") as recording:
        for segment in range(segments):
            for frame in range(frames):
                pair, tags, mask = _frame(segment, frame, classes, **options)
                recording.write(RgbdPair(1 + segment * 100 + frame, *pair), tags, segment, mask)
    return path


def _frame(segment: int, frame: int, classes: Sequence[str], depth: bool = True, complete: bool = True) -> Any:
    generator = np.random.default_rng([segment, frame])
    image = np.full((*SIZE, 3), 90, np.uint8)
    metres = np.repeat(1 / np.linspace(0.8, 1.25, SIZE[0])[:, None], SIZE[1], axis=1)
    mask = np.zeros(SIZE, np.uint8)
    shown = generator.permutation([segment % 3, (segment + 1) % 3, 3])
    for (row, column), what in zip(PLACES, shown, strict=True):
        row = row + int(generator.integers(6))
        box = (slice(row, row + 18), slice(column, column + 16))
        image[box] = (*COLOURS, GREY)[what]
        metres[box] = 0.6
        mask[box] = 0 if what == 3 else list(classes).index(CLASSES[what]) + 1
    image = np.clip(image + generator.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    present = tuple(CLASSES[what] for what in shown if what < 3)
    tags = TagState(present, (), TagMarker.COMPLETE if complete else TagMarker.PARTIAL)
    return (image, metres_to_depth(metres if depth else np.zeros(SIZE))), tags, mask


def tiny_settings(data: Path, output: Path, **changes: Any) -> RegionTrainSettings:
    """Settings with a random backbone of a few layers."""
    values: dict[str, Any] = {
        "data": {"path": data},
        "output": output,
        "network": {"arguments": {"backbone": "test_resnet"}, "levels": [[-3], [-2]]},
        "head": {"members": 2, "steps": 60},
        "device": "cpu",
    }
    return RegionTrainSettings.model_validate({**values, **changes})
