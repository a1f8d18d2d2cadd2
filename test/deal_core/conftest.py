"""A small model and dataset for the tests of what is made with a trained network, and a browser for those of pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deal_core.dataset.dataset import Dataset
from deal_core.models.factory import create_model
from deal_core.models.model_file import LoadedModel, ModelInfo, Threshold, load_model, save_model
from deal_core.structures import ClassList

INPUT_SIZE = (24, 32)
THRESHOLD = 0.45


@pytest.fixture(scope="module")
def dataset(tiny_dataset: Path) -> Dataset:
    return Dataset.open(tiny_dataset)


@pytest.fixture(scope="module")
def make_model(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LoadedModel]:
    def make(seed: int = 5, classes: ClassList = dataset.classes) -> LoadedModel:
        torch.manual_seed(seed)
        arguments = {"backbone": "test_resnet", "width": 16}
        network = create_model("cam_net", len(classes), **arguments)
        with torch.no_grad():
            network.classifier.weight *= 20
            network.classifier.bias += torch.arange(len(classes)) / 2
        path = tmp_path_factory.mktemp("models") / "model.safetensors"
        info = ModelInfo("cam_net", arguments, classes, INPUT_SIZE, Threshold(THRESHOLD, "otsu"), {"seed": 5, "x": [1]})
        save_model(path, network, info)
        return load_model(path)

    return make


@pytest.fixture(scope="module")
def model(make_model: Callable[..., LoadedModel]) -> LoadedModel:
    return make_model()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium under selenium."""
    pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra dev)")
    from helpers.browser import CHROMIUM, DRIVER, MISSING, start_chromium

    if not (CHROMIUM and DRIVER):
        pytest.skip(MISSING)
    driver = start_chromium(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()
