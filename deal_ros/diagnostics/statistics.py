"""Rolling statistics over the last results of the segmentation node."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

_WINDOW = 300
"""Number of results that the percentiles cover: ten seconds at 30 Hz."""


@dataclass(frozen=True)
class Percentiles:
    """Median and 99th percentile of the last results; nan before the first result."""

    p50: float = math.nan
    p99: float = math.nan


@dataclass(frozen=True)
class ResultSummary:
    """Summary of the last results. An age is the time since the header stamp, milliseconds."""

    age_at_start_ms: Percentiles = Percentiles()
    age_at_publish_ms: Percentiles = Percentiles()
    inference_ms: Percentiles = Percentiles()
    valid_depth: float = math.nan
    """Fraction of pixels with valid depth in the last frame with depth."""
    stamp_offset_ms_p50: float = math.nan
    """Median absolute difference between the stamps of colour and depth."""
    stamp_offset_ms_max: float = math.nan
    oldest_dropped_ms: float = math.nan
    """Age of the last frame that was dropped because it was too old."""
    last_error: str = ""
    troubles: int = 0
    """Number of masks that were published although their frame had a problem."""
    last_trouble: str = ""


class ResultStatistics:
    """Collect the last results. Thread-safe: the worker's thread writes, the executor's thread reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._age_at_start: deque[float] = deque(maxlen=_WINDOW)
        self._age_at_publish: deque[float] = deque(maxlen=_WINDOW)
        self._inference: deque[float] = deque(maxlen=_WINDOW)
        self._valid_depth = self._oldest_dropped = math.nan
        self._last_error = self._last_trouble = ""
        self._troubles = 0
        self._offsets: deque[float] = deque(maxlen=_WINDOW)

    def add_result(
        self, age_at_start_ms: float, age_at_publish_ms: float, inference_ms: float, valid_depth: float | None
    ) -> None:
        """Add the ages (nan if the stamp is 0) and inference time, milliseconds, and valid depth of a mask."""
        with self._lock:
            if not math.isnan(age_at_start_ms):
                self._age_at_start.append(age_at_start_ms)
                self._age_at_publish.append(age_at_publish_ms)
            self._inference.append(inference_ms)
            if valid_depth is not None:
                self._valid_depth = valid_depth

    def add_error(self, message: str) -> None:
        """Add the error of a failed frame."""
        with self._lock:
            self._last_error = message

    def add_trouble(self, message: str) -> None:
        """Add the problem of a frame whose mask was published nevertheless."""
        with self._lock:
            self._troubles += 1
            self._last_trouble = message

    def add_offset(self, offset_ms: float) -> None:
        """Add the absolute difference between the stamps of a pair."""
        with self._lock:
            self._offsets.append(offset_ms)

    def add_dropped(self, age_ms: float) -> None:
        """Add the age of a frame that was dropped because it was too old."""
        with self._lock:
            self._oldest_dropped = age_ms

    @property
    def summary(self) -> ResultSummary:
        """A consistent summary."""
        with self._lock:
            return ResultSummary(
                age_at_start_ms=_percentiles(self._age_at_start),
                age_at_publish_ms=_percentiles(self._age_at_publish),
                inference_ms=_percentiles(self._inference),
                valid_depth=self._valid_depth,
                stamp_offset_ms_p50=_percentiles(self._offsets).p50,
                stamp_offset_ms_max=max(self._offsets, default=math.nan),
                oldest_dropped_ms=self._oldest_dropped,
                last_error=self._last_error,
                troubles=self._troubles,
                last_trouble=self._last_trouble,
            )


def _percentiles(values: deque[float]) -> Percentiles:
    if not values:
        return Percentiles()
    p50, p99 = np.percentile(np.array(values), (50, 99))
    return Percentiles(float(p50), float(p99))
