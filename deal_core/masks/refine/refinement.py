"""The entry point of all refinements: settings from names and options, and the refinement of class scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from deal_core.errors import ConfigError, nearest_hint
from deal_core.masks.refine.background import background_power, with_background, without_background
from deal_core.masks.refine.choices import Refinement
from deal_core.masks.refine.crf import CrfSettings, crf_preset, dense_crf
from deal_core.masks.refine.par import ParSettings, pixel_adaptive_refinement
from deal_core.masks.refine.regions import RegionSettings, average_over_regions
from deal_core.masks.refine.walk import SurfaceSettings, WalkSettings, walk_on_surfaces
from deal_core.structures import BoolArray, DepthKind, Float32Array, UInt8Array
from deal_core.surfaces.planes import find_planes

RefineSettings = ParSettings | CrfSettings | WalkSettings | RegionSettings

_KINDS: dict[str, type[RefineSettings]] = {kind.method: kind for kind in get_args(RefineSettings)}
OFF_PLANE = 0.1
"""Off the supporting planes, a class needs only this share of the threshold: most of the background is on the plane."""

REFINEMENTS: tuple[Refinement, ...] = get_args(Refinement)
"""Names that `refinement_settings` accepts."""


def refinement_settings(name: str, options: Sequence[str] = ()) -> RefineSettings | None:
    """Return the settings of a refinement; None for "none".

    Args:
        name: One of `REFINEMENTS`.
        options: Fields of the settings as `key=value`, lists with commas. The CRF also takes `preset=NAME`, a name that
            `crf_preset` accepts; the other options then change the preset.

    Raises:
        ConfigError: a name or key is unknown, or a value is out of range.

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
    kind = _KINDS[name]
    base: RefineSettings = crf_preset(values.pop("preset")) if kind is CrfSettings and "preset" in values else kind()
    known = [*kind.option_types(), *(["preset"] if kind is CrfSettings else [])]
    parsed = {}
    for key, text in values.items():
        if key not in known:
            raise ConfigError(
                f"{name} has no option '{key}': expected one of {', '.join(known)}.{nearest_hint(key, known)}"
            )
        parsed[key] = kind.parse(key, text.split(",") if key == "dilations" else text)
    return dataclasses.replace(base, **parsed)


def refinement_name(settings: RefineSettings | None) -> str:
    """Return the name of the refinement, as in `refinement_settings`."""
    return "none" if settings is None else settings.method


def lets_background_compete(settings: RefineSettings | None) -> bool:
    """Return whether classes compete with a background score, so that the threshold of refined scores is 1/2."""
    return isinstance(settings, (CrfSettings, SurfaceSettings))


def needs_depth(settings: RefineSettings | None) -> bool:
    """Return whether the refinement needs images with depth."""
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
    """Return refined class scores (K, H, W) in [0, 1]; a class with scores of 0 everywhere is ignored and stays 0.

    Pixel-adaptive refinement keeps the level of the scores, so the threshold stays valid. In CRF, walk and regions, the
    classes compete with a background score made from `threshold` (or from alpha of the settings). Their result is the
    strength of each class relative to the background; its threshold is `ARGMAX_THRESHOLD`, or one that a rule chooses.
    If the supporting planes are background, pixels off them need only the share `OFF_PLANE` of `threshold`.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (K, H, W) scores in [0, 1], on the device of the computation.
        settings: Settings of the refinement; None returns the scores unchanged.
        threshold: Threshold of the scores without refinement.
        depth: Depth, as in `walk_on_surfaces`.
        depth_valid: Mask of measured depth, as in `walk_on_surfaces`.
        depth_kind: Kind of depth, as in `walk_on_surfaces`.

    Raises:
        ValueError: shapes or types do not fit, or the affinity needs depth and gets none.
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
            on_plane = _support(depth, depth_valid, depth_kind) if settings.plane == "background" else None
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


def _support(depth: Float32Array, valid: BoolArray | None, kind: DepthKind) -> BoolArray | None:
    """Return the mask (H, W) of the supporting planes; None without any."""
    mask = find_planes(depth, valid, kind).on_support()
    return mask if mask.any() else None


def _background_on_plane(stack: Tensor, on_plane: BoolArray | None) -> Tensor:
    """Return scores (K + 1, H, W) with a certain background on the supporting planes."""
    if on_plane is None:
        return stack
    certain = torch.zeros(len(stack), 1, 1, device=stack.device)
    certain[0] = 1.0
    return torch.where(torch.from_numpy(on_plane).to(stack.device), certain, stack)


def _key_and_value(option: str) -> tuple[str, str]:
    key, equals, value = option.partition("=")
    if not equals:
        raise ConfigError(f"expected an option of the refinement such as iterations=5, found '{option}'")
    return key.strip(), value.strip()
