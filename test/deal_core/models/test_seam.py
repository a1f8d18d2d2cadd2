"""SEAM: its refinement and consistency against loops and plain matrices, and which loss trains which part."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.paths import MOBILENET
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from deal_core.errors import ConfigError, ModelFileError
from deal_core.losses.tags import tag_loss
from deal_core.models.factory import create_model
from deal_core.models.model_file import ModelInfo, Threshold, load_model, save_model
from deal_core.models.output import ConsistentNetwork
from deal_core.models.resnet38 import ResNet38
from deal_core.models.seam import Seam, SeamOutput, pixel_correlation, seed
from deal_core.structures import ClassList

NAN = float("nan")
TAGS = torch.tensor([[1, 0, 1.0], [0, NAN, 1.0]])


def image(number: int = 0, size: tuple[int, int] = (64, 80), batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(number))


def tiny_net(**arguments: Any) -> Seam:
    torch.manual_seed(3)
    return Seam(3, **{"backbone": "test_resnet", **arguments})


# --- the network ------------------------------------------------------------------------------------------------


def test_parameters_of_the_published_network() -> None:
    with torch.device("meta"):
        net, coco, fixed = Seam(20), Seam(80), Seam(20, preset="fixed")
    assert sum(p.numel() for p in net.parameters()) == 105_358_208
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 104_489_536
    assert isinstance(net.backbone, ResNet38)
    assert sum(p.numel() for p in coco.classifier.parameters()) == 81 * 4096
    assert sum(p.numel() for p in fixed.classifier.parameters()) == 20 * 4096


def test_the_published_network_makes_cams_of_stride_8() -> None:
    net = create_model("seam", 20).eval()
    with torch.no_grad():
        output = net(image(size=(41, 48)))
    assert output.cams.shape == output.refined.shape == (2, 20, 6, 6)
    assert output.stride == 8 and bool(output.cams.isfinite().all())


@pytest.mark.parametrize("preset", ["reference", "fixed"])
@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "test_efficientnet", "mobilenetv3_small_050"])
def test_output_of_convolutional_backbones(backbone: str, preset: str) -> None:
    net = tiny_net(backbone=backbone, preset=preset).eval()
    output = net(image())
    assert isinstance(output, SeamOutput) and isinstance(net, ConsistentNetwork)
    assert output.cams.shape == (2, 3, 8, 10) and output.stride == 8
    assert list(output.tag_logits) == [output.cam_head] == ["cam"]
    assert torch.allclose(output.tag_logits["cam"], output.cams.flatten(2).mean(-1), atol=1e-6)
    assert list(output.maps) == ["raw", "refined"]
    assert output.refined is not None and torch.equal(output.activation, output.refined)
    assert output.refined.shape == (2, 3, 8, 10) and output.refined_background.shape == (2, 1, 8, 10)
    for maps in (output.refined, output.refined_background):
        assert bool((maps >= 0).all() and (maps <= 1).all())


@pytest.mark.parametrize("preset", ["reference", "fixed"])
@pytest.mark.parametrize("size", [(50, 70), (33, 35), (120, 160), (17, 90)])
def test_sizes_of_both_views(size: tuple[int, int], preset: str) -> None:
    net = tiny_net(preset=preset)
    first = net(image(size=size))
    consistency = net.consistency(image(size=size), TAGS, first)
    assert first.cams.shape[-2:] == tuple(-(-s // 8) for s in size)
    assert consistency.second.cams.shape[-2:] == tuple(-(-math.floor(s * 0.3) // 8) for s in size)
    assert all(bool(v.isfinite()) and v.ndim == 0 for v in consistency.losses.values())


def test_the_second_view_is_the_image_at_a_smaller_scale() -> None:
    net = tiny_net(second_scale=0.5).eval()
    seen: list[Tensor] = []
    net.normalise_colours.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    flat = torch.full((2, 3, 64, 80), 0.25)
    flat[:, :, :, 40:] = 0.75
    net.consistency(flat, TAGS, net(flat))
    assert seen[1].shape == (2, 3, 32, 40)
    assert torch.allclose(seen[1][..., :19], torch.tensor(0.25)) and torch.allclose(
        seen[1][..., 21:], torch.tensor(0.75)
    )


def test_presets_differ_in_how_images_are_made_smaller() -> None:
    stripes = torch.zeros(1, 3, 80, 80)
    stripes[..., ::2] = 1.0
    for preset, low, high in (("fixed", 0.0, 0.03), ("reference", 0.1, 0.6)):
        net = tiny_net(preset=preset).eval()
        seen: list[Tensor] = []
        net.normalise_colours.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(inputs[0]))
        net.consistency(stripes, TAGS[:1], net(stripes))
        inner = seen[1][..., 2:-2]
        assert inner.shape[-2:] == (24, 20) and low <= float(inner.std()) <= high


def test_the_image_is_normalised_by_mean_and_std() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.4, 0.9)
    scaled = torch.stack([(image()[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    plain = tiny_net(mean=(0, 0, 0), std=(1, 1, 1)).eval()(scaled)
    output = tiny_net(mean=mean, std=std).eval()(image())
    assert torch.allclose(output.cams, plain.cams, atol=1e-5)
    assert torch.allclose(output.activation, plain.activation, atol=1e-4)


def test_dropout_acts_in_training_only_and_is_an_argument() -> None:
    net = tiny_net(freeze_batch_norm=True).eval()
    assert net.dropout.p == 0.5 and torch.equal(net(image()).cams, net(image()).cams)
    net.train()
    assert not torch.equal(net(image()).cams, net(image()).cams)
    net = tiny_net(freeze_batch_norm=True, dropout=0.0).train()
    assert torch.equal(net(image()).cams, net(image()).cams)


def test_the_background_slot_of_the_reference_is_neither_read_nor_trained() -> None:
    net = tiny_net().eval()
    before = net(image())
    with torch.no_grad():
        net.classifier.weight[0] += 1
    after = net(image())
    assert torch.equal(before.cams, after.cams) and torch.equal(before.activation, after.activation)
    loss = sum(net.consistency(image(), TAGS, after).losses.values()) + after.cams.sum()
    loss.backward()
    assert net.classifier.weight.grad is not None
    assert not net.classifier.weight.grad[0].any() and net.classifier.weight.grad[1:].any()


def test_frozen_batch_norm_keeps_statistics_through_training() -> None:
    net = tiny_net(freeze_batch_norm=True).eval().train()
    norms = [m for m in net.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [{n: t.clone() for n, t in m.state_dict().items()} for m in norms]
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    total_loss(net, image(), TAGS).backward()
    optimizer.step()
    assert len(norms) > 4 and next(net.backbone.parameters()).grad is not None
    for module, values in zip(norms, before, strict=True):
        assert all(torch.equal(t, values[n]) for n, t in module.state_dict().items())
    free = tiny_net()
    free(image())
    assert int(next(m for m in free.backbone.modules() if isinstance(m, nn.BatchNorm2d)).num_batches_tracked) == 1


def total_loss(net: Seam, picture: Tensor, tags: Tensor) -> Tensor:
    first = net(picture)
    consistency = net.consistency(picture, tags, first)
    tag_losses = [tag_loss(o.tag_logits["cam"], tags) for o in (first, consistency.second)]
    return (tag_losses[0] + tag_losses[1]) / 2 + sum(consistency.losses.values())


# --- refinement, against one pixel at a time --------------------------------------------------------------------


def slow_seed(cams: np.ndarray) -> np.ndarray:
    batch, classes, h, w = cams.shape
    out = np.zeros((batch, classes + 1, h, w))
    for b in range(batch):
        highest = [max(0.0, cams[b, k].max()) for k in range(classes)]
        for i in range(h):
            for j in range(w):
                scaled = [max(max(cams[b, k, i, j], 0) - 1e-5, 0) / (highest[k] + 1e-5) for k in range(classes)]
                out[b, 0, i, j] = 1 - max(scaled)
                for k in range(classes):
                    out[b, k + 1, i, j] = scaled[k] if scaled[k] == max(scaled) else 0.0
    return out


def slow_correlation(maps: np.ndarray, embedding: np.ndarray) -> np.ndarray:
    out = np.zeros_like(maps)
    for b in range(maps.shape[0]):
        vectors = embedding[b].reshape(embedding.shape[1], -1).T
        unit = [v / (math.sqrt(sum(v * v)) + 1e-5) for v in vectors]
        affinity = [[max(float(p @ q), 0.0) for q in unit] for p in unit]
        values = maps[b].reshape(maps.shape[1], -1)
        for pixel in range(len(unit)):
            column = np.array([row[pixel] for row in affinity])
            out[b].reshape(maps.shape[1], -1)[:, pixel] = values @ (column / (column.sum() + 1e-5))
    return out


def test_seed_against_loops() -> None:
    cams = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cams[0, 1] = -1.0  # a class without any activation
    cams[1, :, 0, 0] = 9.0  # where classes are equally strong, each is kept
    result = seed(cams)
    assert np.allclose(result, slow_seed(cams.numpy()), atol=1e-12)
    assert int((result[1, 1:, 0, 0] > 0.99).sum()) == 3 and not result[0, 2].any()


@pytest.mark.parametrize("size", [(4, 5), (1, 1), (33, 32)])
def test_pixel_correlation_against_loops(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    batch = 1 if size[0] > 10 else 2  # more pixels than a block of the affinity
    maps = torch.rand(batch, 3, *size, generator=generator, dtype=torch.float64)
    embedding = torch.randn(batch, 6, *size, generator=generator, dtype=torch.float64)
    embedding[0, :, 0, 0] = 0.0  # a pixel that is like no other
    result = pixel_correlation(maps, embedding)
    assert np.allclose(result, slow_correlation(maps.numpy(), embedding.numpy()), atol=1e-10)


@settings(max_examples=30)
@given(number=st.integers(0, 10_000), scale=st.floats(0.01, 100))
def test_pixel_correlation_averages_over_what_looks_alike(number: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(number)
    maps = torch.rand(1, 2, 4, 6, generator=generator, dtype=torch.float64)
    embedding = torch.randn(1, 5, 4, 6, generator=generator, dtype=torch.float64)
    result = pixel_correlation(maps, embedding)
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    assert bool((result >= low * (1 - 1e-3)).all() and (result <= high + 1e-12).all())
    assert torch.allclose(pixel_correlation(maps, embedding * scale), result, rtol=0.05)
    alike = torch.full((1, 5, 4, 6), scale, dtype=torch.float64)
    assert torch.allclose(pixel_correlation(maps, alike), maps.mean(dim=(-2, -1), keepdim=True).expand_as(maps), 1e-4)
    # Two halves that are unlike: each gets its own mean.
    halves = torch.zeros(1, 2, 4, 6, dtype=torch.float64)
    halves[:, 0, :, :3], halves[:, 1, :, 3:] = scale, scale
    left, right = pixel_correlation(maps, halves).split(3, dim=-1)
    assert torch.allclose(left, maps[..., :3].mean(dim=(-2, -1), keepdim=True).expand_as(left), rtol=1e-4)
    assert torch.allclose(right, maps[..., 3:].mean(dim=(-2, -1), keepdim=True).expand_as(right), rtol=1e-4)


def test_a_pixel_without_any_embedding_gives_a_gradient_that_is_a_number() -> None:
    embedding = torch.randn(1, 4, 3, 3)
    embedding[..., 0, 0] = 0
    embedding.requires_grad_()
    pixel_correlation(torch.rand(1, 2, 3, 3), embedding).square().sum().backward()
    assert embedding.grad is not None and bool(embedding.grad.isfinite().all())


def test_refinement_of_a_network_is_the_correlation_of_its_seed() -> None:
    net = tiny_net().double().eval()
    with torch.no_grad():
        output = net(image().double())
        normalised = net.normalise_colours(image().double())
        early, middle, _ = net.backbone(normalised)
        colours = resized(normalised.numpy(), (8, 10), aligned=True)
        weights = {n: p.numpy()[:, :, 0, 0] for n, p in net.embedding.named_parameters()}
        parts = [
            colours,
            np.maximum(np.einsum("oc,bchw->bohw", weights["early.weight"], early.numpy()), 0),
            np.maximum(np.einsum("oc,bchw->bohw", weights["middle.weight"], middle.numpy()), 0),
        ]
    assert [len(weights[f"{n}.weight"]) for n in ("early", "middle", "fuse")] == [64, 128, 192]
    embedding = np.einsum("oc,bchw->bohw", weights["fuse.weight"], np.concatenate(parts, axis=1))
    expected = slow_correlation(slow_seed(output.cams.numpy()), embedding)
    found = torch.cat([output.refined_background, output.activation], dim=1)
    assert np.allclose(found, expected, atol=1e-6)


# --- consistency, put together from its definition --------------------------------------------------------------


def resize_matrix(source: int, target: int, aligned: bool) -> np.ndarray:
    """Bilinear weights (target, source)."""
    out = np.zeros((target, source))
    for i in range(target):
        if aligned:
            position = i * (source - 1) / (target - 1) if target > 1 else 0.0
        else:
            position = min(max((i + 0.5) * source / target - 0.5, 0.0), source - 1.0)
        low = min(math.floor(position), source - 1)
        high = min(low + 1, source - 1)
        out[i, low] += 1 - (position - low)
        out[i, high] += position - low
    return out


def resized(maps: np.ndarray, size: tuple[int, int], aligned: bool) -> np.ndarray:
    rows, columns = (resize_matrix(maps.shape[axis], size[axis], aligned) for axis in (-2, -1))
    return rows @ maps @ columns.T


def slow_norm(maps: np.ndarray) -> np.ndarray:
    positive = np.maximum(maps, 0)
    low, high = (f(positive, axis=(-2, -1), keepdims=True) for f in (np.min, np.max))
    return np.maximum(positive - low - 1e-5, 0) / (high - low + 1e-5)


def slow_consistency(
    first: SeamOutput, second: SeamOutput, sizes: list[tuple[int, int]], tags: np.ndarray, preset: str
) -> dict[str, float]:
    aligned, batch, classes = preset == "reference", *tags.shape
    present = (tags == 1).astype(float)
    gate = present[:, :, None, None]
    cams, refined, rvmin = [], [], []
    for output, size in zip((first, second), sizes, strict=True):
        cams.append(resized(slow_norm(resized(output.cams.numpy(), size, aligned)), sizes[1], aligned) * gate)
        fore = resized(output.activation.numpy(), size, aligned)
        back = resized(output.refined_background.numpy(), size, aligned)
        lowest = np.sort((fore * gate).max(axis=1).reshape(batch, -1), axis=1)[:, : size[0] * size[1] // 4]
        rvmin.append(lowest.mean())
        fore, back = (resized(slow_norm(maps), sizes[1], aligned) for maps in (fore, back))
        refined.append(np.concatenate([back, fore * gate], axis=1))
    difference = np.abs(cams[0] - cams[1])
    er = difference.mean() if preset == "reference" else (difference.mean(axis=(-2, -1))).sum() / present.sum()
    ecr = 0.0
    for target, other in ((cams[1], refined[0]), (cams[0], refined[1])):
        largest = target.max(axis=1, keepdims=True)
        hot = np.concatenate([1 - largest, np.where(target == largest, target, 0)], axis=1)
        for b in range(batch):
            counted = classes if preset == "reference" else int(present[b].sum())
            count = math.floor((counted + 1) * sizes[1][0] * sizes[1][1] * 0.2)
            ecr += np.sort(np.abs(hot - other)[b].ravel())[::-1][:count].mean() / batch
    return {"rvmin": sum(rvmin) / 2, "er": float(er), "ecr": ecr}


@pytest.mark.parametrize("preset", ["reference", "fixed"])
@pytest.mark.parametrize("tags", [TAGS, torch.tensor([[0, 1.0, 0], [0, NAN, 0]]), torch.ones(2, 3)])
def test_consistency_is_the_published_definition(preset: str, tags: Tensor) -> None:
    net = tiny_net(preset=preset).double().eval()
    picture = image(size=(50, 72)).double()
    with torch.no_grad():
        first = net(picture)
        consistency = net.consistency(picture, tags, first)
    second = consistency.second
    assert isinstance(second, SeamOutput)
    expected = slow_consistency(first, second, [(50, 72), (15, 21)], tags.numpy(), preset)
    assert {n: float(v) for n, v in consistency.losses.items()} == pytest.approx(expected, rel=1e-6)


def test_tags_that_are_all_absent_or_unknown_ask_only_for_background() -> None:
    for preset in ("reference", "fixed"):
        net = tiny_net(preset=preset)
        for tags in (torch.zeros(2, 3), torch.full((2, 3), NAN)):
            losses = net.consistency(image(), tags, net(image())).losses
            assert losses["er"].item() == 0 and losses["rvmin"].item() == 0
            total = sum(losses.values())
            assert isinstance(total, Tensor) and bool(total.isfinite())
            total.backward()
            assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in net.parameters())


# --- gradients --------------------------------------------------------------------------------------------------


def trained_by(net: Seam, loss: Callable[[SeamOutput], Tensor]) -> set[str]:
    """Which parts of the network a loss on its output gives a gradient that is not 0."""
    net.zero_grad()
    loss(net(image())).backward()
    return {
        part
        for part in ("backbone", "classifier", "embedding")
        if any(p.grad is not None and bool(p.grad.any()) for p in getattr(net, part).parameters())
    }


@pytest.mark.parametrize("preset", ["reference", "fixed"])
def test_what_each_loss_trains(preset: str) -> None:
    net = tiny_net(preset=preset)

    def own(name: str) -> Callable[[SeamOutput], Tensor]:
        return lambda output: net.consistency(image(), TAGS, output).losses[name]

    assert trained_by(net, lambda o: tag_loss(o.tag_logits["cam"], TAGS)) == {"backbone", "classifier"}
    assert trained_by(net, own("er")) == {"backbone", "classifier"}
    assert trained_by(net, own("ecr")) == {"embedding"}
    assert trained_by(net, own("rvmin")) == {"embedding"}
    assert all(bool(p.grad.any()) for p in net.embedding.parameters() if p.grad is not None)
    weight = torch.rand(2, 3, 8, 10)  # the sum of a refined map is nearly the same whatever the embedding
    assert trained_by(net, lambda o: (o.map("raw", True) * weight).sum()) == {"backbone", "classifier"}
    assert trained_by(net, lambda o: (o.map("raw", False) * weight).sum()) == {"classifier"}
    assert trained_by(net, lambda o: (o.map("refined", False) * weight).sum()) == {"embedding"}
    everything = {"backbone", "classifier", "embedding"}
    assert trained_by(net, lambda o: (o.map("refined", True) * weight).sum()) == everything


def test_the_embedding_sends_gradient_to_its_taps_only_when_asked() -> None:
    net = tiny_net()
    attached: list[list[bool]] = []
    net.embedding.register_forward_hook(
        lambda module, inputs, output: attached.append([tap.requires_grad for tap in inputs[1:]])
    )
    output = net(image())
    output.map("refined", False)
    assert attached == [[False, False]]
    output.map("refined", True)
    assert attached == [[False, False], [True, True]]


def test_maps_have_the_same_values_with_and_without_the_backbone() -> None:
    output = tiny_net().train()(image())
    for name in ("raw", "refined"):
        assert torch.allclose(output.map(name, True), output.map(name, False), atol=1e-6)
    assert torch.equal(output.map("raw", True), output.cams)
    assert torch.equal(output.map("refined", False), output.activation)


def test_a_few_steps_make_the_losses_smaller() -> None:
    net = tiny_net(preset="fixed", dropout=0.0)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=3e-3)
    values = []
    for _ in range(12):
        loss = total_loss(net, image(), TAGS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.8 * values[0]


def test_under_autocast_the_losses_stay_in_float32() -> None:
    net = tiny_net()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = net(image())
        consistency = net.consistency(image(), TAGS, first)
    assert first.cams.dtype == torch.bfloat16 and first.activation.dtype == torch.float32
    assert all(v.dtype == torch.float32 and bool(v.isfinite()) for v in consistency.losses.values())
    sum(consistency.losses.values()).backward()  # type: ignore[union-attr]


# --- arguments and files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"backbone": "resnet81"}, "Did you mean 'resnet18'"),
        ({"backbone": "vit_tiny_patch16_224"}, "output_stride"),
        ({"backbone": "swin_tiny_patch4_window7_224"}, "output_stride"),
        ({"backbone": "densenet121"}, "densenet121"),
        ({"backbone": "resnet38", "weights": "hub"}, "no weights to download"),
        ({"backbone": "resnet38", "backbone_arguments": {"output_stride": 8}}, "no backbone_arguments"),
        ({"backbone_arguments": {"output_stride": 16}}, "cannot set 'output_stride'"),
        ({"backbone_arguments": {"nonsense": 1}}, "nonsense"),
        ({"second_scale": 0}, "second_scale in (0, 1]"),
        ({"second_scale": 1.5}, "second_scale in (0, 1]"),
        ({"second_scale": NAN}, "second_scale in (0, 1]"),
        ({"preset": "published"}, "preset as one of reference, fixed"),
        ({"dropout": 1.5}, "dropout"),
        ({"std": [1, 0, 1]}, "std above 0"),
        ({"weights": 5}, "weights as none, hub"),
        ({"backbone": "resnet38", "weights": 5}, "weights as none, hub or the path"),
        ({"prest": "fixed"}, "Did you mean 'preset'"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], said: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError) as caught:
        create_model("seam", 2, **{"backbone": "test_resnet", **arguments})
    assert said in str(caught.value)


def test_outputs_of_another_network_cannot_be_compared() -> None:
    net, other = tiny_net(), create_model("cam_net", 3, backbone="test_resnet", width=8)
    with pytest.raises(TypeError, match="SeamOutput"):
        net.consistency(image(), TAGS, other(image()))


def test_model_file_gives_back_the_network(tmp_path: Path) -> None:
    arguments = {"backbone": "test_resnet", "preset": "fixed", "second_scale": 0.5, "backbone_arguments": {}}
    torch.manual_seed(1)
    net = create_model("seam", 2, **arguments).eval()
    file = tmp_path / "seam.safetensors"
    classes = ClassList(("mug", "drill"), ((1, 2, 3), (4, 5, 6)))
    save_model(file, net, ModelInfo("seam", arguments, classes, (64, 80), Threshold(0.4, "otsu")))
    loaded = load_model(file).network
    with torch.no_grad():
        expected, found = net(image()), loaded(image())
    assert torch.equal(found.cams, expected.cams) and torch.equal(found.refined, expected.refined)
    assert loaded.second_scale == 0.5 and loaded.preset == "fixed"


def test_weights_of_resnet38_are_loaded_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(nn.Module):
        channels = (4, 4, 4)

        def __init__(self) -> None:
            super().__init__()
            self.conv1a = nn.Conv2d(3, 4, 3, bias=False)

    monkeypatch.setattr("deal_core.models.seam.ResNet38", Small)
    file = tmp_path / "weights.safetensors"
    weight = torch.rand(4, 3, 3, 3)
    save_file({"conv1a.weight": weight, "classifier.weight": torch.zeros(1)}, file)
    net = Seam(2, weights=str(file))
    assert torch.equal(net.backbone.get_parameter("conv1a.weight"), weight)
    save_file({"conv1b.weight": weight}, file)
    with pytest.raises(ModelFileError, match="another network"):
        Seam(2, weights=str(file))


@pytest.mark.real_weights
def test_real_mobilenet_weights() -> None:
    half = (0.5, 0.5, 0.5)
    net = tiny_net(
        backbone="mobilenetv2_100",
        backbone_arguments={"pad_type": "same"},
        weights=str(MOBILENET),
        mean=half,
        std=half,
        freeze_batch_norm=True,
    ).eval()
    picture = image(size=(60, 80))
    output = net(picture)
    assert output.cams.shape == (2, 3, 8, 10) and float(output.cams.detach().std()) > 0.01
    total_loss(net, picture, TAGS).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in net.parameters())
