"""The part of a class activation map that counts as evidence for its class."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

CamActivation = Literal["above_mean", "relu"]
"""How raw CAM logits become a non-negative map."""


def activate(cams: Tensor, kind: CamActivation = "above_mean") -> Tensor:
    """Return the non-negative map (B, K, h, w) of raw CAM logits (B, K, h, w).

    "relu" cuts each map at 0. A class whose logits are negative everywhere, as those of a rare class are, then has an
    empty map, which makes no mask and takes no gradient. "above_mean" cuts each map at its spatial mean, if that is
    below 0, else at 0: such a class keeps its map, and a class that the network recognises has the same one as with
    "relu", since the mean of the map is its tag logit. No gradient flows through the mean.

    Raises:
        ValueError: the kind is unknown.

    >>> activate(torch.tensor([[[[-4.0, -2.0, -3.0]], [[-1.0, 2.0, 5.0]]]]))[0, :, 0].tolist()
    [[0.0, 1.0, 0.0], [0.0, 2.0, 5.0]]
    """
    if check_activation(kind) == "relu":
        return cams.relu()
    return (cams - cams.detach().mean(dim=(-2, -1), keepdim=True).clamp(max=0.0)).relu()


def check_activation(kind: CamActivation) -> CamActivation:
    """Return the kind; raise `ValueError` if it is unknown."""
    if kind not in get_args(CamActivation):
        raise ValueError(f"expected activation to be one of {', '.join(get_args(CamActivation))}, got '{kind}'")
    return kind


def is_flat(maps: Tensor) -> Tensor:
    """Return (B, K) whether each map (B, K, h, w) has the same value everywhere: it says nothing about the place."""
    low, high = maps.amin(dim=(-2, -1)), maps.amax(dim=(-2, -1))
    return (high - low) <= 1e-6 * torch.maximum(high.abs(), low.abs())
