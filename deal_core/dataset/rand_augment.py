"""RandAugment (Cubuk et al. 2020) of image and depth: depth follows the operations that move pixels.

The operations, their strengths and their odds are those with which DeiT and WeakTr are trained (timm's
`rand-m9-mstd0.5-inc1`): 15 of them, all the stronger the larger the level.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

FILL = (124, 116, 104)
"""RGB of what is moved in from outside: ImageNet's mean, which networks normalise to about zero."""
LARGEST_LEVEL = 10.0

_PROBABILITY = 0.5
_LEVEL_SPREAD = 0.5


def rand_augment(image: Tensor, depth: Tensor, count: int, magnitude: float) -> tuple[Tensor, Tensor]:
    """Apply `count` operations drawn from all of them, each with probability 0.5, at levels around `magnitude`.

    Args:
        image: (3, H, W) uint8 RGB.
        depth: (C, H, W) float32, what travels with the image's pixels; moved by nearest neighbour, 0 from outside.
        count: of operations drawn; one may be drawn twice.
        magnitude: mean of the normally distributed level (deviation 0.5, cut to [0, 10]).

    Returns:
        Image and depth, of the same sizes; the arguments are left alone. Random numbers are torch's.
    """
    names = tuple(_OPERATIONS)
    for number in torch.randint(len(names), (count,)).tolist():
        if float(torch.rand(())) < _PROBABILITY:
            level = magnitude + _LEVEL_SPREAD * float(torch.randn(()))
            image, depth = apply_operation(names[number], image, depth, min(max(level, 0.0), LARGEST_LEVEL))
    return image, depth


def apply_operation(name: str, image: Tensor, depth: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Apply one operation, named as in `OPERATIONS`, at a level in [0, 10]; where it has two directions, in either."""
    sign = -1.0 if float(torch.rand(())) < 0.5 else 1.0
    return _OPERATIONS[name](image, depth, level / LARGEST_LEVEL, sign)


# Image, depth, share of the full strength, sign.
_Operation = Callable[[Tensor, Tensor, float, float], tuple[Tensor, Tensor]]


def _of_colors(change: Callable[[Tensor], Tensor]) -> _Operation:
    return lambda image, depth, share, sign: (change(image), depth)


def _of_contrast_or_so(adjust: Callable[[Tensor, float], Tensor]) -> _Operation:
    """Blend with a grey, black or blurred image, or away from it: a factor of 0.1 to 1.9."""
    return lambda image, depth, share, sign: (adjust(image, 1.0 + sign * 0.9 * share), depth)


def _posterize(image: Tensor, depth: Tensor, share: float, sign: float) -> tuple[Tensor, Tensor]:
    return F.posterize(image, max(4 - int(4 * share), 1)), depth  # of 0 bits nothing would be left


def _solarize(image: Tensor, depth: Tensor, share: float, sign: float) -> tuple[Tensor, Tensor]:
    return torch.where(image.int() >= 256 - int(256 * share), 255 - image, image), depth


def _solarize_add(image: Tensor, depth: Tensor, share: float, sign: float) -> tuple[Tensor, Tensor]:
    lighter = (image.int() + int(110 * share)).clamp(max=255).to(image.dtype)
    return torch.where(image < 128, lighter, image), depth


def _rotate(image: Tensor, depth: Tensor, share: float, sign: float) -> tuple[Tensor, Tensor]:
    return _move(image, depth, angle=sign * 30.0 * share)


def _shear_x(image: Tensor, depth: Tensor, share: float, sign: float) -> tuple[Tensor, Tensor]:
    return _move(image, depth, shear=(sign * 0.3 * share, 0.0))


def _shear_y(image: Tensor, depth: Tensor, share: float, sign: float) -> tuple[Tensor, Tensor]:
    return _move(image, depth, shear=(0.0, sign * 0.3 * share))


def _translate_x(image: Tensor, depth: Tensor, share: float, sign: float) -> tuple[Tensor, Tensor]:
    return _move(image, depth, right=sign * 0.45 * share * image.shape[-1])


def _translate_y(image: Tensor, depth: Tensor, share: float, sign: float) -> tuple[Tensor, Tensor]:
    return _move(image, depth, down=sign * 0.45 * share * image.shape[-2])


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
    moved = F.affine(image, **motion, interpolation=InterpolationMode.BILINEAR, fill=list(FILL))
    return moved, F.affine(depth, **motion, interpolation=InterpolationMode.NEAREST, fill=0.0)


_OPERATIONS: dict[str, _Operation] = {
    "AutoContrast": _of_colors(F.autocontrast),
    "Equalize": _of_colors(F.equalize),
    "Invert": _of_colors(F.invert),
    "Posterize": _posterize,
    "Solarize": _solarize,
    "SolarizeAdd": _solarize_add,
    "Color": _of_contrast_or_so(F.adjust_saturation),
    "Contrast": _of_contrast_or_so(F.adjust_contrast),
    "Brightness": _of_contrast_or_so(F.adjust_brightness),
    "Sharpness": _of_contrast_or_so(F.adjust_sharpness),
    "Rotate": _rotate,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
}
OPERATIONS = tuple(_OPERATIONS)
"""The names of the operations; the last five move pixels."""
