"""Feature maps on disk: they are those of the network, they are made once, and nothing stale is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.transforms import image_to_tensor, resize_sample
from deal_core.errors import ConfigError
from deal_core.features.grid import plan_grid
from deal_core.features.kept_maps import KeptMaps, keep_maps
from deal_core.models.factory import create_model

SIZE = (64, 96)
VIT = {"depth": 2, "embed_dim": 32, "num_heads": 2}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "cam_net": ("cam_net", {"backbone": "test_resnet", "width": 8}),
    "transformer": (
        "cam_net",
        {"backbone": "vit_tiny_patch16_224", "levels": [-1], "width": 8, "backbone_arguments": VIT},
    ),
    "segmenter": ("segmenter", {"encoder": "test_resnet"}),
}


def network(kind: str = "cam_net", seed: int = 0, **changed: Any) -> nn.Module:
    torch.manual_seed(seed)
    name, arguments = NETWORKS[kind]
    return create_model(name, 3, **{**arguments, **changed})


def files(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")}


@pytest.fixture
def frames(tiny_dataset: Path) -> Dataset:
    return Dataset.open(tiny_dataset).subset(predicate=lambda frame: frame.segment < 2)


@pytest.mark.parametrize("kind", NETWORKS)
def test_maps_are_those_of_the_network_for_image_and_mirror_image(kind: str, frames: Dataset, tmp_path: Path) -> None:
    net = network(kind).train()
    kept = keep_maps(net, frames, SIZE, tmp_path)
    assert net.training, "its mode is as before"
    net.eval()
    for index in (0, len(frames) - 1):
        image = image_to_tensor(resize_sample(frames.load(index), SIZE).image)[None]
        for flip in (False, True):
            with torch.no_grad():
                expected = net.maps(image.flip(-1) if flip else image)  # type: ignore[operator]
            found = kept.read(index, flip)
            assert len(found) == len(expected) and all(level.dtype == torch.float16 for level in found)
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours.float(), theirs[0], rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_layers_after_the_backbone_make_the_same_of_its_maps(kind: str) -> None:
    net, image = network(kind).eval(), torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        whole, of_maps = net(image), net.of_maps(net.maps(image))  # type: ignore[operator]
    name = "logits" if kind == "segmenter" else "cams"
    assert torch.equal(getattr(whole, name), getattr(of_maps, name))


@pytest.mark.parametrize("decoder", ["deeplabv3plus", "linknet", "pspnet", "segformer", "unet"])
def test_no_decoder_reads_the_image_itself(decoder: str) -> None:
    net, image = network("segmenter", encoder="resnet10t", decoder=decoder).eval(), torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(net(image).logits, net.of_maps(net.maps(image)).logits)  # type: ignore[operator]


def test_maps_are_made_once_and_a_damaged_file_again(frames: Dataset, tmp_path: Path) -> None:
    net = network()
    keep_maps(net, frames, SIZE, tmp_path)
    before = files(tmp_path)
    assert len(before) == 2 * len(frames)
    kept = keep_maps(net, frames, SIZE, tmp_path)
    assert files(tmp_path) == before
    damaged = kept.files[1]
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match="start the command again"):
        kept.read(1)
    keep_maps(net, frames, SIZE, tmp_path)
    assert damaged.read_bytes() == content
    assert {file for file, time in files(tmp_path).items() if before[file] != time} == {damaged}


def test_what_maps_depend_on_is_in_their_names(frames: Dataset, tmp_path: Path) -> None:
    def folder(net: nn.Module, size: tuple[int, int] = SIZE) -> Path:
        one = frames.subset(predicate=lambda frame: frame is frames.frames[0])
        return keep_maps(net, one, size, tmp_path, flip=False).files[0].parents[1]

    same = folder(network())
    assert folder(network()) == same
    assert folder(network(width=16)) == same, "layers after the backbone have no part in it"
    others = [
        folder(network(seed=1)),
        folder(network(mean=[0.5, 0.5, 0.5])),
        folder(network(), (48, 64)),
        folder(network(levels=[-2])),
    ]
    assert len({same, *others}) == 5


def test_a_view_reads_its_part_of_the_file(frames: Dataset, tmp_path: Path) -> None:
    kept = keep_maps(network(), frames, SIZE, tmp_path)
    grid = plan_grid([tuple(level.shape) for level in kept.read(0)], SIZE, 0.4)
    for seed in range(6):
        view = grid.view(seed, flip=True)
        top, left, rows, columns = view.box
        for found, whole in zip(kept.read_view(1, view, grid), kept.read(1, view.flip), strict=True):
            n = whole.shape[-1] // grid.cells[1]
            expected = whole[:, n * top : n * (top + rows), n * left : n * (left + columns)]
            assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("seam", {"backbone": "test_resnet"}), ("segmenter", {"encoder": "test_resnet", "inputs": "rgbd"})],
)
def test_networks_that_need_more_than_maps_are_refused(
    name: str, arguments: dict[str, Any], frames: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="cannot train on feature maps alone: expected a cam_net, or a segmenter"):
        keep_maps(create_model(name, 3, **arguments), frames, SIZE, tmp_path)


def test_maps_beyond_float16_are_refused(frames: Dataset, tmp_path: Path) -> None:
    net = network()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(1e3)
    with pytest.raises(ConfigError, match="not finite in float16"):
        keep_maps(net, frames, SIZE, tmp_path)
    assert isinstance(keep_maps(network(), frames, SIZE, tmp_path), KeptMaps)


def test_kept_maps_are_files_that_others_can_read(frames: Dataset, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    kept = keep_maps(network(), frames, SIZE, tmp_path / "maps", flip=False)
    assert {file.stat().st_mode for file in kept.files} == {plain.stat().st_mode}
