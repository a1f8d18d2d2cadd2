"""Threshold rules: on scenes whose best threshold is known, against slow formulations, and across ranks."""

import re

import cv2
import numpy as np
import pytest
import torch

from deal_core.errors import ConfigError, EvaluationError
from deal_core.evaluation.sweep import ThresholdSweep
from deal_core.masks.decide import threshold_grid, winning_class
from deal_core.masks.threshold_rules import RULES, DepthEdgesRule, DepthReliefRule, OtsuRule, create_rule

HEIGHT, WIDTH = 60, 80
DEPTH_RULES = ("depth_edges", "depth_relief")


def scene(seed, *, clutter=True, blur=4.0):
    """One tabletop: scores (2, H, W) of a CAM, depth (H, W) with holes, tags, and the truth."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    # A table seen at a slant: the depth falls from 1.1 m to 0.7 m over the image.
    depth = 1 / (1 / 1.1 + (1 / 0.7 - 1 / 1.1) * rows / HEIGHT)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    scores = np.zeros((2, HEIGHT, WIDTH), np.float32)
    for k in range(3 if clutter else 2):
        radius = rng.uniform(7, 10)
        row, column = rng.uniform(14, HEIGHT - 14), 14 + k * 25 + rng.uniform(-3, 3)
        blob = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        depth = np.where(blob, depth.mean(where=blob) - 0.08, depth)
        mask[blob] = k + 1 if k < 2 else 0
        if k < 2:
            # A CAM: the object's blurred shape, brighter on one part of it.
            part = 0.6 + 0.4 * np.exp(-((rows - row - 3) ** 2 + (columns - column) ** 2) / 50)
            cam = cv2.GaussianBlur(blob.astype(np.float32), (0, 0), blur) * part
            scores[k] = cam / cam.max()
    depth += rng.normal(0, 0.002, depth.shape)
    depth[rng.random(depth.shape) < 0.03] = 0
    return scores, depth.astype(np.float32), np.array([1.0, 1.0]), mask


def miou_at(sweep, threshold):
    """The mIoU at one of the swept thresholds."""
    (index,) = np.flatnonzero(sweep.thresholds == threshold)
    return sweep.curve().miou[index]


def choose(rule, warp=lambda s: s, count=12, **options):
    """Run a rule over scenes; return its threshold, and mIoU there and at the best threshold."""
    sweep = ThresholdSweep(2)
    for seed in range(count):
        scores, depth, tags, mask = scene(seed, **options)
        rule.update(warp(scores), depth, depth > 0, tags)
        sweep.update(warp(scores), tags, mask)
    threshold = rule.threshold()
    return threshold, miou_at(sweep, threshold), sweep.best()


@pytest.mark.parametrize("name", DEPTH_RULES)
@pytest.mark.parametrize(
    "warp",
    [
        lambda s: s,
        lambda s: 0.4 * s,
        lambda s: s**2,
        lambda s: s**0.5,
        lambda s: (s + 0.3 * s**4) / 1.3,
    ],
)
def test_depth_rules_follow_the_level_of_the_scores(name, warp):
    threshold, miou, best = choose(create_rule(name), warp)
    assert best.miou - miou < 0.03
    assert abs(threshold - best.threshold) < 0.15


@pytest.mark.parametrize("name", DEPTH_RULES)
def test_the_choice_moves_with_a_monotone_change(name):
    plain, *_ = choose(create_rule(name))
    squared, *_ = choose(create_rule(name), lambda s: s**2)
    scaled, *_ = choose(create_rule(name), lambda s: 0.5 * s)
    assert squared == pytest.approx(plain**2, abs=0.05)
    assert scaled == pytest.approx(plain * 0.5, abs=0.05)


def test_relief_finds_the_best_threshold_of_coarse_cams_where_a_fixed_one_does_not():
    _, miou, best = choose(create_rule("depth_relief"), lambda s: s**3, blur=7.0)
    _, fixed, _ = choose(create_rule("fixed:0.5"), lambda s: s**3, blur=7.0)
    assert best.miou - miou < 0.03
    assert best.miou - fixed > 0.1


def test_a_slanted_table_alone_does_not_stand_out():
    rows = np.mgrid[0:HEIGHT, 0:WIDTH][0]
    depth = (1 / (1.0 + 0.4 * rows / HEIGHT)).astype(np.float32)
    rule = DepthReliefRule()
    rule.update(np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(1, HEIGHT, WIDTH), depth)
    with pytest.raises(EvaluationError, match="no agreement"):
        rule.threshold()


@pytest.mark.parametrize("name", DEPTH_RULES)
@pytest.mark.parametrize("factor, shift", [(1.0, 0.0), (0.01, 3.0), (500.0, 0.3)])
def test_inverse_depth_of_any_scale_and_zero_leads_to_a_good_threshold(name, factor, shift):
    """As of a network that estimates depth from one image: scale and zero of such depth are unknown."""
    rule, sweep = create_rule(name, "inverse"), ThresholdSweep(2)
    for seed in range(12):
        scores, depth, tags, mask = scene(seed)
        measured = depth > 0
        inverse = np.where(measured, factor * (1 / np.where(measured, depth, 1) + shift), 0)
        rule.update(scores, inverse, None, tags)
        sweep.update(scores, tags, mask)
    assert sweep.best().miou - miou_at(sweep, rule.threshold()) < 0.03


def test_a_slanted_table_alone_does_not_stand_out_in_inverse_depth_either():
    rows = np.mgrid[0:HEIGHT, 0:WIDTH][0]
    rule = create_rule("depth_relief", "inverse")
    scores = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(1, HEIGHT, WIDTH)
    rule.update(scores, (7.0 + 3.0 * rows / HEIGHT).astype(np.float32))
    rule.update(scores, np.full((HEIGHT, WIDTH), 7.0, np.float32))
    with pytest.raises(EvaluationError, match="no agreement"):
        rule.threshold()


def slow_correlation(on, quantity):
    if on.std() < 1e-12 or quantity.std() < 1e-12:
        return 0.0
    return float(np.corrcoef(on, quantity)[0, 1])


def test_edge_agreement_is_the_correlation_over_all_neighbours():
    from deal_core.losses.depth_edge import depth_edges

    rule, on, strength = DepthEdgesRule(size=200), [[] for _ in range(101)], []
    for seed in range(2):
        scores, depth, tags, _ = scene(seed)
        rule.update(scores, depth, None, tags)
        best, _ = winning_class(scores, tags)
        edges = depth_edges(torch.from_numpy(depth)[None, None], size=depth.shape).strength[0, 0].double().numpy()
        for axis in (0, 1):
            a, b = np.arange(1, depth.shape[axis]), np.arange(depth.shape[axis] - 1)
            strength.append(np.maximum(edges.take(a, axis), edges.take(b, axis)).ravel())
            for index, t in enumerate(threshold_grid()):
                foreground = best.astype(np.float64) > t
                on[index].append((foreground.take(a, axis) != foreground.take(b, axis)).ravel())
    expected = [slow_correlation(np.concatenate(o), np.concatenate(strength)) for o in on]
    np.testing.assert_allclose(rule.agreement(), expected, atol=1e-9)


def test_relief_agreement_is_the_correlation_over_all_pixels():
    rule, on, stands_out = DepthReliefRule(size=200), [[] for _ in range(101)], []
    for seed in range(2):
        scores, _, tags, mask = scene(seed, clutter=False)
        # Without noise and holes, what stands out is exactly the two blobs.
        clean = np.where(mask > 0, 0.8, 1.0).astype(np.float32)
        rule.update(scores, clean, None, tags)
        best, _ = winning_class(scores, tags)
        stands_out.append((mask > 0).ravel())
        for index, t in enumerate(threshold_grid()):
            on[index].append((best.astype(np.float64) > t).ravel())
    expected = [slow_correlation(np.concatenate(o), np.concatenate(stands_out)) for o in on]
    np.testing.assert_allclose(rule.agreement(), expected, atol=1e-9)


def test_otsu_is_the_best_split_into_two_groups():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.2, 0.05, 900), rng.normal(0.7, 0.08, 300)]).clip(0, 1).reshape(1, 30, 40)
    rule = OtsuRule()
    rule.update(values)

    def within(t):
        low, high = values[values <= t], values[values > t]
        return len(low) * low.var() + len(high) * high.var() if len(low) and len(high) else np.inf

    grid = threshold_grid()
    best = grid[int(np.argmin([within(t) for t in grid]))]
    assert rule.threshold() == pytest.approx(best, abs=0.02)
    assert within(rule.threshold()) == pytest.approx(within(best), rel=0.01)


@pytest.mark.parametrize("name", RULES)
def test_two_ranks_merge_into_one(name):
    whole, first, second = create_rule(name), create_rule(name), create_rule(name)
    for seed in range(4):
        scores, depth, tags, _ = scene(seed)
        for rule in (whole, first if seed < 2 else second):
            rule.update(scores, depth, depth > 0, tags)
    first.merge(second)
    assert first.threshold() == whole.threshold()
    if name in DEPTH_RULES:
        np.testing.assert_allclose(first.agreement(), whole.agreement(), rtol=1e-9)
    with pytest.raises(ValueError, match="cannot merge"):
        first.merge(create_rule(next(other for other in RULES if other != name)))
    if name in DEPTH_RULES:
        with pytest.raises(ValueError, match="cannot merge"):
            first.merge(create_rule(name, "inverse"))


@pytest.mark.parametrize("name", RULES)
def test_torch_and_numpy_agree_and_large_images_too(name):
    ours, theirs = create_rule(name), create_rule(name)
    for seed in range(3):
        scores, depth, tags, _ = scene(seed)
        scores, depth = np.kron(scores, np.ones((1, 3, 3), np.float32)), np.kron(depth, np.ones((3, 3), np.float32))
        ours.update(scores, depth, depth > 0, tags)
        theirs.update(
            torch.from_numpy(scores), torch.from_numpy(depth), torch.from_numpy(depth > 0), torch.from_numpy(tags)
        )
    assert ours.threshold() == theirs.threshold()
    assert 0 < ours.threshold() < 1


def test_thresholds_lie_on_the_grid_of_the_sweep():
    for name in ("otsu", *DEPTH_RULES):
        threshold, *_ = choose(create_rule(name), count=3)
        assert threshold in threshold_grid()


@pytest.mark.parametrize("name", DEPTH_RULES)
def test_depth_that_is_missing_or_empty(name):
    scores, depth, tags, _ = scene(0)
    rule = create_rule(name)
    with pytest.raises(ValueError, match="needs depth"):
        rule.update(scores)
    rule.update(scores, np.zeros_like(depth), None, tags)
    rule.update(scores, np.full_like(depth, np.nan), None, tags)
    rule.update(scores, depth, np.zeros(depth.shape, bool), tags)
    rule.update(scores, depth, None, np.zeros(2))
    with pytest.raises(EvaluationError, match="deal check"):
        rule.threshold()
    rule.update(scores, depth, None, tags)
    assert 0 < rule.threshold() < 1


@pytest.mark.parametrize("name", DEPTH_RULES)
def test_a_flat_map_says_nothing(name):
    _, depth, tags, _ = scene(0)
    rule = create_rule(name)
    rule.update(np.full((2, HEIGHT, WIDTH), 0.5, np.float32), depth, None, tags)
    with pytest.raises(EvaluationError, match="no agreement"):
        rule.threshold()


def test_otsu_without_anything_to_part():
    rule = OtsuRule()
    rule.update(np.ones((1, 4, 4), np.float32), tags=np.array([0.0]))
    with pytest.raises(EvaluationError, match="otsu"):
        rule.threshold()


@pytest.mark.parametrize("name", DEPTH_RULES)
def test_arrays_that_do_not_fit_are_refused(name):
    scores, depth, _, _ = scene(0)
    with pytest.raises(ValueError, match=re.escape("scores' size (60, 80), found (30, 40)")):
        create_rule(name).update(scores, depth[::2, ::2])
    with pytest.raises(ValueError, match=re.escape("depth's size (60, 80), found (30, 80)")):
        create_rule(name).update(scores, depth, depth[::2] > 0)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ostu", {}, "Did you mean 'otsu'?"),
        ("otsu:0.3", {}, "unknown threshold rule 'otsu:0.3'"),
        ("fixed:much", {}, "expected a rule like 'fixed:0.3', found 'fixed:much'"),
        ("fixed", {"threshold": 1.5}, "[0, 1], found 1.5"),
        ("depth_edges", {"size": 2}, "at least 8 pixels, found 2"),
        ("depth_relief", {"window": 0}, "a window in (0, 2] and a margin in (0, 1), found 0 and 0.015"),
        ("depth_relief", {"depth_kind": "disparity"}, "expected depth_kind metric or inverse, found 'disparity'"),
        ("depth_edges", {"depth_kind": "disparity"}, "expected depth_kind metric or inverse, found 'disparity'"),
    ],
)
def test_wrong_rules_are_refused(name, arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        create_rule(name, **arguments)


def test_a_fixed_rule_can_be_written_in_one_word():
    assert create_rule("fixed:0.3").threshold() == 0.3
    assert create_rule("fixed", threshold=0.4).threshold() == 0.4
    assert create_rule("fixed:0.3", "inverse").threshold() == 0.3
