"""`deal export` writes a file that `deal segment` runs."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from deal_core.dataset.dataset import Dataset
from deal_core.errors import DatasetError, ModelFileError, UsageError
from deal_core.models.factory import create_model
from deal_core.models.model_file import ModelInfo, Threshold, save_model
from deal_core.runtime.segmenter import Segmenter
from training.cli import app

pytest.importorskip("onnx", reason="onnx is not installed (extra export)")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception:
        raise result.exception
    return result.output


def segmenter_file(dataset: Path, folder: Path, *, sees: int | None = None, **arguments: object) -> Path:
    """Write a segmenter with random weights for the classes of a dataset; it gives each pixel the class `sees`."""
    classes = Dataset.open(dataset).classes
    torch.manual_seed(5)
    network = create_model("segmenter", len(classes), **arguments)
    if sees is not None:
        with torch.no_grad():
            network.network.segmentation_head[0].bias[sees] += 100
    info = ModelInfo("segmenter", arguments, classes, (48, 64), Threshold(0.5, "argmax"))
    save_model(folder / "model.safetensors", network, info)
    return folder / "model.safetensors"


@pytest.mark.slow
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
    linked = tmp_path / "model.onnx"
    linked.hardlink_to(model)
    with pytest.raises(UsageError, match="would replace what is read"):
        run("export", model, "--out", linked)


@pytest.mark.slow
def test_int8_is_learnt_from_the_frames_of_a_dataset(tiny_dataset: Path, tmp_path: Path) -> None:
    # Where random weights nearly tie, the pixel's class hangs on how this CPU multiplies bytes.
    model, out = segmenter_file(tiny_dataset, tmp_path, sees=1, encoder="test_resnet"), tmp_path / "int8.onnx"
    said = run("export", model, "--out", out, "--precision", "int8", "--calibrate", tiny_dataset, "--frames", 5)
    said = " ".join(said.split())
    assert "opset 18, 48x64, int8; on 5 frames" in said and said.count("100.0%") == 2
    color = next(tiny_dataset.glob("recordings/*/color"))
    said = run("segment", out, color, "--out", tmp_path / "masks")
    assert "by onnxruntime on cpu, int8" in " ".join(said.split())
    assert len(list((tmp_path / "masks").glob("*_overlay.png"))) == len(list(color.iterdir()))


@pytest.mark.slow
def test_an_onnx_file_is_evaluated_as_the_robot_runs_it(tiny_dataset: Path, tmp_path: Path) -> None:
    model = segmenter_file(tiny_dataset, tmp_path, encoder="test_resnet", inputs="rgbd", depth_dropout=0.0)
    onnx, out = tmp_path / "robot.onnx", tmp_path / "robot"
    run("export", model, "--out", onnx)
    dataset = Dataset.open(tiny_dataset)
    miou = {}
    for options in ((), ("--depth-fails",)):
        found = json.loads(run("evaluate", onnx, tiny_dataset, "--out", out, "--pictures", 2, "--json", *options))
        counts = np.zeros((len(dataset.classes) + 1, 2))
        segmenter = Segmenter.load(model, "cpu", backend="torch")
        for record in dataset.frames:
            sample = dataset.load(record)
            mask = segmenter.segment(sample.image, None if options else sample.depth).mask
            labelled = sample.mask != 255
            for k in range(len(counts)):
                ours, theirs = (mask == k) & labelled, (sample.mask == k) & labelled
                counts[k] += (ours & theirs).sum(), (ours | theirs).sum()
        iou = counts[:, 0] / counts[:, 1]
        assert [of_class["iou"] for of_class in found["auto"]["per_class"]] == pytest.approx(iou, abs=1e-3)
        assert found["auto"]["rule"] == "argmax" and found["oracle"] is None
        assert found["details"]["runs"] == "onnxruntime on cpu, float32"
        assert len(list((out / "pictures").glob("*prediction*"))) == 2
        miou[options] = found["auto"]["miou"]
    assert len(set(miou.values())) == 2, "depth makes no difference"


@pytest.mark.slow
def test_options_of_scores_are_not_of_an_onnx_file(tiny_dataset: Path, tmp_path: Path) -> None:
    onnx = tmp_path / "robot.onnx"
    run("export", segmenter_file(tiny_dataset, tmp_path, encoder="test_resnet"), "--out", onnx)
    with pytest.raises(UsageError, match=r"robot\.onnx is evaluated as the robot runs it"):
        run("evaluate", onnx, tiny_dataset, "--out", tmp_path, "--refine", "crf")
    with pytest.raises(UsageError, match=r"has no run folder: give a folder .* with --out"):
        run("evaluate", onnx, tiny_dataset)
    with pytest.raises(UsageError, match="sees colour alone"):
        run("evaluate", onnx, tiny_dataset, "--out", tmp_path, "--depth-fails")
    assert not (tmp_path / "evaluation.json").exists()


def test_int8_and_its_frames_go_together(model: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    with pytest.raises(UsageError, match="go together"):
        run("export", model, "--out", out, "--precision", "int8")
    with pytest.raises(UsageError, match="go together"):
        run("export", model, "--out", out, "--calibrate", tiny_dataset)
    with pytest.raises(UsageError, match="add --calibrate"):
        run("export", model, "--out", out, "--frames", 5)
    with pytest.raises(ModelFileError, match=r"the model is for the classes a, b, but .* has"):
        run("export", model, "--out", out, "--precision", "int8", "--calibrate", tiny_dataset)
    with pytest.raises(DatasetError, match="dataset"):
        run("export", model, "--out", out, "--precision", "int8", "--calibrate", tmp_path)
    assert not out.exists()
