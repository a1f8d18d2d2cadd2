"""The fully connected CRF of Kraehenbuehl and Koltun (2011), by mean-field inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from deal_core.errors import ConfigError, nearest_hint
from deal_core.masks.refine.inputs import check_inputs
from deal_core.masks.refine.lattice import PermutohedralLattice
from deal_core.structures import UInt8Array

CrfUnary = Literal["soft", "hard"]

_SMALLEST_PROBABILITY = 1e-8


@dataclass(frozen=True)
class CrfSettings:
    """Kernels of the CRF, named as in the field. The defaults follow SEAM (and AffinityNet).

    Args:
        iterations: of the mean field.
        sxy_gaussian: standard deviation of the smoothness kernel, pixels.
        compat_gaussian: its weight.
        sxy_bilateral: standard deviation of the appearance kernel in position, pixels.
        srgb: the same in colour, of 0..255.
        compat_bilateral: its weight.
        unary: "soft": minus the logarithm of the scores; "hard": of the winning class, believed with `confidence`,
            the others sharing the rest.
        confidence: of "hard", in (0, 1).
        alpha: the background score is (1 - best)^alpha; made from the threshold when left out.

    Raises:
        ConfigError: a value out of range, or an unknown option.
    """

    iterations: int = 10
    sxy_gaussian: float = 3.0
    compat_gaussian: float = 3.0
    sxy_bilateral: float = 80.0
    srgb: float = 13.0
    compat_bilateral: float = 10.0
    unary: CrfUnary = "soft"
    confidence: float = 0.7
    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ConfigError(f"crf: expected at least 1 iteration, found {self.iterations}")
        for name in ("sxy_gaussian", "sxy_bilateral", "srgb"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"crf: expected a positive {name}, found {getattr(self, name)}")
        for name in ("compat_gaussian", "compat_bilateral"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"crf: expected {name} of at least 0, found {getattr(self, name)}")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"crf: expected a confidence between 0 and 1, found {self.confidence}")
        if self.alpha is not None and not self.alpha > 0:
            raise ConfigError(f"crf: expected a positive alpha, found {self.alpha}")
        if self.unary not in get_args(CrfUnary):
            raise ConfigError(f"crf: expected unary to be one of {', '.join(get_args(CrfUnary))}, found '{self.unary}'")


_PRESETS = {
    "seam": CrfSettings(),
    "weaktr_voc": CrfSettings(10, 4.0, 3.0, 83.0, 5.0, 3.0, "hard"),
    "weaktr_coco": CrfSettings(10, 3.0, 3.0, 50.0, 5.0, 10.0, "hard"),
}
CRF_PRESETS = tuple(_PRESETS)
"""The names `crf_preset` knows."""


def crf_preset(name: str) -> CrfSettings:
    """Return the published settings of a method, one of `CRF_PRESETS`.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in _PRESETS:
        raise ConfigError(
            f"unknown CRF preset '{name}': expected one of {', '.join(CRF_PRESETS)}.{nearest_hint(name, CRF_PRESETS)}"
        )
    return _PRESETS[name]


def dense_crf(image: UInt8Array, scores: Tensor, settings: CrfSettings | None = None) -> Tensor:
    """Return (C, H, W) probabilities of C labels after the CRF, float32, on the device of `scores`.

    Potts model with a Gaussian kernel of position and one of position and colour, both normalised symmetrically,
    as in pydensecrf. The kernels are summed on the permutohedral lattice.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (C, H, W) not negative, background included; only their ratios at a pixel count.
        settings: of the kernels.

    Raises:
        ValueError: shapes or types that do not fit.
    """
    settings = settings or CrfSettings()
    check_inputs(image, scores)
    return _infer(image, _log_unary(scores.float(), settings), settings)


def _log_unary(scores: Tensor, settings: CrfSettings) -> Tensor:
    count = len(scores)
    if settings.unary == "hard" and count > 1:
        others = (1.0 - settings.confidence) / (count - 1)
        hard = torch.full_like(scores, others)
        return hard.scatter_(0, scores.argmax(0, keepdim=True), settings.confidence).log()
    return scores.clamp(min=_SMALLEST_PROBABILITY).log()


def _infer(image: UInt8Array, log_unary: Tensor, settings: CrfSettings) -> Tensor:
    labels, height, width = log_unary.shape
    position, colour = _features(image, log_unary.device)
    kernels = [
        (settings.compat_gaussian, _NormalisedKernel(position / settings.sxy_gaussian)),
        (
            settings.compat_bilateral,
            _NormalisedKernel(torch.cat([position / settings.sxy_bilateral, colour / settings.srgb], 1)),
        ),
    ]
    logits = log_unary.reshape(labels, -1).T.contiguous()
    belief = logits.softmax(1)
    for _ in range(settings.iterations):
        message = logits.clone()
        for weight, kernel in kernels:
            message += weight * kernel.filter(belief)
        belief = message.softmax(1)
    return belief.T.reshape(labels, height, width)


class _NormalisedKernel:
    """D^-1/2 K D^-1/2 with K the Gaussian kernel of the features and D its row sums."""

    def __init__(self, features: Tensor) -> None:
        self._lattice = PermutohedralLattice(features)
        self._norm = self._lattice.filter(features.new_ones(len(features), 1)).rsqrt()

    def filter(self, values: Tensor) -> Tensor:
        return self._norm * self._lattice.filter(self._norm * values)


def _features(image: UInt8Array, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the positions x, y (N, 2) and the colours 0..255 (N, 3) of all pixels, float32."""
    height, width = image.shape[:2]
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    position = torch.stack([x.reshape(-1), y.reshape(-1)], 1).float()
    return position, torch.from_numpy(np.ascontiguousarray(image)).to(device).reshape(-1, 3).float()
