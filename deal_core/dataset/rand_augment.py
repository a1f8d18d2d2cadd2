"""RandAugment (Cubuk et al. 2020) for image and depth: depth follows the operations that move pixels.

The 15 operations, their strengths and their probabilities are the ones that trained DeiT and WeakTr (timm's
`rand-m9-mstd0.5-inc1`); a larger level makes each of them stronger.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from deal_core.structures import IMAGENET_MEAN

FILL = tuple(round(255 * mean) for mean in IMAGENET_MEAN)
"""RGB of pixels from outside the image: ImageNet's mean, which networks normalise to about zero."""
LARGEST_LEVEL = 10.0

_PROBABILITY = 0.5
_LEVEL_SPREAD = 0.5


def rand_augment(image: Tensor, depth: Tensor, count: int, magnitude: float) -> tuple[Tensor, Tensor]:
    """Apply `count` random operations, each with probability 0.5, at levels around `magnitude`.

    Args:
        image: (3, H, W) uint8 RGB.
        depth: (C, H, W) float32, planes that move with the image; by nearest neighbour, 0 from outside.
        count: number of operations to draw, with replacement.
        magnitude: mean of the normally distributed level (deviation 0.5, clipped to [0, 10]).

    Returns:
        New image and depth of the same sizes. Random numbers come from torch's generator.
    """
    names = tuple(_OPERATIONS)
    for number in torch.randint(len(names), (count,)).tolist():
        if float(torch.rand(())) < _PROBABILITY:
            level = magnitude + _LEVEL_SPREAD * float(torch.randn(()))
            image, depth = apply_operation(names[number], image, depth, min(max(level, 0.0), LARGEST_LEVEL))
    return image, depth


def apply_operation(name: str, image: Tensor, depth: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Apply one of `OPERATIONS` at a level in [0, 10], in a random one of its two directions."""
    sign = -1.0 if float(torch.rand(())) < 0.5 else 1.0
    return _OPERATIONS[name](image, depth, level / LARGEST_LEVEL, sign)


# Image, depth, share of the full strength, sign.
_Operation = Callable[[Tensor, Tensor, float, float], tuple[Tensor, Tensor]]


def _changing_colors(change: Callable[[Tensor], Tensor]) -> _Operation:
    return lambda image, depth, share, sign: (change(image), depth)


def _blending(adjust: Callable[[Tensor, float], Tensor]) -> _Operation:
    """Blend with a grey, black or blurred image, or away from it: a factor of 0.1 to 1.9."""
    return lambda image, depth, share, sign: (adjust(image, 1.0 + sign * 0.9 * share), depth)


def _moving(motion: Callable[[float, Tensor], dict[str, Any]]) -> _Operation:
    """Move pixels; `motion` gives the keywords of `_move` for a signed share of the full strength and the image."""
    return lambda image, depth, share, sign: _move(image, depth, **motion(sign * share, image))


def _posterize(image: Tensor, depth: Tensor, share: float, sign: float) -> tuple[Tensor, Tensor]:
    return F.posterize(image, max(4 - int(4 * share), 1)), depth  # 0 bits would leave nothing


def _solarize(image: Tensor, depth: Tensor, share: float, sign: float) -> tuple[Tensor, Tensor]:
    return torch.where(image.int() >= 256 - int(256 * share), 255 - image, image), depth


def _solarize_add(image: Tensor, depth: Tensor, share: float, sign: float) -> tuple[Tensor, Tensor]:
    lighter = (image.int() + int(110 * share)).clamp(max=255).to(image.dtype)
    return torch.where(image < 128, lighter, image), depth


def _move(
    image: Tensor,
    depth: Tensor,
    *,
    angle: float = 0.0,
    shear: tuple[float, float] = (0.0, 0.0),
    right: float = 0.0,
    down: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Rotate about the centre (degrees), shear about the upper left corner (as slopes), or translate (pixels)."""
    motion = {
        "angle": angle,
        "translate": [right, down],
        "scale": 1.0,
        "shear": [math.degrees(math.atan(slope)) for slope in shear],
        "center": [0.0, 0.0] if any(shear) else None,
    }
    # On tensors, torchvision moves no pixels bicubically; as PIL images, it does, as timm.
    picture = F.affine(F.to_pil_image(image), **motion, interpolation=InterpolationMode.BICUBIC, fill=list(FILL))
    return F.pil_to_tensor(picture), F.affine(depth, **motion, interpolation=InterpolationMode.NEAREST, fill=0.0)


_OPERATIONS: dict[str, _Operation] = {
    "AutoContrast": _changing_colors(F.autocontrast),
    "Equalize": _changing_colors(F.equalize),
    "Invert": _changing_colors(F.invert),
    "Posterize": _posterize,
    "Solarize": _solarize,
    "SolarizeAdd": _solarize_add,
    "Color": _blending(F.adjust_saturation),
    "Contrast": _blending(F.adjust_contrast),
    "Brightness": _blending(F.adjust_brightness),
    "Sharpness": _blending(F.adjust_sharpness),
    "Rotate": _moving(lambda share, image: {"angle": 30.0 * share}),
    "ShearX": _moving(lambda share, image: {"shear": (0.3 * share, 0.0)}),
    "ShearY": _moving(lambda share, image: {"shear": (0.0, 0.3 * share)}),
    "TranslateX": _moving(lambda share, image: {"right": 0.45 * share * image.shape[-1]}),
    "TranslateY": _moving(lambda share, image: {"down": 0.45 * share * image.shape[-2]}),
}
OPERATIONS = tuple(_OPERATIONS)
"""The names of the operations; the last five move pixels."""
