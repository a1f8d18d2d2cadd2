"""Pixel-adaptive refinement against one pixel at a time, and what it must keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deal_core.errors import ConfigError
from deal_core.masks.refine.par import ParSettings, pixel_adaptive_refinement

RINGS = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]


def one_pixel_at_a_time(image: np.ndarray, scores: np.ndarray, settings: ParSettings) -> np.ndarray:
    """The published formula in float64."""
    height, width = image.shape[:2]
    steps = [(dy * d, dx * d) for d in settings.dilations for dy, dx in RINGS]
    lengths = [math.hypot(*step) for step in steps]
    mean = sum(lengths) / len(lengths)
    spread = math.sqrt(sum((n - mean) ** 2 for n in lengths) / (len(lengths) - 1))
    near = [math.exp(-((n / (settings.contrast * spread)) ** 2)) for n in lengths]
    for _ in range(settings.iterations):
        result = np.zeros_like(scores)
        for y in range(height):
            for x in range(width):
                where = [(min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)) for dy, dx in steps]
                differences = np.zeros(len(where))
                for channel in image.transpose(2, 0, 1).astype(float) / 255:
                    values = [channel[place] for place in where]
                    centre = sum(values) / len(values)
                    deviation = math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1))
                    for j, value in enumerate(values):
                        gap = abs(value - channel[y, x])
                        differences[j] += (gap / (settings.contrast * (deviation + 1e-8))) ** 2 / 3
                alike = [math.exp(-(d - min(differences))) for d in differences]
                for j, place in enumerate(where):
                    share = alike[j] / sum(alike) + settings.position_weight * near[j] / sum(near)
                    result[:, y, x] += share / (1 + settings.position_weight) * scores[:, place[0], place[1]]
        scores = result
    return scores


@pytest.mark.parametrize(
    "settings",
    [ParSettings(iterations=2, dilations=(1, 3)), ParSettings(1, (2,), contrast=1.0, position_weight=0.5)],
)
def test_equals_the_formula(settings: ParSettings) -> None:
    rng = np.random.default_rng(0)
    image, scores = rng.integers(0, 256, (7, 9, 3), np.uint8), rng.random((2, 7, 9))
    found = pixel_adaptive_refinement(image, torch.from_numpy(scores), settings)
    np.testing.assert_allclose(found.numpy(), one_pixel_at_a_time(image, scores, settings), atol=1e-5)
    assert found.dtype == torch.float32


@hypothesis_settings(max_examples=30)
@given(seed=st.integers(0, 2**31), noise=st.sampled_from([0, 3, 255]), height=st.integers(1, 12))
def test_scores_stay_in_their_range(seed: int, noise: int, height: int) -> None:
    rng = np.random.default_rng(seed)
    image, scores = rng.integers(0, noise + 1, (height, 10, 3)).astype(np.uint8), torch.rand(3, height, 10)
    scores[2] = 0.7
    found = pixel_adaptive_refinement(image, scores, ParSettings(3, (1, 2, 24)))
    assert torch.isfinite(found).all()
    for k in range(3):
        assert found[k].min() >= scores[k].min() - 1e-5 and found[k].max() <= scores[k].max() + 1e-5
    assert torch.allclose(found[2], scores[2], atol=1e-5), "a constant stays"


def test_a_constant_image_keeps_the_mean() -> None:
    """Every neighbour counts alike there, so away from the border nothing is lost or gained."""
    scores = torch.zeros(1, 61, 61)
    scores[0, 28:33, 28:33] = torch.rand(5, 5)
    found = pixel_adaptive_refinement(np.full((61, 61, 3), 90, np.uint8), scores, ParSettings(3, (1, 2, 4)))
    assert float(found.sum()) == pytest.approx(float(scores.sum()), rel=1e-4)
    assert float(found.max()) < 0.5 * float(scores.max()), "and is spread"


def test_nothing_leaks_across_a_sharp_edge() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, 20:] = 200
    scores = torch.zeros(1, 40, 40)
    scores[:, :, :17] = 1
    by_colour = pixel_adaptive_refinement(image, scores, ParSettings(position_weight=0.0))
    assert float(by_colour[:, :, 20:].max()) < 1e-6
    assert float(by_colour[:, :, 17:20].min()) > 0.3, "but up to the edge it spreads"
    with_position = pixel_adaptive_refinement(image, scores)
    assert float(with_position[:, :, 20:].max()) < 0.1


def test_wrong_use() -> None:
    for values, said in (
        ({"iterations": 0}, "iteration"),
        ({"dilations": ()}, "dilations"),
        ({"dilations": (0, 1)}, "dilations"),
        ({"contrast": 0.0}, "contrast"),
        ({"position_weight": -1.0}, "position_weight"),
    ):
        with pytest.raises(ConfigError, match=said):
            ParSettings(**values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="uint8"):
        pixel_adaptive_refinement(np.zeros((4, 5), np.uint8), torch.ones(2, 4, 5))
    with pytest.raises(ValueError, match=r"\(C, 4, 5\)"):
        pixel_adaptive_refinement(np.zeros((4, 5, 3), np.uint8), torch.ones(4, 5))
