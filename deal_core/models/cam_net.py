"""CAM classifier on any timm backbone: features, one 1x1 convolution, global average pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deal_core.errors import ConfigError
from deal_core.losses.activation import CamActivation, check_activation
from deal_core.models.backbone import colour_scale, create_backbone, freezes_batch_norm, to_multiple
from deal_core.models.normalisation import ColourNormalisation, freeze_batch_norm
from deal_core.models.output import CamOutput


class CamNet(nn.Module):
    """Class activation maps from image-level tags (Zhou et al. 2016, with the classifier as a 1x1 convolution).

    Feature levels of the backbone are projected to `width` channels, resized to the finest level and added. A 1x1
    convolution makes the CAM logits, and their spatial mean is the tag logits.

    Args:
        num_classes: Number of classes K.
        backbone: Name of a timm model that can return feature maps, also with the tag of its weights
            ("resnet18.a1_in1k"). A vision transformer gets its images resized to the nearest multiple of its patch.
        levels: Indices of the feature levels of the backbone, from fine to coarse. timm omits later layers if possible.
        width: Channels of the fused features.
        weights: "none" (random), "hub" (pretrained weights of timm, downloaded) or the path of a weights file
            (.safetensors, .pth, .pt).
        backbone_arguments: Further arguments of `timm.create_model`, e.g. `{"output_stride": 8}`.
        mean: Mean of the RGB channels, in [0, 1]; None: as timm has it for these weights, see `colour_scale`.
        std: Standard deviation of the RGB channels, in [0, 1]; None: as `mean`.
        dropout: Dropout rate of the fused features.
        freeze_batch_norm: Whether to freeze the BatchNorm statistics and affine parameters of the backbone; None: if it
            starts from pretrained weights.
        activation: How raw CAM logits become the non-negative map for masks, see `deal_core.losses.activation`.

    Raises:
        ConfigError: the backbone is unknown or cannot return these levels, or a value is out of range.
        ModelFileError: the weights file is missing, damaged or from another network.

    >>> net = CamNet(3, backbone="test_resnet")
    >>> net(torch.rand(1, 3, 64, 64)).cams.shape
    torch.Size([1, 3, 8, 8])
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet18",
        levels: Sequence[int] = (-3, -2),
        width: int = 128,
        weights: str = "none",
        backbone_arguments: Mapping[str, Any] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        dropout: float = 0.0,
        freeze_batch_norm: bool | None = None,
        activation: CamActivation = "above_mean",
    ) -> None:
        super().__init__()
        if width < 1:
            raise ConfigError(f"expected a width of at least 1 channel, found {width}")
        self.backbone = create_backbone(backbone, levels, weights, backbone_arguments)
        scale = colour_scale(backbone, weights, mean, std)
        self.normalise_colours = ColourNormalisation(scale.mean, scale.std)
        info = self.backbone.feature_info.info
        # The backbone returns its levels from fine to coarse, independent of the order of `levels`.
        self.levels = tuple(sorted({level % len(info) for level in levels}))
        """Indices of the feature levels, from 0 for the finest of the backbone."""
        used = [info[i] for i in self.levels]
        self.stride = int(min(level["reduction"] for level in used))
        output_format = getattr(self.backbone, "output_fmt", None)
        self.features_are_nhwc = output_format is not None and output_format.value == "NHWC"
        self.freeze_batch_norm = freezes_batch_norm(freeze_batch_norm, weights)
        self.activation = check_activation(activation)
        self.settled = {
            "mean": scale.mean,
            "std": scale.std,
            "freeze_batch_norm": self.freeze_batch_norm,
            "activation": activation,
        }
        self.project = nn.ModuleList(
            nn.Sequential(nn.Conv2d(level["num_chs"], width, 1, bias=False), nn.BatchNorm2d(width)) for level in used
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.train(self.training)

    def forward(self, image: Tensor) -> CamOutput:
        """Return CAMs and tag logits of `image` (B, 3, H, W), RGB in [0, 1]."""
        return self.of_maps(self.maps(image))

    def maps(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps (B, C, h, w) of `image` (B, 3, H, W), RGB in [0, 1], from fine to coarse."""
        features: list[Tensor] = self.backbone(to_multiple(self.normalise_colours(image), self.backbone.multiple))
        return [f.permute(0, 3, 1, 2) for f in features] if self.features_are_nhwc else features

    def of_maps(self, maps: Sequence[Tensor]) -> CamOutput:
        """Return CAMs and tag logits for feature maps, which may be kept ones of float16."""
        projected = [project(m.to(self.classifier.weight.dtype)) for project, m in zip(self.project, maps, strict=True)]
        size = max((m.shape[-2:] for m in projected), key=lambda s: s[0] * s[1])
        fused = self.dropout(torch.stack([_resize(m, size) for m in projected]).sum(0).relu())
        cams = self.classifier(fused)

        def cam(through_backbone: bool) -> Tensor:
            return cams if through_backbone else self.classifier(fused.detach())

        tag_logits = {"cam": cams.mean(dim=(-2, -1))}
        return CamOutput(tag_logits, "cam", cams, self.stride, {"cam": cam}, activated=self.activation)

    def train(self, mode: bool = True) -> CamNet:
        """Switch between training and evaluation; frozen BatchNorm layers stay in evaluation."""
        super().train(mode)
        if self.freeze_batch_norm:
            freeze_batch_norm(self.backbone)
        return self


def _resize(maps: Tensor, size: torch.Size) -> Tensor:
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
