"""Weights of others: files with the names and the layout that their training code writes."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from deal_core.errors import ModelFileError
from deal_core.models.cam_net import CamNet
from deal_core.models.checkpoints import read_checkpoint
from deal_core.models.model_file import load_model, save_model
from deal_core.models.published import model_of_checkpoint
from deal_core.models.resnet38 import ResNet38
from deal_core.models.seam import Seam
from deal_core.models.weaktr import WeakTr
from deal_core.structures import ClassList

VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 48, "patch_size": 8}
CLASSES = ClassList(("cat", "dog", "bus"))


def weaktr(pool: str = "max") -> WeakTr:
    torch.manual_seed(3)
    net = WeakTr(3, "deit_small_patch16_224", backbone_arguments=VIT, pool=pool, drop_path=0.0).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return net


def as_weaktr_publishes(net: WeakTr) -> dict[str, Tensor]:
    """The tensors of a WeakTr by the names of github.com/hustvl/WeakTr (models.py, AAF.py)."""
    state = net.state_dict()
    named = {
        "cls_token": state["class_tokens"][None],
        "pos_embed": torch.cat([state["class_positions"][None], state["backbone.positions"]], dim=1),
        "patch_embed.proj.weight": state["backbone.patch_embed.proj.weight"],
        "patch_embed.proj.bias": state["backbone.patch_embed.proj.bias"],
        "norm.weight": state["backbone.norm.weight"],
        "norm.bias": state["backbone.norm.bias"],
        "head.weight": state["classifier.weight"],
        "head.bias": state["classifier.bias"],
        "adaptive_attention_fusion.attn_head_ffn.0.weight": state["fusion.excite.0.weight"],
        "adaptive_attention_fusion.attn_head_ffn.2.weight": state["fusion.excite.2.weight"],
    }
    for layer in (0, 1):
        for kind in ("weight", "bias"):
            named[f"adaptive_attention_fusion.attn_feat_ffn.{layer}.{kind}"] = state[f"fusion.squeeze.{layer}.{kind}"]
    for block in range(VIT["depth"]):
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            for kind in ("weight", "bias"):
                named[f"blocks.{block}.{part}.{kind}"] = state[f"backbone.blocks.{block}.{part}.{kind}"]
    return named


@pytest.mark.parametrize("wrapped", ["alone", "with options", "of several GPUs"])
def test_a_published_weaktr_gives_the_same_maps(tmp_path: Path, wrapped: str) -> None:
    net = weaktr("mean" if wrapped == "with options" else "max")
    content: Any = as_weaktr_publishes(net)
    if wrapped == "with options":  # as its main.py saves: the options of the command line, and the optimiser's state
        options = argparse.Namespace(pool_type="avg", lr=4e-4, data_set="VOC12")
        content = {"model": content, "optimizer": {"state": {}, "param_groups": [{"lr": 1.0}]}, "epoch": 59}
        content["args"] = options
    elif wrapped == "of several GPUs":
        content = {"model": {f"module.{name}": tensor for name, tensor in content.items()}}
    file = tmp_path / "weaktr.pth"
    torch.save(content, file)
    checkpoint = read_checkpoint(file)
    assert checkpoint.form == "weaktr"
    network, info = model_of_checkpoint(checkpoint, CLASSES)
    save_model(tmp_path / "model.safetensors", network, info)
    loaded = load_model(tmp_path / "model.safetensors")
    image = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        expected, found = net(image), loaded.network(image)
    for name in ("coarse", "fused", "fine"):
        assert torch.equal(found.map(name), expected.map(name))
    assert loaded.info.input_size == (48, 48) and loaded.info.threshold.rule == "fixed:0.43"


def test_the_backbone_of_a_weaktr_starts_another(tmp_path: Path) -> None:
    net = weaktr()
    file = tmp_path / "weaktr.pth"
    torch.save({"model": as_weaktr_publishes(net)}, file)
    started = WeakTr(5, "deit_small_patch16_224", str(file), VIT)
    assert torch.equal(started.backbone.positions, net.backbone.positions)
    assert torch.equal(started.backbone.blocks[1].mlp.fc1.weight, net.backbone.blocks[1].mlp.fc1.weight)
    assert torch.allclose(started.class_tokens, net.class_tokens.mean(0).expand(5, -1))


def test_what_fits_no_published_weaktr_is_told(tmp_path: Path) -> None:
    tensors = as_weaktr_publishes(weaktr())
    file = tmp_path / "weaktr.pth"
    for change, said in (
        ({"adaptive_attention_fusion.attn_head_ffn.0.weight": torch.zeros(2, 4)}, r"\(2, 4\).*--reduction 8"),
        ({"head.weight": torch.zeros(3, 32, 1, 1)}, "1 tensors are missing or have another shape"),
        ({"query": torch.zeros(1)}, "1 are unknown; the first is 'query'|'backbone.query'"),
    ):
        torch.save({**tensors, **change}, file)
        with pytest.raises(ModelFileError, match=said):
            model_of_checkpoint(read_checkpoint(file), CLASSES)
    torch.save(tensors, file)
    with pytest.raises(ModelFileError, match="has 3 classes, found 2 names"):
        model_of_checkpoint(read_checkpoint(file), ClassList(("cat", "dog")))
    del tensors["pos_embed"]
    torch.save(tensors, file)
    with pytest.raises(ModelFileError, match="no weaktr as published: 'pos_embed' is missing"):
        model_of_checkpoint(read_checkpoint(file), CLASSES)


def names_of_resnet38d() -> dict[str, tuple[str, int]]:
    """Our name and the number of axes of each tensor, by the name in SEAM (network/resnet38d.py)."""
    named = {"conv1a.weight": ("conv1a.weight", 4)}
    norms = [("weight", 1), ("bias", 1), ("running_mean", 1), ("running_var", 1), ("num_batches_tracked", 0)]
    stages = {"b2": 3, "b3": 3, "b4": 6, "b5": 3}
    for stage, blocks in stages.items():
        for block in range(blocks):
            theirs, ours = f"{stage}_{block}" if block else stage, f"{stage}.{block}"
            for number, (norm, conv) in enumerate((("2a", "2a"), ("2b1", "2b1")), 1):
                named[f"{theirs}.conv_branch{conv}.weight"] = (f"{ours}.conv{number}.weight", 4)
                named |= {f"{theirs}.bn_branch{norm}.{n}": (f"{ours}.bn{number}.{n}", a) for n, a in norms}
            if block == 0:
                named[f"{theirs}.conv_branch1.weight"] = (f"{ours}.shortcut.weight", 4)
    for stage in ("b6", "b7"):
        for number, part in enumerate(("2a", "2b1", "2b2"), 1):
            named[f"{stage}.conv_branch{part}.weight"] = (f"{stage}.conv{number}.weight", 4)
            named |= {f"{stage}.bn_branch{part}.{n}": (f"{stage}.bn{number}.{n}", a) for n, a in norms}
        named[f"{stage}.conv_branch1.weight"] = (f"{stage}.shortcut.weight", 4)
    return named | {f"bn7.{n}": (f"bn7.{n}", a) for n, a in norms}


def test_seam_as_published(tmp_path: Path) -> None:
    names = names_of_resnet38d()
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in ResNet38().state_dict().items()}
    assert {ours for ours, _ in names.values()} == set(shapes)
    # A number of its own for each tensor, expanded: the file stays small.
    values = {theirs: float(i % 97) / 97 for i, theirs in enumerate(names)}
    tensors = {n: torch.tensor(values[n]).expand(shapes[names[n][0]]) for n in names}
    heads = {"fc8": (4, 4096), "f8_3": (64, 512), "f8_4": (128, 1024), "f9": (192, 195)}
    tensors |= {f"{n}.weight": torch.full((*shape, 1, 1), 0.5 + i) for i, (n, shape) in enumerate(heads.items())}
    file = tmp_path / "resnet38_SEAM.pth"
    torch.save(tensors, file)
    checkpoint = read_checkpoint(file)
    assert checkpoint.form == "seam"
    network, info = model_of_checkpoint(checkpoint, CLASSES)
    assert isinstance(network, Seam) and network.preset == "reference" and info.threshold.value == 0.26
    state = network.state_dict()
    for theirs, (ours, axes) in names.items():
        found = state[f"backbone.{ours}"]
        assert found.ndim == axes
        assert axes == 0 or found.flatten()[0].item() == pytest.approx(values[theirs])
    for i, ours in enumerate(("classifier", "embedding.early", "embedding.middle", "embedding.fuse")):
        assert (state[f"{ours}.weight"] == 0.5 + i).all()
    only = {n: t for n, t in tensors.items() if n in names}
    torch.save(only, file)
    assert read_checkpoint(file).form == "resnet38d"
    with pytest.raises(ModelFileError, match="names of resnet38d: they can start a training"):
        model_of_checkpoint(read_checkpoint(file), CLASSES)


def test_deit_in_its_wrapper_and_timm_without(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = timm.create_model("deit_small_patch16_224", **VIT)
    for name, content in (("deit.pth", {"model": whole.state_dict()}), ("timm.pth", whole.state_dict())):
        torch.save(content, tmp_path / name)
        net = WeakTr(2, "deit_small_patch16_224", str(tmp_path / name), VIT)
        assert torch.equal(net.backbone.blocks[0].attn.qkv.weight, whole.blocks[0].attn.qkv.weight)


@pytest.mark.parametrize(("name", "theirs"), [("mobilenetv2_100", "mobilenet_v2"), ("resnet18", "resnet18")])
def test_weights_of_torchvision_compute_the_same_features(tmp_path: Path, name: str, theirs: str) -> None:
    torch.manual_seed(0)
    source = torchvision.models.get_model(theirs, weights=None).eval()
    for part in source.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-0.1, 0.1)
            part.running_var.uniform_(0.8, 1.2)
    file = tmp_path / "torchvision.pth"
    torch.save(source.state_dict(), file)
    net = CamNet(2, backbone=name, weights=str(file)).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        found = net.backbone(image)
        layers = source.features if theirs == "mobilenet_v2" else list(source.children())[:8]
        expected, value = [], image
        for layer in layers:
            value = layer(value)
            expected.append(value)
    for level in found:
        assert any(v.shape == level.shape and torch.allclose(v, level, atol=1e-5) for v in expected)


def test_the_nearest_network_is_named(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in timm.create_model("deit_tiny_patch16_224").state_dict().items()}
    torch.save({"model": {n: torch.zeros(()).expand(shape) for n, shape in shapes.items()}}, file)
    with pytest.raises(ModelFileError, match=r"another network.*it has most tensors of 'deit_tiny_patch16_224'"):
        WeakTr(2, "deit_small_patch16_224", str(file))
    with pytest.raises(ModelFileError, match="most tensors of 'deit_tiny_patch16_224'"):
        CamNet(2, backbone="resnet18", weights=str(file))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


def test_no_code_of_a_file_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file, content in (("whole.pth", {"model": Evil()}), ("options.pth", {"args": argparse.Namespace(x=Evil())})):
        torch.save(content, file)
        with pytest.raises(ModelFileError, match="could run code"):
            read_checkpoint(Path(file))
    Path("old.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ModelFileError):
        read_checkpoint(Path("old.pt"))
    assert not Path("evil").exists()
    for name, data in (("empty.pth", b""), ("text.pth", b"hello"), ("cut.pth", Path("whole.pth").read_bytes()[:200])):
        Path(name).write_bytes(data)
        with pytest.raises(ModelFileError, match=name):
            read_checkpoint(Path(name))


def test_a_file_of_pytorch_is_never_called_damaged(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    torch.save(as_weaktr_publishes(weaktr()), file)
    with pytest.raises(ModelFileError, match=r"deal import-weights .*model.pth --classes voc") as caught:
        load_model(file)
    assert "damaged" not in str(caught.value)


def test_safetensors_with_published_names(tmp_path: Path) -> None:
    save_file({n: t.contiguous() for n, t in as_weaktr_publishes(weaktr()).items()}, tmp_path / "weaktr.safetensors")
    assert read_checkpoint(tmp_path / "weaktr.safetensors").form == "weaktr"
