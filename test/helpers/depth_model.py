"""A tiny Depth Anything model with random weights, in the layout in which transformers keeps real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
SIDE = 42


def save_depth_model(folder: Path, *, seed: int = 3, spread: float = 0.15, **changed: Any) -> Path:
    """Write it to a folder, and return that; images come to it with a shorter side of about 42 pixels.

    Args:
        folder: to write to.
        seed: of the weights.
        spread: of the weights; with large ones numbers overflow in half precision.
        changed: values of its config.
    """
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    backbone = Dinov2Config(
        image_size=SIDE,
        patch_size=14,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        initializer_range=spread,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[4, 8, 8, 16],
        fusion_hidden_size=8,
        head_hidden_size=4,
        initializer_range=spread,
        **changed,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DepthAnythingForDepthEstimation(config)
    network.save_pretrained(folder)
    DPTImageProcessor(
        size={"height": SIDE, "width": SIDE},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        resample=3,
        image_mean=MEAN.tolist(),
        image_std=STD.tolist(),
    ).save_pretrained(folder)
    return folder
