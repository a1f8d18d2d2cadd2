"""The ranking of unseen frames that chooses the levels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.region_bags import made_up_bags

from deal_core.regions.bags import standardise
from deal_core.regions.choice import held_out_ranking, roc_areas
from deal_core.regions.settings import HeadSettings

FEW = HeadSettings(members=2, steps=40)


def test_the_area_counts_pairs_in_order() -> None:
    scores = torch.tensor([[0.9], [0.2], [0.5], [0.5]])
    assert roc_areas(scores, torch.tensor([[1.0], [0.0], [1.0], [0.0]])).tolist() == pytest.approx([3.5 / 4])


def test_unknown_tags_do_not_count_and_one_kind_alone_is_undefined() -> None:
    scores = torch.tensor([[0.9, 0.9], [0.2, 0.1], [0.1, 0.3]])
    tags = torch.tensor([[1.0, 1.0], [0.0, 1.0], [torch.nan, torch.nan]])
    area = roc_areas(scores, tags)
    assert float(area[0]) == 1 and torch.isnan(area[1])


def test_features_of_the_class_rank_and_noise_does_not() -> None:
    bags, _ = made_up_bags()
    noise = torch.randn(bags.features.shape, generator=torch.Generator().manual_seed(0))
    assert (held_out_ranking(bags, FEW, 0) > 0.95).all()
    assert (held_out_ranking(replace(bags, features=noise), FEW, 0) - 0.5).abs().mean() < 0.2


def test_a_ranking_is_of_unseen_segments() -> None:
    bags, _ = made_up_bags()
    names = torch.nn.functional.one_hot(bags.segments[bags.frame]).float()  # the place alone
    assert held_out_ranking(replace(bags, features=names), FEW, 0).mean() < 0.7


def test_standardised_features_have_mean_0_and_deviation_1() -> None:
    bags, _ = made_up_bags()
    constant = torch.cat([bags.features, torch.full((len(bags.features), 1), 7.0)], 1)
    found, mean, std = standardise(replace(bags, features=constant))
    assert found.features.mean(0).abs().max() < 1e-4 and found.features[:, -1].abs().max() < 1e-2
    torch.testing.assert_close(found.features * std + mean, constant)
