"""The CAM network on backbones of several kinds, and the factory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers.paths import MOBILENET
from safetensors.torch import save_file
from torch import Tensor, nn

from deal_core.errors import ConfigError, ModelFileError
from deal_core.models.cam_net import CamNet, load_backbone_weights
from deal_core.models.factory import create_model

SWIN = {"img_size": 64, "window_size": 2, "embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}

# Backbone, its arguments, stride of the levels -3 and -2: residual, depthwise, transformer, and one whose features
# have their channels last.
KINDS = [
    ("test_resnet", {}, 8),
    ("test_convnext", {}, 8),
    ("test_efficientnet", {}, 8),
    ("test_vit", {"img_size": 64}, 16),
    ("swin_tiny_patch4_window7_224", SWIN, 8),
]


def image(seed: int = 0, size: tuple[int, int] = (64, 64), batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def tiny_net(**arguments: Any) -> CamNet:
    torch.manual_seed(3)
    return CamNet(3, **{"backbone": "test_resnet", "width": 16, **arguments})


@pytest.mark.parametrize(("backbone", "arguments", "stride"), KINDS, ids=[k[0] for k in KINDS])
def test_shapes_stride_and_pooling_of_any_backbone(backbone: str, arguments: dict[str, Any], stride: int) -> None:
    net = tiny_net(backbone=backbone, backbone_arguments=arguments)
    output = net(image())
    assert output.stride == stride
    assert output.cams.shape == (2, 3, 64 // stride, 64 // stride)
    assert list(output.tag_logits) == ["cam"]
    assert torch.allclose(output.tag_logits["cam"], output.cams.flatten(2).mean(-1), atol=1e-6)
    assert torch.equal(output.activation, output.cams.clamp(min=0))
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


def test_hub_without_a_connection_is_an_error_of_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_connection(*arguments: Any, **options: Any) -> None:
        raise FileNotFoundError("no route to the hub\nand more")

    monkeypatch.setattr("deal_core.models.cam_net.timm.create_model", no_connection)
    with pytest.raises(ConfigError, match=r"weights of 'test_resnet' cannot be downloaded \(no route to the hub\)"):
        create_model("cam_net", 2, backbone="test_resnet", weights="hub")


@pytest.mark.parametrize(("backbone", "arguments", "stride"), KINDS[:4], ids=[k[0] for k in KINDS[:4]])
def test_weights_of_the_whole_network_give_its_features(
    tmp_path: Path, backbone: str, arguments: dict[str, Any], stride: int
) -> None:
    torch.manual_seed(9)
    whole = timm.create_model(backbone, **arguments).eval()
    for tensor in whole.state_dict().values():  # also statistics: initial ones would hide that they are not loaded
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor) * 0.1)
    file = tmp_path / "weights.safetensors"
    save_file({n: t.contiguous() for n, t in whole.state_dict().items()}, file)
    net = tiny_net(backbone=backbone, backbone_arguments=arguments, weights=str(file)).eval()
    indices = [i % len(net.backbone.feature_info.info) for i in (-3, -2)]
    with torch.no_grad():
        expected = whole.forward_intermediates(image(), indices=indices, intermediates_only=True, norm=False)
        found = net.backbone(image())
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(found, expected, strict=True))


def test_weights_that_cannot_be_used(tmp_path: Path) -> None:
    whole = timm.create_model("test_resnet")
    good = tmp_path / "good.safetensors"
    save_file(whole.state_dict(), good)
    data = good.read_bytes()

    other = tmp_path / "other.safetensors"
    save_file(timm.create_model("test_convnext").state_dict(), other)
    wrong_shape = tmp_path / "wrong_shape.safetensors"
    save_file({n: t[:1].clone() if t.ndim > 1 else t for n, t in whole.state_dict().items()}, wrong_shape)
    for file, said in (
        (other, "another network"),
        (wrong_shape, "another network"),
        (tmp_path / "no", "found no file"),
    ):
        with pytest.raises(ModelFileError, match=said) as caught:
            tiny_net(weights=str(file))
        assert str(file) in str(caught.value)
    broken = tmp_path / "broken.safetensors"
    for content in (b"", b"{}", b"PK garbage" * 50, data[:7], data[:100], data[: len(data) // 2], data[:-1]):
        broken.write_bytes(content)
        with pytest.raises(ModelFileError, match="not a readable"):
            tiny_net(weights=str(broken))


def test_a_damaged_file_leaves_the_backbone_as_it_was(tmp_path: Path) -> None:
    net = tiny_net()
    before = {n: t.clone() for n, t in net.backbone.state_dict().items()}
    other = tmp_path / "other.safetensors"
    save_file(timm.create_model("test_convnext").state_dict(), other)
    with pytest.raises(ModelFileError):
        load_backbone_weights(net.backbone, other)
    assert all(torch.equal(t, before[n]) for n, t in net.backbone.state_dict().items())


@pytest.mark.real_weights
def test_real_mobilenet_weights() -> None:
    from safetensors.torch import load_file

    half = (0.5, 0.5, 0.5)
    arguments = {"pad_type": "same"}
    net = tiny_net(
        backbone="mobilenetv2_100", backbone_arguments=arguments, weights=str(MOBILENET), mean=half, std=half
    ).eval()
    whole = timm.create_model("mobilenetv2_100", **arguments).eval()
    tensors = load_file(MOBILENET)
    # The classifier has one output more than timm's.
    whole.load_state_dict({n: t for n, t in tensors.items() if not n.startswith("classifier")}, strict=False)
    with torch.no_grad():
        expected = whole.forward_intermediates(image() * 2 - 1, indices=[2, 3], intermediates_only=True)
        found = net.backbone(net.normalise_colours(image()))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(found, expected, strict=True))
    assert all(float(f.std()) > 0.01 for f in found)
    assert net(image()).cams.shape == (2, 3, 8, 8)
