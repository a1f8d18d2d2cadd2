"""`deal depth` as a person runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.depth_model import save_depth_model
from helpers.layouts import make_voc

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.depth_maps import DepthMaps
from deal_core.dataset.writer import DatasetWriter
from deal_core.structures import ClassList, RgbdPair, TagState

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_depth_model(tmp_path_factory.mktemp("models") / "tiny")


def test_writes_maps_and_goes_on(tmp_path: Path, model: Path, deal: Callable[..., object]) -> None:
    writer = DatasetWriter(tmp_path / "kitchen", ClassList(("mug",)))
    for name in ("one", "two"):
        with writer.recording(name) as recording:
            for stamp in range(2):
                image = np.random.default_rng(stamp).integers(0, 256, (30, 40, 3), np.uint8)
                recording.write(RgbdPair(stamp, image, np.ones((30, 40), np.uint16)), TagState(), 0)
    out = tmp_path / "depth"
    common = (tmp_path / "kitchen", "--out", out, "--model", model, "--device", "cpu")
    done = deal("depth", *common, "--recording", "two")
    assert done.returncode == 0 and done.stdout == ""
    assert f"{out}: 2 maps of inverse depth written, 0 existed already" in done.stderr
    done = deal("depth", *common, "--batch-size", "1")
    assert f"{out}: 2 maps of inverse depth written, 2 existed already" in done.stderr
    assert Dataset.open(tmp_path / "kitchen").with_depth(DepthMaps.open(out)).load(3).depth_valid.all()
    refused = deal("depth", *common, "--precision", "bfloat16")
    assert refused.returncode == 1 and "choose another folder" in refused.stderr
    assert deal("depth", *common, "--split", "train").returncode == 2


def test_images_of_voc(tmp_path: Path, model: Path, deal: Callable[..., object]) -> None:
    root, out = make_voc(tmp_path), tmp_path / "depth"
    done = deal("depth", root / "VOCdevkit", "--as", "voc", "--split", "val", "--out", out, "--model", model)
    assert done.returncode == 0, done.stderr
    checked = deal("check", root / "VOCdevkit", "--as", "voc", "--split", "val", "--depth", out)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_no_model_is_one_sentence(tmp_path: Path, deal: Callable[..., object]) -> None:
    done = deal("depth", make_voc(tmp_path), "--as", "voc", "--out", tmp_path / "depth", "--model", tmp_path)
    assert done.returncode == 1 and f"{tmp_path} is not a depth model" in done.stderr
    assert not (tmp_path / "depth").exists()
