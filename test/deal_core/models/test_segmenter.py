"""The run-time segmenter: its decoders, its scores, what is refused, and the same answer on every back end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deal_core.cams import ScoreNetwork, multi_scale_scores
from deal_core.data.sample import ClassList
from deal_core.errors import ConfigError, ModelFileError
from deal_core.modelfile import ModelInfo, Threshold, save_model
from deal_core.models.factory import create_model
from deal_core.models.output import SegmenterOutput
from deal_core.models.segmenter import DECODERS
from deal_core.runtime import Segmenter

WEIGHTS = Path(__file__).resolve().parents[4] / "shared" / "weights" / "mobilenetv2_100.safetensors"


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
    with pytest.raises(ConfigError, match="begin with 'decoder_', found 'checkpoint_path'"):
        create_model("segmenter", 2, encoder="test_resnet", decoder_arguments={"checkpoint_path": "evil.pth"})
    with pytest.raises(ConfigError, match="cannot be made on encoder"):
        create_model("segmenter", 2, encoder="test_resnet", decoder_arguments={"decoder_widht": 3})
    with pytest.raises(ModelFileError, match="found no file"):
        create_model("segmenter", 2, encoder="test_resnet", weights="nowhere.safetensors")


def test_weights_of_the_encoder_are_loaded() -> None:
    if not WEIGHTS.is_file():
        pytest.skip(f"the weights are not on this machine: {WEIGHTS} does not exist")
    from safetensors.torch import load_file

    net = create_model("segmenter", 2, weights=str(WEIGHTS))
    stem = load_file(WEIGHTS)["conv_stem.weight"]
    assert torch.equal(net.backbone.get_parameter("model.conv_stem.weight"), stem)


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
    # The argmax of the logits, but for the pixels on the border between two.
    with torch.no_grad():
        tensor = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255)[None]
        logits = torch.nn.functional.interpolate(net(tensor).logits, (48, 64), mode="bilinear")
    assert (logits.argmax(1)[0].numpy() == ours.mask).mean() > 0.95
