"""Mean and spread of a figure over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SeedSummary:
    """Mean and sample standard deviation (n - 1) of a figure over the seeds that have it.

    A seed without the figure has the value nan. The deviation of a single seed is nan, and so is the mean of none.
    """

    values: tuple[float, ...]
    mean: float
    std: float

    def percent(self) -> str:
        """Return text such as `63.5 ± 1.2` (in points), `63.5` for a single seed, or `–` for none."""
        if math.isnan(self.mean):
            return "–"
        spread = "" if math.isnan(self.std) else f" ± {100 * self.std:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


def summarise_seeds(values: Iterable[float]) -> SeedSummary:
    """Return mean and sample standard deviation of a figure over seeds.

    Raises:
        ValueError: there is no value.

    Example:
        >>> summarise_seeds([0.62, 0.64, 0.66, 0.64]).percent(), summarise_seeds([0.62, float("nan")]).percent()
        ('64.0 ± 1.6', '62.0')
    """
    numbers = tuple(float(value) for value in values)
    if not numbers:
        raise ValueError("expected at least one seed, found none")
    known = [number for number in numbers if not math.isnan(number)]
    std = float(np.std(known, ddof=1)) if len(known) > 1 else math.nan
    return SeedSummary(numbers, float(np.mean(known)) if known else math.nan, std)
