"""Settings of small trainings, and runs that were not interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.training_runs import MakeSettings

from deal_core.settings_file import load_settings
from deal_core.trainer.cam_training import train
from deal_core.trainer.settings import TrainSettings


@pytest.fixture
def make_settings(tiny_dataset: Path, tmp_path: Path) -> MakeSettings:
    def make(*overrides: str, output: str = "run") -> TrainSettings:
        return load_settings(
            TrainSettings,
            None,
            [
                f"data.path={tiny_dataset}",
                f"output={tmp_path / output}",
                "data.image_size=[32, 48]",
                "model.arguments={backbone: test_resnet, width: 8}",
                *("batch_size=3", "epochs=3", "log_every=1", "device=cpu", "threshold_rule=otsu"),
                *overrides,
            ],
        )

    return make


@pytest.fixture(scope="session")
def reference(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """Uninterrupted runs, by what differs from the usual settings."""
    runs: dict[tuple[str, ...], Path] = {}

    def run(make: MakeSettings, *overrides: str) -> Path:
        if overrides not in runs:
            output = tmp_path_factory.mktemp("reference") / "run"
            train(make(*overrides, f"output={output}"))
            runs[overrides] = output
        return runs[overrides]

    yield run
