"""The run-time segmenter: a decoder of segmentation-models-pytorch on any timm encoder, background included."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deal_core.errors import ConfigError, nearest_hint
from deal_core.models.cam_net import load_backbone_weights, no_download, refuse_own_arguments
from deal_core.models.normalisation import IMAGENET_MEAN, IMAGENET_STD, ColourNormalisation, DepthNormalisation
from deal_core.models.output import SegmenterOutput

Inputs = Literal["rgb", "rgbd"]
"""What a segmenter sees: colour alone, or depth as further channels of its first layer (early fusion)."""

DECODERS = ("deeplabv3plus", "fpn", "linknet", "pspnet", "segformer", "unet")
_CHANNELS = {"rgb": 3, "rgbd": 5}
_MULTIPLE = 32  # of pixels, that the coarsest features of every encoder divide


class SegmenterNet(nn.Module):
    """A segmentation network with a logit for each class and one for the background.

    Args:
        num_classes: K foreground classes.
        decoder: one of `DECODERS`.
        encoder: name of a timm model with feature maps at strides 2 (or 4) to 32.
        weights: of the encoder: "none" (random), "hub" (timm's pretrained weights, downloaded) or the path of a
            .safetensors file. Those are of RGB: the channels of depth start at 0.
        encoder_arguments: passed on to `timm.create_model`, e.g. `{"channels": [24, 48, 96, 128]}` of a ResNet.
        decoder_arguments: of the decoder, as segmentation-models-pytorch names them: `decoder_...`, `psp_...`.
        mean: of the RGB channels in [0, 1], subtracted from the image.
        std: of the RGB channels in [0, 1], by which the image is divided.
        inputs: "rgb", or "rgbd" for a network that sees depth too, and works without.
        depth_dropout: of rgbd, in training: share of the samples whose depth is taken away, all of it.
        depth_mean: of rgbd: mean of the inverse depth, 1/m.
        depth_std: of rgbd: standard deviation of the inverse depth, 1/m.

    Raises:
        ConfigError: decoder or encoder are unknown or do not go together, or a value is out of range.
        ModelFileError: the weights file is missing, damaged or of another network.

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
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        inputs: Inputs = "rgb",
        depth_dropout: float = 0.3,
        depth_mean: float = 1.0,
        depth_std: float = 0.5,
    ) -> None:
        super().__init__()
        if inputs not in get_args(Inputs):
            raise ConfigError(f"expected inputs to be one of {', '.join(get_args(Inputs))}, found {inputs!r}")
        if not 0 <= depth_dropout <= 1:
            raise ConfigError(f"expected depth_dropout in [0, 1], found {depth_dropout!r}")
        self.uses_depth = inputs == "rgbd"
        self.depth_dropout = depth_dropout
        self.normalise_colours = ColourNormalisation(mean, std)
        self.normalise_depth = DepthNormalisation(depth_mean, depth_std)
        self.network = _create_network(
            decoder,
            encoder,
            weights,
            _CHANNELS[inputs],
            num_classes + 1,
            encoder_arguments or {},
            decoder_arguments or {},
        )

    @property
    def backbone(self) -> nn.Module:
        """The encoder, whose learning rate is apart."""
        encoder: nn.Module = self.network.encoder
        return encoder

    def forward(self, image: Tensor, depth: Tensor | None = None) -> SegmenterOutput:
        """Return the logits at the decoder's stride.

        Args:
            image: (B, 3, H, W), RGB in [0, 1].
            depth: (B, 1, H, W), metres, 0 or nan where unknown, for a network that uses it; None is unknown everywhere.

        Raises:
            ValueError: depth of another shape, or for a network of colour alone.
        """
        height, width = image.shape[-2:]
        channels = self.normalise_colours(image)
        if self.uses_depth:
            channels = torch.cat([channels, self.normalise_depth(self._depth_of(image, depth))], dim=1)
        elif depth is not None:
            raise ValueError("this network sees colour alone (inputs: rgb), found depth")
        padded = F.pad(channels, (0, -width % _MULTIPLE, 0, -height % _MULTIPLE), mode="replicate")
        logits: Tensor = self.network(padded)
        stride = padded.shape[-2] // logits.shape[-2]
        if height % stride or width % stride:  # the image ends within a cell
            logits = F.interpolate(logits, padded.shape[-2:], mode="bilinear", align_corners=False)
            stride = 1
        return SegmenterOutput(logits[..., : height // stride, : width // stride])

    def _depth_of(self, image: Tensor, depth: Tensor | None) -> Tensor:
        """Return the depth that the network sees: 0 where it is missing and, in training, for some whole samples."""
        if depth is None:
            return torch.zeros_like(image[:, :1])
        if depth.shape[1:] != (1, *image.shape[2:]):
            raise ValueError(f"expected depth of the image's size, (B, 1, H, W), found {tuple(depth.shape)}")
        if self.training and self.depth_dropout:
            is_kept = torch.rand(len(depth), 1, 1, 1, device=depth.device) >= self.depth_dropout
            depth = torch.where(is_kept, depth, 0.0)
        return depth


class _Sum(nn.Module):
    """Adds maps up one by one: the fpn decoder's own way copies all of them to one tensor first."""

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
    if not isinstance(encoder, str) or not timm.is_model(encoder):
        raise ConfigError(
            f"unknown encoder '{encoder}': expected a timm model.{nearest_hint(str(encoder), timm.list_models())}"
        )
    if not isinstance(weights, str):
        raise ConfigError(f"expected weights as none, hub or the path of a .safetensors file, found {weights!r}")
    _check_arguments(decoder, encoder_arguments, decoder_arguments)

    def create(in_channels: int, is_pretrained: bool = False) -> Any:
        import segmentation_models_pytorch as smp

        arguments = {**encoder_arguments, **decoder_arguments}
        try:
            network = smp.create_model(
                decoder,
                encoder_name=f"tu-{encoder}",
                encoder_weights="imagenet" if is_pretrained else None,
                in_channels=in_channels,
                classes=classes,
                **arguments,
            )
        except OSError as error:
            raise no_download(encoder, error) from error
        except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AssertionError, AttributeError) as error:
            hint = "; encoder_arguments={} is the encoder as timm has it" if encoder_arguments else ""
            raise ConfigError(
                f"decoder '{decoder}' cannot be made on encoder '{encoder}' with {arguments}: {error}{hint}"
            ) from error
        # Masks are brought to full size from the scores of few classes, which is cheaper than from the logits of all.
        network.segmentation_head[1] = nn.Identity()
        if getattr(getattr(network.decoder, "merge", None), "policy", None) == "add":
            network.decoder.merge = _Sum()
        return network

    network = create(in_channels)
    if weights != "none":
        of_rgb = create(3, is_pretrained=weights == "hub")
        if weights != "hub":
            load_backbone_weights(of_rgb.encoder, Path(weights))
        network.encoder.load_state_dict(_widened(of_rgb.encoder.state_dict(), network.encoder.state_dict()))
    return network


def _check_arguments(decoder: str, encoder_arguments: Mapping[str, Any], decoder_arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that are not for who they are given to: what the decoder does not take goes to timm."""
    from segmentation_models_pytorch import MODEL_ARCHITECTURES_MAPPING

    parameters = tuple(inspect.signature(MODEL_ARCHITECTURES_MAPPING[decoder]).parameters)
    refuse_own_arguments("encoder_arguments", encoder_arguments, ("in_chans", "arch", *parameters))
    takes = [name for name in parameters if name.startswith(("decoder_", "psp_"))]
    for name in decoder_arguments:
        if name not in takes:
            raise ConfigError(
                f"decoder_arguments: '{name}' is not of the decoder {decoder}, which takes {', '.join(takes)}; {{}} is "
                "the decoder as segmentation-models-pytorch has it"
            )


def _widened(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a network of RGB with further input channels of 0 where more are wanted."""
    wide = {}
    for name, tensor in tensors.items():
        more = wanted[name].shape[1] - tensor.shape[1] if tensor.ndim == 4 else 0
        wide[name] = F.pad(tensor, (0, 0, 0, 0, 0, more)) if more else tensor
    return wide
