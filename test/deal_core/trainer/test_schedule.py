"""Learning rates, weights of losses, and the groups of the optimiser."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers.training_runs import tiny_net
from hypothesis import given
from hypothesis import strategies as st

from deal_core.dataset.settings import DataSettings
from deal_core.models.backbone import InitialWeights
from deal_core.trainer.run_folder import TrainState
from deal_core.trainer.schedule import (
    create_optimizer,
    layers_from_the_end,
    learning_rate_factor,
    schedule_position,
    weight_at,
)
from deal_core.trainer.settings import DealSettings, OptimizerSettings, TrainSettings


def test_learning_rate_warms_up_linearly_and_falls_to_nothing() -> None:
    cosine = OptimizerSettings(warmup=0.2)
    rates = [learning_rate_factor(cosine, i / 100) for i in range(100)]
    assert 0 < rates[0] < 0.01 and rates[10] == pytest.approx(0.5, abs=0.01) and rates[20] == 1.0
    assert np.diff(rates[:20]).std() < 1e-12, "a straight line"
    assert rates[60] == pytest.approx(0.5) and rates[99] < 0.001
    for share in (0.3, 0.7):
        expected = 0.5 * (1 + math.cos(math.pi * (share - 0.2) / 0.8))
        assert learning_rate_factor(cosine, share) == pytest.approx(expected)
    poly = OptimizerSettings(warmup=0.0, schedule="poly", poly_power=2.0)
    assert [learning_rate_factor(poly, p) for p in (0.0, 0.5, 0.9)] == pytest.approx([1.0, 0.25, 0.01])
    constant = OptimizerSettings(warmup=0.0, schedule="constant")
    assert {learning_rate_factor(constant, p) for p in (0.0, 0.5, 0.99)} == {1.0}


@given(
    schedule=st.sampled_from(["cosine", "poly", "constant"]),
    warmup=st.floats(0, 1),
    power=st.floats(0.1, 5),
    place=st.floats(0, 1, exclude_max=True),
)
def test_learning_rate_stays_between_nothing_and_the_full_one(
    schedule: Any, warmup: float, power: float, place: float
) -> None:
    factor = learning_rate_factor(OptimizerSettings(schedule=schedule, warmup=warmup, poly_power=power), place)
    assert 0 <= factor <= 1
    assert place == 0 or factor > 0 or schedule != "constant"


def test_deal_weight_comes_in_after_its_start_and_grows() -> None:
    settings = DealSettings(weight=2.0, start=0.3, warmup=0.2)
    places = {0.0: 0.0, 0.29: 0.0, 0.3: 0.0, 0.35: 0.5, 0.4: 1.0, 0.5: 2.0, 0.99: 2.0}
    for place, weight in places.items():
        assert weight_at(settings, place) == pytest.approx(weight)
    at_once = DealSettings(weight=2.0, start=0.5, warmup=0.0)
    assert [weight_at(at_once, p) for p in (0.49, 0.5, 0.9)] == [0.0, 2.0, 2.0]
    assert weight_at(DealSettings(weight=0.0, start=0.0), 0.9) == 0.0


def test_the_schedule_of_weaktr_is_timms_one_epoch_late() -> None:
    """Cosine over 60 epochs beneath a warm-up of 5 from 1e-6, floor 1e-5; epochs 0 and 1 both run at 1e-6."""
    rate, floor = 7.5e-5, 1e-5
    optimizer = OptimizerSettings(
        learning_rate=rate, warmup=5 / 60, warmup_from=1e-6, warmup_first=False, floor=floor, every="epoch_late"
    )
    settings = TrainSettings(data=DataSettings(path="x"), output="y", optimizer=optimizer, epochs=60)
    found = []
    for step in range(60 * 3):
        state = TrainState(total_steps=60 * 3, step=step)
        found.append(rate * learning_rate_factor(optimizer, schedule_position(settings, state)))
    assert found[0::3] == found[1::3] == found[2::3], "one rate an epoch"
    expected = [1e-6] * 2 + [1e-6 + t * (rate - 1e-6) / 5 for t in range(1, 5)]
    expected += [floor + 0.5 * (rate - floor) * (1 + math.cos(math.pi * t / 60)) for t in range(5, 59)]
    assert found[::3] == pytest.approx(expected, rel=1e-9)


def test_the_rate_may_change_with_every_step_or_every_epoch() -> None:
    positions = {}
    for every in ("step", "epoch", "epoch_late"):
        optimizer = OptimizerSettings(every=every)
        settings = TrainSettings(data=DataSettings(path="x"), output="y", optimizer=optimizer, epochs=4)
        states = [TrainState(total_steps=8, step=step) for step in range(8)]
        positions[every] = [schedule_position(settings, state) for state in states]
    assert positions["step"] == [i / 8 for i in range(8)]
    assert positions["epoch"] == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]
    assert positions["epoch_late"] == [0, 0, 0, 0, 0.25, 0.25, 0.5, 0.5]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("frozen_norms", [False, True])
def test_every_parameter_is_in_one_group_with_its_decay_and_rate(name: Any, frozen_norms: bool) -> None:
    net = tiny_net(freeze_batch_norm=frozen_norms)
    settings = OptimizerSettings(name=name, weight_decay=0.1, backbone_factor=0.25, learning_rate=0.5)
    optimizer = create_optimizer(net, settings)
    names = {id(p): n for n, p in net.named_parameters()}
    seen: list[str] = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter_name = names[id(parameter)]
            seen.append(parameter_name)
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
            assert group["factor"] == (0.25 if parameter_name.startswith("backbone.") else 1.0)
    assert len(seen) == len(set(seen))
    assert set(seen) == {n for n, p in net.named_parameters() if p.requires_grad}
    norms = {n for n in names.values() if n.startswith("backbone.") and (".bn" in n or "1.1." in n)}
    assert bool(norms & set(seen)) is not frozen_norms


def test_new_layers_and_biases_have_their_own_rates_as_in_seam() -> None:
    net = tiny_net()
    settings = OptimizerSettings(name="sgd", head_factor=10, bias_factor=2, momentum=5e-4, nesterov=False)
    optimizer = create_optimizer(net, settings)
    names = {id(p): n for n, p in net.named_parameters()}
    factors = {names[id(p)]: group["factor"] for group in optimizer.param_groups for p in group["params"]}
    assert {factors[n] for n in factors if n.startswith("backbone.") and not n.endswith("bias")} == {1}
    assert factors["classifier.weight"] == 10 and factors["classifier.bias"] == 20
    assert factors["project.0.1.weight"] == 10 and factors["project.0.1.bias"] == 20
    assert {factors[n] for n in factors if n.startswith("backbone.") and n.endswith("bias")} == {2}
    assert {(g["momentum"], g["nesterov"]) for g in optimizer.param_groups} == {(5e-4, False)}


@pytest.mark.parametrize(("source", "factor"), [("none", 1.0), ("hub", 0.1), ("weights.pth", 0.1)])
def test_without_a_factor_a_pretrained_backbone_learns_with_a_tenth_of_the_rate(source: str, factor: float) -> None:
    net = tiny_net()
    net.backbone.initial_weights = InitialWeights(source)
    optimizer = create_optimizer(net, OptimizerSettings())
    backbone = {id(p) for p in net.backbone.parameters()}
    found = {g["factor"] for g in optimizer.param_groups for p in g["params"] if id(p) in backbone}
    assert found == {factor}
    assert {g["factor"] for g in optimizer.param_groups for p in g["params"] if id(p) not in backbone} == {1.0}


def test_decay_may_be_on_everything() -> None:
    optimizer = create_optimizer(tiny_net(), OptimizerSettings(weight_decay=0.03, decay_all=True))
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.03}


def test_a_factor_of_0_freezes_the_backbone() -> None:
    net = tiny_net()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    optimizer = create_optimizer(net, OptimizerSettings(backbone_factor=0, weight_decay=0.5, learning_rate=0.1))
    net(torch.rand(2, 3, 32, 48)).cams.square().mean().backward()
    optimizer.step()
    for name, parameter in net.named_parameters():
        in_backbone = name.startswith("backbone.")
        assert parameter.requires_grad is not in_backbone
        assert torch.equal(parameter, before[name]) is in_backbone


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_fused_steps_on_the_cpu_are_the_formulas(name: Any) -> None:
    """Also for weights stored channels last, whose gradients come in another order of memory."""
    settings = OptimizerSettings(name=name, learning_rate=0.1, weight_decay=0.2, momentum=0.9, nesterov=name == "sgd")
    net = tiny_net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = create_optimizer(net, settings, on_cpu=True)
    assert {group["fused"] for group in optimizer.param_groups} == {True}
    weight, group = next((p, g) for g in optimizer.param_groups for p in g["params"] if p.ndim == 4 and p.shape[2] > 1)
    rate, decay = group["lr"], group["weight_decay"]
    expected, first, second = weight.detach().double(), torch.zeros(()), torch.zeros(())
    torch.manual_seed(0)
    for step in range(1, 4):
        optimizer.zero_grad()
        (net(torch.rand(2, 3, 32, 32)).cams * torch.randn(())).sum().backward()
        gradient = torch.zeros_like(expected) if weight.grad is None else weight.grad.double()
        optimizer.step()
        if name == "adamw":
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            change = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            expected = expected * (1 - rate * decay) - rate * change
        else:
            gradient = gradient + decay * expected
            first = gradient if step == 1 else 0.9 * first + gradient
            expected = expected - rate * (gradient + 0.9 * first)
        torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_keeps_its_implementation() -> None:
    net = tiny_net()
    older = create_optimizer(net, OptimizerSettings())
    resumed = create_optimizer(net, OptimizerSettings(), on_cpu=True)
    resumed.load_state_dict(older.state_dict())
    assert {group["fused"] for group in resumed.param_groups} == {None}


@pytest.mark.parametrize(
    ("names", "layers"),
    [
        (["stem.conv.weight", "s1.b1.conv1.weight", "s1.b2.conv1.weight", "s2.b1.bn.bias"], [3, 2, 1, 0]),
        (
            ["model.pos_embed", "model.blocks.0.norm1.weight", "model.blocks.1.mlp.weight", "norm.bias"],
            [2, 1, 0, 0],
        ),
        (
            ["conv1.0.weight", "layer1.0.conv1.weight", "layer1.0.bn2.weight", "layer2.0.downsample.weight"],
            [2, 1, 1, 0],
        ),
        (["weight"], [0]),
        ([], []),
    ],
)
def test_layers_are_the_numbered_blocks_counted_from_the_end(names: list[str], layers: list[int]) -> None:
    assert layers_from_the_end(names) == layers


def test_each_layer_of_the_backbone_learns_more_slowly_than_the_next() -> None:
    net = tiny_net()
    optimizer = create_optimizer(net, OptimizerSettings(backbone_factor=0.5, layer_decay=0.8))
    factor = {id(p): group["factor"] for group in optimizer.param_groups for p in group["params"]}
    names = [name for name, _ in net.backbone.named_parameters()]
    for (name, parameter), layer in zip(net.backbone.named_parameters(), layers_from_the_end(names), strict=True):
        assert factor[id(parameter)] == pytest.approx(0.5 * 0.8**layer), name
    assert len({factor[id(p)] for p in net.backbone.parameters()}) > 3
    assert {factor[id(p)] for p in net.classifier.parameters()} == {1.0}
    flat = create_optimizer(tiny_net(), OptimizerSettings(backbone_factor=0.5))
    assert {group["factor"] for group in flat.param_groups} == {0.5, 1.0}
