"""Figures over seeds."""

import math

import pytest

from deal_core.evaluation.seeds import summarise_seeds


def test_seeds_are_summarised_with_the_sample_deviation():
    summary = summarise_seeds([0.62, 0.64, 0.66, 0.64])
    assert summary.mean == pytest.approx(0.64)
    assert summary.std == pytest.approx(math.sqrt(0.0008 / 3))
    assert summary.percent() == "64.0 ± 1.6"
    assert summarise_seeds([0.5]).percent() == "50.0"
    with pytest.raises(ValueError, match="at least one seed"):
        summarise_seeds([])
