"""Small model files and a recording for the commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model file of two classes, `a` and `b`, for images of 48x64; its network is random."""
    import torch

    from deal_core.models.factory import create_model
    from deal_core.models.model_file import ModelInfo, Threshold, save_model
    from deal_core.structures import ClassList

    torch.manual_seed(0)
    arguments = {"backbone": "test_resnet"}
    info = ModelInfo("cam_net", arguments, ClassList(("a", "b")), (48, 64), Threshold(0.3, "fixed"))
    save_model(tmp_path / "model.safetensors", create_model("cam_net", 2, **arguments), info)
    return tmp_path / "model.safetensors"


@pytest.fixture
def segmenter(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A run folder with a segmenter for the small dataset; its network is random."""
    from deal_core.dataset.dataset import Dataset
    from deal_core.models.factory import create_model
    from deal_core.models.model_file import ModelInfo, Threshold, save_model

    classes = Dataset.open(tiny_dataset).classes
    arguments = {"encoder": "test_resnet", "weights": "none"}
    info = ModelInfo("segmenter", arguments, classes, (32, 64), Threshold(0.5, "argmax"))
    save_model(tmp_path / "student" / "model.safetensors", create_model("segmenter", len(classes), **arguments), info)
    return tmp_path / "student"


@pytest.fixture
def kitchen(new_bag: Callable[[], Any], tmp_path: Path) -> Path:
    """A recording of five pairs with two classes, one of them tagged."""
    bag = new_bag()
    bag.session("mug", "drill")
    bag.tags(0, "mug")
    for stamp in range(100, 600, 100):
        bag.pair(stamp)
    return bag.save(tmp_path / "kitchen")
