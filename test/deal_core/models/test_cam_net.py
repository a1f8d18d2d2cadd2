"""The CAM network on backbones of several kinds, and the factory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.cam_nets import KINDS, image, tiny_net
from torch import nn

from deal_core.errors import ConfigError
from deal_core.models.factory import create_model


@pytest.mark.parametrize(("backbone", "arguments", "stride"), KINDS, ids=[k[0] for k in KINDS])
def test_shapes_stride_and_pooling_of_any_backbone(backbone: str, arguments: dict[str, Any], stride: int) -> None:
    net = tiny_net(backbone=backbone, backbone_arguments=arguments)
    output = net(image())
    assert output.stride == stride
    assert output.cams.shape == (2, 3, 64 // stride, 64 // stride)
    assert list(output.tag_logits) == ["cam"]
    assert torch.allclose(output.tag_logits["cam"], output.cams.flatten(2).mean(-1), atol=1e-6)
    above = output.cams - output.cams.mean((2, 3), keepdim=True).clamp(max=0)
    assert torch.allclose(output.activation, above.clamp(min=0), atol=1e-6)
    published = tiny_net(backbone=backbone, backbone_arguments=arguments, activation="relu")(image())
    assert torch.equal(published.activation, published.cams.clamp(min=0))
    output.tag_logits["cam"].sum().backward()
    assert all(p.grad is not None for p in [*net.project.parameters(), *net.classifier.parameters()])


@pytest.mark.parametrize("size", [(48, 64), (50, 70), (33, 35)])
def test_sizes_that_are_no_multiple_of_the_stride(size: tuple[int, int]) -> None:
    output = tiny_net()(image(size=size))
    assert output.cams.shape[-2:] == tuple(-(-s // 8) for s in size)


@pytest.mark.parametrize(("levels", "stride"), [((-1,), 32), ((2,), 8), ((-3, -2, -1), 8), ((0, 4), 2)])
def test_levels_choose_the_stride(levels: tuple[int, ...], stride: int) -> None:
    output = tiny_net(levels=levels)(image())
    assert output.stride == stride and output.cams.shape[-1] == 64 // stride


def test_order_and_sign_of_levels_make_no_difference() -> None:
    expected = tiny_net(levels=(-3, -2)).eval()(image()).cams
    for levels in ((-2, -3), (2, 3), (3, -3)):
        assert torch.equal(tiny_net(levels=levels).eval()(image()).cams, expected)


def test_stages_after_the_last_level_are_left_out() -> None:
    net, whole = tiny_net(levels=(-3, -2)), tiny_net(levels=(-3, -2, -1))
    count = [sum(p.numel() for p in n.backbone.parameters()) for n in (net, whole)]
    assert count[0] < count[1] / 2
    net(image()).cams.square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_the_image_is_normalised_by_mean_and_std() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.4, 0.9)
    plain = tiny_net(mean=(0, 0, 0), std=(1, 1, 1)).eval()
    scaled = torch.stack([(image()[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    output = tiny_net(mean=mean, std=std).eval()(image())
    assert torch.allclose(output.cams, plain(scaled).cams, atol=1e-5)
    assert not torch.allclose(output.cams, plain(image()).cams, atol=1e-2)
    assert not {"mean", "std"} & set(plain.state_dict())


def test_dropout_acts_in_training_only() -> None:
    net = tiny_net(dropout=0.9).eval()
    assert torch.equal(net(image()).cams, net(image()).cams)
    for module in net.modules():
        module.train(isinstance(module, nn.Dropout2d))
    assert not torch.equal(net(image()).cams, net(image()).cams)


def test_frozen_batch_norm_keeps_statistics_and_weights_through_train() -> None:
    net = tiny_net(freeze_batch_norm=True)
    net.eval()
    net.train()
    norms = [m for m in net.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [{n: t.clone() for n, t in m.state_dict().items()} for m in norms]
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for seed in range(2):
        net(image(seed)).cams.square().mean().backward()
        optimizer.step()
    assert len(norms) > 4
    for module, values in zip(norms, before, strict=True):
        assert not module.training
        assert all(torch.equal(t, values[n]) for n, t in module.state_dict().items())
    assert net.project[0][1].training and int(net.project[0][1].num_batches_tracked) == 2
    assert next(net.backbone.parameters()).grad is not None

    free = tiny_net()
    free(image())
    first = next(m for m in free.backbone.modules() if isinstance(m, nn.BatchNorm2d))
    assert first.training and int(first.num_batches_tracked) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"backbone": "resnet81"}, "Did you mean 'resnet18'"),
        ({"backbone": 3}, "unknown backbone '3'"),
        ({"backbone": "hf-hub:someone/something"}, "unknown backbone"),
        ({"levels": [5]}, "levels 0..4"),
        ({"levels": [-6, -1]}, "levels 0..4"),
        ({"levels": []}, "levels as whole numbers"),
        ({"levels": "last"}, "levels as whole numbers"),
        ({"levels": [1.5]}, "levels as whole numbers"),
        ({"width": 0}, "width of at least 1"),
        ({"width": "wide"}, "width"),
        ({"std": [1, 0, 1]}, "std above 0"),
        ({"mean": [0.5]}, "three numbers"),
        ({"dropout": 1.5}, "dropout"),
        ({"weights": 5}, "weights as none, hub"),
        ({"backbone_arguments": {"nonsense": 1}}, "nonsense"),
        ({"backbone_arguments": {"output_stride": 5}}, "test_resnet"),
        ({"backbone_arguments": {"checkpoint_path": "weights.pth"}}, "cannot set 'checkpoint_path'"),
        ({"backbone_arguments": {"pretrained": True}}, "cannot set 'pretrained'"),
        ({"backbone_arguments": {"out_indices": [1]}}, "cannot set 'out_indices'"),
        ({"widht": 3}, "Did you mean 'width'"),
        ({"num_classes": 3}, "no argument 'num_classes'"),
        ({"name": "x"}, "no argument 'name'"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        create_model("cam_net", 2, **{"backbone": "test_resnet", **arguments})
    assert said in str(caught.value)


def test_unknown_networks_are_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'cam_nte': expected cam_net, .*Did you mean 'cam_net'"):
        create_model("cam_nte", 2)
