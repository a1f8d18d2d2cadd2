"""The recipe: what is tried out and refused before the first step."""

from __future__ import annotations

import pytest
import torch
from helpers.training_runs import MakeSettings, tiny_net

from deal_core.errors import DatasetError, UsageError
from deal_core.trainer.cam_training import CamTraining, train
from deal_core.trainer.task import try_out

SWIN = (  # made for images of 64x64
    "swin_tiny_patch4_window7_224, backbone_arguments: "
    "{img_size: 64, window_size: 2, embed_dim: 16, depths: [1, 1, 1, 1], num_heads: [1, 1, 2, 2]}"
)


def test_layers_that_no_output_depends_on_are_left_alone(make_settings: MakeSettings) -> None:
    net = tiny_net(backbone="test_efficientnet", levels=[-3], freeze_batch_norm=True)
    values = {n: t.clone() for n, t in net.state_dict().items()}
    try_out(net, CamTraining(make_settings()))
    assert net.training and all(torch.equal(t, values[n]) for n, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    trained = [p for p in net.parameters() if p.requires_grad]
    net(torch.rand(2, 3, 32, 48)).cams.square().mean().backward()
    assert all(p.grad is not None for p in trained)
    assert 10 < len(trained) < len(list(net.parameters()))
    last_stage = max(n.split(".")[2] for n, _ in net.named_parameters() if n.startswith("backbone.blocks."))
    named = {n: p.requires_grad for n, p in net.named_parameters()}
    assert not any(needed for n, needed in named.items() if n.startswith(f"backbone.blocks.{last_stage}."))
    assert named["backbone.conv_stem.weight"] and not named["backbone.bn1.weight"], "frozen stays frozen"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("batch_size=10",), "batch_size 10 is larger than the training set, 9 frames"),
        (("device=gpu",), "device 'gpu' cannot be used here"),
        (("precision=16-mixed",), "'16-mixed' needs a GPU"),
        (("threshold_rule=otsi",), "Did you mean 'otsu'"),
        (("threshold_rule=fixed:2",), r"\[0, 1\]"),
        (("data.recordings=[tinny]",), "Did you mean 'tiny'"),
        (("data.path=nowhere",), "nowhere is not a dataset"),
        (("model.name=camnet",), "Did you mean 'cam_net'"),
        (("model.arguments.widht=3",), "Did you mean 'width'"),
        ((f"model.arguments={{backbone: {SWIN}}}",), "images of 32x48"),
    ],
    ids=lambda value: value[0][:40] if isinstance(value, tuple) else "",
)
def test_settings_that_do_not_fit_are_told_before_anything_is_written(
    make_settings: MakeSettings, overrides: tuple[str, ...], said: str
) -> None:
    settings = make_settings(*overrides)
    with pytest.raises((UsageError, DatasetError), match=said):
        train(settings)
    assert not settings.output.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU on this machine")
def test_cuda_without_a_gpu_is_told(make_settings: MakeSettings) -> None:
    with pytest.raises(UsageError, match="device 'cuda' cannot be used here"):
        train(make_settings("device=cuda"))
