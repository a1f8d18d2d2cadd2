"""SEAM's losses against loops over pixels in float64, and the properties that make them what they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deal_core.losses.equivariance import (
    equivariant_cross_regularization_loss,
    equivariant_regularization_loss,
    max_norm,
    refined_minimum_loss,
)

NAN = float("nan")
TAGS = torch.tensor([[1, 0, 1, NAN], [0, 0, 0, 0], [0, 1, NAN, 0]])

# --- an independent formulation: one pixel at a time ------------------------------------------------------------


def slow_max_norm(maps: np.ndarray) -> np.ndarray:
    out = np.zeros_like(maps)
    for b in range(maps.shape[0]):
        for c in range(maps.shape[1]):
            values = [max(v, 0.0) for v in maps[b, c].ravel()]
            low, high = min(values), max(values)
            out[b, c] = np.reshape([max(v - low - 1e-5, 0.0) / (high - low + 1e-5) for v in values], maps.shape[2:])
    return out


def slow_er(first: np.ndarray, second: np.ndarray, tags: np.ndarray, classes: int | None) -> float:
    batch, _, h, w = first.shape
    present = [(b, k) for b in range(batch) for k in range(tags.shape[1]) if tags[b, k] == 1]
    total = sum(abs(first[b, k, i, j] - second[b, k, i, j]) for b, k in present for i in range(h) for j in range(w))
    return total / (h * w * (batch * classes if classes is not None else max(len(present), 1)))


def slow_half_of_ecr(
    target: np.ndarray, refined: np.ndarray, tags: np.ndarray, hardest: float, classes: int | None
) -> float:
    """T(|onehot(target) - refined|)."""
    batch, channels, h, w = target.shape
    total = 0.0
    for b in range(batch):
        present = [k for k in range(channels) if tags[b, k] == 1]
        entries = []
        for i in range(h):
            for j in range(w):
                largest = max((target[b, k, i, j] for k in present), default=0.0)
                entries.append(abs(1.0 - largest - refined[b, 0, i, j]))
                for k in present:
                    kept = target[b, k, i, j] if target[b, k, i, j] == largest else 0.0
                    entries.append(abs(kept - refined[b, k + 1, i, j]))
        counted = len(present) if classes is None else classes
        count = max(math.floor((counted + 1) * h * w * hardest), 1)
        total += sum(sorted(entries, reverse=True)[:count]) / count
    return total / batch


def slow_minimum(refined: np.ndarray, tags: np.ndarray, share: float) -> float:
    batch, channels, h, w = refined.shape
    total = 0.0
    for b in range(batch):
        strongest = []
        for i in range(h):
            for j in range(w):
                strongest.append(max(max(refined[b, k, i, j], 0) if tags[b, k] == 1 else 0 for k in range(channels)))
        count = max(math.floor(h * w * share), 1)
        total += sum(sorted(strongest)[:count]) / count
    return total / batch


# --- inputs -----------------------------------------------------------------------------------------------------


def random_maps(seed: int, channels: int = 4, size: tuple[int, int] = (5, 7), batch: int = 3) -> Tensor:
    return torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def four_maps(seed: int, size: tuple[int, int] = (5, 7)) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        random_maps(seed, 4, size),
        random_maps(seed + 1, 4, size),
        random_maps(seed + 2, 5, size),
        random_maps(seed + 3, 5, size),
    )


@st.composite
def tags_of_any_kind(draw: st.DrawFn) -> Tensor:
    rows = st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=4, max_size=4)
    return torch.tensor(draw(st.lists(rows, min_size=3, max_size=3)), dtype=torch.float64)


# --- against the slow formulation -------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [-2.0, 0.0, 0.3])
def test_max_norm(shift: float) -> None:
    maps = random_maps(0) * 2 - 0.7 + shift
    maps[0, 0] = 0.25  # a map that is flat has no largest pixel
    result = max_norm(maps)
    assert np.allclose(result, slow_max_norm(maps.numpy()), atol=1e-12)
    assert bool((result >= 0).all() and (result < 1).all()) and not result[0, 0].any()


@pytest.mark.parametrize("classes", [None, 4, 9])
def test_equivariant_regularization(classes: int | None) -> None:
    first, second = random_maps(0), random_maps(1)
    loss = equivariant_regularization_loss(first, second, TAGS, classes=classes)
    assert float(loss) == pytest.approx(slow_er(first.numpy(), second.numpy(), TAGS.numpy(), classes), rel=1e-12)


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (2, 3)])
@pytest.mark.parametrize("hardest", [0.2, 0.03, 0.9, 1.0])
@pytest.mark.parametrize("classes", [None, 4, 9])
def test_equivariant_cross_regularization(classes: int | None, hardest: float, size: tuple[int, int]) -> None:
    first, second, first_refined, second_refined = four_maps(5, size)
    first[:, :, 0, 0] = 0.5  # where classes are equally strong, each of them is kept
    loss = equivariant_cross_regularization_loss(
        first, second, first_refined, second_refined, TAGS, hardest=hardest, classes=classes
    )
    numbers = TAGS.numpy()
    expected = slow_half_of_ecr(second.numpy(), first_refined.numpy(), numbers, hardest, classes)
    expected += slow_half_of_ecr(first.numpy(), second_refined.numpy(), numbers, hardest, classes)
    assert float(loss) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 3)])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_refined_minimum(share: float, size: tuple[int, int]) -> None:
    refined = random_maps(3, size=size) - 0.2
    expected = slow_minimum(refined.numpy(), TAGS.numpy(), share)
    assert float(refined_minimum_loss(refined, TAGS, share=share)) == pytest.approx(expected, rel=1e-12)


# --- what they mean ---------------------------------------------------------------------------------------------


def test_hard_mining_takes_the_largest_fifth_alone() -> None:
    # One class on 1 x 5 pixels, so 10 entries, of which the two largest count.
    zero = torch.zeros(1, 1, 1, 5, dtype=torch.float64)
    perfect = torch.cat([1 - zero, zero], dim=1)
    refined = perfect.clone().requires_grad_()
    with torch.no_grad():
        refined[0, 1, 0] = torch.tensor([0.1, 0.9, 0.2, 0.5, 0.3])
    loss = equivariant_cross_regularization_loss(zero, zero, refined, perfect, torch.ones(1, 1))
    assert float(loss.detach()) == pytest.approx((0.9 + 0.5) / 2)
    loss.backward()
    assert refined.grad is not None
    assert refined.grad[0, 1, 0].tolist() == [0.0, 0.5, 0.0, 0.5, 0.0]


def test_counting_all_classes_dilutes_and_mines_nothing() -> None:
    first, second, first_refined, second_refined = four_maps(1)
    tags = torch.tensor([[1.0, 0, 0, 0]] * 3)
    assert float(equivariant_regularization_loss(first, second, tags)) == pytest.approx(
        4 * float(equivariant_regularization_loss(first, second, tags, classes=4))
    )
    # A fifth of (9 + 1) classes' entries are all of the two channels that are not 0.
    diluted = equivariant_cross_regularization_loss(first, second, first_refined, second_refined, tags, classes=9)
    every = equivariant_cross_regularization_loss(first, second, first_refined, second_refined, tags, hardest=1.0)
    mined = equivariant_cross_regularization_loss(first, second, first_refined, second_refined, tags)
    assert float(diluted) == pytest.approx(float(every)) and float(mined) > 1.2 * float(every)


def test_gradients_of_the_cross_loss_reach_the_refined_maps_only() -> None:
    maps = [m.requires_grad_() for m in four_maps(2)]
    equivariant_cross_regularization_loss(*maps, TAGS).backward()
    assert maps[0].grad is None and maps[1].grad is None
    for refined in maps[2:]:
        assert refined.grad is not None and bool(refined.grad[:, 0].any())
        absent = (TAGS != 1)[..., None, None].expand_as(refined.grad[:, 1:])
        assert not refined.grad[:, 1:][absent].any() and refined.grad[:, 1:].any()


def test_gradients_of_the_minimum_reach_the_lowest_pixels_only() -> None:
    refined = random_maps(4, channels=1, size=(4, 4), batch=1).requires_grad_()
    refined_minimum_loss(refined, torch.ones(1, 1)).backward()
    assert refined.grad is not None
    lowest = refined.detach().flatten().argsort()[:4]
    assert sorted(refined.grad.flatten().nonzero().flatten().tolist()) == sorted(lowest.tolist())


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), tags=tags_of_any_kind(), classes=st.sampled_from([None, 4]))
def test_ranges_symmetry_and_unknown_tags(seed: int, tags: Tensor, classes: int | None) -> None:
    first, second, first_refined, second_refined = four_maps(seed)
    er = equivariant_regularization_loss(first, second, tags, classes=classes)
    ecr = equivariant_cross_regularization_loss(first, second, first_refined, second_refined, tags, classes=classes)
    low = refined_minimum_loss(first_refined[:, 1:], tags)
    assert 0 <= float(er) <= 1 and 0 <= float(ecr) <= 2 and 0 <= float(low) <= 1
    assert float(equivariant_regularization_loss(second, first, tags, classes=classes)) == pytest.approx(float(er))
    swapped = equivariant_cross_regularization_loss(second, first, second_refined, first_refined, tags, classes=classes)
    assert float(swapped) == pytest.approx(float(ecr))
    known = tags.nan_to_num(0.0)
    changed = [torch.where((tags == 1)[..., None, None], m, 1 - m) for m in (first, second)]
    assert float(equivariant_regularization_loss(*changed, known, classes=classes)) == float(er)
    assert float(
        equivariant_cross_regularization_loss(*changed, first_refined, second_refined, known, classes=classes)
    ) == float(ecr)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), tags=tags_of_any_kind(), order=st.permutations(range(4)))
def test_the_order_of_classes_makes_no_difference(seed: int, tags: Tensor, order: list[int]) -> None:
    first, second, first_refined, second_refined = four_maps(seed)
    with_background = [0, *(k + 1 for k in order)]
    plain = (
        equivariant_regularization_loss(first, second, tags),
        equivariant_cross_regularization_loss(first, second, first_refined, second_refined, tags),
        refined_minimum_loss(first, tags),
    )
    permuted = (
        equivariant_regularization_loss(first[:, order], second[:, order], tags[:, order]),
        equivariant_cross_regularization_loss(
            first[:, order],
            second[:, order],
            first_refined[:, with_background],
            second_refined[:, with_background],
            tags[:, order],
        ),
        refined_minimum_loss(first[:, order], tags[:, order]),
    )
    assert [float(x) for x in permuted] == pytest.approx([float(x) for x in plain])


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), tags=tags_of_any_kind(), classes=st.sampled_from([None, 4]))
def test_views_that_agree_cost_nothing(seed: int, tags: Tensor, classes: int | None) -> None:
    winner = random_maps(seed).argmax(dim=1, keepdim=True)
    value = random_maps(seed + 1)
    present = (tags == 1)[..., None, None]
    cams = value.where((torch.arange(4).view(1, 4, 1, 1) == winner) & present, 0.0)  # one class a pixel
    refined = torch.cat([1 - cams.amax(dim=1, keepdim=True), cams], dim=1)
    assert float(equivariant_regularization_loss(cams, cams, tags, classes=classes)) == 0
    assert float(equivariant_cross_regularization_loss(cams, cams, refined, refined, tags, classes=classes)) == 0
    moved = (refined + 0.1).roll(1, dims=-1)
    assert float(equivariant_cross_regularization_loss(cams, cams, moved, moved, tags, classes=classes)) > 0


def test_classes_that_are_left_out_count_as_zeros() -> None:
    first, second, first_refined, second_refined = four_maps(8)
    tags = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, NAN], [0, 0, 1, 0]])
    used, with_background = [0, 2], [0, 1, 3]
    whole = equivariant_cross_regularization_loss(first, second, first_refined, second_refined, tags, classes=4)
    part = equivariant_cross_regularization_loss(
        first[:, used],
        second[:, used],
        first_refined[:, with_background],
        second_refined[:, with_background],
        tags[:, used],
        classes=4,
    )
    assert float(part) == pytest.approx(float(whole))


def test_shapes_and_values_that_do_not_fit() -> None:
    maps, refined = random_maps(0), random_maps(1, channels=5)
    with pytest.raises(ValueError, match="one shape"):
        equivariant_regularization_loss(maps, maps[..., :-1], TAGS)
    with pytest.raises(ValueError, match="one shape"):
        equivariant_regularization_loss(maps, maps, TAGS[:, :2])
    with pytest.raises(ValueError, match="one shape"):
        equivariant_cross_regularization_loss(maps, maps, maps, maps, TAGS)
    with pytest.raises(ValueError, match="one size"):
        equivariant_cross_regularization_loss(maps, maps, refined[..., :-1], refined[..., :-1], TAGS)
    with pytest.raises(ValueError, match="one shape"):
        refined_minimum_loss(maps, TAGS[0])
    for hardest in (0.0, 1.1, NAN):
        with pytest.raises(ValueError, match="hardest"):
            equivariant_cross_regularization_loss(maps, maps, refined, refined, TAGS, hardest=hardest)


def test_a_refined_map_that_is_not_finite_gives_a_nan_loss() -> None:
    refined = torch.rand(1, 2, 4, 4)
    refined[0, 0, 0, 0] = float("nan")
    assert torch.isnan(refined_minimum_loss(refined, torch.ones(1, 2)))
