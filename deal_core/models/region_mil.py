"""Classifier of image regions: features of a frozen backbone averaged in each region, and linear heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deal_core.errors import ConfigError
from deal_core.models.backbone import colour_scale, create_backbone, nearest_multiple
from deal_core.models.normalisation import ColourNormalisation


class RegionMil(nn.Module):
    """Class probabilities of regions; `deal_core.regions.training.train_regions` trains its heads from image tags.

    It makes training masks and does not run on a robot: it needs the regions of the image, which come from depth.

    Args:
        num_classes: Number of classes K.
        backbone: Name of a timm model that can return feature maps.
        levels: Indices of the feature levels of the backbone, from fine to coarse.
        weights: "none" (random), "hub" (pretrained weights of timm, downloaded) or the path of a weights file
            (.safetensors, .pth, .pt).
        backbone_arguments: Further arguments of `timm.create_model`.
        mean: Mean of the RGB channels, in [0, 1]; None: as timm has it for these weights, see `colour_scale`.
        std: Standard deviation of the RGB channels, in [0, 1]; None: as `mean`.
        scale: Factor on the image size before the backbone.
        members: Number E of heads, whose probabilities are averaged.

    Raises:
        ConfigError: the backbone is unknown or cannot return these levels, or a value is out of range.
        ModelFileError: the weights file is missing, damaged or from another network.

    >>> net = RegionMil(3, backbone="test_resnet", members=2)
    >>> net(torch.rand(5, net.width)).shape
    torch.Size([5, 4])
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet18",
        levels: Sequence[int] = (-1,),
        weights: str = "none",
        backbone_arguments: Mapping[str, Any] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        scale: float = 2.0,
        members: int = 10,
    ) -> None:
        super().__init__()
        if not 0 < scale < float("inf") or members < 1:
            raise ConfigError(f"expected a scale above 0 and at least 1 member, found {scale} and {members}")
        colours = colour_scale(backbone, weights, mean, std)
        self.normalise_colours = ColourNormalisation(colours.mean, colours.std)
        self.backbone = create_backbone(backbone, levels, weights, backbone_arguments).requires_grad_(False)
        info = self.backbone.feature_info.info
        self.levels = tuple(sorted({level % len(info) for level in levels}))
        """Indices of the feature levels, from 0 for the finest of the backbone."""
        used = [info[i] for i in self.levels]
        self.channels = tuple(int(level["num_chs"]) for level in used)
        """Number of channels of each level, from fine to coarse."""
        self.strides = tuple(int(level["reduction"]) for level in used)
        """Stride of each level, in pixels of the scaled image."""
        output_format = getattr(self.backbone, "output_fmt", None)
        self.features_are_nhwc = output_format is not None and output_format.value == "NHWC"
        self.scale = float(scale)
        self.width = sum(self.channels)
        """Number D of features of a region."""
        self.register_buffer("feature_mean", torch.zeros(self.width))
        self.register_buffer("feature_std", torch.ones(self.width))
        self.weight = nn.Parameter(torch.zeros(members, num_classes + 1, self.width))
        self.bias = nn.Parameter(torch.zeros(members, num_classes + 1))
        self.settled = {"mean": colours.mean, "std": colours.std}
        self.train(self.training)

    def columns(self, levels: Sequence[int]) -> list[int]:
        """Return the indices of the features that a network with these `levels`, and otherwise equal, has."""
        ends = np.cumsum([0, *self.channels])
        count = len(self.backbone.feature_info.info)
        wanted = {level % count for level in levels}
        found = [range(ends[i], ends[i + 1]) for i, level in enumerate(self.levels) if level in wanted]
        return list(chain(*found))

    @torch.no_grad()
    def take(self, source: RegionMil, mean: Tensor, std: Tensor, weight: Tensor, bias: Tensor) -> None:
        """Take the backbone of a network with more levels, and heads that were trained on standardised features.

        Args:
            source: Network whose levels include those of this one.
            mean: (D,) mean of the features.
            std: (D,) standard deviation of the features.
            weight: (E, K + 1, D) weights of the heads.
            bias: (E, K + 1) biases of the heads.
        """
        state = source.backbone.state_dict()
        self.backbone.load_state_dict({name: state[name] for name in self.backbone.state_dict()})
        for mine, theirs in (
            (self.feature_mean, mean),
            (self.feature_std, std),
            (self.weight, weight),
            (self.bias, bias),
        ):
            mine.copy_(theirs)

    def maps(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps (B, C, h, w) of `image` (B, 3, H, W), RGB in [0, 1], from fine to coarse."""
        size = [nearest_multiple(side * self.scale, self.backbone.multiple) for side in image.shape[-2:]]
        scaled = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
        found: list[Tensor] = self.backbone(self.normalise_colours(scaled))
        return [f.permute(0, 3, 1, 2) for f in found] if self.features_are_nhwc else found

    def forward(self, features: Tensor) -> Tensor:
        """Return the probabilities (N, K + 1), "none of the classes" first, of regions with `features` (N, D)."""
        return self.of_members(features).mean(0)

    def of_members(self, features: Tensor) -> Tensor:
        """Return the probabilities (E, N, K + 1) by each head, as in `forward`."""
        standard = (features - self.feature_mean) / self.feature_std
        logits = torch.einsum("nd,ekd->enk", standard, self.weight) + self.bias[:, None]
        return logits.softmax(-1)

    def train(self, mode: bool = True) -> RegionMil:
        """Switch between training and evaluation; the frozen backbone stays in evaluation."""
        super().train(mode)
        self.backbone.eval()
        return self
