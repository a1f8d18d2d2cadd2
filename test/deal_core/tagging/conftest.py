"""Datasets to tag."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deal_core.dataset.writer import DatasetWriter
from deal_core.structures import ClassList, RgbdPair, TagState

CLASSES = ClassList(("mug", "pepper mill", "jar"))


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write a dataset of recordings `a`, `b`, …: so many frames each, four a segment, nothing known of their tags."""

    def make(*counts: int, name: str = "kitchen") -> Path:
        path = tmp_path / name
        color = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
        depth = np.full((24, 32), 700, np.uint16)
        for recording, count in zip("abcdefgh", counts, strict=False):
            with DatasetWriter(path, CLASSES).recording(recording) as folder:
                folder.write(RgbdPair(0, color, depth), TagState(), 0)
            file = path / "recordings" / recording / "frames.jsonl"
            line = json.loads(file.read_text())  # all frames show one image: it is the tags that matter
            lines = [{**line, "stamp_ns": i, "segment": i // 4} for i in range(count)]
            file.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
        return path

    return make
