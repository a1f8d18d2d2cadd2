"""The run-time segmenter: a decoder of segmentation-models-pytorch on any timm encoder, background included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from deal_core.errors import ConfigError, nearest_hint
from deal_core.models.cam_net import load_backbone_weights, no_download
from deal_core.models.normalisation import IMAGENET_MEAN, IMAGENET_STD, ColourNormalisation
from deal_core.models.output import SegmenterOutput

DECODERS = ("deeplabv3plus", "fpn", "linknet", "pspnet", "segformer", "unet")
_MULTIPLE = 32  # of pixels, that the coarsest features of every encoder divide


class SegmenterNet(nn.Module):
    """A segmentation network with a logit for each class and one for the background.

    Args:
        num_classes: K foreground classes.
        decoder: one of `DECODERS`.
        encoder: name of a timm model with feature maps at strides 2 (or 4) to 32.
        weights: of the encoder: "none" (random), "hub" (timm's pretrained weights, downloaded) or the path of a
            .safetensors file.
        decoder_arguments: of the decoder, as segmentation-models-pytorch names them: `decoder_...`.
        mean: of the RGB channels in [0, 1], subtracted from the image.
        std: of the RGB channels in [0, 1], by which the image is divided.

    Raises:
        ConfigError: decoder or encoder are unknown or do not go together, or a value is out of range.
        ModelFileError: the weights file is missing, damaged or of another network.

    >>> import torch
    >>> net = SegmenterNet(3, encoder="test_resnet").eval()
    >>> net(torch.rand(1, 3, 48, 64)).logits.shape
    torch.Size([1, 4, 12, 16])
    """

    def __init__(
        self,
        num_classes: int,
        decoder: str = "fpn",
        encoder: str = "mobilenetv2_100",
        weights: str = "none",
        decoder_arguments: Mapping[str, Any] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.normalise_colours = ColourNormalisation(mean, std)
        self.network = _create_network(decoder, encoder, weights, num_classes + 1, decoder_arguments or {})

    @property
    def backbone(self) -> nn.Module:
        """The encoder, whose learning rate is apart."""
        encoder: nn.Module = self.network.encoder
        return encoder

    def forward(self, image: Tensor) -> SegmenterOutput:
        """Return the logits of `image` (B, 3, H, W), RGB in [0, 1], at the decoder's stride."""
        height, width = image.shape[-2:]
        padded = F.pad(self.normalise_colours(image), (0, -width % _MULTIPLE, 0, -height % _MULTIPLE), mode="replicate")
        logits: Tensor = self.network(padded)
        stride = padded.shape[-2] // logits.shape[-2]
        if height % stride or width % stride:  # the image ends within a cell
            logits = F.interpolate(logits, padded.shape[-2:], mode="bilinear", align_corners=False)
            stride = 1
        return SegmenterOutput(logits[..., : height // stride, : width // stride])


def _create_network(decoder: str, encoder: str, weights: str, channels: int, arguments: Mapping[str, Any]) -> Any:
    import segmentation_models_pytorch as smp

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
    for name in arguments:
        if not name.startswith("decoder_"):  # what is left over goes to timm, which could load a pickle
            raise ConfigError(f"decoder_arguments: expected names that begin with 'decoder_', found '{name}'")
    try:
        network = smp.create_model(
            decoder,
            encoder_name=f"tu-{encoder}",
            encoder_weights="imagenet" if weights == "hub" else None,
            classes=channels,
            **arguments,
        )
    except OSError as error:
        raise no_download(encoder, error) from error
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AssertionError, AttributeError) as error:
        raise ConfigError(
            f"decoder '{decoder}' cannot be made on encoder '{encoder}' with {dict(arguments)}: {error}"
        ) from error
    # Masks are brought to full size from the scores of few classes, which is cheaper than from the logits of all.
    network.segmentation_head[1] = nn.Identity()
    if weights not in ("none", "hub"):
        load_backbone_weights(network.encoder, Path(weights))
    return network
