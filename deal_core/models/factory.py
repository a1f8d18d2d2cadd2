"""Networks by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from deal_core.errors import ConfigError, nearest_hint
from deal_core.models.cam_net import CamNet
from deal_core.models.model_info import REGION_MIL
from deal_core.models.region_mil import RegionMil
from deal_core.models.seam import Seam
from deal_core.models.segmenter import SegmenterNet
from deal_core.models.weaktr import WeakTr
from deal_core.structures import IMAGENET_MEAN, IMAGENET_STD

_MODELS: dict[str, Callable[..., nn.Module]] = {
    "cam_net": CamNet,
    REGION_MIL: RegionMil,
    "seam": Seam,
    "segmenter": SegmenterNet,
    "weaktr": WeakTr,
}
OLDER_ARGUMENTS: Mapping[str, Any] = {
    "mean": list(IMAGENET_MEAN),
    "std": list(IMAGENET_STD),
    "freeze_batch_norm": False,
    "activation": "relu",
}
"""Arguments of networks with the values that version 0.1.0 took where they were left out."""


def create_model(name: str, num_classes: int, /, **arguments: Any) -> nn.Module:
    """Return the network called `name` for `num_classes` foreground classes.

    The network takes images (B, 3, H, W), RGB in [0, 1], and returns a `CamOutput`. A "segmenter" returns a
    `SegmenterOutput`; if it `uses_depth`, it also takes depth (B, 1, H, W) in metres. A "region_mil" takes features of
    regions and returns their probabilities.

    Raises:
        ConfigError: the name or an argument is unknown, or a value has another type or is out of range.
    """
    if name not in _MODELS:
        raise ConfigError(f"unknown model '{name}': expected {', '.join(_MODELS)}.{nearest_hint(name, _MODELS)}")
    known = list(inspect.signature(_MODELS[name]).parameters)
    for argument in arguments:
        if argument not in known or argument == "num_classes":
            raise ConfigError(f"model '{name}' has no argument '{argument}'.{nearest_hint(argument, known)}")
    try:
        return _MODELS[name](num_classes, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"model '{name}' cannot be made with {arguments}: {error}") from error


def settled_arguments(network: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a network, with the values that it chose where they leave the choice to its weights."""
    settled: Mapping[str, Any] = getattr(network, "settled", {})
    return {**arguments, **settled}


def with_older_defaults(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with the values of version 0.1.0 where they leave out what is now settled by the weights."""
    takes = inspect.signature(_MODELS[name]).parameters if name in _MODELS else ()
    return {**{n: v for n, v in OLDER_ARGUMENTS.items() if n in takes}, **arguments}
