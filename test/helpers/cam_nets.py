"""Small CAM networks on backbones of several kinds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deal_core.models.cam_net import CamNet

SWIN = {"img_size": 64, "window_size": 2, "embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}

# Backbone, its arguments, stride of the levels -3 and -2: residual, depthwise, transformer, and one whose features
# have their channels last.
KINDS = [
    ("test_resnet", {}, 8),
    ("test_convnext", {}, 8),
    ("test_efficientnet", {}, 8),
    ("test_vit", {"img_size": 64}, 16),
    ("swin_tiny_patch4_window7_224", SWIN, 8),
]


def image(seed: int = 0, size: tuple[int, int] = (64, 64), batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def tiny_net(**arguments: Any) -> CamNet:
    torch.manual_seed(3)
    return CamNet(3, **{"backbone": "test_resnet", "width": 16, **arguments})
