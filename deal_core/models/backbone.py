"""Backbones of timm: created by name, with weights of a file or of the hub, and errors that name what is wrong."""

from __future__ import annotations

import importlib
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import is_model_in_modules
from torch import Tensor, nn

from deal_core.errors import ConfigError, ModelFileError, nearest_hint
from deal_core.models.checkpoints import plain_name, read_checkpoint
from deal_core.models.resnet38 import ResNet38
from deal_core.structures import IMAGENET_MEAN, IMAGENET_STD

_log = logging.getLogger(__name__)

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
# Modules of timm whose transformers take images of any size with `dynamic_img_size`.
_FLEXIBLE = ("vision_transformer", "deit", "eva", "vision_transformer_hybrid")
_COMMON_NETWORKS = (
    *(f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")),
    *(f"vit_{size}_patch14_dinov2" for size in ("small", "base")),
    *("resnet18", "resnet34", "resnet50", "resnet101", "mobilenetv2_100", "mobilenetv3_large_100", "efficientnet_b0"),
    *("convnext_tiny", "regnety_008"),
)
"""Networks of which people have weights, for a hint."""
_COUNTER = "num_batches_tracked"
_LEAST_TENSORS = 20
"""Number of tensors from which equal shapes in equal order mean the same network."""
_HUB_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
_ANSWER_S = 2.0
"""Seconds in which the hub must answer before a download begins."""


class NoPretrainedWeightsError(ConfigError):
    """There are no pretrained weights of this backbone, or they can be neither downloaded nor read from the cache."""


@dataclass(frozen=True)
class InitialWeights:
    """Where the first weights of a backbone came from, and how much of their source it uses.

    Args:
        source: "none" for random weights, "hub", or the path of a file.
        used: Number of tensors of the source that the backbone took; 0 for random weights.
        unused: Number of tensors of the source that it has no place for, such as a classifier.
    """

    source: str
    used: int = 0
    unused: int = 0

    def __str__(self) -> str:
        if self.source == "none":
            return "random weights: without pretrained ones, a network learns small telling parts late or never"
        if self.source == "hub":
            return "pretrained weights of timm"
        total = self.used + self.unused
        if not self.unused:
            return f"pretrained weights of {self.source}: all {total} tensors of the backbone"
        return (
            f"pretrained weights of {self.source}: {self.used} of its {total} tensors "
            f"({100 * self.used / max(total, 1):.0f} %) are used, the others belong to later layers"
        )


@dataclass(frozen=True)
class ColourScale:
    """Mean and standard deviation, for each of the RGB channels in [0, 1], that the weights of a network expect."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def colour_scale(
    name: str, weights: str, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> ColourScale:
    """Return the given mean and std; where one is None, that of the timm model `name`, or of ImageNet.

    Random weights expect nothing, so they get the values of ImageNet. Weights of a file are taken for those that timm
    has under this name: for others, such as weights ported from TensorFlow, give mean and std.
    """
    of_name = None
    if weights != "none" and timm.is_model(name):
        with explain_timm_errors(name, f"the colour scale of '{name}'"):
            of_name = timm.get_pretrained_cfg(name)
    return ColourScale(
        tuple(mean if mean is not None else of_name.mean if of_name else IMAGENET_MEAN),
        tuple(std if std is not None else of_name.std if of_name else IMAGENET_STD),
    )


def freezes_batch_norm(freeze: bool | None, weights: str) -> bool:
    """Return `freeze`; if it is None, whether the weights are pretrained: batches are too small for new statistics."""
    return weights != "none" if freeze is None else freeze


def create_backbone(
    name: str, levels: Sequence[int], weights: str, arguments: Mapping[str, Any] | None = None, **own: Any
) -> Any:
    """Return a timm model with its weights that returns the feature maps of `levels`, as in `CamNet`.

    The user chooses `arguments` of `timm.create_model`, which must not contain the network's `own` arguments. The
    backbone has two more attributes: `initial_weights`, an `InitialWeights`, and `multiple`, the pixels of which the
    sides of its images must be a multiple (1 for most; the patch of a transformer).

    Raises:
        ConfigError: the backbone is unknown, cannot be made with these arguments, or its download fails.
        ModelFileError: the weights file is missing, damaged or from another network.
    """
    check_weights(weights)
    if isinstance(levels, str) or not levels or any(type(level) is not int for level in levels):
        raise ConfigError(f"expected levels as whole numbers, like [-3, -2], found {levels!r}")
    refuse_own_arguments("backbone_arguments", arguments or {}, own)
    check_timm_name("backbone", name)
    is_flexible = is_model_in_modules(name, _FLEXIBLE)
    sized = {"dynamic_img_size": True} if is_flexible and "img_size" not in (arguments or {}) else {}
    backbone = _create_timm_model(name, levels, {**sized, **(arguments or {}), **own, **hub_arguments(name, weights)})
    backbone.multiple = int(backbone.feature_info.info[-1]["reduction"]) if is_flexible else 1
    backbone.initial_weights = InitialWeights(weights)
    if weights not in ("none", "hub"):
        backbone.initial_weights = load_backbone_weights(backbone, Path(weights), adapt=_adapter(backbone))
    return backbone


def to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Return the image (B, C, H, W) resized to the nearest multiples of `multiple`, at least one, along each side.

    A transformer cuts off what is left beside its last whole patch. Maps of the cut image would be stretched over the
    whole one, and lie beside what the network saw; those of a resized image do not.
    """
    size = [nearest_multiple(side, multiple) for side in image.shape[-2:]]
    if list(image.shape[-2:]) == size:
        return image
    return F.interpolate(image, size, mode="bilinear", align_corners=False)


def nearest_multiple(side: float, multiple: int) -> int:
    """Return the multiple of `multiple` nearest to `side`, at least one."""
    return max(round(side / multiple), 1) * multiple


def check_weights(weights: object) -> None:
    """Raise `ConfigError` if the weights are no text."""
    if not isinstance(weights, str):
        raise ConfigError(
            f"expected weights as none, hub or the path of a .safetensors, .pth or .pt file, found {weights!r}"
        )


def settle_weights(arguments: Mapping[str, Any], begun: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the arguments of a network with `weights` "auto" replaced by "hub" or, where there are none, by "none".

    Args:
        arguments: Arguments of a network, with its `backbone` or `encoder`.
        begun: Arguments of an earlier part of the run, which decided before; None for a new run.

    Raises:
        ConfigError: the arguments name no backbone, or timm does not know it.
    """
    if arguments.get("weights") != "auto":
        return dict(arguments)
    if begun and begun.get("weights") in ("hub", "none"):
        return {**arguments, "weights": begun["weights"]}
    name = arguments.get("backbone", arguments.get("encoder"))
    if name is None:
        raise ConfigError("weights=auto needs the name of the backbone; expected it beside the weights")
    check_timm_name("backbone", name)
    try:
        hub_arguments(name, "hub")
    except NoPretrainedWeightsError as error:
        _log.warning("%s. Random weights instead, which learn small telling parts late or never", error)
        return {**arguments, "weights": "none"}
    return {**arguments, "weights": "hub"}


def hub_arguments(name: str, weights: str) -> dict[str, Any]:
    """Return the arguments of `timm.create_model` for these weights; only "hub" needs any.

    Weights that were downloaded before are read from the cache, without a connection.

    Raises:
        ConfigError: timm has no pretrained weights of this name, or neither the cache has them nor the hub answers.
    """
    if weights != "hub":
        return {"pretrained": False}
    with explain_timm_errors(name, f"the weights of '{name}'"):
        source = timm.get_pretrained_cfg(name)
    if source is None or not source.has_weights:
        raise NoPretrainedWeightsError(
            f"timm has no pretrained weights of '{name}': choose another backbone, weights=none or a weights file"
        )
    cached = _cached(source.hf_hub_id, source.hf_hub_filename)
    if cached is not None:
        return {"pretrained": True, "pretrained_cfg_overlay": {"file": cached}}
    if reason := _hub_is_silent():
        raise NoPretrainedWeightsError(_no_download(name, reason))
    return {"pretrained": True}


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
        raise ConfigError(_no_download(name, (str(error).splitlines() or [type(error).__name__])[0])) from error
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AssertionError, AttributeError) as error:
        raise ConfigError(f"{what} cannot be made: {error}") from error


def check_timm_name(what: str, name: object, expected: str = "a timm model", patterns: Sequence[str] = ("*",)) -> None:
    """Raise `ConfigError` if timm has no model of this name; `patterns` limits the suggestions."""
    if not isinstance(name, str) or not timm.is_model(name):
        hint = nearest_hint(str(name), [known for pattern in patterns for known in timm.list_models(pattern)])
        raise ConfigError(f"unknown {what} '{name}': expected {expected}.{hint}")


def load_backbone_weights(
    backbone: nn.Module, path: Path, adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
) -> InitialWeights:
    """Load the weights file of a whole network into a backbone, and return how much of it was used.

    The file may be of timm, torchvision, DeiT, WeakTr, SEAM or ResNet38-d, see `deal_core.models.checkpoints`. Where
    its names are others, tensors are taken in their order, if their shapes are, in this order, those of the backbone.

    Args:
        backbone: Module to load into.
        path: Path of a .safetensors, .pth, .pt, .bin or .ckpt file. Pickled files never run code.
        adapt: Function to apply to the tensors of the file first, such as resizing position embeddings.

    Raises:
        ModelFileError: the file is missing or damaged, holds something else, or a tensor of the backbone is missing or
            has another shape.
    """
    tensors = read_checkpoint(path).backbone()
    adapted = tensors
    if adapt is not None:
        try:
            adapted = adapt(dict(tensors))
        except (RuntimeError, ValueError, KeyError) as error:
            raise ModelFileError(f"{path}: weights of another network: {error}{nearest_network(tensors)}") from error
    fit = fit_tensors(backbone, adapted)
    if fit.lacking:
        raise ModelFileError(
            f"{path}: weights of another network: {len(fit.lacking)} of {len(backbone.state_dict())} tensors of the "
            f"backbone are missing or have another shape, the first is '{fit.lacking[0]}'{nearest_network(tensors)}"
        )
    backbone.load_state_dict({**backbone.state_dict(), **fit.found})
    return InitialWeights(str(path), len(fit.found), len(fit.unused))


@dataclass(frozen=True, eq=False)
class TensorFit:
    """Which tensors of a file a network takes.

    Args:
        found: Tensors of the file by their names in the network.
        lacking: Names in the network for which the file has no tensor of the right shape.
        unused: Names in the file of tensors that the network does not have.
    """

    found: Mapping[str, Tensor]
    lacking: tuple[str, ...]
    unused: tuple[str, ...]


def fit_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> TensorFit:
    """Find a network's tensors in those of a file: by name or, where no name fits, by the order of their shapes."""
    wanted = network.state_dict()
    # In feature extractors, timm replaces '.' by '_' in some names, or puts 'model.' before them.
    known = {plain_name(n): n for n in tensors}
    source = {n: known[plain_name(n)] for n in wanted if plain_name(n) in known} or _by_order(wanted, tensors)
    found = {n: tensors[name] for n, name in source.items() if tensors[name].shape == wanted[n].shape}
    used = {source[n] for n in found}
    lacking = (n for n in wanted if n not in found and not n.endswith(_COUNTER))
    return TensorFit(found, tuple(lacking), tuple(n for n in tensors if n not in used))


def fit_whole_network(name: str, tensors: Mapping[str, Tensor]) -> TensorFit:
    """Find the tensors of timm's network `name`, or of "resnet38", in those of a file.

    The classifier of a network may be missing: it is not among the tensors that lack.

    Raises:
        ConfigError: timm has no network of this name.
    """
    if name == "resnet38":
        with torch.device("meta"):
            return fit_tensors(ResNet38(), tensors)
    check_timm_name("backbone", name)
    with torch.device("meta"), explain_timm_errors(name, f"network '{name}'"):
        network = timm.create_model(name, pretrained=False)
    fit = fit_tensors(network, tensors)
    heads = network.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    lacking = tuple(n for n in fit.lacking if not any(n.startswith(f"{head}.") for head in heads))
    return replace(fit, lacking=lacking)


def _by_order(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the name in the file of each wanted tensor, if the file begins with tensors of exactly these shapes."""
    names, given = ([n for n in of if not n.endswith(_COUNTER)] for of in (wanted, tensors))
    shapes = [[of[n].shape for n in some] for of, some in ((wanted, names), (tensors, given))]
    if len(names) < _LEAST_TENSORS or shapes[1][: len(names)] != shapes[0]:
        return {}
    return dict(zip(names, given, strict=False))


def nearest_network(tensors: Mapping[str, Tensor]) -> str:
    """Return a hint at the network of timm that fits these tensors best; empty if none fits half of them."""
    best, share = "", 0.5
    for name in _COMMON_NETWORKS:
        with torch.device("meta"), explain_timm_errors(name, f"network '{name}'"):
            network = timm.create_model(name, pretrained=False)
        fit = fit_tensors(network, tensors)
        if (here := len(fit.found) / len(network.state_dict())) > share:
            best, share = name, here
    return f"; it has most tensors of '{best}'" if best else ""


def _adapter(backbone: Any) -> Callable[[dict[str, Tensor]], dict[str, Tensor]] | None:
    """Return what makes tensors of a file fit a transformer, such as positions of another grid; None for others."""
    network = getattr(backbone, "model", None)
    if not isinstance(network, nn.Module) or not hasattr(network, "pos_embed"):
        return None
    adapt = getattr(importlib.import_module(type(network).__module__), "checkpoint_filter_fn", None)
    return None if adapt is None else lambda tensors: dict(adapt(tensors, network))


def _create_timm_model(name: str, levels: Sequence[int], arguments: dict[str, Any]) -> Any:
    chosen = {n: v for n, v in arguments.items() if n not in ("pretrained", "pretrained_cfg_overlay")}
    with explain_timm_errors(name, f"backbone '{name}' with levels {list(levels)} and arguments {chosen}"):
        try:
            return timm.create_model(name, features_only=True, out_indices=tuple(levels), **arguments)
        except IndexError:
            count = len(timm.create_model(name, features_only=True, **chosen).feature_info.info)
            raise ConfigError(
                f"backbone '{name}' has feature levels 0..{count - 1} (or -{count}..-1), found {list(levels)}"
            ) from None


def _no_download(name: str, reason: str) -> str:
    return (
        f"the weights of '{name}' cannot be downloaded ({reason}); download them on another machine and set weights to "
        "the path of the .safetensors file, or train from random weights (weights=none)"
    )


def _cached(repository: str | None, file: str | None) -> str | None:
    """Return the path of the weights in the cache of the hub; None if they are not there."""
    from huggingface_hub import try_to_load_from_cache

    for name in (file,) if file else _HUB_FILES:
        found = try_to_load_from_cache(repository, name) if repository else None
        if isinstance(found, str):
            return found
    return None


def _hub_is_silent() -> str | None:
    """Return why the hub does not answer within `_ANSWER_S`; None if it answers.

    A download itself tries for minutes. Resolving a name has no time limit of its own, so the question is asked in a
    thread that may be left behind.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    reasons: list[str | None] = [f"{constants.ENDPOINT} does not answer within {_ANSWER_S:g} s"]

    def ask() -> None:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        try:
            # Not `urlopen`: it keeps the proxies of its first call for the whole process.
            urllib.request.build_opener().open(request, timeout=_ANSWER_S).close()
            reasons.append(None)
        except urllib.error.HTTPError:  # an answer, too
            reasons.append(None)
        except (OSError, ValueError) as error:
            reasons.append(f"no connection to {constants.ENDPOINT}: {getattr(error, 'reason', error)}")

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_ANSWER_S)
    return reasons[-1]
