"""Backbones: weights of a file and of the hub, and what they cannot be made of."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers.cam_nets import KINDS, image, tiny_net
from helpers.paths import MOBILENET
from safetensors.torch import save_file

from deal_core.errors import ConfigError, ModelFileError
from deal_core.models.backbone import ColourScale, colour_scale, load_backbone_weights, settle_weights
from deal_core.models.factory import create_model, settled_arguments
from deal_core.structures import IMAGENET_MEAN


def test_hub_without_a_connection_is_an_error_of_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_connection(*arguments: Any, **options: Any) -> None:
        raise FileNotFoundError("no route to the hub\nand more")

    monkeypatch.setattr("deal_core.models.backbone._cached", lambda *source: None)
    monkeypatch.setattr("deal_core.models.backbone._hub_is_silent", lambda: None)
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
        with pytest.raises(ModelFileError, match=r"damaged or truncated|not a readable"):
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


# --- what pretrained weights expect -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("tf_mobilenetv3_large_075.in1k", 0.5),
        ("mobilenetv2_100.ra_in1k", 0.485),
        ("vit_base_patch16_clip_224", 0.4815),
    ],
)
def test_colours_of_pretrained_weights_are_those_of_timm(name: str, mean: float) -> None:
    found = colour_scale(name, "hub")
    source = timm.get_pretrained_cfg(name)
    assert (found.mean, found.std) == (tuple(source.mean), tuple(source.std))
    assert found.mean[0] == pytest.approx(mean, abs=1e-4)
    assert colour_scale(name, "file.safetensors") == found
    assert colour_scale(name, "none").mean == IMAGENET_MEAN, "random weights expect nothing"
    assert colour_scale(name, "hub", mean=(0.1, 0.2, 0.3)) == ColourScale((0.1, 0.2, 0.3), found.std)


def test_a_tag_that_timm_does_not_have_is_named() -> None:
    with pytest.raises(ConfigError, match=r"Invalid pretrained tag \(foo\)"):
        create_model("cam_net", 2, backbone="mobilenetv2_100.foo", weights="hub")


@pytest.mark.parametrize("model", ["cam_net", "segmenter", "seam"])
def test_batch_norm_is_frozen_where_weights_are_pretrained(tmp_path: Path, model: str) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    name = "encoder" if model == "segmenter" else "backbone"
    for weights, chosen, frozen in (
        ("none", None, False),
        (str(file), None, True),
        (str(file), False, False),
        ("none", True, True),
    ):
        net = create_model(model, 2, **{name: "test_resnet"}, weights=weights, freeze_batch_norm=chosen).train()
        norms = [m for m in net.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms and all(norm.training is not frozen for norm in norms)
        assert settled_arguments(net, {"freeze_batch_norm": chosen})["freeze_batch_norm"] is frozen


def test_null_arguments_are_settled_by_the_weights(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    half = [0.5, 0.5, 0.5]
    given = {"backbone": "test_resnet", "weights": str(file), "mean": None, "std": None}
    settled = settled_arguments(create_model("cam_net", 2, **given), given)
    assert [list(settled[n]) for n in ("mean", "std")] == [half, half]
    again = create_model("cam_net", 2, **{**settled, "weights": "none"})
    assert again.normalise_colours.mean.flatten().tolist() == half


# --- weights of a file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"state_dict": t, "epoch": 3}, lambda t: {"model": t}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_file_of_pytorch_gives_the_same_as_safetensors(tmp_path: Path, suffix: str, wrap: Any, prefix: str) -> None:
    tensors = timm.create_model("test_resnet").state_dict()
    save_file(tensors, tmp_path / "weights.safetensors")
    torch.save(wrap({prefix + n: t for n, t in tensors.items()}), tmp_path / f"weights{suffix}")
    ours, theirs = (tiny_net(weights=str(tmp_path / f"weights{s}")) for s in (suffix, ".safetensors"))
    for name, tensor in theirs.backbone.state_dict().items():
        assert torch.equal(ours.backbone.state_dict()[name], tensor)


class Runs:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("code_ran"),))


def test_a_file_of_pytorch_never_runs_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Runs()}, "weights.pth")
    with pytest.raises(ModelFileError, match="holds more than tensors"):
        tiny_net(weights="weights.pth")
    assert not Path("code_ran").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "not a readable file of PyTorch"), (b"nonsense" * 20, "holds more than tensors|not a readable")],
)
def test_a_damaged_file_of_pytorch_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(ModelFileError, match=said) as caught:
        tiny_net(weights=str(file))
    assert str(file) in str(caught.value)


def test_a_file_of_pytorch_without_tensors_is_named(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "weights.pt")
    with pytest.raises(ModelFileError, match="found none"):
        tiny_net(weights=str(tmp_path / "weights.pt"))


def test_how_much_of_a_file_is_used_is_told(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    tensors = timm.create_model("test_resnet").state_dict()
    save_file(tensors, file)
    found = tiny_net(weights=str(file)).backbone.initial_weights
    assert 0 < found.used < len(tensors) and found.used + found.unused == len(tensors)
    assert f"{found.used} of its {len(tensors)} tensors" in str(found)
    assert "random weights" in str(tiny_net().backbone.initial_weights)


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["cam_net", "seam", "weaktr", "segmenter"])
def test_a_dead_connection_is_told_before_any_download(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("deal_core.models.backbone._cached", lambda *source: None)
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *a, **k: pytest.fail("a download began"))
    arguments = {"weaktr": {}, "segmenter": {"encoder": "test_resnet"}}.get(model, {"backbone": "test_resnet"})
    with pytest.raises(ConfigError, match=r"cannot be downloaded .*set weights to the path of") as caught:
        create_model(model, 2, weights="hub", **arguments)
    assert "127.0.0.1" in str(caught.value) or "refused" in str(caught.value)


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def never(*arguments: Any, **options: Any) -> None:
        release.wait()
        raise OSError

    monkeypatch.setattr("deal_core.models.backbone._cached", lambda *source: None)
    monkeypatch.setattr("deal_core.models.backbone._ANSWER_S", 0.05)
    monkeypatch.setattr("urllib.request.OpenerDirector.open", never)
    try:
        with pytest.raises(ConfigError, match=r"does not answer within 0\.05 s"):
            create_model("cam_net", 2, backbone="test_resnet", weights="hub")
    finally:
        release.set()


def test_weights_in_the_cache_need_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.safetensors"
    whole = timm.create_model("test_resnet")
    save_file(whole.state_dict(), file)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, name: str(file))
    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda *a, **k: pytest.fail("asked the hub"))
    net = create_model("cam_net", 2, backbone="test_resnet", weights="hub")
    first = next(n for n, t in whole.state_dict().items() if t.ndim == 4)
    assert any(torch.equal(t, whole.state_dict()[first]) for t in net.backbone.state_dict().values())


# --- vision transformers ----------------------------------------------------------------------------------------------

TINY_VIT = {"embed_dim": 32, "depth": 4, "num_heads": 2}


@pytest.mark.parametrize(
    ("backbone", "grid", "arguments"),
    [
        ("vit_small_patch14_dinov2", (4, 6), TINY_VIT),
        ("vit_base_patch16_clip_224", (4, 5), TINY_VIT),
        ("test_vit", (4, 5), {}),
        ("eva02_tiny_patch14_224", (4, 6), TINY_VIT),
    ],
)
def test_a_transformer_is_one_line_and_takes_images_that_its_patch_does_not_divide(
    backbone: str, grid: tuple[int, int], arguments: dict[str, Any]
) -> None:
    net = create_model("cam_net", 3, backbone=backbone, width=8, backbone_arguments=arguments).eval()
    pictures = torch.rand(2, 3, 60, 84, generator=torch.Generator().manual_seed(0))
    output = net(pictures)
    assert output.cams.shape == (2, 3, *grid)
    assert output.stride == net.backbone.multiple
    sized = torch.nn.functional.interpolate(
        pictures, [n * output.stride for n in grid], mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(output.cams, net(sized).cams, rtol=1e-3, atol=1e-4)


def test_a_whole_transformer_file_fits_at_another_size(tmp_path: Path) -> None:
    file = tmp_path / "vit.safetensors"
    whole = timm.create_model("vit_small_patch14_dinov2", **TINY_VIT, img_size=56)
    save_file({n: t.contiguous() for n, t in whole.state_dict().items()}, file)
    net = create_model(
        "cam_net", 2, backbone="vit_small_patch14_dinov2", weights=str(file), backbone_arguments=TINY_VIT
    )
    block = "blocks.0.attn.qkv.weight"
    assert torch.equal(net.backbone.state_dict()[f"model.{block}"], whole.state_dict()[block])
    assert net(torch.rand(1, 3, 30, 45)).cams.shape == (1, 2, 2, 3)


def test_auto_takes_pretrained_weights_or_warns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = {"backbone": "resnet18", "width": 8, "weights": "auto"}
    monkeypatch.setattr("deal_core.models.backbone._cached", lambda *source: "model.safetensors")
    assert settle_weights(asked) == {**asked, "weights": "hub"} and not caplog.messages
    monkeypatch.setattr("deal_core.models.backbone._cached", lambda *source: None)
    monkeypatch.setattr("deal_core.models.backbone._hub_is_silent", lambda: "no connection")
    assert settle_weights(asked) == {**asked, "weights": "none"}
    assert "cannot be downloaded (no connection)" in caplog.text and "Random weights instead" in caplog.text
    assert settle_weights(asked, {"weights": "hub"})["weights"] == "hub", "a run goes on as it began"
    assert settle_weights({**asked, "weights": "hub"})["weights"] == "hub"
    assert settle_weights({**asked, "backbone": "test_vit4"})["weights"] == "none"
    assert "timm has no pretrained weights of 'test_vit4'" in caplog.text
    with pytest.raises(ConfigError, match="resnet81"):
        settle_weights({**asked, "backbone": "resnet81"})
    with pytest.raises(ConfigError, match="needs the name of the backbone"):
        settle_weights({"weights": "auto"})
