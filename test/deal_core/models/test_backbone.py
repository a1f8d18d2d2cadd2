"""Backbones: weights of a file and of the hub, and what they cannot be made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers.cam_nets import KINDS, image, tiny_net
from helpers.paths import MOBILENET
from safetensors.torch import save_file

from deal_core.errors import ConfigError, ModelFileError
from deal_core.models.backbone import load_backbone_weights
from deal_core.models.factory import create_model


def test_hub_without_a_connection_is_an_error_of_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_connection(*arguments: Any, **options: Any) -> None:
        raise FileNotFoundError("no route to the hub\nand more")

    monkeypatch.setattr("deal_core.models.backbone.timm.create_model", no_connection)
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
