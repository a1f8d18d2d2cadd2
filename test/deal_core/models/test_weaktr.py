"""WeakTr on small vision transformers: values, gradients, sizes, weights, errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deal_core.models.weaktr import WeakTr

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
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return net


@torch.no_grad()
def slow_forward(net: WeakTr, picture: Tensor) -> dict[str, Tensor]:
    """One image (3, H, W) in float64, from the equations, with every map and every head spelled out."""
    p = {n: t.detach().double() for n, t in net.state_dict().items()}
    patch, heads, depth, k = 8, 2, 3, net.num_classes
    x = (picture.double() - net.mean[0].double()) / net.std[0].double()
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
