"""One way into the refinements: settings by name and option, and scores of the present classes in and out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from deal_core.errors import ConfigError, nearest_hint
from deal_core.masks.refine.background import background_power, with_background, without_background
from deal_core.masks.refine.choices import Refinement
from deal_core.masks.refine.crf import CrfSettings, crf_preset, dense_crf
from deal_core.masks.refine.par import ParSettings, pixel_adaptive_refinement
from deal_core.masks.refine.plane import dominant_plane
from deal_core.masks.refine.regions import RegionSettings, average_over_regions
from deal_core.masks.refine.walk import SurfaceSettings, WalkSettings, walk_on_surfaces
from deal_core.structures import BoolArray, DepthKind, Float32Array, UInt8Array

RefineSettings = ParSettings | CrfSettings | WalkSettings | RegionSettings

_NAMES: dict[Refinement, type[RefineSettings]] = {
    "par": ParSettings,
    "crf": CrfSettings,
    "walk": WalkSettings,
    "regions": RegionSettings,
}
OFF_PLANE = 0.1
"""Off the plane that carries things, a class needs this share of the threshold: the plane is most of the background."""

REFINEMENTS: tuple[Refinement, ...] = get_args(Refinement)
"""The names `refinement_settings` knows."""


def refinement_settings(name: str, options: Sequence[str] = ()) -> RefineSettings | None:
    """Return the settings of a refinement; None for "none".

    Args:
        name: one of `REFINEMENTS`.
        options: `key=value`, of the fields of the settings; lists with commas. Of the CRF also `preset=NAME`, a
            name that `crf_preset` knows; the others then change it.

    Raises:
        ConfigError: an unknown name or key, or a value that cannot be.

    >>> refinement_settings("walk", ["steps=64", "affinity=colour"]).steps
    64
    """
    if name not in REFINEMENTS:
        raise ConfigError(
            f"unknown refinement '{name}': expected one of {', '.join(REFINEMENTS)}.{nearest_hint(name, REFINEMENTS)}"
        )
    values = dict(_key_and_value(option) for option in options)
    if name == "none":
        if values:
            raise ConfigError(f"the option '{next(iter(values))}' belongs to a refinement, but none was chosen")
        return None
    kind = _NAMES[name]
    base: RefineSettings = crf_preset(values.pop("preset")) if kind is CrfSettings and "preset" in values else kind()
    hints = get_type_hints(kind)
    for key in values:
        if key not in hints:
            known = [*hints, *(["preset"] if kind is CrfSettings else [])]
            raise ConfigError(
                f"{name} has no option '{key}': expected one of {', '.join(known)}.{nearest_hint(key, known)}"
            )
    return dataclasses.replace(base, **{key: _parse(name, key, text, hints[key]) for key, text in values.items()})


def refinement_name(settings: RefineSettings | None) -> str:
    """Return the name that `refinement_settings` knows these settings by."""
    return next((name for name, kind in _NAMES.items() if type(settings) is kind), "none")


def lets_background_compete(settings: RefineSettings | None) -> bool:
    """Whether refined scores stand against a background score of their own, so that their threshold is 1/2."""
    return isinstance(settings, (CrfSettings, SurfaceSettings))


def needs_depth(settings: RefineSettings | None) -> bool:
    """Whether the refinement is of images with depth alone."""
    return isinstance(settings, RegionSettings) or (isinstance(settings, WalkSettings) and settings.affinity == "depth")


def refine_scores(
    image: UInt8Array,
    scores: Tensor,
    settings: RefineSettings | None,
    *,
    threshold: float,
    depth: Float32Array | None = None,
    depth_valid: BoolArray | None = None,
    depth_kind: DepthKind = "metric",
) -> Tensor:
    """Return refined class scores (K, H, W) in [0, 1]; a class that scores nowhere takes no part and stays 0.

    Pixel-adaptive refinement leaves scores at their level, and the threshold as good as before. CRF, walk and regions
    let the classes compete with a background score made from `threshold` (or the settings' alpha); what they return
    is the strength of each class against it, and is to be cut at `ARGMAX_THRESHOLD`, unless a rule finds better. Where
    the plane that carries things is the background, what stands out from it needs `OFF_PLANE` of that threshold.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (K, H, W) in [0, 1], on the device to work on.
        settings: of the refinement; None returns the scores.
        threshold: at which the scores would be cut if they were not refined.
        depth: as of `walk_on_surfaces`.
        depth_valid: the same.
        depth_kind: the same.

    Raises:
        ValueError: shapes or types that do not fit, or depth missing where the affinity needs it.
    """
    present = scores.amax((1, 2)) > 0
    if settings is None or not present.any():
        return scores
    chosen = scores[present].float()
    if isinstance(settings, ParSettings):
        refined = pixel_adaptive_refinement(image, chosen, settings)
    else:
        on_plane = None
        if isinstance(settings, SurfaceSettings) and needs_depth(settings) and depth is not None:
            on_plane = dominant_plane(depth, depth_valid, depth_kind) if settings.plane == "background" else None
        alpha = settings.alpha or background_power(threshold if on_plane is None else threshold * OFF_PLANE)
        measured: Any = {"depth": depth, "depth_valid": depth_valid, "depth_kind": depth_kind}
        if isinstance(settings, CrfSettings):
            stack = dense_crf(image, with_background(chosen, alpha), settings)
        else:
            stack = _background_on_plane(with_background(chosen, alpha), on_plane)
            if isinstance(settings, WalkSettings):
                stack = walk_on_surfaces(image, stack, settings, **measured)
            else:
                stack = average_over_regions(image, stack, settings, on_plane=on_plane, **measured)
        refined = without_background(stack)
    result = torch.zeros_like(scores)
    result[present] = refined.clamp(0, 1).to(scores.dtype)
    return result


def _background_on_plane(stack: Tensor, on_plane: BoolArray | None) -> Tensor:
    """Return scores (K + 1, H, W) that are certain of the background on the plane that carries things."""
    if on_plane is None:
        return stack
    certain = torch.zeros(len(stack), 1, 1, device=stack.device)
    certain[0] = 1.0
    return torch.where(torch.from_numpy(on_plane).to(stack.device), certain, stack)


def _key_and_value(option: str) -> tuple[str, str]:
    key, equals, value = option.partition("=")
    if not equals:
        raise ConfigError(f"expected an option of the refinement like iterations=5, found '{option}'")
    return key.strip(), value.strip()


def _parse(name: str, key: str, text: str, hint: Any) -> Any:
    value = text.split(",") if hint == tuple[int, ...] else text
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"{name}: {key}={text}: {error.errors()[0]['msg'].lower()}") from None
