"""A model file with a network that sees all of its classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deal_core.models.factory import create_model
from deal_core.models.model_file import ModelInfo, Threshold, save_model
from deal_core.structures import ClassList

SIZE = (48, 64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(4)
    arguments = {"backbone": "test_resnet", "width": 16}
    network = create_model("cam_net", 3, **arguments)
    with torch.no_grad():
        network.classifier.weight *= 30
        network.classifier.bias += torch.tensor([3.0, 1.0, 2.0])
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    classes = ClassList(("mug", "drill", "box"))
    save_model(path, network, ModelInfo("cam_net", arguments, classes, SIZE, Threshold(0.5, "otsu")))
    return path
