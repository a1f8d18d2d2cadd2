"""The network of a region model: probabilities, levels, and what it takes from another."""

from __future__ import annotations

import pytest
import torch

from deal_core.errors import ConfigError
from deal_core.models.factory import create_model
from deal_core.models.model_info import names_regions
from deal_core.models.region_mil import RegionMil


def net(**arguments: object) -> RegionMil:
    torch.manual_seed(0)
    return RegionMil(3, **{"backbone": "test_resnet", "levels": (-3, -2), "members": 2, **arguments}).eval()  # type: ignore[arg-type]


def test_probabilities_are_the_mean_of_the_heads() -> None:
    network = net()
    torch.nn.init.normal_(network.weight)
    features = torch.randn(5, network.width)
    found = network(features)
    assert found.shape == (5, 4)
    torch.testing.assert_close(found.sum(1), torch.ones(5))
    expected = [((features @ w.T) + b).softmax(1) for w, b in zip(network.weight, network.bias, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected).mean(0))


def test_the_image_is_scaled_before_the_backbone() -> None:
    image = torch.rand(1, 3, 48, 64)
    sizes = [tuple(m.shape[-2:]) for m in net().maps(image)]
    assert sizes == [(96 // stride, 128 // stride) for stride in net().strides]
    assert [tuple(m.shape[-2:]) for m in net(scale=1.0).maps(image)] == [(s // 2, t // 2) for s, t in sizes]


def test_a_network_with_fewer_levels_takes_their_columns() -> None:
    both, fine = net(), net(levels=(-3,))
    columns = both.columns((-3,))
    assert columns == list(range(fine.width)) and both.columns((-2, -3)) == list(range(both.width))
    values = torch.rand(fine.width), torch.rand(fine.width) + 1, torch.randn(2, 4, fine.width), torch.randn(2, 4)
    fine.take(both, *values)
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(fine.maps(image)[0], both.maps(image)[0])
    assert torch.equal(fine.feature_mean, values[0]) and torch.equal(fine.bias, values[3])


def test_the_backbone_stays_frozen() -> None:
    network = net().train()
    assert not network.backbone.training and not any(p.requires_grad for p in network.backbone.parameters())


def test_the_factory_makes_it_and_refuses_wrong_values() -> None:
    assert isinstance(create_model("region_mil", 2, backbone="test_resnet"), RegionMil)
    assert names_regions("region_mil") and not names_regions("cam_net")
    with pytest.raises(ConfigError, match="scale"):
        create_model("region_mil", 2, backbone="test_resnet", scale=0.0)
