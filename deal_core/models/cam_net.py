"""CAM classifier on any timm backbone: features, one 1x1 convolution, global average pooling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from deal_core.errors import ConfigError, ModelFileError, nearest_hint
from deal_core.models.normalisation import IMAGENET_MEAN, IMAGENET_STD, ColourNormalisation
from deal_core.models.output import CamOutput

# Of timm.create_model: set from our own arguments, or able to load a pickle, which no model file may ask for.
_OWN_ARGUMENTS = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "features_only",
    "out_indices",
)


class CamNet(nn.Module):
    """Class activation maps from image-level tags (Zhou et al. 2016, with the classifier as a 1x1 convolution).

    Feature levels of the backbone are projected to `width` channels, brought to the finest of them and added;
    a 1x1 convolution makes the CAM logits, and their spatial mean the tag logits.

    Args:
        num_classes: K.
        backbone: name of a timm model that can return feature maps.
        levels: which feature levels to use, as indices into the backbone's list, whose first is the finest; what the
            backbone would compute after the last of them is left out where timm can.
        width: channels of the fused features.
        weights: "none" (random), "hub" (timm's pretrained weights, downloaded) or the path of a .safetensors file.
        backbone_arguments: passed on to `timm.create_model`, e.g. `{"output_stride": 8}`.
        mean: of the RGB channels in [0, 1], subtracted from the image.
        std: of the RGB channels in [0, 1], by which the image is divided.
        dropout: on the fused features.
        freeze_batch_norm: keep the backbone's BatchNorm statistics and affine parameters as they were loaded.

    Raises:
        ConfigError: the backbone is unknown or cannot return these levels, or a value is out of range.
        ModelFileError: the weights file is missing, damaged or of another network.

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
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        dropout: float = 0.0,
        freeze_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if width < 1:
            raise ConfigError(f"expected a width of at least 1 channel, found {width}")
        self.normalise_colours = ColourNormalisation(mean, std)
        self.backbone = create_backbone(backbone, levels, weights, backbone_arguments)
        info = self.backbone.feature_info.info
        # The backbone returns its levels from fine to coarse, however they were asked for.
        used = [info[i] for i in sorted({level % len(info) for level in levels})]
        self.stride = int(min(level["reduction"] for level in used))
        output_format = getattr(self.backbone, "output_fmt", None)
        self.features_are_nhwc = output_format is not None and output_format.value == "NHWC"
        self.freeze_batch_norm = freeze_batch_norm
        self.project = nn.ModuleList(
            nn.Sequential(nn.Conv2d(level["num_chs"], width, 1, bias=False), nn.BatchNorm2d(width)) for level in used
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.train(self.training)

    def forward(self, image: Tensor) -> CamOutput:
        """Return CAMs and tag logits of `image` (B, 3, H, W), RGB in [0, 1]."""
        features = self.backbone(self.normalise_colours(image))
        if self.features_are_nhwc:
            features = [f.permute(0, 3, 1, 2) for f in features]
        maps = [project(f) for project, f in zip(self.project, features, strict=True)]
        size = max((m.shape[-2:] for m in maps), key=lambda s: s[0] * s[1])
        fused = self.dropout(torch.stack([_resize(m, size) for m in maps]).sum(0).relu())
        cams = self.classifier(fused)

        def cam(through_backbone: bool) -> Tensor:
            return cams if through_backbone else self.classifier(fused.detach())

        return CamOutput({"cam": cams.mean(dim=(-2, -1))}, "cam", cams, self.stride, {"cam": cam})

    def train(self, mode: bool = True) -> CamNet:
        """Switch between training and evaluation; frozen BatchNorm layers stay in evaluation."""
        super().train(mode)
        if self.freeze_batch_norm:
            freeze_batch_norm(self.backbone)
        return self


def create_backbone(
    name: str, levels: Sequence[int], weights: str, arguments: Mapping[str, Any] | None = None, **own: Any
) -> Any:
    """Return a timm model that gives the feature maps of `levels`, with its weights.

    Args:
        name: of the timm model.
        levels: indices into its list of feature levels.
        weights: "none" (random), "hub" (timm's pretrained weights, downloaded) or the path of a .safetensors file.
        arguments: of `timm.create_model`, chosen by the user.
        own: those that the network sets, and the user may not.

    Raises:
        ConfigError: the backbone is unknown, cannot be made like this, or its weights cannot be downloaded.
        ModelFileError: the weights file is missing, damaged or of another network.
    """
    if not isinstance(weights, str):
        raise ConfigError(f"expected weights as none, hub or the path of a .safetensors file, found {weights!r}")
    if isinstance(levels, str) or not levels or any(type(level) is not int for level in levels):
        raise ConfigError(f"expected levels as whole numbers, like [-3, -2], found {levels!r}")
    refuse_own_arguments("backbone_arguments", arguments or {}, own)
    backbone = _create_timm_model(name, levels, weights == "hub", {**(arguments or {}), **own})
    if weights not in ("none", "hub"):
        load_backbone_weights(backbone, Path(weights))
    return backbone


def refuse_own_arguments(what: str, arguments: Iterable[str], own: Iterable[str] = ()) -> None:
    """Refuse arguments of `timm.create_model` that the network sets itself, or that could load a pickle.

    Args:
        what: the name under which the user gave them.
        arguments: their names.
        own: further names that the network sets.

    Raises:
        ConfigError: one is among them.
    """
    for argument in arguments:
        if argument in (*_OWN_ARGUMENTS, *own):
            raise ConfigError(f"{what} cannot set '{argument}': the network sets it itself, from its other arguments")


def freeze_batch_norm(module: nn.Module) -> None:
    """Keep the statistics and affine parameters of every BatchNorm in `module`; to be called after each `train()`."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval().requires_grad_(False)


def no_download(name: str, error: OSError) -> ConfigError:
    """Return what to say where the weights of a timm model cannot be downloaded."""
    return ConfigError(
        f"the weights of '{name}' cannot be downloaded ({str(error).splitlines()[0]}); fetch them where there is "
        "a connection and give the path of the .safetensors file as weights"
    )


def load_backbone_weights(
    backbone: nn.Module, path: Path, adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
) -> None:
    """Load a whole network's .safetensors into a backbone; tensors the backbone does not have are left out.

    Args:
        backbone: the module to load into.
        path: the file.
        adapt: what to do to the file's tensors first, such as resizing position embeddings.

    Raises:
        ModelFileError: the file is missing or damaged, or lacks a tensor of the backbone in the right shape.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: expected a .safetensors file with backbone weights, found no file")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: not a readable .safetensors file ({error})") from None
    if adapt is not None:
        try:
            tensors = adapt(tensors)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ModelFileError(f"{path}: weights of another network: {error}") from error
    # As a feature extractor, timm names some tensors with '_' for '.', or puts 'model.' before them.
    known = {_plain_name(n): t for n, t in tensors.items()}
    wanted = backbone.state_dict()
    found = {n: known.get(_plain_name(n)) for n in wanted}
    fitting = {n: t for n, t in found.items() if t is not None and t.shape == wanted[n].shape}
    lacking = [n for n in wanted if n not in fitting and not n.endswith("num_batches_tracked")]
    if lacking:
        raise ModelFileError(
            f"{path}: weights of another network: {len(lacking)} of {len(wanted)} tensors of the backbone are "
            f"missing or have another shape, the first is '{lacking[0]}'"
        )
    backbone.load_state_dict({**wanted, **fitting})


def _plain_name(name: str) -> str:
    return name.removeprefix("model.").replace(".", "_")


def _create_timm_model(name: str, levels: Sequence[int], pretrained: bool, arguments: dict[str, Any]) -> Any:
    if not isinstance(name, str) or not timm.is_model(name):
        hint = nearest_hint(str(name), timm.list_models())
        raise ConfigError(f"unknown backbone '{name}': expected a timm model.{hint}")
    try:
        return timm.create_model(
            name, pretrained=pretrained, features_only=True, out_indices=tuple(levels), **arguments
        )
    except IndexError:
        count = len(timm.create_model(name, features_only=True, **arguments).feature_info.info)
        raise ConfigError(
            f"backbone '{name}' has feature levels 0..{count - 1} (or -{count}..-1), found {list(levels)}"
        ) from None
    except OSError as error:
        raise no_download(name, error) from error
    except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError) as error:
        raise ConfigError(
            f"backbone '{name}' cannot be made with levels {list(levels)} and arguments {arguments}: {error}"
        ) from error


def _resize(maps: Tensor, size: torch.Size) -> Tensor:
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
