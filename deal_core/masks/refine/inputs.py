"""Inputs of every refinement: validated options, an image, and scores of its size."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, get_type_hints

import numpy as np
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from deal_core.errors import ConfigError
from deal_core.structures import UInt8Array


class RefinementOptions:
    """Base of the settings of refinements: dataclasses whose type hints state the range of each option.

    Raises:
        ConfigError: an option is out of range.
    """

    method: ClassVar[str]

    @classmethod
    @cache
    def option_types(cls) -> dict[str, TypeAdapter[Any]]:
        """Return the validators of the options, by name."""
        hints = get_type_hints(cls, include_extras=True)
        return {key: TypeAdapter(hint) for key, hint in hints.items() if key != "method"}

    def __post_init__(self) -> None:
        for key in self.option_types():
            self.parse(key, getattr(self, key))

    @classmethod
    def parse(cls, key: str, value: Any) -> Any:
        """Return the value of an option, converted from text if necessary.

        Raises:
            ConfigError: the value is of another type or out of range.
        """
        try:
            return cls.option_types()[key].validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].replace("Input should be", "expected")
            raise ConfigError(f"{cls.method}: {key}={value}: {reason}") from None


def check_inputs(image: UInt8Array, scores: Tensor) -> None:
    """Raise `ValueError` unless the image is uint8 (H, W, 3) and the scores are (C, H, W)."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected an image as uint8 (H, W, 3), got {image.dtype} {image.shape}")
    if scores.ndim != 3 or tuple(scores.shape[1:]) != image.shape[:2]:
        raise ValueError(f"expected scores (C, {image.shape[0]}, {image.shape[1]}), got {tuple(scores.shape)}")
