"""The importance sampling loss against its definition, written as loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deal_core.losses.importance_sampling import ImportanceSamplingLoss, draw_positions, importance_sampling_loss
from deal_core.losses.tags import tag_loss

NAN = float("nan")


def slow_loss(cams: np.ndarray, tags: np.ndarray, positions: np.ndarray) -> float:
    """The definition, cell by cell, in float64."""
    total, count = 0.0, 0
    width = cams.shape[3]
    for b, k in np.ndindex(*tags.shape):
        if math.isnan(tags[b, k]):
            continue
        for position in positions[b, k]:
            chance = 1 / (1 + math.exp(-cams[b, k, position // width, position % width]))
            total -= math.log(chance if tags[b, k] == 1 else 1 - chance)
            count += 1
    return total / count if count else 0.0


def random_case(seed: int, batch: int = 2, classes: int = 3, height: int = 4, width: int = 6, samples: int = 5):
    rng = np.random.default_rng(seed)
    cams = rng.normal(size=(batch, classes, height, width), scale=3)
    tags = rng.choice([0.0, 1.0, NAN], size=(batch, classes))
    positions = rng.integers(0, height * width, (batch, classes, samples))
    return cams, tags, positions


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 4), st.integers(1, 6))
@settings(max_examples=30)
def test_equals_the_definition(seed: int, batch: int, classes: int, samples: int) -> None:
    case = random_case(seed, batch, classes, samples=samples)
    cams, tags, positions = (torch.from_numpy(a) for a in case)
    expected = slow_loss(*case)
    assert importance_sampling_loss(cams, tags, positions=positions).item() == pytest.approx(expected, abs=1e-9)
    single = importance_sampling_loss(cams.float(), tags.float(), positions=positions)
    assert single.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_of_a_constant_map_it_is_the_tag_loss_of_its_mean() -> None:
    logits = torch.tensor([[1.5, -2.0, 0.3]])
    tags = torch.tensor([[1.0, 0.0, NAN]])
    cams = logits[..., None, None].expand(1, 3, 5, 4)
    assert importance_sampling_loss(cams, tags).item() == pytest.approx(tag_loss(logits, tags).item(), abs=1e-6)


def test_cells_are_drawn_in_proportion_to_the_sigmoid() -> None:
    logits = torch.tensor([-8.0, -1.0, 0.0, 2.0, 6.0, 0.5]).repeat(1, 2, 1)
    logits[0, 1] = logits[0, 1].flip(0)
    drawn = draw_positions(logits, 200_000, torch.Generator().manual_seed(3))
    share = 1 / (1 + np.exp(-logits.double().numpy()))
    expected = share / share.sum(-1, keepdims=True)
    for k in range(2):
        counted = np.bincount(drawn[0, k].numpy(), minlength=6) / 200_000
        assert np.abs(counted - expected[0, k]).max() < 0.005


def test_a_map_that_is_zero_everywhere_is_drawn_from_evenly() -> None:
    drawn = draw_positions(torch.full((1, 1, 4), -1e4), 4_000, torch.Generator().manual_seed(0))
    assert np.bincount(drawn.flatten().numpy(), minlength=4).min() > 800


def test_gradient_reaches_only_the_drawn_cells_of_known_tags() -> None:
    cams, tags, positions = (torch.from_numpy(a) for a in random_case(4, batch=1))
    tags[0] = torch.tensor([1.0, 0.0, NAN])
    cams.requires_grad_()
    importance_sampling_loss(cams, tags, positions=positions).backward()
    assert cams.grad is not None
    touched = cams.grad.flatten(2) != 0
    expected = torch.zeros_like(touched).scatter(2, positions, True)
    expected[0, 2] = False
    assert torch.equal(touched, expected)
    assert (cams.grad[0, 0] <= 0).all() and (cams.grad[0, 1] >= 0).all()  # present up, absent down


def test_gradcheck() -> None:
    cams, tags, positions = (torch.from_numpy(a) for a in random_case(1))
    assert torch.autograd.gradcheck(
        lambda c: importance_sampling_loss(c, tags, positions=positions), cams.requires_grad_()
    )


def test_the_generator_decides() -> None:
    cams, tags = torch.randn(2, 3, 8, 8), torch.ones(2, 3)
    first, second, other = (
        importance_sampling_loss(cams, tags, generator=torch.Generator().manual_seed(seed)).item() for seed in (1, 1, 2)
    )
    assert first == second != other


def test_module_is_the_function() -> None:
    cams, tags = torch.randn(2, 3, 8, 8), torch.tensor([[1.0, 0.0, NAN], [0.0, 1.0, 1.0]])
    module = ImportanceSamplingLoss(samples=3)(cams, tags, torch.Generator().manual_seed(5))
    assert module == importance_sampling_loss(cams, tags, samples=3, generator=torch.Generator().manual_seed(5))
    assert module != importance_sampling_loss(cams, tags, samples=4, generator=torch.Generator().manual_seed(5))


def test_without_a_known_tag_there_is_no_loss() -> None:
    cams = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = importance_sampling_loss(cams, torch.full((2, 3), NAN))
    loss.backward()
    assert loss.item() == 0.0 and cams.grad is not None and not cams.grad.any()


def test_bfloat16_autocast_matches_float32() -> None:
    cams, tags, positions = (torch.from_numpy(a) for a in random_case(7))
    rounded = cams.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = importance_sampling_loss(rounded, tags.float(), positions=positions)
    high = importance_sampling_loss(rounded.float(), tags.float(), positions=positions)
    assert low.dtype == torch.float32 and low == high


@pytest.mark.parametrize(
    ("cams", "tags", "positions", "message"),
    [
        ((3, 8, 8), (1, 3), None, r"expected cams of shape \(B, K, h, w\), got \(3, 8, 8\)"),
        ((2, 3, 8, 8), (2, 4), None, r"expected tags of shape \(2, 3\), got \(2, 4\)"),
        ((2, 3, 8, 8), (2, 3), (2, 4, 5), r"expected positions as int64 \(2, 3, S\), got torch.int64 \(2, 4, 5\)"),
    ],
)
def test_wrong_shapes_are_named(cams, tags, positions, message) -> None:
    given_positions = None if positions is None else torch.zeros(positions, dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        importance_sampling_loss(torch.zeros(cams), torch.zeros(tags), positions=given_positions)


def test_positions_and_samples_that_make_no_sense_are_refused() -> None:
    cams, tags = torch.zeros(1, 1, 2, 2), torch.ones(1, 1)
    with pytest.raises(ValueError, match="expected positions as int64"):
        importance_sampling_loss(cams, tags, positions=torch.zeros(1, 1, 3))
    with pytest.raises(ValueError, match="samples of at least 1, got 0"):
        importance_sampling_loss(cams, tags, samples=0)
    with pytest.raises(ValueError, match="samples of at least 1, got -1"):
        ImportanceSamplingLoss(samples=-1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_maps_that_are_not_finite_give_a_nan_loss(value: float) -> None:
    cams = torch.randn(1, 2, 6, 7)
    cams[0, 0, 2, 2] = value
    assert math.isnan(importance_sampling_loss(cams, torch.ones(1, 2)))
    assert math.isfinite(importance_sampling_loss(cams, torch.tensor([[math.nan, 1.0]])))
