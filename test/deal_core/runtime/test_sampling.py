"""Sampling: against a loop, and against the camera of the smaller image."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deal_core.runtime.sampling import sample_count, sample_indices, sampled

lengths = st.integers(1, 2000)


@given(lengths, st.integers(1, 100))
def test_a_whole_step_takes_every_nth_pixel(length: int, step: int) -> None:
    assert sample_indices(length, step).tolist() == list(range(0, length, step))
    assert sample_count(length, step) == len(range(0, length, step))


@given(lengths, st.floats(1.0, 64.0))
def test_samples_lie_on_the_grid_of_the_smaller_camera_within_half_a_pixel(length: int, step: float) -> None:
    found = sample_indices(length, step)
    assert len(found) == sample_count(length, step)
    assert found[0] == 0 and length - 1 - step < found[-1] + 0.5 and found[-1] <= length - 1
    assert (np.diff(found) >= 1).all()
    assert (np.abs(found - np.arange(len(found)) * step) <= 0.5 + 1e-6).all()


@pytest.mark.parametrize("scale", [Fraction(1, n) for n in (1, 2, 3, 4, 5, 6, 7, 8, 10, 15, 16, 20)])
@pytest.mark.parametrize("length", [480, 640, 720, 1280])
def test_the_inverse_of_a_decimal_scale_is_a_whole_step(scale: Fraction, length: int) -> None:
    """1 / 0.1 and the like are not exact; no sample may be added or moved for that."""
    assert sample_indices(length, 1 / float(scale)).tolist() == list(range(0, length, scale.denominator))


@given(st.integers(1, 9), st.integers(1, 9), st.floats(1.0, 4.0), st.integers(0, 2**32 - 1))
def test_nothing_is_interpolated(height: int, width: int, step: float, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    rows, columns = sample_indices(height, step), sample_indices(width, step)
    expected = [[image[row, column].tolist() for column in columns] for row in rows]
    assert sampled(image, step).tolist() == expected
