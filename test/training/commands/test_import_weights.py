"""`deal import-weights` makes files that `deal train` and `deal evaluate` take."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from deal_core.errors import ConfigError, ModelFileError, UsageError
from deal_core.models.cam_net import CamNet
from training.cli import app


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["import-weights", *map(str, arguments)])
    if result.exception:
        raise result.exception
    return result.output.replace("\n", " ")


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    file = tmp_path / "resnet.pth"
    torch.save({"state_dict": {f"module.{n}": t for n, t in timm.create_model("resnet18").state_dict().items()}}, file)
    return file


def test_a_backbone_and_what_is_left_of_its_file(resnet: Path, tmp_path: Path) -> None:
    out = tmp_path / "resnet.safetensors"
    said = run(resnet, "--as", "timm", "--backbone", "resnet18", "--out", out)
    assert "122 tensors used, 0 left over" in said and "missing" not in said
    assert CamNet(2, backbone="resnet18", weights=str(out)).backbone.initial_weights.used > 80
    content = torch.load(resnet, weights_only=True)["state_dict"]
    del content["module.fc.weight"]
    content["module.extra"] = torch.zeros(1)
    torch.save(content, resnet)
    said = run(resnet, "--backbone", "resnet18", "--out", out)
    assert "left over: module.extra" in said and "121 tensors used, 1 left over" in said
    assert "extra" not in load_file(out)


def test_wrong_requests_are_told_and_write_nothing(resnet: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    for arguments, error, said in (
        (["--out", out], UsageError, "expected timm's name of the network.*most tensors of 'resnet18'"),
        (["--out", out, "--backbone", "resnet34"], ModelFileError, "another network than 'resnet34'.*'resnet18'"),
        (["--out", out, "--backbone", "resnet19"], ConfigError, "unknown backbone 'resnet19'"),
        (["--out", out, "--as", "weaktr"], UsageError, "has names of timm"),
        (["--out", out, "--classes", "voc"], ModelFileError, "expected a whole network of WeakTr or SEAM"),
        (["--out", out, "--classes", "voc", "--backbone", "resnet18"], UsageError, "without --classes"),
        (["--out", tmp_path / "out.pth"], UsageError, "ends with .safetensors"),
    ):
        with pytest.raises(error, match=said):
            run(resnet, *arguments)
    assert not out.exists()
