"""`deal evaluate` by several processes: the file that they write together is that of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import PROJECT

from deal_core.dataset.dataset import Dataset
from deal_core.models.factory import create_model
from deal_core.models.model_file import ModelInfo, Threshold, save_model

Deal = Callable[..., Any]


@pytest.fixture
def trained(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A CAM network for the small dataset; it is random."""
    import torch

    torch.manual_seed(0)
    classes = Dataset.open(tiny_dataset).classes
    arguments = {"backbone": "test_resnet", "width": 4}
    info = ModelInfo("cam_net", arguments, classes, (48, 64), Threshold(0.3, "otsu"))
    return save(tmp_path / "model.safetensors", create_model("cam_net", len(classes), **arguments), info)


def save(path: Path, network: Any, info: ModelInfo) -> Path:
    save_model(path, network, info)
    return path


@pytest.mark.slow
def test_shards_and_processes_of_torchrun_make_the_file_of_one_process(
    deal: Deal, tiny_dataset: Path, trained: Path, tmp_path: Path
) -> None:
    words = ["evaluate", trained, tiny_dataset, "--device", "cpu", "--pictures", "0", "--name", "x"]
    assert deal(*words, "--out", tmp_path / "one").returncode == 0
    expected = json.loads((tmp_path / "one" / "evaluation.json").read_text())
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["evaluation.json"]

    shared = tmp_path / "shared"
    for number in (1, 2):
        done = deal(*words, "--out", shared, "--shard", f"{number}/2")
        assert done.returncode == 0 and f"shard {number} of 2: " in done.stderr, done.stderr
        assert not (shared / "evaluation.json").exists()
    assert deal(*words, "--out", shared).returncode == 0
    assert json.loads((shared / "evaluation.json").read_text()) == expected
    assert [file.name for file in shared.iterdir()] == ["evaluation.json"]

    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "training.cli", *map(str, words), "--out", str(tmp_path / "two"), "--json"],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected, "one of the processes reports"
    assert json.loads((tmp_path / "two" / "evaluation.json").read_text()) == expected


def test_a_shard_needs_a_model_file(deal: Deal, tiny_dataset: Path, tmp_path: Path) -> None:
    for words, said in (
        (["--shard", "3/2"], "expected a shard like 2/4, from 1/4 to 4/4, found '3/2'"),
        (["--shard", "1/2"], "--shard: expected a .safetensors file, found"),
    ):
        done = deal("evaluate", tmp_path, tiny_dataset, *words)
        assert done.returncode == 2 and said in done.stderr.replace("\n", " "), done.stderr
