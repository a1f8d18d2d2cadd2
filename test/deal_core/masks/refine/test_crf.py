"""The CRF against an exact mean field in loops, and what it does to a picture."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from deal_core.errors import ConfigError
from deal_core.masks.refine.crf import CrfSettings, crf_preset, dense_crf
from deal_core.masks.refine.lattice import PermutohedralLattice


def two_halves(height: int = 12, width: int = 16, noise: float = 6.0) -> np.ndarray:
    """A red and a blue half with some noise."""
    image = np.zeros((height, width, 3))
    image[:, : width // 2, 0] = image[:, width // 2 :, 2] = 180
    image += np.random.default_rng(0).normal(40, noise, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def exact_mean_field(image: np.ndarray, scores: np.ndarray, settings: CrfSettings) -> np.ndarray:
    """All pairs of pixels, one at a time, in float64."""
    labels, height, width = scores.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    kernels = []
    for weight, sxy, srgb in (
        (settings.compat_gaussian, settings.sxy_gaussian, math.inf),
        (settings.compat_bilateral, settings.sxy_bilateral, settings.srgb),
    ):
        kernel = np.zeros((len(pixels), len(pixels)))
        for i, (y, x) in enumerate(pixels):
            for j, (v, u) in enumerate(pixels):
                colour = sum((float(a) - float(b)) ** 2 for a, b in zip(image[y, x], image[v, u], strict=True))
                kernel[i, j] = math.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * sxy**2) - colour / (2 * srgb**2))
        rows = [sum(row) for row in kernel.tolist()]
        for i in range(len(pixels)):
            for j in range(len(pixels)):
                kernel[i, j] *= weight / math.sqrt(rows[i] * rows[j])
        kernels.append(kernel)
    first = np.array([[math.log(scores[c, y, x]) for c in range(labels)] for y, x in pixels])

    def normalised(logits: np.ndarray) -> np.ndarray:
        rows = []
        for row in logits:
            values = [math.exp(value - max(row)) for value in row]
            rows.append([value / sum(values) for value in values])
        return np.array(rows)

    belief = normalised(first)
    for _ in range(settings.iterations):
        belief = normalised(first + kernels[0] @ belief + kernels[1] @ belief)
    return belief.T.reshape(scores.shape)


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    """Three labels: the first two lean to one half each, unsure near the middle; the third is nowhere likely."""
    lean = 1 / (1 + np.exp((np.arange(16) - 6.0) / 3))
    likely = np.stack([np.tile(lean, (12, 1)), np.tile(1 - lean, (12, 1)), np.full((12, 16), 0.1)])
    likely *= np.random.default_rng(1).uniform(0.7, 1.3, likely.shape)
    return likely / likely.sum(0)


@pytest.mark.parametrize(
    "settings",
    [
        CrfSettings(iterations=5, sxy_gaussian=2, compat_gaussian=1, sxy_bilateral=6, srgb=30, compat_bilateral=2),
        CrfSettings(iterations=1, sxy_gaussian=3, compat_gaussian=3, sxy_bilateral=80, srgb=60, compat_bilateral=4),
        CrfSettings(iterations=5, sxy_gaussian=2, compat_gaussian=2, sxy_bilateral=5, srgb=20, compat_bilateral=0),
    ],
)
def test_the_mean_field_is_the_exact_one_up_to_the_lattice(scores: np.ndarray, settings: CrfSettings) -> None:
    """The lattice's kernel is some per cent off; the beliefs then are as close as this, and the labels the same."""
    image = two_halves()
    found = dense_crf(image, torch.from_numpy(scores), settings).numpy()
    expected = exact_mean_field(image, scores, settings)
    assert np.abs(found - expected).mean() < 0.015 and np.abs(found - expected).max() < 0.12
    assert (found.argmax(0) != expected.argmax(0)).mean() < 0.02
    assert np.abs(expected - scores).mean() > 0.05, "the comparison must have something to compare"
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize(("dimensions", "off"), [(2, 0.12), (5, 0.3)])
def test_the_lattice_is_the_gaussian_up_to_a_factor(dimensions: int, off: float) -> None:
    """As far off as everyone who uses this lattice; scattered points in five dimensions are its hardest case."""
    features = torch.from_numpy(np.random.default_rng(3).normal(0, 1.5, (300, dimensions))).float()
    found = PermutohedralLattice(features).filter(torch.eye(300)).double().numpy()
    exact = np.array([[math.exp(-float((a - b).square().sum()) / 2) for b in features] for a in features])
    factor = (found * exact).sum() / (found**2).sum()
    assert np.linalg.norm(factor * found - exact) / np.linalg.norm(exact) < off
    two = torch.rand(300, 2)
    together = PermutohedralLattice(features).filter(two)
    assert torch.allclose(together, torch.from_numpy(found).float() @ two, rtol=1e-3, atol=1e-4), "linear"


def test_an_object_takes_the_edge_of_its_colour(scores: np.ndarray) -> None:
    image = two_halves()
    before = scores.argmax(0)
    after = dense_crf(image, torch.from_numpy(scores), crf_preset("weaktr_voc")).argmax(0).numpy()
    truth = np.tile(np.arange(16) >= 8, (12, 1)).astype(int)
    assert (before != truth).mean() > 0.08 and (after == truth).all()


def test_hard_labels_are_believed_with_the_confidence() -> None:
    """Without any neighbourhood, each pixel keeps its own belief."""
    scores = torch.tensor([[[0.6, 0.2]], [[0.3, 0.5]], [[0.1, 0.3]]])
    alone = CrfSettings(compat_gaussian=0, compat_bilateral=0, unary="hard", confidence=0.6)
    found = dense_crf(np.zeros((1, 2, 3), np.uint8), scores, alone)
    assert torch.allclose(found, torch.tensor([[[0.6, 0.2]], [[0.2, 0.6]], [[0.2, 0.2]]]))
    soft = dense_crf(np.zeros((1, 2, 3), np.uint8), 5 * scores, dataclasses.replace(alone, unary="soft"))
    assert torch.allclose(soft, scores), "the ratios count"
    assert torch.equal(dense_crf(np.zeros((4, 3, 3), np.uint8), torch.zeros(1, 4, 3)), torch.ones(1, 4, 3))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"iterations": 0}, "iterations=0: expected greater than or equal to 1"),
        ({"srgb": 0.0}, "srgb=0.0: expected greater than 0"),
        ({"sxy_gaussian": float("nan")}, "sxy_gaussian=nan: expected greater than 0"),
        ({"compat_bilateral": -1.0}, "compat_bilateral"),
        ({"confidence": 1.0}, "confidence"),
        ({"alpha": 0.0}, "alpha"),
        ({"unary": "sfot"}, "'soft' or 'hard'"),
    ],
)
def test_settings_out_of_range(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        CrfSettings(**values)  # type: ignore[arg-type]


def test_wrong_use() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'weaktr_voc'"):
        crf_preset("weaktr-voc")
    with pytest.raises(ValueError, match="uint8"):
        dense_crf(np.zeros((4, 5, 3), np.float32), torch.ones(2, 4, 5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(C, 4, 5\)"):
        dense_crf(np.zeros((4, 5, 3), np.uint8), torch.ones(2, 5, 4))
    noise = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
    with pytest.raises(ConfigError, match="too small"):
        dense_crf(noise, torch.ones(2, 30, 30), CrfSettings(srgb=1e-3, sxy_bilateral=1e-3))
