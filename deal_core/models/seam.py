"""SEAM: CAMs that are consistent over two views of an image, and their refinement by pixel correlation.

Wang, Zhang, Kan, Shan, Chen, "Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic
Segmentation", CVPR 2020, arXiv 2004.04581. docs/explanation/seam.md shows the flow of gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deal_core.errors import ConfigError
from deal_core.losses.activation import CamActivation, activate, check_activation
from deal_core.losses.equivariance import (
    EPSILON,
    equivariant_cross_regularization_loss,
    equivariant_regularization_loss,
    max_norm,
    refined_minimum_loss,
)
from deal_core.models.backbone import (
    InitialWeights,
    check_weights,
    colour_scale,
    create_backbone,
    freezes_batch_norm,
    load_backbone_weights,
)
from deal_core.models.normalisation import ColourNormalisation, freeze_batch_norm
from deal_core.models.output import CamOutput, Consistency
from deal_core.models.resnet38 import ResNet38

Preset = Literal["reference", "fixed"]

STRIDE = 8
_BLOCK = 1024


@dataclass(frozen=True, kw_only=True)
class SeamOutput(CamOutput):
    """The output of SEAM."""

    refined_background: Tensor
    """(B, 1, h, w) refined background in [0, 1]."""


class Seam(nn.Module):
    """SEAM with its own ResNet38, or with a convolutional timm backbone, at output stride 8.

    `cams` are the logits of a 1x1 convolution on the last feature map. `refined` are the normalised CAMs, averaged over
    similar pixels by the pixel correlation module (PCM). The embedding of the PCM uses an early and a middle feature
    map and the colours. As published, gradients do not leave the PCM: losses on `refined` train only the three
    convolutions of the embedding. The map "refined" with `through_backbone` passes gradients on to all layers.

    The preset "reference" trains as published. The preset "fixed" corrects four errors:

    1. The difference between the views is averaged over the present tags. The published mean over all classes contains
       zeros for all absent classes, so the weight of L_ER decreases with the number of classes.
    2. Hard mining takes the largest 20 % of the entries of present classes and background. The published 20 % of all
       entries contain all non-zero entries if less than a fifth of the classes is present.
    3. The classifier has one output per class. The published classifier has one more, which is not trained.
    4. Images are downsampled with an antialiasing filter, and all resizing uses `align_corners=False`, as for CAMs and
       masks.

    Args:
        num_classes: Number of classes K.
        backbone: "resnet38", or the name of a timm model with the last three feature levels at stride 8 for that output
            stride.
        weights: "none" (random), "hub" (pretrained weights of timm, downloaded) or the path of a weights file
            (.safetensors, .pth, .pt).
        backbone_arguments: Further arguments of `timm.create_model`, e.g. `{"pad_type": "same"}`.
        mean: Mean of the RGB channels, in [0, 1]; None: as timm has it for these weights, see `colour_scale`.
        std: Standard deviation of the RGB channels, in [0, 1]; None: as `mean`.
        dropout: Dropout rate of whole channels before the classifier.
        second_scale: Size of the second view relative to the first view.
        freeze_batch_norm: Whether to freeze the BatchNorm statistics and affine parameters of a timm backbone; None: if
            it starts from pretrained weights. Those of resnet38 are always frozen.
        activation: How raw CAM logits become the non-negative map that is refined, see `deal_core.losses.activation`;
            None: "relu" for the preset "reference", as published, and "above_mean" for "fixed".
        preset: "reference" or "fixed", see above.

    Raises:
        ConfigError: the backbone is unknown or does not support stride 8, or a value is out of range.
        ModelFileError: the weights file is missing, damaged or from another network.

    >>> net = Seam(3, backbone="test_resnet")
    >>> net(torch.rand(1, 3, 64, 80)).refined.shape
    torch.Size([1, 3, 8, 10])
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet38",
        weights: str = "none",
        backbone_arguments: Mapping[str, Any] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        dropout: float = 0.5,
        second_scale: float = 0.3,
        freeze_batch_norm: bool | None = None,
        preset: Preset = "reference",
        activation: CamActivation | None = None,
    ) -> None:
        super().__init__()
        check_weights(weights)
        if not 0 < second_scale <= 1:
            raise ConfigError(f"expected second_scale in (0, 1], found {second_scale}")
        if preset not in get_args(Preset):
            raise ConfigError(f"expected preset as one of {', '.join(get_args(Preset))}, found {preset!r}")
        if backbone == "resnet38":
            self.backbone, channels = _create_resnet38(weights, backbone_arguments)
        else:
            self.backbone, channels = _create_timm_backbone(backbone, weights, backbone_arguments)
        scale = colour_scale(backbone, weights, mean, std)
        self.normalise_colours = ColourNormalisation(scale.mean, scale.std)
        self.preset, self.second_scale = preset, second_scale
        self.freeze_batch_norm = freezes_batch_norm(freeze_batch_norm, weights)
        published: CamActivation = "relu" if preset == "reference" else "above_mean"
        self.activation = check_activation(activation or published)
        self.settled = {
            "mean": scale.mean,
            "std": scale.std,
            "freeze_batch_norm": self.freeze_batch_norm,
            "activation": self.activation,
        }
        self.dropout = nn.Dropout2d(dropout)
        self.background_slots = 1 if preset == "reference" else 0
        self.classifier = nn.Conv2d(channels[2], self.background_slots + num_classes, 1, bias=False)
        nn.init.xavier_uniform_(self.classifier.weight)
        self.embedding = PixelEmbedding(channels[0], channels[1])
        self.train(self.training)

    def forward(self, image: Tensor) -> SeamOutput:
        """Return CAMs, refined CAMs and tag logits of `image` (B, 3, H, W), RGB in [0, 1], at stride 8."""
        normalised = self.normalise_colours(image)
        early, middle, last = self.backbone(normalised)
        last = self.dropout(last)
        cams = self._classify(last)
        colours = self._reduce(normalised, early.shape[-2:])
        embedding = self.embedding(colours, early.detach(), middle.detach())
        refined = pixel_correlation(seed(cams.detach(), self.activation), embedding)

        def raw_map(through_backbone: bool) -> Tensor:
            return cams if through_backbone else self._classify(last.detach())

        def refined_map(through_backbone: bool) -> Tensor:
            if not through_backbone:
                return refined[:, 1:]
            return pixel_correlation(seed(cams, self.activation), self.embedding(colours, early, middle))[:, 1:]

        return SeamOutput(
            tag_logits={"cam": cams.mean(dim=(-2, -1))},
            cam_head="cam",
            cams=cams,
            stride=STRIDE,
            maps={"raw": raw_map, "refined": refined_map},
            refined=refined[:, 1:],
            activated=self.activation,
            corners=self.preset == "reference",
            refined_background=refined[:, :1],
        )

    def consistency(self, image: Tensor, tags: Tensor, first: CamOutput) -> Consistency:
        """Return the output for the smaller view and the losses of SEAM, each with weight 1.

        "rvmin", the mean over the two views, pulls the minimum of the refined map to 0; "er" makes the CAMs of the two
        views equal; "ecr" makes the refined map of each view equal to the CAM of the other view. An unknown tag counts
        as absent and contributes nothing.

        Args:
            image: (B, 3, H, W) first view.
            tags: (B, K) in {1, 0, nan}.
            first: Output of this network for the first view.

        Raises:
            TypeError: `first` is the output of another network.
        """
        if not isinstance(first, SeamOutput):
            raise TypeError(f"expected a SeamOutput for the first view, got {type(first).__name__}")
        size, second_size = image.shape[-2:], [max(int(side * self.second_scale), 1) for side in image.shape[-2:]]
        second = self.forward(self._reduce(image, second_size))
        # The losses are differences of similar maps, so they are computed in float32 even under autocast.
        with torch.autocast(device_type=image.device.type, enabled=False):
            return Consistency(second, self._losses((first, second), (size, second_size), tags))

    def train(self, mode: bool = True) -> Seam:
        """Switch between training and evaluation; frozen BatchNorm layers stay in evaluation."""
        super().train(mode)
        if self.freeze_batch_norm:
            freeze_batch_norm(self.backbone)
        return self

    def _classify(self, features: Tensor) -> Tensor:
        return self.classifier(features)[:, self.background_slots :]

    def _losses(
        self, outputs: tuple[SeamOutput, SeamOutput], sizes: tuple[Sequence[int], Sequence[int]], tags: Tensor
    ) -> dict[str, Tensor]:
        # Classes absent from the whole batch are 0 in both views; skipping them saves most of the work.
        used = (tags == 1).any(dim=0)
        used[0] |= ~used.any()
        known, classes = tags[:, used], tags.shape[1] if self.preset == "reference" else None
        cams, refined, rvmin = [], [], []
        for output, size in zip(outputs, sizes, strict=True):
            assert output.refined is not None
            cams.append(max_norm(self._resize(_full_precision(output.cams[:, used]), size)))
            both = torch.cat([output.refined_background, output.refined[:, used]], dim=1)
            both = self._resize(both, size)
            rvmin.append(refined_minimum_loss(both[:, 1:], known))
            refined.append(max_norm(both))
        cam, second_cam = (self._resize(maps, sizes[1]) for maps in cams)
        first_refined, second_refined = (self._resize(maps, sizes[1]) for maps in refined)
        return {
            "rvmin": (rvmin[0] + rvmin[1]) / 2,
            "er": equivariant_regularization_loss(cam, second_cam, known, classes=classes),
            "ecr": equivariant_cross_regularization_loss(
                cam, second_cam, first_refined, second_refined, known, classes=classes
            ),
        }

    def _reduce(self, image: Tensor, size: Sequence[int]) -> Tensor:
        """Downsample an image; as published, each pixel is interpolated from only four pixels."""
        return self._interpolate(image, size, antialias=self.preset == "fixed")

    def _resize(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        return self._interpolate(maps, size, antialias=False)

    def _interpolate(self, maps: Tensor, size: Sequence[int], *, antialias: bool) -> Tensor:
        if tuple(maps.shape[-2:]) == tuple(size):
            return maps
        align_corners = self.preset == "reference"
        return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=align_corners, antialias=antialias)


class PixelEmbedding(nn.Module):
    """Embedding of the pixel correlation module: one vector per pixel, from two feature maps and the colours."""

    def __init__(self, early_channels: int, middle_channels: int) -> None:
        super().__init__()
        self.early = nn.Conv2d(early_channels, 64, 1, bias=False)
        self.middle = nn.Conv2d(middle_channels, 128, 1, bias=False)
        self.fuse = nn.Conv2d(3 + 64 + 128, 192, 1, bias=False)
        nn.init.kaiming_normal_(self.early.weight)
        nn.init.kaiming_normal_(self.middle.weight)
        nn.init.xavier_uniform_(self.fuse.weight, gain=4)

    def forward(self, colours: Tensor, early: Tensor, middle: Tensor) -> Tensor:
        """Return the embedding (B, 192, h, w) from normalised colours (B, 3, h, w) and feature maps (B, C, h, w)."""
        parts = [colours, F.relu(self.early(early)), F.relu(self.middle(middle))]
        return self.fuse(torch.cat([part.to(colours.dtype) for part in parts], dim=1))


def seed(cams: Tensor, activation: CamActivation = "relu") -> Tensor:
    """Return the input (B, K + 1, h, w), in [0, 1], of the pixel correlation module, background first.

    Each CAM (B, K, h, w) is activated and divided by its maximum. The background is 1 - max over classes, and only the
    largest class at each pixel is kept.
    """
    positive = activate(_full_precision(cams), activation)
    scaled = (positive - EPSILON).relu() / (positive.amax(dim=(-2, -1), keepdim=True) + EPSILON)
    largest = scaled.amax(dim=1, keepdim=True)
    return torch.cat([1.0 - largest, scaled.where(scaled >= largest, 0.0)], dim=1)


def pixel_correlation(maps: Tensor, embedding: Tensor) -> Tensor:
    """Return (B, C, h, w), at least float32: at every pixel, the mean of `maps` weighted by embedding similarity.

    This is the pixel correlation module of SEAM: the weight is the cosine similarity of the two embeddings, with
    negative values set to 0.

    Args:
        maps: (B, C, h, w) maps to average.
        embedding: (B, D, h, w) embedding of the pixels.
    """
    with torch.autocast(device_type=maps.device.type, enabled=False):
        vectors = _full_precision(embedding).flatten(2)
        vectors = vectors / (torch.linalg.vector_norm(vectors, dim=1, keepdim=True) + EPSILON)
        # A row of ones adds the column sums of the n x n affinity to the product, so only the product is divided.
        # Without gradients, only one block of columns of the affinity exists at a time.
        rows = F.pad(_full_precision(maps).flatten(2), (0, 0, 0, 1), value=1.0)
        blocks = vectors.split(_BLOCK, dim=2)
        spread = torch.cat([rows @ (vectors.transpose(1, 2) @ block).relu_() for block in blocks], dim=2)
        return (spread[:, :-1] / (spread[:, -1:] + EPSILON)).view(maps.shape)


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _create_resnet38(weights: str, arguments: Mapping[str, Any] | None) -> tuple[nn.Module, Sequence[int]]:
    """Return the backbone and the channels of its three feature maps."""
    if arguments:
        raise ConfigError(f"expected no backbone_arguments for resnet38, found {dict(arguments)}")
    check_weights(weights)
    if weights == "hub":
        raise ConfigError("resnet38 has no weights to download: expected none or the path of a weights file")
    backbone: Any = ResNet38()
    backbone.initial_weights = InitialWeights(weights)
    if weights != "none":
        backbone.initial_weights = load_backbone_weights(backbone, Path(weights))
    return backbone, ResNet38.channels


def _create_timm_backbone(
    name: str, weights: str, arguments: Mapping[str, Any] | None
) -> tuple[nn.Module, Sequence[int]]:
    """Return the backbone and the channels of its three feature maps."""
    backbone = create_backbone(name, (-3, -2, -1), weights, arguments, output_stride=STRIDE)
    strides = backbone.feature_info.reduction()
    if any(stride != STRIDE for stride in strides):
        raise ConfigError(
            f"backbone '{name}' cannot be used in seam: expected its last three feature levels at stride {STRIDE} "
            f"when asked for that output stride, found {strides}; choose a ResNet, MobileNet or ConvNeXt"
        )
    return backbone, backbone.feature_info.channels()
