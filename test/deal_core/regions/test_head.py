"""Noisy-or against a loop, unknown tags, shared votes, and a problem that the tags determine."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from helpers.region_bags import LEARNABLE, made_up_bags
from hypothesis import given
from hypothesis import strategies as st

from deal_core.regions.head import bag_loss, log_absence, name_loss, train_heads
from deal_core.regions.settings import HeadSettings

FEW = HeadSettings(members=3, steps=60)


def slow_presence(
    probabilities: torch.Tensor, votes: torch.Tensor, frame: torch.Tensor, frames: int
) -> list[list[float]]:
    """The definition, region by region: 1 - the product of (1 - p)^v."""
    found = []
    for index in range(frames):
        absent = [1.0] * probabilities.shape[1]
        for region in range(len(frame)):
            if frame[region] == index:
                for k in range(len(absent)):
                    absent[k] *= (1 - float(probabilities[region, k])) ** float(votes[region])
        found.append([1 - value for value in absent])
    return found


@given(st.integers(0, 7), st.integers(1, 3), st.integers(0, 2**16))
def test_the_image_score_is_a_noisy_or(regions: int, frames: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(regions, 2, generator=generator, dtype=torch.float64) * 0.99
    votes = torch.rand(regions, generator=generator, dtype=torch.float64) + 0.01
    frame = torch.randint(frames, (regions,), generator=generator)
    found = 1 - log_absence(probabilities, votes, frame, frames).exp()
    expected = torch.tensor(slow_presence(probabilities, votes, frame, frames), dtype=torch.float64)
    torch.testing.assert_close(found, expected.reshape(frames, 2), rtol=1e-9, atol=1e-9)


def test_two_halves_of_a_vote_count_as_the_whole() -> None:
    once = log_absence(torch.tensor([[0.3]]), torch.ones(1), torch.tensor([0]), 1)
    twice = log_absence(torch.tensor([[0.3], [0.3]]), torch.full((2,), 0.5), torch.tensor([0, 0]), 1)
    torch.testing.assert_close(once, twice)


def test_the_loss_is_the_cross_entropy_of_the_tags() -> None:
    absence = torch.tensor([[0.2, 0.7], [0.6, 0.1]], dtype=torch.float64).log()
    tags = torch.tensor([[1.0, 0.0], [torch.nan, 1.0]], dtype=torch.float64)
    expected = -(torch.tensor([0.8, 0.7, 0.9], dtype=torch.float64).log()).mean()
    torch.testing.assert_close(bag_loss(absence, tags), expected)


def test_every_region_of_a_frame_without_the_class_has_a_gradient_and_an_unknown_tag_has_none() -> None:
    probabilities = torch.full((4, 1), 0.3, requires_grad=True)
    absence = log_absence(probabilities, torch.ones(4), torch.tensor([0, 0, 1, 1]), 2)
    bag_loss(absence, torch.tensor([[0.0], [torch.nan]])).backward()
    assert probabilities.grad is not None and (probabilities.grad[:2] > 0).all() and (probabilities.grad[2:] == 0).all()


def test_certain_and_impossible_probabilities_have_finite_gradients() -> None:
    for value, tag in itertools.product((0.0, 1.0), (0.0, 1.0)):
        probabilities = torch.full((2, 1), value, requires_grad=True)
        bag_loss(log_absence(probabilities, torch.ones(2), torch.tensor([0, 0]), 1), torch.tensor([[tag]])).backward()
        assert probabilities.grad is not None and torch.isfinite(probabilities.grad).all()


def test_no_known_tag_no_loss() -> None:
    assert float(bag_loss(torch.zeros(2, 2), torch.full((2, 2), torch.nan))) == 0


def test_tags_of_images_name_the_regions() -> None:
    bags, truth = made_up_bags()
    found = train_heads(bags, FEW, seed=0).probabilities(bags.features).mean(0).argmax(1)
    assert (found == truth).float().mean() > 0.97


def test_unknown_tags_leave_enough() -> None:
    bags, truth = made_up_bags()
    hidden = torch.rand(bags.tags.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    found = train_heads(replace(bags, tags=bags.tags.masked_fill(hidden, torch.nan)), FEW, seed=0)
    assert (found.probabilities(bags.features).mean(0).argmax(1) == truth).float().mean() > 0.95


def test_the_order_of_classes_does_not_matter() -> None:
    bags, _ = made_up_bags()
    order = [2, 0, 1]
    settings = HeadSettings(members=1, share=1.0, steps=60)
    one = train_heads(bags, settings, seed=0).probabilities(bags.features)[0]
    two = train_heads(replace(bags, tags=bags.tags[:, order]), settings, seed=0).probabilities(bags.features)[0]
    assert (one[:, 1:][:, order].argmax(1) == two[:, 1:].argmax(1)).float().mean() > 0.95
    assert ((one[:, 0] > 0.5) == (two[:, 0] > 0.5)).float().mean() > 0.97


def test_training_repeats_and_the_seed_chooses_the_segments() -> None:
    bags, _ = made_up_bags()
    one, two, other = (train_heads(bags, FEW, seed) for seed in (0, 0, 1))
    assert torch.equal(one.weight, two.weight) and torch.equal(one.bias, two.bias)
    assert not torch.equal(one.weight, other.weight)
    assert one.members == 3 and not torch.equal(one.weight[0], one.weight[1])


def test_a_head_does_not_see_the_other_segments() -> None:
    bags, _ = made_up_bags()
    one_segment = bags.of_segments(bags.segments[:1])
    assert (~torch.isnan(one_segment.tags)).any(1).tolist() == (bags.segments == bags.segments[0]).tolist()


def test_links_draw_probabilities_together() -> None:
    bags, truth = made_up_bags()
    pairs = torch.tensor([(i, j) for i in range(20) for j in range(20, 40) if truth[i] != truth[j]][:30])
    linked = replace(bags, links=pairs)

    def gap(links: float) -> float:
        settings = HeadSettings(members=1, share=1.0, steps=60, links=links)
        found = train_heads(linked, settings, seed=0).probabilities(bags.features)[0]
        return float((found[pairs[:, 0]] - found[pairs[:, 1]]).abs().mean())

    assert gap(20.0) < 0.7 * gap(0.0)


@pytest.mark.parametrize("classes", LEARNABLE)
def test_the_made_up_problem_has_every_class_with_and_without(classes: int) -> None:
    tags = made_up_bags()[0].tags
    assert 0 < tags[:, classes].mean() < 1


def test_the_loss_of_names_is_their_cross_entropy_by_frame_and_class() -> None:
    """Two frames: in the first, class 0 has a positive and a negative; in the second, class 1 has a negative."""
    bags = made_up_bags(frames=2, regions=2)[0]
    bags = replace(bags, tags=bags.tags[:, :2], votes=torch.tensor([1.0, 0.5, 1.0, 0.25]))
    probabilities = torch.tensor([[0.8, 0.1], [0.3, 0.2], [0.4, 0.4], [0.1, 0.6]])
    nan = torch.nan
    names = torch.tensor([[1, nan], [0, nan], [nan, nan], [nan, 0]])
    expected = -(math.log(0.8) + 0.5 * math.log(0.7) + 0.25 * math.log(0.4)) / 2
    found = name_loss(probabilities[None], names[None], bags)
    assert float(found) == pytest.approx(expected, rel=1e-6)
    assert float(name_loss(probabilities[None], torch.full_like(names, nan)[None], bags)) == 0


def test_names_teach_what_tags_leave_open() -> None:
    """Every frame shows every class, so tags say nothing; the names of one segment say what is what."""
    bags, truth = made_up_bags(frames=60, regions=8)
    bags = replace(bags, tags=torch.ones_like(bags.tags))
    names = torch.stack([(truth == k).float() for k in (1, 2, 3)], 1)
    names[bags.segments[bags.frame] > 1] = torch.nan
    alone, taught = (train_heads(replace(bags, names=given), FEW, seed=1) for given in (None, names))
    right = [
        float((heads.probabilities(bags.features).mean(0).argmax(-1) == truth)[truth > 0].float().mean())
        for heads in (alone, taught)
    ]
    assert right[1] > 0.9 > right[0] + 0.2
    off = train_heads(replace(bags, names=names), FEW.model_copy(update={"taps": 0.0}), seed=1)
    assert torch.equal(off.weight, alone.weight)
