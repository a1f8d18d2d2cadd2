"""`deal cams --views`: the way of a user from a recording with poses to fused masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.extract import ExtractOptions, extract_recording
from deal_core.dataset.poses import read_poses, write_poses
from deal_core.masks.mask_folder import read_mask
from deal_core.models.factory import create_model
from deal_core.models.model_file import ModelInfo, Threshold, save_model
from deal_core.synthetic.recording import write_recording
from deal_core.synthetic.rooms import RoomsConfig

Deal = Callable[..., Any]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of one room in 4 views, without poses, and the recording beside it; read only."""
    folder = tmp_path_factory.mktemp("room")
    config = RoomsConfig(seed=4, scenes=1, frames_per_scene=4, width=64, height=48, num_classes=3, difficulties=())
    write_recording(folder / "room", config)
    extract_recording(folder / "room", folder / "data", ExtractOptions())
    return folder


@pytest.fixture(scope="module")
def model(room: Path) -> Path:
    torch.manual_seed(2)
    arguments = {"backbone": "test_resnet", "width": 16}
    classes = Dataset.open(room / "data").classes
    info = ModelInfo("cam_net", arguments, classes, (48, 64), Threshold(0.4, "otsu"))
    save_model(room / "model.safetensors", create_model("cam_net", 3, **arguments), info)
    return room / "model.safetensors"


def test_a_recording_of_many_views_becomes_fused_masks(deal: Deal, room: Path, model: Path, tmp_path: Path) -> None:
    data = room / "data"
    done = deal("cams", model, data, "--out", tmp_path / "early", "--views", "recording", "--device", "cpu")
    assert done.returncode == 2 and "no recording of" in done.stderr and "deal poses" in done.stderr
    assert not (tmp_path / "early").exists()

    assert deal("poses", data, room / "room" / "ground_truth" / "poses.json").returncode == 0
    poses = read_poses(data, "room")
    write_poses(data, "room", dict(list(poses.items())[:3]))
    written = {}
    for views in ("none", "near", "recording"):
        out = tmp_path / views
        options = ("--threshold-rule", "otsu") if views == "near" else ()
        done = deal("cams", model, data, "--out", out, "--views", views, "--device", "cpu", *options)
        assert done.returncode == 0 and "4 frames written" in done.stderr, done.stderr
        told = "scores of 3 frames are fused" in done.stderr and "1 frames have no pose in poses.json" in done.stderr
        assert told == (views != "none")
        about = json.loads((out / "cams.json").read_text())
        assert about.get("views", "none").split()[0] == views
        frames = Dataset.open(data).frames
        written[views] = [read_mask(out, frame.key, (48, 64), 3) for frame in frames]
    # The frame without a pose has its own scores.
    np.testing.assert_array_equal(written["recording"][3], written["none"][3])
    done = deal("cams", model, data, "--out", tmp_path / "none", "--views", "recording", "--device", "cpu")
    assert done.returncode == 1 and "other --views, poses or frames" in done.stderr
