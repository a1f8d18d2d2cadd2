"""A small dataset of boxes, and a region model that was trained on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.region_runs import tiny_settings, write_boxes

from deal_core.regions.training import RegionResult, train_regions


@pytest.fixture(scope="package")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_boxes(tmp_path_factory.mktemp("boxes") / "dataset")


@pytest.fixture(scope="package")
def trained(boxes: Path, tmp_path_factory: pytest.TempPathFactory) -> RegionResult:
    return train_regions(tiny_settings(boxes, tmp_path_factory.mktemp("runs") / "regions"))
