"""`deal regions`, then what takes its model file, and what refuses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.paths import CONFIG
from helpers.region_runs import tiny_settings, write_boxes

from deal_core.dataset.dataset import Dataset
from deal_core.models.factory import create_model
from deal_core.models.model_file import ModelInfo, Threshold, load_model, save_model

Deal = Callable[..., Any]
TINY = (
    "network.arguments.backbone=test_resnet",
    "network.arguments.weights=none",
    "network.levels=[[-2]]",
    "head.members=2",
    "head.steps=40",
    "device=cpu",
)


def test_the_file_of_settings_has_all_defaults() -> None:
    from deal_core.regions.settings import RegionTrainSettings
    from deal_core.settings_file import load_settings

    listed = yaml.safe_load((CONFIG / "regions.yaml").read_text())
    settings = load_settings(RegionTrainSettings, CONFIG / "regions.yaml").model_dump(mode="json")
    defaults = RegionTrainSettings.model_validate({"data": {"path": "dataset"}, "output": "runs/regions"})
    arguments = settings["network"].pop("arguments")
    expected = defaults.model_dump(mode="json")
    expected["network"].pop("arguments")
    assert settings == expected and listed.keys() == expected.keys()
    assert listed["head"].keys() == expected["head"].keys() and listed["data"].keys() == expected["data"].keys()
    assert "backbone" in arguments


@pytest.mark.slow
def test_regions_cams_evaluate_and_refusals(deal: Deal, tmp_path: Path) -> None:
    data = write_boxes(tmp_path / "boxes", segments=8)
    run = tmp_path / "run"
    done = deal("regions", CONFIG / "regions.yaml", f"data.path={data}", f"output={run}", *TINY, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["frames"] == 16 and len(result["classes"]) == 3 and result["levels"] == [-2]
    done = deal("regions", CONFIG / "regions.yaml", f"data.path={data}", f"output={run}", *TINY)
    assert done.returncode == 0 and "model.safetensors" in done.stderr and "warning: red: absent in" in done.stderr
    model = run / "model.safetensors"
    masks = tmp_path / "masks"
    done = deal("cams", model, data, "--out", masks, "--device", "cpu")
    assert done.returncode == 0 and "16 frames written" in done.stderr
    done = deal("evaluate", model, data, "--json", "--device", "cpu", "--pictures", "0")
    assert done.returncode == 0 and json.loads(done.stdout)["auto"]["miou"] > 0.7
    student = (
        "model.arguments.encoder=test_resnet",
        "model.arguments.weights=none",
        "data.image_size=[72,96]",
        "epochs=1",
        "batch_size=4",
    )
    out = f"output={tmp_path / 'student'}"
    done = deal("distill", CONFIG / "distill.yaml", f"data.path={data}", f"masks={masks}", out, *student)
    assert done.returncode == 0, done.stderr
    done = deal("export", model, "--out", tmp_path / "model.onnx")
    assert done.returncode == 1 and "a region model makes training masks" in done.stderr


def test_the_robot_refuses_a_region_model(tmp_path: Path) -> None:
    from deal_core.errors import ModelFileError
    from deal_core.regions.training import train_regions
    from deal_core.runtime.segmenter import Segmenter

    data = write_boxes(tmp_path / "boxes", segments=2, frames=1)
    model = train_regions(tiny_settings(data, tmp_path / "run")).model
    with pytest.raises(ModelFileError, match=r"a region model makes training masks.*deal distill"):
        Segmenter.load(model)


def test_deal_train_names_the_other_command(tmp_path: Path) -> None:
    from deal_core.errors import ConfigError
    from deal_core.trainer.cam_training import train
    from deal_core.trainer.settings import TrainSettings

    values = {"data": {"path": tmp_path}, "output": tmp_path / "run", "model": {"name": "region_mil"}}
    with pytest.raises(ConfigError, match="deal regions"):
        train(TrainSettings.model_validate(values))


@pytest.mark.slow
def test_cams_takes_the_model_whose_masks_are_judged_better(deal: Deal, tmp_path: Path) -> None:
    from deal_core.regions.training import train_regions

    data = write_boxes(tmp_path / "boxes", segments=8)
    regions = train_regions(tiny_settings(data, tmp_path / "regions")).model
    classes = Dataset.open(data).classes
    cam = tmp_path / "cam.safetensors"
    arguments = {"backbone": "test_resnet"}
    untrained = create_model("cam_net", len(classes), **arguments)
    save_model(cam, untrained, ModelInfo("cam_net", arguments, classes, (72, 96), Threshold(0.3, "fixed:0.3")))

    done = deal("cams", cam, data, "--out", tmp_path / "best", "--regions", regions, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "source of the masks: regions, of cam bad (" in " ".join(done.stderr.split())
    told = json.loads((tmp_path / "best" / "cams.json").read_text())
    assert told["model"] == load_model(regions).sha256
    done = deal("cams", cam, data, "--out", tmp_path / "cam", "--regions", regions, "--source", "cam", "--device=cpu")
    assert done.returncode == 0 and "source of the masks" not in done.stderr
    assert json.loads((tmp_path / "cam" / "cams.json").read_text())["model"] == load_model(cam).sha256

    done = deal("cams", regions, data, "--out", tmp_path / "no", "--regions", cam)
    assert done.returncode == 2 and "MODEL of `deal train` and --regions of `deal regions`" in done.stderr
    done = deal("cams", cam, data, "--out", tmp_path / "no", "--source", "auto")
    assert done.returncode == 2 and "--regions" in done.stderr
    done = deal("cams", cam, data, "--out", tmp_path / "no", "--regions", regions, "--ignore-band", "0.2,0.4")
    assert done.returncode == 2 and "leave out --regions" in done.stderr and not (tmp_path / "no").exists()
