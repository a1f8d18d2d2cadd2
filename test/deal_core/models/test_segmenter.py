"""The run-time segmenter: its decoders, its scores, what is refused, and the same answer on every back end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import MOBILENET
from PIL import Image
from safetensors.torch import load_file, save_file
from segmentation_models_pytorch.decoders.fpn.decoder import MergeBlock

from deal_core.errors import ConfigError, ModelFileError
from deal_core.masks.class_scores import ScoreNetwork, multi_scale_scores
from deal_core.models.factory import create_model
from deal_core.models.model_file import ModelInfo, Threshold, load_model, save_model
from deal_core.models.output import SegmenterOutput
from deal_core.models.segmenter import DECODERS
from deal_core.runtime.backends.onnxruntime_backend import open_session
from deal_core.runtime.onnx_export import export_onnx
from deal_core.runtime.segmenter import Segmenter
from deal_core.structures import ClassList


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [(48, 72), (30, 50)])
def test_every_decoder_takes_images_of_any_size(decoder: str, size: tuple[int, int]) -> None:
    net = create_model("segmenter", 3, decoder=decoder, encoder="test_resnet").eval()
    with torch.no_grad():
        logits = net(torch.rand(1, 3, *size)).logits
    assert logits.shape[:2] == (1, 4) and size[0] * logits.shape[3] == size[1] * logits.shape[2]


def test_scores_above_a_half_are_the_argmax_with_background() -> None:
    logits = 3 * torch.randn(2, 4, 9, 9)
    scores = SegmenterOutput(logits).scores
    best, index = scores.max(1)
    assert torch.equal(torch.where(best > 0.5, index + 1, 0), logits.argmax(1))


def test_scores_are_neither_normalised_nor_gated_by_tags() -> None:
    torch.manual_seed(3)
    net = create_model("segmenter", 2, encoder="test_resnet").eval()
    images = torch.rand(2, 3, 32, 64)
    with torch.no_grad():
        scores, tags = ScoreNetwork(net)(images)
        assert torch.equal(scores, net(images).scores) and torch.equal(tags, scores.amax((2, 3)))
        absent = torch.zeros(2, 2)
        full = multi_scale_scores(net, images, tags=absent, size=(8, 16), flip=True)
        mirrored = net(images.flip(-1)).scores.flip(-1)
    assert torch.allclose(full, (scores + mirrored) / 2, atol=1e-6)


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown decoder 'fnp'.*Did you mean 'fpn'"):
        create_model("segmenter", 2, decoder="fnp")
    with pytest.raises(ConfigError, match="unknown encoder 'mobilenet'"):
        create_model("segmenter", 2, encoder="mobilenet")
    with pytest.raises(ConfigError, match="'checkpoint_path' is not of the decoder fpn"):
        create_model("segmenter", 2, encoder="test_resnet", decoder_arguments={"checkpoint_path": "evil.pth"})
    for argument in ("checkpoint_path", "pretrained_cfg", "in_chans", "activation"):
        with pytest.raises(ConfigError, match=f"encoder_arguments cannot set '{argument}'"):
            create_model("segmenter", 2, encoder="test_resnet", encoder_arguments={argument: "evil.pth"})
    with pytest.raises(ConfigError, match=r"encoder_arguments=\{\} is .* cannot be made: .* 'stem_widht'"):
        create_model("segmenter", 2, encoder="test_resnet", encoder_arguments={"stem_widht": 8})
    with pytest.raises(ConfigError, match="one of rgb, rgbd, found 'depth'"):
        create_model("segmenter", 2, encoder="test_resnet", inputs="depth")
    with pytest.raises(ConfigError, match=r"depth_dropout in \[0, 1\], found 30"):
        create_model("segmenter", 2, encoder="test_resnet", inputs="rgbd", depth_dropout=30)
    with pytest.raises(ConfigError, match="depth_std above 0, found 0"):
        create_model("segmenter", 2, encoder="test_resnet", inputs="rgbd", depth_std=0)
    with pytest.raises(
        ConfigError, match=r"'decoder_pyramid_channels' is not of the decoder unet, which takes decoder_"
    ):
        create_model("segmenter", 2, decoder="unet", decoder_arguments={"decoder_pyramid_channels": 64})
    with pytest.raises(ModelFileError, match="found no file"):
        create_model("segmenter", 2, encoder="test_resnet", weights="nowhere.safetensors")


@pytest.mark.real_weights
def test_weights_of_the_encoder_are_loaded() -> None:
    net = create_model("segmenter", 2, encoder="mobilenetv2_100", weights=str(MOBILENET))
    stem = load_file(MOBILENET)["conv_stem.weight"]
    assert torch.equal(net.backbone.get_parameter("model.conv_stem.weight"), stem)
    net = create_model("segmenter", 2, encoder="mobilenetv2_100", weights=str(MOBILENET), inputs="rgbd")
    wide = net.backbone.get_parameter("model.conv_stem.weight")
    assert torch.equal(wide[:, :3], stem) and wide.shape[1] == 5 and not wide[:, 3:].any()


def test_weights_of_colour_make_a_network_of_depth_that_begins_as_one_of_colour(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    rgb = create_model("segmenter", 2, encoder="test_resnet").eval()
    save_file(rgb.backbone.state_dict(), weights)
    rgbd = create_model("segmenter", 2, encoder="test_resnet", weights=str(weights), inputs="rgbd").eval()
    image, depth = torch.rand(1, 3, 32, 64), torch.rand(1, 2, 32, 64)
    with torch.no_grad():
        ours, theirs = rgbd.backbone(torch.cat([image, depth], 1)), rgb.backbone(image)
    assert all(torch.equal(one, two) for one, two in zip(ours[1:], theirs[1:], strict=True))


def test_the_maps_of_the_pyramid_are_added_up_as_the_decoder_would_itself() -> None:
    torch.manual_seed(4)
    net = create_model("segmenter", 2, encoder="test_resnet").eval()
    image = torch.rand(2, 3, 32, 64)
    with torch.no_grad():
        ours = net(image).logits
        net.network.decoder.merge = MergeBlock("add")
        assert torch.allclose(ours, net(image).logits, atol=1e-6)


def test_the_encoder_can_be_made_narrow() -> None:
    narrow = {"channels": [24, 48, 96, 128], "stem_width": 16}
    nets = [create_model("segmenter", 2, encoder="resnet10t", encoder_arguments=told).eval() for told in ({}, narrow)]
    wide, thin = (sum(p.numel() for p in net.backbone.parameters()) for net in nets)
    assert thin < wide / 10
    with torch.no_grad():
        assert nets[1](torch.rand(1, 3, 32, 64)).logits.shape == (1, 3, 8, 16)


def test_depth_matters_where_it_is_known_and_is_not_needed() -> None:
    torch.manual_seed(2)
    net = create_model("segmenter", 2, encoder="test_resnet", inputs="rgbd").eval()
    image = torch.rand(1, 3, 32, 48)
    depth = torch.full((1, 1, 32, 48), 0.7)
    unknown, holes = torch.zeros_like(depth), torch.full_like(depth, torch.nan)
    with torch.no_grad():
        without, near = net(image).logits, net(image, depth).logits
        assert torch.equal(without, net(image, unknown).logits) and torch.equal(without, net(image, holes).logits)
        assert not torch.allclose(without, near) and not torch.allclose(near, net(image, 2 * depth).logits)
        assert torch.isfinite(net(image, torch.full_like(depth, torch.inf)).logits).all()
    with pytest.raises(ValueError, match=r"depth of the image's size, \(B, 1, H, W\), found \(1, 1, 48, 32\)"):
        net(image, depth.mT)
    with pytest.raises(ValueError, match="sees colour alone"):
        create_model("segmenter", 2, encoder="test_resnet")(image, depth)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_in_training_depth_is_taken_from_some_samples_and_wholly(share: float) -> None:
    net = create_model("segmenter", 2, encoder="test_resnet", inputs="rgbd", depth_dropout=share)
    seen: list[torch.Tensor] = []
    net.network.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    images, depth = torch.rand(200, 3, 32, 32), torch.full((200, 1, 32, 32), 0.5)
    with torch.no_grad():
        net.train()(images, depth)
        net.eval()(images, depth)
    known = seen[0][:, 4].mean((1, 2))
    assert set(known.tolist()) <= {0.0, 1.0} and abs(float((known == 0).float().mean()) - share) < 0.08
    assert torch.equal(seen[0][:, 3], 2 * seen[0][:, 4]), "what is known is 1 / 0.5 m, less 1, by 0.5"
    assert (seen[1][:, 4] == 1).all(), "it is for training alone"


def test_depth_follows_the_image_through_scales_and_mirrors() -> None:
    torch.manual_seed(5)
    net = create_model("segmenter", 2, encoder="test_resnet", inputs="rgbd").eval()
    images, depth = torch.randint(0, 256, (1, 3, 32, 64)) / 255, 0.5 + torch.rand(1, 1, 32, 64)
    with torch.no_grad():
        found = multi_scale_scores(net, images, depth, scales=(1.0, 0.5), flip=False, size=(8, 16))
        levels = (images[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        resized = np.asarray(Image.fromarray(levels).resize((32, 16), Image.Resampling.BICUBIC))
        small = torch.from_numpy(resized.transpose(2, 0, 1)[None] / np.float32(255))
        scores = net(small, depth[..., 1::2, 1::2]).scores
        scores = torch.nn.functional.interpolate(scores, (8, 16), mode="bilinear") + net(images, depth).scores
        assert torch.allclose(found, scores / 2, atol=0.02)
        flipped = multi_scale_scores(net, images.flip(-1), depth.flip(-1), size=(8, 16)).flip(-1)
        assert torch.allclose(multi_scale_scores(net, images, depth, size=(8, 16)), flipped, atol=1e-6)


@pytest.mark.slow
def test_torch_and_onnxruntime_give_the_same_masks(tmp_path: Path) -> None:
    torch.manual_seed(1)
    arguments = {"encoder": "test_resnet"}
    net = create_model("segmenter", 3, **arguments).eval()
    info = ModelInfo("segmenter", arguments, ClassList(("a", "b", "c")), (48, 64), Threshold(0.5, "argmax"))
    save_model(tmp_path / "model.safetensors", net, info)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    results = {}
    for backend in ("torch", "onnxruntime"):
        segmenter = Segmenter.load(tmp_path / "model.safetensors", "cpu", "float32", backend=backend)
        assert segmenter.backend == backend
        results[backend] = segmenter.segment(image)
    ours, theirs = results["torch"], results["onnxruntime"]
    assert (ours.mask != theirs.mask).mean() < 0.001 and len(np.unique(ours.mask)) > 1
    assert np.abs(ours.confidence - theirs.confidence).max() < 1e-3
    with pytest.raises(ValueError, match="expected depth as float32 of the image's size"):
        segmenter.segment(image, np.ones((48, 48), np.float32))
    # The argmax of the logits, but for the pixels on the border between two.
    with torch.no_grad():
        tensor = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255)[None]
        logits = torch.nn.functional.interpolate(net(tensor).logits, (48, 64), mode="bilinear")
    assert (logits.argmax(1)[0].numpy() == ours.mask).mean() > 0.95


@pytest.mark.slow
def test_torch_and_onnxruntime_see_the_same_depth(rgbd_model: Path, tmp_path: Path) -> None:
    loaded = load_model(rgbd_model)
    net, exported = loaded.network, export_onnx(loaded)
    (tmp_path / "model.onnx").write_bytes(exported.data)
    random = np.random.default_rng(0)
    image, depth = random.integers(0, 256, (96, 128, 3), np.uint8), random.uniform(0.3, 2, (96, 128)).astype(np.float32)
    depth[random.random(depth.shape) < 0.2] = 0
    holes = np.where(depth, depth, np.float32("nan"))
    torch_one = Segmenter.load(rgbd_model, "cpu", "float32", backend="torch")
    onnx_one = Segmenter.load(tmp_path / "model.onnx")
    assert torch_one.uses_depth and onnx_one.uses_depth and onnx_one.backend == "onnxruntime"
    assert np.abs(torch_one.segment(image, depth).confidence - torch_one.segment(image).confidence).max() > 0.01
    for given in (depth, holes, None):
        ours, theirs = torch_one.segment(image, given), onnx_one.segment(image, given)
        assert np.abs(ours.confidence - theirs.confidence).max() < 1e-3
    assert np.array_equal(theirs.confidence, onnx_one.segment(image, 0 * depth).confidence)
    assert np.array_equal(onnx_one.segment(image, depth).mask, onnx_one.segment(image, holes).mask)
    # Any batch, one with depth beside one without.
    images, depths = torch.rand(3, 3, 48, 64), torch.rand(3, 1, 48, 64)
    depths[1] = 0
    inputs = {"image": images.numpy(), "depth": depths.numpy()}
    scores, _ = open_session(exported.data).run(["scores", "tags"], inputs)
    with torch.no_grad():
        np.testing.assert_allclose(scores, net(images, depths).scores.numpy(), atol=1e-3)
        np.testing.assert_allclose(scores[1], net(images[1:2]).scores[0].numpy(), atol=1e-3)
