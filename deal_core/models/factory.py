"""Networks by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from deal_core.errors import ConfigError, nearest_hint
from deal_core.models.cam_net import CamNet
from deal_core.models.seam import Seam
from deal_core.models.segmenter import SegmenterNet
from deal_core.models.weaktr import WeakTr


def create_model(name: str, num_classes: int, /, **arguments: Any) -> nn.Module:
    """Return the network called `name` for `num_classes` foreground classes.

    Its forward takes images (B, 3, H, W), RGB in [0, 1], and returns a `CamOutput`; that of "segmenter" a
    `SegmenterOutput`, and where it `uses_depth`, it takes depth (B, 1, H, W), metres, too.

    Raises:
        ConfigError: the name or an argument is unknown, and the message suggests the nearest one; or a value is of
            another type or out of range.
    """
    models = _models()
    if name not in models:
        raise ConfigError(f"unknown model '{name}': expected {', '.join(models)}.{nearest_hint(name, models)}")
    known = list(inspect.signature(models[name]).parameters)
    for argument in arguments:
        if argument not in known or argument == "num_classes":
            raise ConfigError(f"model '{name}' has no argument '{argument}'.{nearest_hint(argument, known)}")
    try:
        return models[name](num_classes, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"model '{name}' cannot be made with {arguments}: {error}") from error


def is_segmenter(name: str) -> bool:
    """Return whether the network called `name` knows the background, and is trained on masks."""
    return name == "segmenter"


def uses_depth(name: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether the network called `name`, made with these arguments, sees depth beside colour."""
    return is_segmenter(name) and arguments.get("inputs") == "rgbd"


def _models() -> dict[str, Callable[..., nn.Module]]:
    return {"cam_net": CamNet, "seam": Seam, "segmenter": SegmenterNet, "weaktr": WeakTr}
