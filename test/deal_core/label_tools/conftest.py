"""A small dataset with drawn masks."""

from __future__ import annotations

import pytest
from helpers.teacher_frames import make_frames

from deal_core.dataset.dataset import Dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three frames in each of two recordings, `hall` and `shop`, whose frames have the same names."""
    return make_frames(tmp_path_factory.mktemp("frames") / "dataset")
