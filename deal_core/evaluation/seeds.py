"""Mean and spread of a figure over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SeedSummary:
    """Mean and sample standard deviation (n - 1) of a figure over seeds; the deviation of a single seed is nan."""

    values: tuple[float, ...]
    mean: float
    std: float

    def percent(self) -> str:
        """Return text such as `63.5 ± 1.2` (in points), or `63.5` for a single seed."""
        spread = "" if math.isnan(self.std) else f" ± {100 * self.std:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


def summarise_seeds(values: Iterable[float]) -> SeedSummary:
    """Return mean and sample standard deviation of a figure over seeds.

    Raises:
        ValueError: there is no value.

    Example:
        >>> summarise_seeds([0.62, 0.64, 0.66, 0.64]).percent()
        '64.0 ± 1.6'
    """
    numbers = tuple(float(value) for value in values)
    if not numbers:
        raise ValueError("expected at least one seed, found none")
    std = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else math.nan
    return SeedSummary(numbers, float(np.mean(numbers)), std)
