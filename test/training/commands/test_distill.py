"""`deal distill`, as a person and as a script run it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from helpers.judged_scenes import write_masks
from helpers.paths import PROJECT

from deal_core.dataset.dataset import Dataset

CONFIG = PROJECT / "config" / "distill.yaml"
TINY = ("data.image_size=[32, 64]", "model.arguments={encoder: test_resnet}", "epochs=2", "batch_size=3", "device=cpu")


def test_distil_and_use_the_model(deal: Callable[..., Any], tiny_dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "[run]"
    told = ("distill", CONFIG, f"data.path={tiny_dataset}", "masks=drawn", f"output={run}", *TINY)
    done = deal(*told, "--json")
    result = json.loads(done.stdout)
    names = ["background", *Dataset.open(tiny_dataset).classes.names]
    assert json.loads((run / "distill.json").read_text()) == result
    assert done.returncode == 0 and result["model"] == str(run / "model.safetensors")
    assert result["training_frames"] + result["held_out_frames"] == 12 and result["resumed_from"] == 0
    assert [entry["name"] for entry in result["agreement"]["per_class"]] == names
    assert result["drawn"]["miou"] == result["agreement"]["miou"]
    done = deal(*told)
    assert done.returncode == 0 and f"model: {run}/model.safetensors" in done.stderr
    assert all(said in done.stdout for said in ("training masks", "drawn masks", "mean", *names))

    done = deal("evaluate", run / "model.safetensors", tiny_dataset, "--json", "--pictures", "0", "--device", "cpu")
    evaluation = json.loads(done.stdout)
    assert done.returncode == 0 and evaluation["auto"]["threshold"] == 0.5 and evaluation["auto"]["rule"] == "argmax"
    assert evaluation["details"]["tags"] == "as the network says"


def test_a_model_of_depth_and_how_it_does_without(deal: Callable[..., Any], tiny_dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    told = ("distill", CONFIG, f"data.path={tiny_dataset}", "masks=drawn", f"output={run}", *TINY)
    done = deal(*told, "model.arguments={encoder: test_resnet, inputs: rgbd}", "epochs=1")
    assert done.returncode == 0 and "without depth" in done.stdout
    report = json.loads((run / "distill.json").read_text())
    assert report["drawn_without_depth"]["miou"] == report["agreement_without_depth"]["miou"]
    told = ("evaluate", run / "model.safetensors", tiny_dataset, "--json", "--pictures", "0", "--device", "cpu")
    with_depth, without = json.loads(deal(*told).stdout), json.loads(deal(*told, "--depth-fails").stdout)
    assert (with_depth["details"]["depth"], without["details"]["depth"]) == ("of the frames", "none")
    assert with_depth["oracle"] != without["oracle"]


def test_bad_pseudo_masks_are_told_before_they_are_learnt(
    deal: Callable[..., Any], tiny_dataset: Path, tmp_path: Path
) -> None:
    masks = write_masks(tmp_path / "empty", Dataset.open(tiny_dataset), 12, np.zeros_like)
    done = deal("distill", CONFIG, f"data.path={tiny_dataset}", f"masks={masks}", f"output={tmp_path / 'run'}", *TINY)
    words = " ".join(done.stderr.split())
    assert done.returncode == 0 and "masks: bad, score 0.00" in words
    assert "100 % of the tagged frames have an empty mask" in words
    assert words.index("masks: bad") < words.index("model:")


def test_wrong_masks_are_told_in_a_sentence(deal: Callable[..., Any], tiny_dataset: Path, tmp_path: Path) -> None:
    told = ("distill", CONFIG, f"data.path={tiny_dataset}", f"output={tmp_path / 'run'}", *TINY)
    done = deal(*told, f"masks={tmp_path}")
    assert done.returncode == 1 and f"{tmp_path} holds no cams.json" in done.stderr
    done = deal(*told, "masks=drawn", "clip.blow=1")
    assert done.returncode == 2 and "Did you mean 'below'?" in done.stderr
