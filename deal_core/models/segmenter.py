"""The run-time segmenter: a decoder of segmentation-models-pytorch on any timm encoder, with a background class."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deal_core.errors import ConfigError, nearest_hint
from deal_core.models.backbone import (
    InitialWeights,
    check_timm_name,
    check_weights,
    colour_scale,
    explain_timm_errors,
    freezes_batch_norm,
    hub_arguments,
    load_backbone_weights,
    refuse_own_arguments,
)
from deal_core.models.normalisation import ColourNormalisation, DepthNormalisation, freeze_batch_norm
from deal_core.models.output import SegmenterOutput

Inputs = Literal["rgb", "rgbd"]
"""Inputs of a segmenter: colour, or colour and depth as channels of its first layer (early fusion)."""

DECODERS = ("deeplabv3plus", "fpn", "linknet", "pspnet", "segformer", "unet")
_CHANNELS = {"rgb": 3, "rgbd": 5}
_MULTIPLE = 32  # pixels per cell of the coarsest features of every encoder


class SegmenterNet(nn.Module):
    """A segmentation network with a logit for each class and for the background.

    Args:
        num_classes: Number of foreground classes K.
        decoder: One of `DECODERS`.
        encoder: Name of a timm model with feature maps at strides 2 (or 4) to 32.
        weights: Weights of the encoder: "none" (random), "hub" (pretrained weights of timm, downloaded) or the path of
            a .safetensors, .pth or .pt file. Weights are for RGB; the weights of the depth channels start at 0.
        encoder_arguments: Further arguments of `timm.create_model`, e.g. `{"channels": [24, 48, 96, 128]}`.
        decoder_arguments: Arguments of the decoder, named as in segmentation-models-pytorch: `decoder_...`, `psp_...`.
        mean: Mean of the RGB channels, in [0, 1]; None: as timm has it for these weights, see `colour_scale`.
        std: Standard deviation of the RGB channels, in [0, 1]; None: as `mean`.
        inputs: "rgb", or "rgbd" for a network that uses depth and also works without it.
        depth_dropout: Share of the training samples without any depth, for rgbd.
        depth_mean: Mean of the inverse depth, in 1/m, for rgbd.
        depth_std: Standard deviation of the inverse depth, in 1/m, for rgbd.
        freeze_batch_norm: Whether to freeze the BatchNorm statistics and affine parameters of the encoder; None: if it
            starts from pretrained weights.

    Raises:
        ConfigError: decoder or encoder are unknown or do not fit together, or a value is out of range.
        ModelFileError: the weights file is missing, damaged or from another network.

    >>> import torch
    >>> net = SegmenterNet(3, encoder="test_resnet").eval()
    >>> net(torch.rand(1, 3, 48, 64)).logits.shape
    torch.Size([1, 4, 12, 16])
    >>> net = SegmenterNet(3, encoder="test_resnet", inputs="rgbd").eval()
    >>> net(torch.rand(1, 3, 48, 64), depth=torch.ones(1, 1, 48, 64)).logits.shape
    torch.Size([1, 4, 12, 16])
    """

    def __init__(
        self,
        num_classes: int,
        decoder: str = "fpn",
        encoder: str = "resnet10t",
        weights: str = "none",
        encoder_arguments: Mapping[str, Any] | None = None,
        decoder_arguments: Mapping[str, Any] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        inputs: Inputs = "rgb",
        depth_dropout: float = 0.3,
        depth_mean: float = 1.0,
        depth_std: float = 0.5,
        freeze_batch_norm: bool | None = None,
    ) -> None:
        super().__init__()
        if inputs not in get_args(Inputs):
            raise ConfigError(f"expected inputs to be one of {', '.join(get_args(Inputs))}, found {inputs!r}")
        if not 0 <= depth_dropout <= 1:
            raise ConfigError(f"expected depth_dropout in [0, 1], found {depth_dropout!r}")
        self.uses_depth = inputs == "rgbd"
        self.levels = tuple(range(1, 6))
        """Indices of the feature levels of the encoder, of which 0 is the image."""
        self.depth_dropout = depth_dropout
        check_timm_name("encoder", encoder)
        check_weights(weights)
        scale = colour_scale(encoder, weights, mean, std)
        self.normalise_colours = ColourNormalisation(scale.mean, scale.std)
        self.normalise_depth = DepthNormalisation(depth_mean, depth_std)
        self.freeze_batch_norm = freezes_batch_norm(freeze_batch_norm, weights)
        self.settled = {"mean": scale.mean, "std": scale.std, "freeze_batch_norm": self.freeze_batch_norm}
        arguments = (encoder_arguments or {}, decoder_arguments or {})
        self.network = _create_network(decoder, encoder, weights, _CHANNELS[inputs], num_classes + 1, *arguments)
        self.train(self.training)

    @property
    def backbone(self) -> nn.Module:
        """The encoder, which has its own learning rate."""
        encoder: nn.Module = self.network.encoder
        return encoder

    def train(self, mode: bool = True) -> SegmenterNet:
        """Switch between training and evaluation; frozen BatchNorm layers stay in evaluation."""
        super().train(mode)
        if self.freeze_batch_norm:
            freeze_batch_norm(self.backbone)
        return self

    def forward(self, image: Tensor, depth: Tensor | None = None) -> SegmenterOutput:
        """Return the logits at the stride of the decoder.

        Args:
            image: (B, 3, H, W) RGB in [0, 1].
            depth: (B, 1, H, W) metres, 0 or nan where unknown, for a network with depth; None if it is all unknown.

        Raises:
            ValueError: depth has another shape, or the network uses no depth.
        """
        height, width = image.shape[-2:]
        channels = self.normalise_colours(image)
        if self.uses_depth:
            channels = torch.cat([channels, self.normalise_depth(self._depth_of(image, depth))], dim=1)
        elif depth is not None:
            raise ValueError("this network sees colour alone (inputs: rgb), found depth")
        padded = F.pad(channels, (0, -width % _MULTIPLE, 0, -height % _MULTIPLE), mode="replicate")
        logits = self._decoded(self.network.encoder(padded))
        stride = padded.shape[-2] // logits.shape[-2]
        if height % stride or width % stride:  # the image border cuts a cell
            logits = F.interpolate(logits, padded.shape[-2:], mode="bilinear", align_corners=False)
            stride = 1
        return SegmenterOutput(logits[..., : height // stride, : width // stride])

    def maps(self, image: Tensor) -> list[Tensor]:
        """Return the feature maps (B, C, h, w) of `image` (B, 3, H, W), RGB in [0, 1], from fine to coarse.

        Raises:
            ValueError: a side of the image is no multiple of 32, where the maps would show what is beside it.
        """
        if any(side % _MULTIPLE for side in image.shape[-2:]):
            raise ValueError(f"expected sides of a multiple of {_MULTIPLE} pixels, found {tuple(image.shape[-2:])}")
        found: list[Tensor] = self.network.encoder(self.normalise_colours(image))
        return found[1:]  # the first is the image, of which decoders read the size alone

    def of_maps(self, maps: Sequence[Tensor]) -> SegmenterOutput:
        """Return the logits at the stride of the decoder for feature maps, which may be kept ones of float16."""
        whole = [m.to(next(self.network.decoder.parameters()).dtype) for m in maps]
        batch, _, height, width = whole[0].shape  # at stride 2; some decoders ask for the size of the image
        return SegmenterOutput(self._decoded([whole[0].new_zeros(batch, 1, 2 * height, 2 * width), *whole]))

    def _decoded(self, features: Sequence[Tensor]) -> Tensor:
        """Return the logits of the features of the encoder; of the first one, the image, only the size is read."""
        logits: Tensor = self.network.segmentation_head(self.network.decoder(features))
        return logits

    def _depth_of(self, image: Tensor, depth: Tensor | None) -> Tensor:
        """Return the depth for the network: 0 for missing depth and, in training, for some whole samples."""
        if depth is None:
            return torch.zeros_like(image[:, :1])
        if depth.shape[1:] != (1, *image.shape[2:]):
            raise ValueError(f"expected depth of the image's size, (B, 1, H, W), found {tuple(depth.shape)}")
        if self.training and self.depth_dropout:
            is_kept = torch.rand(len(depth), 1, 1, 1, device=depth.device) >= self.depth_dropout
            depth = torch.where(is_kept, depth, 0.0)
        return depth


class _Sum(nn.Module):
    """Sum of maps, one by one: the fpn decoder itself first copies all of them to one tensor."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return functools.reduce(torch.add, maps)


def _create_network(
    decoder: str,
    encoder: str,
    weights: str,
    in_channels: int,
    classes: int,
    encoder_arguments: Mapping[str, Any],
    decoder_arguments: Mapping[str, Any],
) -> Any:
    if decoder not in DECODERS:
        raise ConfigError(
            f"unknown decoder '{decoder}': expected {', '.join(DECODERS)}.{nearest_hint(str(decoder), DECODERS)}"
        )
    _check_arguments(decoder, encoder_arguments, decoder_arguments)
    arguments = {**encoder_arguments, **decoder_arguments}
    hint = "; encoder_arguments={} is the encoder as in timm" if encoder_arguments else ""
    with explain_timm_errors(encoder, f"decoder '{decoder}' on encoder '{encoder}' with {arguments}{hint}"):
        network = _create_smp_network(decoder, encoder, in_channels, classes, arguments)
        network.encoder.initial_weights = InitialWeights(weights)
        if weights == "none":
            return network
        of_rgb = _create_smp_network(decoder, encoder, 3, classes, arguments, hub_arguments(encoder, weights))
    if weights != "hub":
        network.encoder.initial_weights = load_backbone_weights(of_rgb.encoder, Path(weights))
    network.encoder.load_state_dict(_widened(of_rgb.encoder.state_dict(), network.encoder.state_dict()))
    return network


def _create_smp_network(
    decoder: str,
    encoder: str,
    in_channels: int,
    classes: int,
    arguments: Mapping[str, Any],
    of_weights: Mapping[str, Any] | None = None,
) -> Any:
    import segmentation_models_pytorch as smp

    source = dict(of_weights or {})
    network = smp.create_model(
        decoder,
        encoder_name=f"tu-{encoder}",
        encoder_weights=True if source.pop("pretrained", False) else None,
        in_channels=in_channels,
        classes=classes,
        **arguments,
        **source,
    )
    # Resizing the scores of the present classes to full size is cheaper than resizing the logits of all classes.
    network.segmentation_head[1] = nn.Identity()
    if getattr(getattr(network.decoder, "merge", None), "policy", None) == "add":
        network.decoder.merge = _Sum()
    return network


def _check_arguments(decoder: str, encoder_arguments: Mapping[str, Any], decoder_arguments: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for misplaced arguments: the library passes all unknown decoder arguments to timm."""
    from segmentation_models_pytorch import MODEL_ARCHITECTURES_MAPPING

    parameters = tuple(inspect.signature(MODEL_ARCHITECTURES_MAPPING[decoder]).parameters)
    refuse_own_arguments("encoder_arguments", encoder_arguments, ("in_chans", "arch", *parameters))
    takes = [name for name in parameters if name.startswith(("decoder_", "psp_"))]
    for name in decoder_arguments:
        if name not in takes:
            raise ConfigError(
                f"decoder_arguments: '{name}' is not of the decoder {decoder}, which takes {', '.join(takes)}; {{}} is "
                "the decoder as in segmentation-models-pytorch"
            )


def _widened(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of an RGB network, with input channels of 0 added where `wanted` has more."""
    wide = {}
    for name, tensor in tensors.items():
        more = wanted[name].shape[1] - tensor.shape[1] if tensor.ndim == 4 else 0
        wide[name] = F.pad(tensor, (0, 0, 0, 0, 0, more)) if more else tensor
    return wide
