"""The fully connected CRF of Kraehenbuehl and Koltun (2011), by mean-field inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from deal_core.errors import ConfigError, nearest_hint
from deal_core.masks.refine.inputs import RefinementOptions, check_inputs
from deal_core.masks.refine.lattice import PermutohedralLattice
from deal_core.settings_file import NotNegative, Positive, PositiveWhole
from deal_core.structures import UInt8Array

CrfUnary = Literal["soft", "hard"]

_SMALLEST_PROBABILITY = 1e-8


@dataclass(frozen=True)
class CrfSettings(RefinementOptions):
    """Kernels of the CRF, with the usual names. The defaults follow SEAM and AffinityNet.

    Args:
        iterations: Mean-field iterations.
        sxy_gaussian: Standard deviation of the smoothness kernel, in pixels.
        compat_gaussian: Weight of the smoothness kernel.
        sxy_bilateral: Standard deviation of the appearance kernel in position, in pixels.
        srgb: Standard deviation of the appearance kernel in colour, in 0..255.
        compat_bilateral: Weight of the appearance kernel.
        unary: "soft" takes minus the logarithm of the scores; "hard" gives the winning class the probability
            `confidence`, and the other classes share the rest.
        confidence: Probability of the winning class for "hard", in (0, 1).
        alpha: Exponent of the background score (1 - best)^alpha; default: computed from the threshold.
    """

    method = "crf"

    iterations: PositiveWhole = 10
    sxy_gaussian: Positive = 3.0
    compat_gaussian: NotNegative = 3.0
    sxy_bilateral: Positive = 80.0
    srgb: Positive = 13.0
    compat_bilateral: NotNegative = 10.0
    unary: CrfUnary = "soft"
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.7
    alpha: Positive | None = None


_PRESETS = {
    "seam": CrfSettings(),
    "weaktr_voc": CrfSettings(10, 4.0, 3.0, 83.0, 5.0, 3.0, "hard"),
    "weaktr_coco": CrfSettings(10, 3.0, 3.0, 50.0, 5.0, 10.0, "hard"),
}
CRF_PRESETS = tuple(_PRESETS)
"""Names of the presets of `crf_preset`."""


def crf_preset(name: str) -> CrfSettings:
    """Return the published settings of a method of `CRF_PRESETS`; raise `ConfigError` for another name."""
    if name not in _PRESETS:
        raise ConfigError(
            f"unknown CRF preset '{name}': expected one of {', '.join(CRF_PRESETS)}.{nearest_hint(name, CRF_PRESETS)}"
        )
    return _PRESETS[name]


def dense_crf(image: UInt8Array, scores: Tensor, settings: CrfSettings | None = None) -> Tensor:
    """Return (C, H, W) probabilities of C labels after the CRF, float32, on the device of `scores`.

    A Potts model with a Gaussian kernel of position and one of position and colour, both normalised symmetrically,
    as in pydensecrf. The kernels are summed on the permutohedral lattice.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (C, H, W) non-negative scores, background included; only their ratios at a pixel matter.
        settings: Settings of the kernels.

    Raises:
        ValueError: shapes or types do not fit.
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
    appearance = torch.cat([position / settings.sxy_bilateral, colour / settings.srgb], 1)
    kernels = [
        (settings.compat_gaussian, _NormalisedKernel(position / settings.sxy_gaussian)),
        (settings.compat_bilateral, _NormalisedKernel(appearance)),
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
