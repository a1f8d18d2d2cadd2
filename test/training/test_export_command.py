"""`deal export` writes a file that `deal segment` runs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from deal_core.data.dataset import Dataset
from deal_core.errors import DatasetError, ModelFileError, UsageError
from deal_core.modelfile import ModelInfo, Threshold, save_model
from deal_core.models.factory import create_model
from training.cli import app

pytest.importorskip("onnx", reason="onnx is not installed (extra export)")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception:
        raise result.exception
    return result.output


def test_an_exported_model_segments(model: Path, tmp_path: Path) -> None:
    said = run("export", model, "--out", tmp_path / "big.onnx", "--input-size", 96)
    assert "opset 18, 96x128, differs from PyTorch" in " ".join(said.split())
    cv2.imwrite(str(tmp_path / "image.png"), np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8))
    run("segment", tmp_path / "big.onnx", tmp_path / "image.png", "--out", tmp_path / "masks")
    assert cv2.imread(str(tmp_path / "masks" / "image.png"), cv2.IMREAD_UNCHANGED).shape == (96, 128)


def test_places_that_cannot_be_written_are_told(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends with \.onnx"):
        run("export", model, "--out", tmp_path / "model.safetensors")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        run("export", model, "--out", tmp_path / "file" / "model.onnx")
    assert model.is_file()


def test_int8_is_learnt_from_the_frames_of_a_dataset(tiny_dataset: Path, tmp_path: Path) -> None:
    classes = Dataset.open(tiny_dataset).classes
    torch.manual_seed(5)
    network = create_model("segmenter", len(classes), encoder="test_resnet")
    info = ModelInfo("segmenter", {"encoder": "test_resnet"}, classes, (48, 64), Threshold(0.5, "argmax"))
    save_model(tmp_path / "model.safetensors", network, info)
    model, out = tmp_path / "model.safetensors", tmp_path / "int8.onnx"
    said = run("export", model, "--out", out, "--precision", "int8", "--calibrate", tiny_dataset, "--frames", 5)
    assert "opset 18, 48x64, int8; on 5 frames" in " ".join(said.split())
    color = next(tiny_dataset.glob("recordings/*/color"))
    said = run("segment", out, color, "--out", tmp_path / "masks")
    assert "by onnxruntime on cpu, int8" in " ".join(said.split())
    assert len(list((tmp_path / "masks").glob("*_overlay.png"))) == len(list(color.iterdir()))


def test_int8_and_its_frames_go_together(model: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    with pytest.raises(UsageError, match="go together"):
        run("export", model, "--out", out, "--precision", "int8")
    with pytest.raises(UsageError, match="go together"):
        run("export", model, "--out", out, "--calibrate", tiny_dataset)
    with pytest.raises(UsageError, match="name its dataset"):
        run("export", model, "--out", out, "--frames", 5)
    with pytest.raises(ModelFileError, match=r"the model is for the classes a, b, but .* has"):
        run("export", model, "--out", out, "--precision", "int8", "--calibrate", tiny_dataset)
    with pytest.raises(DatasetError, match="dataset"):
        run("export", model, "--out", out, "--precision", "int8", "--calibrate", tmp_path)
    assert not out.exists()
