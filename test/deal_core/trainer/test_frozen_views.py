"""Training after a frozen backbone: with kept maps as without them, and what it cannot do is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.training_runs import MakeSettings, StoppedError, assert_same_run, history, stop_after, tiny_net
from safetensors.torch import load_file

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.transforms import resize_sample, to_tensors
from deal_core.errors import ConfigError
from deal_core.trainer.cam_training import train
from deal_core.trainer.frozen_views import freeze
from deal_core.trainer.objective import LossWeights, Objective, alignment_loss
from deal_core.trainer.settings import TrainSettings
from deal_core.trainer.views import Views, collate_or_error

FROZEN = (
    *("data.crop=grid", "data.crop_scale=[0.5, 0.5]", "data.color_jitter=0", "data.image_size=[48, 64]"),
    *("optimizer.backbone_factor=0", "model.arguments.freeze_batch_norm=true"),
)


def frozen(make: MakeSettings, *overrides: str, output: str = "run") -> TrainSettings:
    return make(*FROZEN, *overrides, output=output)


@pytest.mark.parametrize("kept", [True, False])
def test_a_view_is_a_crop_of_the_maps_of_the_whole_image(
    make_settings: MakeSettings, tiny_dataset: Path, tmp_path: Path, kept: bool
) -> None:
    settings = frozen(make_settings, *([f"data.features={tmp_path / 'features'}"] if kept else []))
    frames, net = Dataset.open(tiny_dataset), tiny_net(freeze_batch_norm=True).eval()
    views = Views(frames, settings, with_mask=True, frozen=freeze(net, frames, frames, settings, torch.device("cpu")))
    seen = set()
    for seed in range(12):
        view = views[seed % 4, seed]
        assert not isinstance(view, Exception) and view.mask is not None
        # Slowly: mirror the image or not, and look for the crop that the depth shows.
        sample = to_tensors(resize_sample(frames.load(seed % 4), (48, 64)), with_mask=True)
        found = []
        for flip in (False, True):
            depth, mask, image = (t.flip(-1) if flip else t for t in (sample.depth, sample.mask, sample.image))
            for top in range(0, 48 - view.depth.shape[-2] + 1, 16):
                for left in range(0, 64 - view.depth.shape[-1] + 1, 16):
                    down, right = (slice(a, a + n) for a, n in zip((top, left), view.depth.shape[-2:], strict=True))
                    if torch.equal(depth[:, down, right], view.depth) and torch.equal(mask[down, right], view.mask):
                        found.append((flip, top // 16, left // 16, image))
        assert len(found) == 1
        flip, top, left, image = found[0]
        seen.add((flip, top, left))
        with torch.no_grad():
            whole = net.maps(image[None])
        rows, columns = (side // 16 for side in view.depth.shape[-2:])
        if kept:
            assert view.maps is not None and view.image.numel() == 0
            for ours, theirs in zip(view.maps, whole, strict=True):
                n = theirs.shape[-2] // 3
                part = theirs[0, :, n * top : n * (top + rows), n * left : n * (left + columns)]
                torch.testing.assert_close(ours.float(), part, rtol=2e-3, atol=1e-3)
        else:
            assert view.maps is None and torch.equal(view.image, image) and view.box is not None
            assert view.box.tolist() == [top, left, rows, columns, 3, 4]
    assert len(seen) > 4, "the seeds give mirrored and shifted views"


def test_training_on_kept_maps_is_the_training_on_images(make_settings: MakeSettings, tmp_path: Path) -> None:
    features = tmp_path / "features"
    images = train(frozen(make_settings, output="images"))
    maps = train(frozen(make_settings, f"data.features={features}", output="maps"))
    assert (images.steps, maps.steps) == (9, 9) and features.is_dir()
    one, two = load_file(images.model), load_file(maps.model)
    moved = [name for name in one if name.startswith(("project", "classifier"))]
    for name in one:
        if name in moved:
            torch.testing.assert_close(one[name], two[name], rtol=1e-2, atol=2e-3)  # maps have 11 bits
        else:
            assert torch.equal(one[name], two[name]), "the backbone is frozen"
    for ours, theirs in zip(history(tmp_path / "maps"), history(tmp_path / "images"), strict=True):
        assert ours == pytest.approx(theirs, rel=0.02, abs=0.005)


def test_a_run_on_kept_maps_is_resumed_bit_for_bit(make_settings: MakeSettings, tmp_path: Path) -> None:
    features = f"data.features={tmp_path / 'features'}"
    whole, parts = (frozen(make_settings, features, "checkpoint_every=2", output=name) for name in ("whole", "parts"))
    train(whole)
    with pytest.raises(StoppedError):
        train(parts, stop_after(5))
    assert train(parts).resumed_from == 4
    assert_same_run(parts.output, whole.output)


def test_no_image_goes_through_the_backbone_in_a_step(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deal_core.models.cam_net import CamNet

    calls = []
    real = CamNet.maps
    monkeypatch.setattr(CamNet, "maps", lambda self, image: calls.append(len(image)) or real(self, image))
    steps: list[int] = []
    settings = frozen(make_settings, f"data.features={tmp_path / 'features'}")
    train(settings, lambda progress: steps.append(len(calls)))
    assert len(steps) == 9 and len(set(steps)) == 1, "nothing between the first step and the last one"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["data.features=f", "data.crop=resized"], "data.features needs data.crop=grid"),
        (["optimizer.backbone_factor=0.1"], "set optimizer.backbone_factor=0"),
        (["model.arguments.freeze_batch_norm=false"], "set model.arguments.freeze_batch_norm=true"),
        (["data.color_jitter=0.2"], "set data.color_jitter=0"),
        (["data.crop_scale=[0.5, 1]"], r"expected two equal numbers for data.crop_scale, found \[0.5, 1.0\]"),
        (["fsl.weight=1"], "no place for fsl.weight"),
        (["data.image_size=[50, 64]"], "cannot be cropped along the cells"),
    ],
)
def test_what_a_frozen_backbone_cannot_do_is_refused(
    make_settings: MakeSettings, overrides: list[str], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        train(frozen(make_settings, *overrides))


def test_depth_edges_of_a_view_are_computed_once_and_are_those_of_its_depth(
    make_settings: MakeSettings, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = frozen(make_settings, "data.crop_scale=[1, 1]", "data.image_size=[32, 48]")
    frames, net = Dataset.open(tiny_dataset), tiny_net(freeze_batch_norm=True)
    views = Views(frames, settings, frozen=freeze(net, frames, frames, settings, torch.device("cpu")))
    objective = Objective(net, settings)
    real, computed = objective.alignment.edges, []
    monkeypatch.setattr(objective.alignment, "edges", lambda *of: computed.append(len(of[0])) or real(*of))
    for seeds in ((1, 2, 3), (4, 5, 6)):
        batch = collate_or_error([views[frame, seed] for frame, seed in zip((0, 1, 0), seeds, strict=True)])
        assert not isinstance(batch, Exception) and batch.view is not None
        found = objective(batch, LossWeights(deal=1.0))
        expected = alignment_loss(settings.deal, (32, 48))(net(batch.image).cams, batch.depth, batch.tags, batch.valid)
        torch.testing.assert_close(found["loss_deal"], expected)
    assert sum(computed) <= 4, "two frames and their mirror images"
