"""`deal features` and `deal fine-tune`, as a person and as a script run them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deal_core.settings_file import load_settings
from deal_core.trainer.settings import TrainSettings

Deal = Callable[..., Any]


@pytest.fixture(scope="module")
def old_model(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from training.commands.train import run_training

    small = ["model.arguments={backbone: test_resnet, width: 8}", "data.image_size=[48, 64]", "threshold_rule=otsu"]
    output = tmp_path_factory.mktemp("old") / "run"
    values = [f"data.path={tiny_dataset}", f"output={output}", "epochs=1", "batch_size=3", "device=cpu", *small]
    return run_training(load_settings(TrainSettings, None, values), quiet=True).model


def test_features_then_fine_tune_on_them(deal: Deal, old_model: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    features, out = tmp_path / "features", tmp_path / "tuned"
    done = deal("features", tiny_dataset, "--backbone", old_model, "--out", features, "--device", "cpu", "--json")
    made = json.loads(done.stdout)
    assert done.returncode == 0 and (made["frames"], made["files"]) == (12, 24)
    assert made["files"] == len(list(features.rglob("*.safetensors"))) and len(made["maps"]) == 2
    start = ("fine-tune", tiny_dataset, "--from", old_model, "--out", out, "--rehearse", tiny_dataset, "--steps", "6")
    done = deal(*start, "--features", features, "--max-loss", "1", "--json", "device=cpu")
    result = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert result["fine_tune"]["classes"]["kept"] == ["mug", "jar", "kettle"] and result["fine_tune"]["old"]
    assert len(list(features.rglob("*.safetensors"))) == 24, "none was made again"
    assert (out / "quality.json").is_file() and "made first" not in done.stderr
    done = deal(*start, "--features", features, "--max-loss", "1", "device=cpu")
    assert done.returncode == 0 and "mean of kept classes" in done.stdout and "held-out frames of" in done.stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--max-loss", "0.1"], "--max-loss needs --rehearse"),
        (["--masks", "drawn"], "which learns from tags: leave out --masks"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    deal: Deal, old_model: Path, tiny_dataset: Path, tmp_path: Path, options: list[str], told: str
) -> None:
    done = deal("fine-tune", tiny_dataset, "--from", old_model, "--out", tmp_path / "x", *options)
    assert done.returncode == 2 and told in done.stderr


@pytest.mark.parametrize(
    ("options", "told", "code"),
    [
        (["--backbone", "test_resnet", "--weights", "none"], "expected hub or a file, found none", 2),
        (["--backbone", "test_resnet", "--levels", "a"], "expected whole numbers like -3,-2, found 'a'", 2),
        (["--backbone", "no_such_net"], "unknown backbone 'no_such_net'", 2),
        (["--backbone", "missing.safetensors"], "expected a model file", 1),
        (["--backbone", "test_resnet", "--size", "8"], "expected two whole numbers like 320x240", 2),
    ],
)
def test_features_says_what_is_wrong(
    deal: Deal, tiny_dataset: Path, tmp_path: Path, options: list[str], told: str, code: int
) -> None:
    done = deal("features", tiny_dataset, "--out", tmp_path / "features", *options)
    assert done.returncode == code and told in done.stderr
