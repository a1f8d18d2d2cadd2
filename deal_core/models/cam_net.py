"""CAM classifier on any timm backbone: features, one 1x1 convolution, global average pooling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from deal_core.errors import ConfigError, ModelFileError, nearest_hint
from deal_core.models.normalisation import IMAGENET_MEAN, IMAGENET_STD, ColourNormalisation, freeze_batch_norm
from deal_core.models.output import CamOutput

# Arguments of timm.create_model that the network sets, or that could load a pickle, which no model file may do.
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

    Feature levels of the backbone are projected to `width` channels, resized to the finest level and added. A 1x1
    convolution makes the CAM logits, and their spatial mean is the tag logits.

    Args:
        num_classes: Number of classes K.
        backbone: Name of a timm model that can return feature maps.
        levels: Indices of the feature levels of the backbone, from fine to coarse. timm omits later layers if possible.
        width: Channels of the fused features.
        weights: "none" (random), "hub" (pretrained weights of timm, downloaded) or the path of a .safetensors file.
        backbone_arguments: Further arguments of `timm.create_model`, e.g. `{"output_stride": 8}`.
        mean: Mean of the RGB channels, in [0, 1].
        std: Standard deviation of the RGB channels, in [0, 1].
        dropout: Dropout rate of the fused features.
        freeze_batch_norm: Whether to freeze the BatchNorm statistics and affine parameters of the backbone.

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
        # The backbone returns its levels from fine to coarse, independent of the order of `levels`.
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
    """Return a timm model with its weights that returns the feature maps of `levels`, as in `CamNet`.

    The user chooses `arguments` of `timm.create_model`, which must not contain the network's `own` arguments.

    Raises:
        ConfigError: the backbone is unknown, cannot be made with these arguments, or its download fails.
        ModelFileError: the weights file is missing, damaged or from another network.
    """
    check_weights(weights)
    if isinstance(levels, str) or not levels or any(type(level) is not int for level in levels):
        raise ConfigError(f"expected levels as whole numbers, like [-3, -2], found {levels!r}")
    refuse_own_arguments("backbone_arguments", arguments or {}, own)
    backbone = _create_timm_model(name, levels, weights == "hub", {**(arguments or {}), **own})
    if weights not in ("none", "hub"):
        load_backbone_weights(backbone, Path(weights))
    return backbone


def check_weights(weights: object) -> None:
    """Raise `ConfigError` if the weights are no text."""
    if not isinstance(weights, str):
        raise ConfigError(f"expected weights as none, hub or the path of a .safetensors file, found {weights!r}")


def refuse_own_arguments(what: str, arguments: Iterable[str], own: Iterable[str] = ()) -> None:
    """Raise `ConfigError` if `arguments` has one that the network sets (`own`) or that could load a pickle.

    `what` is the name under which the user gave the arguments.
    """
    for argument in arguments:
        if argument in (*_OWN_ARGUMENTS, *own):
            raise ConfigError(f"{what} cannot set '{argument}': the network sets it, or it would have no effect")


@contextmanager
def explain_timm_errors(name: str, what: str) -> Iterator[None]:
    """Raise `ConfigError` if timm cannot download the weights of `name`, or cannot make `what`."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"the weights of '{name}' cannot be downloaded ({str(error).splitlines()[0]}); download them on another "
            "machine and set weights to the path of the .safetensors file"
        ) from error
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AssertionError, AttributeError) as error:
        raise ConfigError(f"{what} cannot be made: {error}") from error


def check_timm_name(what: str, name: object, expected: str = "a timm model", patterns: Sequence[str] = ("*",)) -> None:
    """Raise `ConfigError` if timm has no model of this name; `patterns` limits the suggestions."""
    if not isinstance(name, str) or not timm.is_model(name):
        hint = nearest_hint(str(name), [known for pattern in patterns for known in timm.list_models(pattern)])
        raise ConfigError(f"unknown {what} '{name}': expected {expected}.{hint}")


def load_backbone_weights(
    backbone: nn.Module, path: Path, adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
) -> None:
    """Load the .safetensors file of a whole network into a backbone, and ignore the other tensors.

    Args:
        backbone: Module to load into.
        path: Path of the file.
        adapt: Function to apply to the tensors of the file first, such as resizing position embeddings.

    Raises:
        ModelFileError: the file is missing or damaged, or a tensor of the backbone is missing or has another shape.
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
    # In feature extractors, timm replaces '.' by '_' in some names, or puts 'model.' before them.
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
    check_timm_name("backbone", name)
    with explain_timm_errors(name, f"backbone '{name}' with levels {list(levels)} and arguments {arguments}"):
        try:
            return timm.create_model(
                name, pretrained=pretrained, features_only=True, out_indices=tuple(levels), **arguments
            )
        except IndexError:
            count = len(timm.create_model(name, features_only=True, **arguments).feature_info.info)
            raise ConfigError(
                f"backbone '{name}' has feature levels 0..{count - 1} (or -{count}..-1), found {list(levels)}"
            ) from None


def _resize(maps: Tensor, size: torch.Size) -> Tensor:
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
