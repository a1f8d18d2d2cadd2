"""All three jobs on real frames: a recording, a dataset, a network on real weights, masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.paths import MOBILENET, PROJECT

from deal_core.dataset.dataset import Dataset
from deal_core.runtime.segmenter import Segmenter


@pytest.mark.slow
@pytest.mark.real_weights
def test_from_a_recording_of_real_frames_to_masks(
    real_recording: Path, real_frames: Any, deal: Callable[..., Any], tmp_path: Path
) -> None:
    dataset, run = tmp_path / "dataset", tmp_path / "run"
    assert deal("extract", real_recording, "--out", dataset).returncode == 0

    count = len(real_frames.pairs)
    settings = [
        *(f"data.path={dataset}", f"output={run}", "data.image_size=[96, 128]", f"batch_size={count // 2}", "epochs=2"),
        *("model.arguments.backbone=mobilenetv2_100", f"model.arguments.weights={MOBILENET}", "log_every=1"),
        *("model.arguments.backbone_arguments.pad_type=same", "model.arguments.freeze_batch_norm=true"),
        *("model.arguments.mean=[0.5, 0.5, 0.5]", "model.arguments.std=[0.5, 0.5, 0.5]", "device=cpu"),
        *("optimizer.learning_rate=0.01", "optimizer.backbone_factor=0.1", "deal.start=0", "deal.warmup=0"),
    ]
    done = deal("train", PROJECT / "config" / "train.yaml", *settings, "--json")
    assert done.returncode == 0, done.stderr
    losses = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    losses = [line for line in losses if "loss" in line]
    assert len(losses) == 4
    if all(real_frames.visible(index) == real_frames.visible(0) for index in range(count)):
        assert losses[-1]["loss_tags"] < losses[0]["loss_tags"], "every frame has the same tags"
    assert all(abs(line["loss_deal"]) <= 1 and line["deal_flat"] != 0 for line in losses)

    done = deal("evaluate", run / "model.safetensors", dataset, "--json", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    evaluation = json.loads(done.stdout)
    assert evaluation["num_frames"] == count and 0 < evaluation["oracle"]["miou"] <= 1
    assert evaluation["auto"]["rule"] == "depth_relief" and (run / "pictures" / "pictures.json").is_file()

    segmenter = Segmenter.load(run / "model.safetensors", device="cpu")
    assert segmenter.classes == Dataset.open(dataset).classes
    pair = real_frames.pairs[0]
    result = segmenter.segment(pair.color, (pair.depth_mm / 1000).astype(np.float32))
    assert result.mask.shape == pair.depth_mm.shape and result.mask.max() <= len(segmenter.classes)
    assert result.confidence.min() >= 0 and result.confidence.max() <= 1
    done = deal(
        "segment", run / "model.safetensors", dataset / "recordings" / "tabletop" / "color", "--out", tmp_path / "masks"
    )
    assert done.returncode == 0 and len(list((tmp_path / "masks").glob("*[0-9].png"))) == count
