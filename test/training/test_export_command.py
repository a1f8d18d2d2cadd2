"""`deal export` writes a file that `deal segment` runs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from deal_core.errors import UsageError
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
