"""Settings by name and option, the background, and what all refinements have in common."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deal_core.errors import ConfigError
from deal_core.masks.refine.background import with_background, without_background
from deal_core.masks.refine.crf import CrfSettings
from deal_core.masks.refine.par import ParSettings, pixel_adaptive_refinement
from deal_core.masks.refine.refinement import (
    REFINEMENTS,
    RefineSettings,
    lets_background_compete,
    refine_scores,
    refinement_name,
    refinement_settings,
)
from deal_core.masks.refine.regions import AutoSettings, RegionSettings
from deal_core.masks.refine.walk import WalkSettings


@given(threshold=st.floats(0.02, 0.98), best=st.floats(0.0, 1.0))
def test_the_background_wins_where_the_threshold_says(threshold: float, best: float) -> None:
    if abs(best - threshold) < 1e-3 or not 0.05 <= threshold <= 0.95:
        return
    scores = torch.tensor([best, 0.4 * best])[:, None, None]
    stack = with_background(scores, threshold)
    assert int(stack.argmax(0)) == (1 if best > threshold else 0)
    against = without_background(stack)
    assert (float(against.max()) > 0.5) == (best > threshold)
    assert torch.isfinite(against).all() and against.min() >= 0 and against.max() <= 1


def test_a_threshold_at_the_ends_leaves_class_and_background() -> None:
    scores = torch.tensor([[[0.01, 0.5, 0.99]]])
    for threshold in (0.0, 1.0):
        background, of_class = with_background(scores, threshold)
        assert background[0, 0] > of_class[0, 0] and background[0, 2] < of_class[0, 2]
    published = with_background(scores, 0.3, alpha=4.0)
    torch.testing.assert_close(published, torch.cat([(1 - scores) ** 4, scores]))
    assert not without_background(torch.zeros(3, 2, 2)).any()


@given(st.integers(0, 99), st.floats(0, 1e-6))
def test_a_weak_background_ties_no_classes(seed: int, background: float) -> None:
    classes = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(seed))
    found = without_background(torch.cat([torch.full((1, 4, 5), background), classes]))
    assert torch.equal(found.argmax(0), classes.argmax(0))
    torch.testing.assert_close(found / found.amax(0), classes / classes.amax(0))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("none", [], None),
        ("par", [], ParSettings()),
        ("par", ["dilations=1,2, 4", "position_weight=0"], ParSettings(dilations=(1, 2, 4), position_weight=0.0)),
        ("crf", ["preset=weaktr_voc", "iterations=3"], CrfSettings(3, 4.0, 3.0, 83.0, 5.0, 3.0, "hard")),
        ("crf", ["alpha=4", "unary=hard"], CrfSettings(alpha=4.0, unary="hard")),
        ("walk", ["affinity=colour", "restart=0"], WalkSettings("colour", restart=0.0)),
        ("regions", ["join=0.3", "plane=keep"], RegionSettings(join=0.3, plane="keep")),
        ("auto", ["size=64"], AutoSettings(size=64)),
    ],
)
def test_settings_by_name(name: str, options: list[str], expected: RefineSettings | None) -> None:
    found = refinement_settings(name, options)
    assert found == expected and refinement_name(found) == name
    assert lets_background_compete(found) == (name in ("crf", "walk", "regions", "auto"))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("crv", [], "Did you mean 'crf'"),
        ("walk", ["step=3"], "Did you mean 'steps'"),
        ("par", ["preset=seam"], "par has no option 'preset'"),
        ("crf", ["preset=sea"], "unknown CRF preset 'sea'"),
        ("crf", ["iterations"], "found 'iterations'"),
        ("crf", ["iterations=many"], "crf: iterations=many: "),
        ("crf", ["iterations=0"], "crf: iterations=0: expected greater than or equal to 1"),
        ("walk", ["affinity=deep"], "affinity=deep: .*'depth' or 'colour'"),
        ("regions", ["join=1"], "regions: join=1: expected less than 1"),
        ("regions", ["plane=table"], "plane=table: .*'keep' or 'background'"),
        ("regions", ["alpha=8"], "regions has no option 'alpha'"),
        ("none", ["steps=3"], "none was chosen"),
    ],
)
def test_options_that_cannot_be(name: str, options: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        refinement_settings(name, options)


@pytest.fixture(scope="module")
def picture() -> tuple[np.ndarray, torch.Tensor, np.ndarray]:
    """An image of a square, in colour and depth; scores that are too small for it; a class that is absent."""
    image, depth = np.full((24, 32, 3), 60, np.uint8), np.ones((24, 32), np.float32)
    image[6:18, 8:24], depth[6:18, 8:24] = (200, 80, 30), 0.9
    y, x = np.mgrid[:24, :32]
    blob = np.exp(-(((y - 11.5) / 5) ** 2) - ((x - 15.5) / 6) ** 2)
    return image, torch.from_numpy(np.stack([0.4 * blob, np.zeros_like(blob), blob]).astype(np.float32)), depth


@pytest.mark.parametrize("name", REFINEMENTS)
def test_every_refinement_keeps_what_scores_are(
    name: str, picture: tuple[np.ndarray, torch.Tensor, np.ndarray]
) -> None:
    image, scores, depth = picture
    before = scores.clone()
    with torch.inference_mode():
        found = refine_scores(image, scores, refinement_settings(name), threshold=0.3, depth=depth)
    assert found.shape == scores.shape and found.dtype == torch.float32 and torch.equal(scores, before)
    assert found.min() >= 0 and found.max() <= 1 and not found[1].any() and found[0].any()
    square = depth < 0.95
    first, last = (
        float((mask & square).sum() / (mask | square).sum())
        for mask in (scores.amax(0).numpy() > 0.3, found.amax(0).numpy() > (0.3 if name in ("none", "par") else 0.5))
    )
    assert last > 0.95 > 0.6 > first if name != "none" else torch.equal(found, scores)
    empty = torch.zeros(3, 24, 32)
    assert not refine_scores(image, empty, refinement_settings(name), threshold=0.5, depth=depth).any()


def test_the_threshold_decides_the_background_unless_alpha_is_given(
    picture: tuple[np.ndarray, torch.Tensor, np.ndarray],
) -> None:
    image, scores, depth = picture
    for settings in (CrfSettings(), WalkSettings()):
        low, high = (refine_scores(image, scores, settings, threshold=t, depth=depth) for t in (0.2, 0.7))
        assert float(low[2].mean()) > float(high[2].mean())
    fixed = [refine_scores(image, scores, CrfSettings(alpha=4), threshold=t) for t in (0.2, 0.7)]
    assert torch.equal(*fixed)
    alone = refine_scores(image, scores, ParSettings(), threshold=0.3)
    assert torch.allclose(alone[2], pixel_adaptive_refinement(image, scores[2:])[0])
