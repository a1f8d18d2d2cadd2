"""A map shows a thing where it is in the image: every kind of backbone, sizes that no stride divides, both axes."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from deal_core.masks.class_scores import multi_scale_scores
from deal_core.models.factory import create_model
from deal_core.models.region_mil import RegionMil

SIZES = [(240, 320), (238, 309), (129, 161), (375, 500)]


def picture_of_a_bar(size: tuple[int, int], axis: int, first: int, width: int) -> Tensor:
    """A black image (1, 3, H, W) with a white row (axis 0) or column (axis 1) of this width."""
    image = torch.zeros(1, 3, *size)
    image.movedim(2 + axis, -1)[..., first : first + width] = 1
    return image


def centre_of(scores: Tensor, axis: int) -> float:
    """Centre of mass of scores (H, W) along an axis, in pixels from the border."""
    profile = scores.sum(1 - axis)
    return float((profile * (torch.arange(len(profile)) + 0.5)).sum() / profile.sum())


def weaktr_of_brightness(backbone: str, patch: int) -> nn.Module:
    """A WeakTr whose coarse CAM is the mean brightness of each patch."""
    net: Any = create_model(
        "weaktr",
        1,
        weights="none",
        backbone=backbone,
        refined="coarse",
        mean=[0, 0, 0],
        std=[1, 1, 1],
        backbone_arguments={"depth": 1, "embed_dim": 48, "num_heads": 3, "img_size": patch * 16},
    ).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.backbone.patch_embed.proj.weight[0] = 1 / (3 * patch * patch)
        net.classifier.weight[0, 0, 1, 1] = 1
    return net


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("backbone", "patch"), [("vit_small_patch14_dinov2", 14), ("deit_small_patch16_224", 16)])
def test_what_a_patch_sees_lies_where_the_patch_is(
    backbone: str, patch: int, size: tuple[int, int], axis: int, flip: bool
) -> None:
    first = patch * (size[axis] // patch - 3)
    image = picture_of_a_bar(size, axis, first, patch)
    net = weaktr_of_brightness(backbone, patch)
    with torch.no_grad():
        found = multi_scale_scores(net, image, tags=torch.ones(1, 1), flip=flip, scales=(1.0, 1.2))[0, 0]
        trained = nn.functional.interpolate(net(image).cams, size, mode="bilinear")[0, 0]
    assert centre_of(found, axis) == pytest.approx(first + patch / 2, abs=1)
    assert centre_of(trained, axis) == pytest.approx(first + patch / 2, abs=1)


def response(net: nn.Module, image: Tensor) -> list[Tensor]:
    """How much each map (h, w) of a network with random weights changes where the image is not black."""
    with torch.no_grad():
        maps, black = (
            net.maps(i) if isinstance(net, RegionMil) else [net(i).cams] for i in (image, torch.zeros_like(image))
        )
    return [(m - b).abs().sum((0, 1)) for m, b in zip(maps, black, strict=True)]


BACKBONES: dict[str, tuple[str, dict[str, Any], int]] = {
    "cam_net of a vision transformer": ("cam_net", {"backbone": "test_vit", "levels": [-1]}, 16),
    "cam_net of a ResNet": ("cam_net", {"backbone": "test_resnet"}, 16),
    "region_mil of a vision transformer": ("region_mil", {"backbone": "test_vit", "levels": [-1]}, 8),
}
"""Name and arguments of a network, and its coarsest stride in pixels of the image."""


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("size", [(238, 309), (129, 161)])
@pytest.mark.parametrize("kind", BACKBONES)
def test_a_cell_lies_within_half_a_cell_of_what_it_sees(kind: str, size: tuple[int, int], axis: int) -> None:
    """A strided convolution sees around a corner of its cell: half a cell is the most that its map may be off."""
    name, arguments, coarsest = BACKBONES[kind]
    torch.manual_seed(0)
    net = create_model(name, 2, weights="none", **arguments).eval()
    for part in net.modules():
        if isinstance(part, Attention):  # each patch sees itself alone
            part.proj.weight.data.zero_()
    width, places = 8, range(size[axis] // 2 - 16, size[axis] // 2 + 16, 8)
    found = [response(net, picture_of_a_bar(size, axis, first, width)) for first in places]
    for maps in zip(*found, strict=True):
        cell = size[axis] / maps[0].shape[axis]
        beside = [centre_of(m, axis) * cell - first - width / 2 for m, first in zip(maps, places, strict=True)]
        assert abs(statistics.mean(beside)) <= coarsest / 2 + 1
