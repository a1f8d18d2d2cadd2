"""WeakTr on small vision transformers: values, gradients, sizes, weights, errors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers import DropPath
from torch import Tensor, nn

from deal_core.errors import ConfigError, ModelFileError
from deal_core.losses.tags import tag_loss
from deal_core.models.factory import create_model
from deal_core.models.model_file import ModelInfo, Threshold, load_model, save_model
from deal_core.models.weaktr import WeakTr, fuse_attention
from deal_core.structures import ClassList

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}


def image(size: tuple[int, int] = (32, 32), batch: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def tiny_net(num_classes: int = 3, backbone_arguments: dict[str, Any] | None = None, **arguments: Any) -> WeakTr:
    """A net whose values are large enough to matter: initial weights give nearly uniform attention."""
    torch.manual_seed(5)
    net = WeakTr(
        num_classes, **{"backbone_arguments": {**TINY, **(backbone_arguments or {})}, "drop_path": 0.0, **arguments}
    )
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.add_(torch.randn(parameter.shape) * (0.5 if name.startswith("fusion") else 0.2))
    return net


@torch.no_grad()
def slow_forward(net: WeakTr, picture: Tensor) -> dict[str, Tensor]:
    """One image (3, H, W) in float64, from the equations, with every map and every head spelled out."""
    p = {n: t.detach().double() for n, t in net.state_dict().items()}
    patch, heads, depth, k = 8, 2, 3, net.num_classes
    size = [max(round(side / patch), 1) * patch for side in picture.shape[1:]]
    picture = F.interpolate(picture[None].double(), size, mode="bilinear")[0]
    x = (picture - net.normalise_colours.mean[0].double()) / net.normalise_colours.std[0].double()
    h, w = x.shape[1] // patch, x.shape[2] // patch
    patches = []
    for i in range(h):
        for j in range(w):
            pixels = x[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
            value = (p["backbone.patch_embed.proj.weight"] * pixels).sum(dim=(1, 2, 3))
            patches.append(value + p["backbone.patch_embed.proj.bias"])
    tokens = torch.cat(
        [p["class_tokens"] + p["class_positions"], torch.stack(patches) + net.backbone.positions_at((h, w))[0].double()]
    )
    dim, count = tokens.shape[1], len(tokens)

    def linear(name: str, value: Tensor) -> Tensor:
        return value @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name: str, value: Tensor) -> Tensor:
        centred = value - value.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return scaled * p[f"{name}.weight"] + p[f"{name}.bias"]

    maps: dict[tuple[int, int], Tensor] = {}
    features = []
    for layer in range(depth):
        block = f"backbone.blocks.{layer}"
        qkv = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", tokens))
        outputs: list[Tensor] = []
        size = dim // heads
        for head in range(heads):
            q, key, v = (qkv[:, c * dim + head * size : c * dim + (head + 1) * size] for c in range(3))
            likely = (q @ key.T / math.sqrt(size)).exp()
            maps[head, layer] = likely / likely.sum(1, keepdim=True)
            outputs.append(maps[head, layer] @ v)
        branch = linear(f"{block}.attn.proj", torch.cat(outputs, dim=1))
        features.append(branch)
        tokens = tokens + branch
        hidden = linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", tokens))
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        tokens = tokens + linear(f"{block}.mlp.fc2", hidden)

    scores = []
    for head in range(heads):
        for layer in range(depth):
            channels = features[layer][:, head::heads]
            pooled = channels.max(0).values if net.fusion.pool == "max" else channels.mean(0)
            scores.append(linear("fusion.squeeze.1", linear("fusion.squeeze.0", pooled[None]))[0, 0])
    hidden = (p["fusion.excite.0.weight"] @ torch.stack(scores)).clamp(min=0)
    weights = 1 / (1 + (-(p["fusion.excite.2.weight"] @ hidden)).exp())
    assert float(weights.detach().std()) > 0.01

    stack = [weights[head * depth + layer] * maps[head, layer] for head in range(heads) for layer in range(depth)]
    mean = torch.stack(stack).mean(0)
    cross, affinity = mean[:k, k:], mean[k:, k:]
    grid = F.pad(tokens[k:].T.reshape(dim, h, w), (1, 1, 1, 1))
    coarse = torch.zeros(k, h, w, dtype=torch.float64)
    for c in range(k):
        for i in range(h):
            for j in range(w):
                window = grid[:, i : i + 3, j : j + 3]
                coarse[c, i, j] = (p["classifier.weight"][c] * window).sum() + p["classifier.bias"][c]
    activation = coarse.clamp(min=0).reshape(k, -1)
    fused = {"both": cross * activation, "attention": cross, "cam": activation}[net.fused]
    fine = torch.zeros_like(fused)
    for c in range(k):
        for i in range(count - k):
            fine[c, i] = (affinity[i] * fused[c]).sum()
    return {
        "class": tokens[:k].mean(1),
        "coarse": coarse,
        "fused": fused.reshape(k, h, w),
        "fine": fine.reshape(k, h, w),
    }


@pytest.mark.parametrize("pool", ["max", "mean"])
@pytest.mark.parametrize("fused", ["both", "attention", "cam"])
@pytest.mark.parametrize("size", [(32, 32), (24, 45)])
def test_every_map_and_logit_is_that_of_the_equations(pool: str, fused: str, size: tuple[int, int]) -> None:
    net = tiny_net(pool=pool, fused=fused).eval()
    pictures = image(size)
    output = net(pictures)
    for i, picture in enumerate(pictures):
        expected = slow_forward(net, picture)
        for name in ("coarse", "fused", "fine"):
            for through_backbone in (True, False):
                found = output.map(name, through_backbone)[i].double()
                scale = float(expected[name].abs().max())
                assert torch.allclose(found, expected[name], rtol=0, atol=1e-4 * scale), name
                assert float(expected[name].std()) > 0.01 * scale
            if name != "fused":
                assert torch.allclose(output.tag_logits[name][i].double(), expected[name].mean((1, 2)), atol=1e-4)
        assert torch.allclose(output.tag_logits["class"][i].double(), expected["class"], atol=1e-4)
    assert torch.equal(output.cams, output.map("coarse"))
    assert output.refined is not None and torch.equal(output.activation, output.map("fine", False))
    assert output.cam_head == "coarse" and output.stride == 8


def test_sizes_of_the_published_models() -> None:
    with torch.device("meta"):
        voc, coco = WeakTr(20), WeakTr(90)
    count = [sum(p.numel() for p in m.parameters()) for m in (voc, coco, voc.fusion, voc.classifier, coco.classifier)]
    assert count == [21_751_221, 22_046_971, 1_825, 69_140, 311_130]


def test_the_weights_of_the_fusion_start_apart_and_can_learn() -> None:
    """As published: 0.50 with a standard deviation of 0.014 over the heads, and gradients of 1e-6."""
    spread, gradients = [], []
    for seed in range(5):
        torch.manual_seed(seed)
        fusion = WeakTr(3, backbone_arguments={"depth": 12}).fusion
        branches = [torch.randn(2, 30, 384) for _ in range(12)]
        weights = fusion(branches)
        weights.square().mean().backward()
        spread.append(float(weights.detach().std()))
        gradients.append(float(fusion.squeeze[0].weight.grad.abs().mean()))
        assert float(weights.detach().mean()) == pytest.approx(0.5, abs=0.05)
    assert 0.005 < sum(spread) / 5 < 0.05
    assert min(gradients) > 1e-8


GROUPS = ("backbone", "class", "classifier", "fusion")


def reached_groups(net: WeakTr, loss: Tensor) -> set[str]:
    """The groups of parameters of which any has a gradient that is not zero."""
    net.zero_grad(set_to_none=True)
    loss.backward()
    return {n.split(".")[0].split("_")[0] for n, p in net.named_parameters() if p.grad is not None and p.grad.any()}


BODY = {"backbone", "class"}


@pytest.mark.parametrize(("head", "groups"), [("class", BODY), ("coarse", {*BODY, "classifier"}), ("fine", {"fusion"})])
def test_what_each_tag_loss_trains(head: str, groups: set[str]) -> None:
    net = tiny_net()
    output = net(image())
    assert list(output.tag_logits) == ["class", "coarse", "fine"]
    tags = torch.tensor([[1.0, 0, 1], [0, 1, float("nan")]])
    assert reached_groups(net, tag_loss(output.tag_logits[head], tags)) == groups


@pytest.mark.parametrize(
    ("name", "through_backbone", "groups"),
    [
        ("coarse", False, {"classifier"}),
        ("coarse", True, {*BODY, "classifier"}),
        ("fused", False, {"fusion"}),
        ("fused", True, {*BODY, "classifier", "fusion"}),
        ("fine", False, {"fusion"}),
        ("fine", True, {*BODY, "classifier", "fusion"}),
    ],
)
def test_what_a_loss_on_each_map_trains(name: str, through_backbone: bool, groups: set[str]) -> None:
    net = tiny_net()
    assert reached_groups(net, net(image()).map(name, through_backbone).square().sum()) == groups


def test_attention_and_coarse_cam_each_carry_gradient_into_the_backbone() -> None:
    net = tiny_net(fused="attention")
    loss = net(image()).map("fused").square().sum()
    assert reached_groups(net, loss) == {*BODY, "fusion"}
    net = tiny_net(fused="cam")
    loss = net(image()).map("fused").square().sum()
    assert reached_groups(net, loss) == {*BODY, "classifier"}


def test_the_final_norm_is_neither_applied_nor_trained() -> None:
    net = tiny_net().eval()
    before = net(image()).cams
    with torch.no_grad():
        net.backbone.norm.weight.mul_(3)
    assert torch.equal(net(image()).cams, before)
    assert not any(p.requires_grad for p in net.backbone.norm.parameters())


def test_fused_attention_and_its_gradients_are_those_of_the_stack() -> None:
    torch.manual_seed(0)
    attention = [torch.rand(2, 3, 5, 5, requires_grad=True) for _ in range(4)]
    weights = torch.rand(2, 3, 4, requires_grad=True)
    stack = torch.stack(attention, dim=2)  # (B, heads, L, T, T)
    expected = (stack * weights[..., None, None]).mean(dim=(1, 2))
    found = fuse_attention(attention, weights)
    assert torch.allclose(found, expected, atol=1e-6)
    towards = torch.randn(found.shape)
    gradients = [torch.autograd.grad(v, [weights, *attention], towards, retain_graph=True) for v in (found, expected)]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("size", "patch", "grid"),
    [
        ((120, 160), 8, (15, 20)),
        ((120, 160), 16, (8, 10)),
        ((37, 21), 8, (5, 3)),
        ((8, 8), 8, (1, 1)),
        ((32, 3), 8, (4, 1)),
    ],
)
def test_any_size(size: tuple[int, int], patch: int, grid: tuple[int, int]) -> None:
    net = tiny_net(backbone_arguments={"patch_size": patch}).eval()
    pictures = image(size)
    output = net(pictures)
    assert output.cams.shape == (2, 3, *grid) and output.activation.shape == (2, 3, *grid)
    assert output.stride == net.stride == patch
    whole = net(F.interpolate(pictures, (grid[0] * patch, grid[1] * patch), mode="bilinear"))
    assert torch.allclose(output.activation, whole.activation, rtol=1e-3)


def test_position_embeddings_follow_the_grid() -> None:
    backbone = tiny_net(backbone_arguments={"img_size": [24, 40]}).backbone
    assert backbone.native_grid == (3, 5)
    assert backbone.positions_at((3, 5)) is backbone.positions
    assert backbone.positions_at((6, 7)).shape == (1, 42, 16)
    # A ramp along x stays one: rows alike, rising from left to right, with the centre where it was.
    ramp = torch.arange(5.0).repeat(3)[None, :, None].expand(1, 15, 16)
    with torch.no_grad():
        backbone.positions.copy_(ramp)
    resized = backbone.positions_at((4, 11))[0, :, 0].view(4, 11)
    assert torch.allclose(resized, resized[:1].expand(4, 11), atol=1e-5)
    assert bool((resized[0].diff() > 0).all())
    assert torch.allclose(resized[0, 5], torch.tensor(2.0), atol=1e-4)


def test_an_image_is_seen_alike_alone_and_in_a_batch() -> None:
    net = tiny_net().eval()
    pictures = image(batch=3)
    together = net(pictures)
    for i in range(3):
        alone = net(pictures[i : i + 1])
        assert torch.allclose(alone.cams[0], together.cams[i], atol=1e-5)
        assert torch.allclose(alone.activation[0], together.activation[i], rtol=1e-4, atol=1e-7)


def test_one_class() -> None:
    net = tiny_net(num_classes=1)
    output = net(image())
    assert output.cams.shape == (2, 1, 4, 4) and output.tag_logits["class"].shape == (2, 1)
    assert reached_groups(net, output.map("fine").sum()) == set(GROUPS)


def test_values_without_gradient_are_those_with_it() -> None:
    net = tiny_net().eval()
    expected = net(image())
    with torch.no_grad():
        found = net(image())
    for name in ("coarse", "fused", "fine"):
        for through_backbone in (True, False):
            assert torch.allclose(found.map(name, through_backbone), expected.map(name), rtol=1e-4, atol=1e-7)


def test_bfloat16_autocast_is_close_and_trains() -> None:
    net = tiny_net().eval()
    exact = net(image())
    expected = {name: exact.map(name) for name in ("coarse", "fused", "fine")}
    for gradient in (True, False):
        with torch.set_grad_enabled(gradient), torch.autocast("cpu", torch.bfloat16):
            output = net(image())
        assert output.activation.dtype == torch.float32
        for name, value in expected.items():
            assert bool((output.map(name) - value).abs().max() < 0.1 * value.abs().max())
    with torch.autocast("cpu", torch.bfloat16):
        output = net(image())
        loss = output.map("fine").sum() + sum(logits.float().sum() for logits in output.tag_logits.values())
    assert reached_groups(net, loss) == set(GROUPS)


def test_stochastic_depth_rises_to_its_rate_and_acts_in_training_only() -> None:
    net = tiny_net(drop_path=0.5)
    rates = [m.drop_prob for m in net.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.25, 0.25, 0.5, 0.5])
    assert not torch.equal(net(image(batch=8)).cams, net(image(batch=8)).cams)
    net.eval()
    assert torch.equal(net(image()).cams, net(image()).cams)


SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
# Class token with and without position, layer scale, register tokens with and without position, a norm before the
# blocks, norms of queries, keys and outputs.
VITS: list[tuple[str, dict[str, Any]]] = [
    ("deit_tiny_patch16_224", {}),
    ("deit3_small_patch16_224", {"init_values": 0.5}),
    ("vit_small_patch14_reg4_dinov2", {}),
    ("vit_tiny_patch16_224", {"reg_tokens": 2}),
    ("vit_base_patch16_clip_224", {}),
    ("vit_tiny_patch16_224", {"qk_norm": True, "scale_attn_norm": True}),
]


def whole_vit(name: str, arguments: dict[str, Any], file: Path) -> Any:
    """A timm model with its weights, all of them random, in a file."""
    torch.manual_seed(9)
    whole = timm.create_model(name, **{**SMALL, **arguments}).eval()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    save_file({n: t.contiguous() for n, t in whole.state_dict().items()}, file)
    return whole


@pytest.mark.parametrize(("name", "arguments"), VITS, ids=[f"{n}-{'-'.join(a)}" for n, a in VITS])
def test_tokens_are_those_of_timm_with_the_weights_of_a_file(
    tmp_path: Path, name: str, arguments: dict[str, Any]
) -> None:
    whole = whole_vit(name, arguments, tmp_path / "vit.safetensors")
    net = WeakTr(1, name, str(tmp_path / "vit.safetensors"), {**SMALL, **arguments}).eval()
    whole.norm = nn.Identity()
    with torch.no_grad():
        expected = whole.forward_features(image())
        found = net.backbone(image(), net.class_tokens + net.class_positions)
    assert torch.allclose(found.tokens, expected, rtol=1e-4, atol=1e-4)
    assert found.patches.shape == (2, 32, 4, 4)
    assert torch.allclose(found.patches[:, :, 1, 2], expected[:, -10], rtol=1e-4, atol=1e-4)
    assert all(torch.allclose(a.sum(-1), torch.ones(()), atol=1e-5) for a in found.attention)


def test_class_tokens_begin_as_copies_or_at_random() -> None:
    net = WeakTr(4, "vit_tiny_patch16_224", backbone_arguments=SMALL)
    assert torch.equal(net.class_tokens, net.class_tokens[:1].expand(4, -1))
    assert torch.equal(net.class_positions, net.class_positions[:1].expand(4, -1))
    assert net.class_positions.any()
    without = {**SMALL, "class_token": False, "global_pool": "avg"}
    net = WeakTr(4, "vit_tiny_patch16_224", backbone_arguments=without)
    assert len(net.class_tokens.unique(dim=0)) == 4 and not net.class_positions.any()
    assert net(image()).cams.shape == (2, 4, 4, 4)


def test_weights_of_another_grid_are_resized(tmp_path: Path) -> None:
    file = tmp_path / "vit.safetensors"
    whole = whole_vit("vit_tiny_patch16_224", {}, file)
    net = WeakTr(2, "vit_tiny_patch16_224", str(file), {**SMALL, "img_size": [48, 64]}).eval()
    assert net.backbone.positions.shape == (1, 48, 32)
    assert torch.equal(net.class_positions, whole.pos_embed[0, :1].expand(2, -1))
    assert torch.equal(net.backbone.blocks[1].mlp.fc1.weight, whole.blocks[1].mlp.fc1.weight)
    assert torch.allclose(net.backbone.positions.mean(1), whole.pos_embed[:, 1:].mean(1), atol=0.05)


def test_weights_of_another_network_are_told(tmp_path: Path) -> None:
    file = tmp_path / "vit.safetensors"
    whole_vit("vit_tiny_patch16_224", {}, file)
    for other in ({"embed_dim": 16}, {"depth": 3}):
        with pytest.raises(ModelFileError, match="another network"):
            WeakTr(2, "vit_tiny_patch16_224", str(file), {**SMALL, **other})
    save_file(timm.create_model("test_resnet").state_dict(), file)
    with pytest.raises(ModelFileError, match="another network"):
        WeakTr(2, "vit_tiny_patch16_224", str(file), SMALL)
    with pytest.raises(ModelFileError, match="found no file"):
        WeakTr(2, "vit_tiny_patch16_224", str(tmp_path / "none.safetensors"), SMALL)


def test_a_model_file_gives_the_same_cams(tmp_path: Path) -> None:
    net = tiny_net().eval()
    arguments = {"backbone": "deit_small_patch16_224", "backbone_arguments": TINY, "weights": "hub", "drop_path": 0.0}
    info = ModelInfo("weaktr", arguments, ClassList(("cup", "box", "can")), (32, 40), Threshold(0.4, "otsu"))
    save_model(tmp_path / "m.safetensors", net, info)
    loaded = load_model(tmp_path / "m.safetensors").network
    pictures = image((32, 40))
    assert torch.equal(loaded(pictures).activation, net(pictures).activation)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"backbone": "deit_smal_patch16_224"}, "Did you mean 'deit_small_patch16_224'"),
        ({"backbone": 3}, "unknown backbone '3'"),
        ({"backbone": "resnet18", "backbone_arguments": {}}, "'resnet18' is no plain vision transformer"),
        ({"backbone": "deit_tiny_distilled_patch16_224"}, "is no plain vision transformer"),
        ({"backbone": "swin_tiny_patch4_window7_224", "backbone_arguments": {}}, "is no plain vision transformer"),
        ({"backbone": "test_vit_relpos", "backbone_arguments": {}}, "is no plain vision transformer"),
        ({"backbone_arguments": {**TINY, "pos_embed": "none"}}, "is no plain vision transformer"),
        ({"backbone_arguments": {**TINY, "depth": 0}}, "is no plain vision transformer"),
        ({"backbone_arguments": {**TINY, "patch_size": [8, 16]}}, "square patches, found 8x16"),
        ({"backbone_arguments": {**TINY, "num_heads": 3}}, "divisible by num_heads"),
        ({"backbone_arguments": {**TINY, "nonsense": 1}}, "nonsense"),
        ({"backbone_arguments": {"checkpoint_path": "weights.pth"}}, "cannot set 'checkpoint_path'"),
        ({"backbone_arguments": {"drop_path_rate": 0.1}}, "cannot set 'drop_path_rate'"),
        ({"backbone_arguments": {"patch_drop_rate": 0.1}}, "cannot set 'patch_drop_rate'"),
        ({"pool": "sum"}, "pool as max, mean, found 'sum'"),
        ({"fused": "all"}, "fused as both, attention, cam, found 'all'"),
        ({"drop_path": 1.0}, "drop_path in [0, 1)"),
        ({"drop_path": "much"}, "weaktr"),
        ({"std": [1, 0, 1]}, "std above 0"),
        ({"weights": 5}, "weights as none, hub"),
        ({"pol": "max"}, "Did you mean 'pool'"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        create_model("weaktr", 2, **{"backbone_arguments": TINY, **arguments})
    assert said in str(caught.value)


def test_hub_without_a_connection_is_an_error_of_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_connection(*arguments: Any, **options: Any) -> None:
        raise FileNotFoundError("no route to the hub\nand more")

    monkeypatch.setattr("deal_core.models.backbone._cached", lambda *source: None)
    monkeypatch.setattr("deal_core.models.backbone._hub_is_silent", lambda: None)
    monkeypatch.setattr("deal_core.models.vit.timm.create_model", no_connection)
    with pytest.raises(ConfigError, match=r"deit_small_patch16_224' cannot be downloaded \(no route to the hub\)"):
        create_model("weaktr", 2, weights="hub")


@pytest.mark.parametrize("refined", ["coarse", "fused", "fine"])
def test_masks_are_made_from_the_map_that_is_asked_for(refined: Any) -> None:
    net = tiny_net(refined=refined).eval()
    output = net(torch.rand(2, 3, 32, 48))
    assert torch.equal(output.activation, output.map(refined).relu())
    with pytest.raises(ConfigError, match="expected refined as coarse, fused, fine, found 'raw'"):
        tiny_net(refined="raw")
