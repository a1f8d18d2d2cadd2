"""ResNet38 against its table of stages, written down once more with plain functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deal_core.models.resnet38 import ResNet38

# Stage, blocks, stride, dilation of the first convolution, dilation of the others.
STAGES = [("b2", 3, 2, 1, 1), ("b3", 3, 2, 1, 1), ("b4", 6, 2, 1, 1), ("b5", 3, 1, 1, 2)]


@pytest.fixture(scope="module")
def net() -> ResNet38:
    """With statistics and affine parameters that are no identity; made small, since random weights are many."""
    net = ResNet38().eval()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in net.state_dict().items():
        if "bn" in name and tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.2)
    return net


def slow_forward(weights: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    def norm(name: str, x: Tensor) -> Tensor:
        mean, var, gain, bias = (
            weights[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * gain + bias).clamp(min=0)

    def conv(name: str, x: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        return F.conv2d(x, kernel, None, stride, dilation if kernel.shape[-1] == 3 else 0, dilation)

    x, taps = conv("conv1a", image), []
    for stage, blocks, stride, first_dilation, dilation in STAGES:
        for index in range(blocks):
            block, first = f"{stage}.{index}", index == 0
            active = norm(f"{block}.bn1", x)
            if (stage, index) == ("b5", 0):
                taps.append(active)
            inner = conv(f"{block}.conv1", active, stride if first else 1, first_dilation if first else dilation)
            inner = conv(f"{block}.conv2", norm(f"{block}.bn2", inner), 1, dilation)
            x = (conv(f"{block}.shortcut", active, stride) if first else x) + inner
    for block in ("b6", "b7"):
        active = norm(f"{block}.bn1", x)
        if block == "b6":
            taps.append(active)
        inner = norm(f"{block}.bn2", conv(f"{block}.conv1", active))
        inner = norm(f"{block}.bn3", conv(f"{block}.conv2", inner, dilation=4))
        x = conv(f"{block}.shortcut", active) + conv(f"{block}.conv3", inner)
    return [*taps, norm("bn7", x)]


def test_feature_maps_are_those_of_the_table(net: ResNet38) -> None:
    image = torch.randn(2, 3, 41, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = net(image), slow_forward(net.state_dict(), image)
    for values, wanted, channels in zip(found, expected, ResNet38.channels, strict=True):
        assert values.shape == wanted.shape == (2, channels, 6, 6)
        assert float(wanted.std()) > 1e-3 and bool((values >= 0).all())
        assert torch.allclose(values, wanted, rtol=1e-3, atol=1e-4)


def test_what_is_frozen_stays_so_in_training(net: ResNet38) -> None:
    net.eval()
    net.train()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    frozen = {id(p) for part in (net.conv1a, net.b2, *norms) for p in part.parameters()}
    assert len(norms) == 3 * 2 + 3 * 2 + 6 * 2 + 3 * 2 + 2 * 3 + 1
    assert not any(m.training for m in norms) and net.b6.dropout.training
    assert all(p.requires_grad == (id(p) not in frozen) for p in net.parameters())


def test_dropout_of_channels_acts_in_training_only(net: ResNet38) -> None:
    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        still = [f.clone() for f in net.eval()(image)]
        moving = net.train()(image)
        again = net.eval()(image)
    assert all(torch.equal(a, b) for a, b in zip(still, again, strict=True))
    assert torch.equal(still[0], moving[0]) and torch.equal(still[1], moving[1])
    assert not torch.allclose(still[2], moving[2], rtol=1e-2)
