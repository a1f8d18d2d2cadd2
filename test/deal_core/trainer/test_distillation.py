"""Distilling: a real small training on pseudo masks, its model, its resumption, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.training_runs import StoppedError, history, stop_after
from safetensors.torch import load_file
from torch import nn

from deal_core.dataset.dataset import Dataset, with_masks
from deal_core.dataset.depth_maps import DepthMaps, DepthMapsWriter
from deal_core.dataset.settings import DataSettings
from deal_core.dataset.transforms import TensorSample, TrainTransform
from deal_core.errors import ConfigError, DatasetError, UsageError
from deal_core.evaluation.evaluate import evaluate_model
from deal_core.masks.mask_folder import write_cams
from deal_core.masks.score_dataset import CamSettings, score_frames
from deal_core.models.model_file import LoadedModel, load_model, read_info
from deal_core.models.output import SegmenterOutput
from deal_core.runtime.segmenter import Segmenter
from deal_core.settings_file import load_settings
from deal_core.structures import ClassList
from deal_core.trainer import task
from deal_core.trainer.cam_training import train
from deal_core.trainer.distillation import Distillation
from deal_core.trainer.rounds import distill
from deal_core.trainer.settings import DistillSettings, TrainSettings

MakeSettings = Callable[..., DistillSettings]
RGBD = ("model.arguments={encoder: test_resnet, inputs: rgbd}",)


@pytest.fixture
def masks(dataset: Dataset, make_model: Callable[..., LoadedModel], tmp_path: Path) -> Path:
    """Pseudo masks by a random CAM network, every hundredth pixel ignored."""
    out = tmp_path / "masks"
    assert sum(write_cams(make_model(), dataset, out, CamSettings(device="cpu"))) == len(dataset)
    for file in out.rglob("*.png"):
        mask = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        mask[::10, ::10] = 255
        cv2.imwrite(str(file), mask)
    return out


@pytest.fixture
def make_settings(tiny_dataset: Path, tmp_path: Path) -> MakeSettings:
    def make(*overrides: str, output: str = "run") -> DistillSettings:
        return load_settings(
            DistillSettings,
            None,
            [
                *(f"data.path={tiny_dataset}", f"output={tmp_path / output}", "masks=drawn"),
                *("data.image_size=[32, 64]", "model.arguments={encoder: test_resnet}"),
                *("batch_size=3", "epochs=3", "log_every=1", "device=cpu", *overrides),
            ],
        )

    return make


@pytest.mark.slow
def test_learns_drawn_masks_and_runs_everywhere(make_settings: MakeSettings, dataset: Dataset) -> None:
    settings = make_settings("epochs=15", "data.validation_fraction=0.1", "data.color_jitter=0", "data.cache=true")
    result = distill(settings)
    losses = [line["loss"] for line in history(settings.output) if "loss" in line]
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])
    info = read_info(result.model)
    assert (info.threshold.value, info.threshold.rule, info.architecture) == (0.5, "argmax", "segmenter")
    assert info.training["masks"] == "drawn" and info.is_segmenter
    assert result.training_frames + result.held_out_frames == len(dataset) and result.held_out_frames
    assert result.agreement is not None and result.drawn is not None
    assert result.agreement.miou == result.drawn.miou and len(result.drawn.classes) == len(dataset.classes) + 1
    sample = dataset.load(0)
    found = {
        backend: Segmenter.load(result.model, "cpu", "float32", backend=backend).segment(sample.image).mask
        for backend in ("torch", "onnxruntime")
    }
    assert (found["torch"] != found["onnxruntime"]).mean() < 0.001
    assert sample.mask is not None and (found["torch"] == sample.mask).mean() > 0.8


@pytest.mark.slow
def test_pseudo_masks_are_what_is_learned_and_a_stopped_run_goes_on(
    make_settings: MakeSettings, masks: Path, dataset: Dataset
) -> None:
    whole = make_settings(f"masks={masks}", output="whole")
    expected = distill(whole)
    parts = make_settings(f"masks={masks}", "checkpoint_every=2", output="parts")
    with pytest.raises(StoppedError):
        distill(parts, stop_after(5))
    result = distill(parts)
    assert result.resumed_from == 4 and result.steps == expected.steps
    one, two = load_file(expected.model), load_file(result.model)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert history(whole.output) == history(parts.output)
    assert result.agreement is not None and result.drawn is not None and result.agreement != result.drawn


@pytest.mark.slow
def test_large_losses_are_cut_only_after_the_start(make_settings: MakeSettings) -> None:
    settings = make_settings("epochs=6", "clip.below=9", "clip.start=0.5")  # below 9 from the first step
    steps = distill(settings).steps
    clipped = [line["clipped"] for line in history(settings.output) if "clipped" in line]
    assert len(clipped) == steps and not any(clipped[: steps // 2]) and all(clipped[steps // 2 :])


@pytest.mark.parametrize("crop", ["resized", "canvas"])
def test_the_mask_moves_with_the_image_and_has_no_label_outside(dataset: Dataset, crop: str) -> None:
    sample = dataset.load(0)
    # The image shows the mask, so what the two show must stay the same.
    mask = np.kron(np.arange(6).reshape(2, 3), np.ones(np.array(sample.image.shape[:2]) // (2, 3))).astype(np.uint8)
    mask = cv2.resize(mask, sample.image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    shown = replace(sample, image=np.stack([40 * mask + 30] * 3, axis=-1).astype(np.uint8), mask=mask)
    settings = DataSettings(
        path=dataset.path, image_size=(48, 64), crop=crop, long_side=(40, 90), color_jitter=0, rotation=25, erase=0.5
    )
    seen_outside = False
    for seed in range(8):
        view = TrainTransform(settings, with_mask=True)(shown, seed)
        assert view.mask is not None and view.mask.shape == (48, 64)
        known = view.mask != 255
        seen_outside |= not bool(known.all())
        error = (view.image[0] * 255 - 40 * view.mask.float() - 30).abs()[known]
        assert (error < 25).float().mean() > 0.85
        plain = TrainTransform(settings)(shown, seed)
        assert torch.equal(plain.image, view.image) and torch.equal(plain.depth, view.depth) and plain.mask is None
    assert seen_outside


@pytest.fixture
def apart_by_depth(tmp_path: Path) -> Path:
    """A dataset of noise, in which only depth tells the box, which is near, from the background."""
    from deal_core.dataset.extract import ExtractOptions, extract_recording
    from deal_core.recording.writer import RecordingWriter
    from deal_core.structures import CameraIntrinsics, RgbdPair, TagMarker, TagState

    random = np.random.default_rng(0)
    camera = CameraIntrinsics(64, 32, 50.0, 50.0, 32.0, 16.0)
    for name in ("boxes", "unseen"):
        with RecordingWriter(tmp_path / name, ClassList(("box",)), camera) as writer:
            writer.write_tags(1, TagState(("box",), marker=TagMarker.COMPLETE), "test")
            for stamp in range(1, 13):
                mask = np.zeros((32, 64), np.uint8)
                top, left = random.integers(0, 16), random.integers(0, 32)
                mask[top : top + 16, left : left + 32] = 1
                depth = np.where(mask, 500, 1000).astype(np.uint16)
                depth[random.random(depth.shape) < 0.05] = 0
                writer.write_pair(RgbdPair(stamp, random.integers(0, 256, (32, 64, 3), np.uint8), depth))
                writer.write_ground_truth(stamp, mask)
        extract_recording(tmp_path / name, tmp_path / "dataset", ExtractOptions())
    return tmp_path / "dataset"


@pytest.mark.slow
def test_what_only_depth_tells_apart_is_learned_with_depth_alone(
    make_settings: MakeSettings, apart_by_depth: Path
) -> None:
    told = (
        f"data.path={apart_by_depth}",
        "data.recordings=[boxes]",
        "data.crop_scale=[1,1]",
        "epochs=12",
        "optimizer.learning_rate=0.005",
    )
    frames = with_masks(Dataset.open(apart_by_depth).subset(recordings=["unseen"]))
    scores = {}
    for inputs in ("rgb", "rgbd"):
        network = f"model.arguments={{encoder: test_resnet, inputs: {inputs}, depth_dropout: 0.2}}"
        model = load_model(distill(make_settings(*told, network, output=inputs)).model)
        assert model.info.uses_depth == (inputs == "rgbd")
        scores[inputs] = evaluate_model(model, frames, CamSettings(device="cpu"), name="x")
    assert scores["rgbd"].auto.miou > 0.75 and scores["rgb"].auto.miou < 0.6
    assert scores["rgbd"].details["depth"] == "of the frames" and "depth" not in scores["rgb"].details
    failing = evaluate_model(model, frames, CamSettings(device="cpu", depth_fails=True), name="x")
    assert failing.auto.miou < 0.6 and failing.details["depth"] == "none"


@pytest.mark.slow
def test_a_report_tells_how_a_network_of_depth_does_without(make_settings: MakeSettings, dataset: Dataset) -> None:
    result = distill(make_settings("data.validation_fraction=0.1", *RGBD))
    assert result.agreement and result.agreement_without_depth and result.drawn_without_depth
    assert result.drawn_without_depth.miou == result.agreement_without_depth.miou != result.agreement.miou
    plain = distill(make_settings("data.validation_fraction=0.1", output="plain"))
    assert list(plain.scores()) == ["agreement", "drawn"]
    for told in (result, plain):
        assert json.loads((told.model.parent / "distill.json").read_text()) == told.to_json()
    with pytest.raises(UsageError, match="needs a model that uses depth, but this model sees colour alone"):
        next(score_frames(load_model(plain.model), dataset, CamSettings(depth_fails=True)))


def test_a_network_of_depth_wants_it_in_metres(
    make_settings: MakeSettings, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimated = tmp_path / "depth"
    for frame in dataset.frames:
        DepthMapsWriter(estimated, "inverse", "m").write(frame.key, np.ones((48, 64)))
    with pytest.raises(ConfigError, match=r"holds inverse depth.*expects metres"):
        distill(make_settings(f"data.depth={estimated}", *RGBD))
    model = load_model(distill(make_settings(*RGBD)).model)
    with pytest.raises(UsageError, match=r"uses depth in metres, but the depth of .* is inverse"):
        next(score_frames(model, dataset.with_depth(DepthMaps.open(estimated)), CamSettings(device="cpu")))
    colour = Dataset(dataset.path, dataset.classes, [replace(frame, depth=None) for frame in dataset.frames])
    assert next(score_frames(model, colour, CamSettings(device="cpu"))).scores.shape[1:] == (48, 64)
    monkeypatch.setattr(task, "open_dataset", lambda source: colour)
    with pytest.raises(ConfigError, match="has no depth, which the network uses"):
        distill(make_settings(*RGBD))


def damaged(masks: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    file = sorted(masks.rglob("*.png"))[0]
    about = masks / "cams.json"
    other = {**json.loads(about.read_text()), "classes": ["something"]}
    yield "expected a mask uint8", lambda: cv2.imwrite(str(file), np.zeros((5, 5), np.uint8))
    yield "lacks the masks of 1 of 12 frames", file.unlink
    yield r"is for the classes \['something'\]", lambda: about.write_text(json.dumps(other))
    yield "holds no cams.json", about.unlink


def test_masks_that_do_not_fit_are_refused(make_settings: MakeSettings, masks: Path) -> None:
    for said, damage in damaged(masks):
        damage()
        with pytest.raises(DatasetError, match=said):
            distill(make_settings(f"masks={masks}", "data.validation_fraction=0"))


def test_networks_go_to_the_training_that_is_theirs(make_settings: MakeSettings, tiny_dataset: Path) -> None:
    with pytest.raises(ConfigError, match="expected segmenter, found cam_net"):
        distill(make_settings("model.name=cam_net"))
    told = [f"data.path={tiny_dataset}", "output=unused", "model.name=segmenter"]
    with pytest.raises(ConfigError, match="deal distill"):
        train(load_settings(TrainSettings, None, told))
    with pytest.raises(ConfigError, match="batch_size"):
        make_settings("batch_size=1")


def test_other_classes_are_another_dataset(dataset: Dataset, masks: Path) -> None:
    from deal_core.masks.mask_folder import check_masks

    renamed = Dataset(dataset.path, ClassList(tuple(f"x{n}" for n in dataset.classes.names)), dataset.frames)
    with pytest.raises(DatasetError, match="is for the classes"):
        check_masks(masks, renamed)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_on_the_gpu_it_learns_and_its_model_works_everywhere(
    make_settings: MakeSettings, dataset: Dataset, precision: str
) -> None:
    result = distill(make_settings("device=auto", f"precision={precision}", "epochs=15", "data.color_jitter=0"))
    sample = dataset.load(0)
    assert sample.mask is not None
    for device in ("cuda", "cpu"):
        found = Segmenter.load(result.model, device, "float32", backend="torch").segment(sample.image).mask
        assert (found == sample.mask).mean() > 0.8


# --- several sources of masks


def few_masks(masks: Path, dataset: Dataset, out: Path, count: int, value: int) -> Path:
    """A folder like `masks` with masks of the first frames only, each of one value."""
    for frame in dataset.frames[:count]:
        file = out / f"{frame.key}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), np.full(dataset.load(frame).image.shape[:2], value, np.uint8))
    (out / "cams.json").write_text((masks / "cams.json").read_text())
    return out


def test_a_frame_takes_its_mask_from_the_first_source_that_has_it(
    make_settings: MakeSettings, masks: Path, dataset: Dataset, tmp_path: Path
) -> None:
    few = few_masks(masks, dataset, tmp_path / "few", 3, 2)
    settings = make_settings(f"masks=[{few}, {masks}]", "mask_weights=[5, 1]", "data.validation_fraction=0")
    made = Distillation(settings)
    shown, held_out = made.split(dataset)
    assert len(shown) == 12 and len(held_out) == 0
    for place, frame in enumerate(dataset.frames):
        mask = shown.load(place).mask
        assert mask is not None
        if place < 3:
            assert (mask == 2).all()
        else:
            stored = cv2.imread(str(masks / f"{frame.key}.png"), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(mask, stored)
    assert made.frame_weights(shown) == [5.0] * 3 + [1.0] * 9
    assert Distillation(make_settings(f"masks=[{few}, {masks}]")).frame_weights(shown) is None
    drawn_first = Distillation(make_settings(f"masks=[drawn, {few}]")).split(with_masks(dataset))[0]
    np.testing.assert_array_equal(drawn_first.load(0).mask, dataset.load(0).mask)
    assert made.facts() == {"masks": f"{few}, {masks}"}


def test_frames_without_any_mask_are_left_out_of_a_list_alone(
    make_settings: MakeSettings, masks: Path, dataset: Dataset, tmp_path: Path
) -> None:
    few = few_masks(masks, dataset, tmp_path / "few", 3, 2)
    shown, _ = Distillation(make_settings(f"masks=[{few}]", "data.validation_fraction=0")).split(dataset)
    assert [frame.key for frame in shown.dataset.frames] == [frame.key for frame in dataset.frames[:3]]
    with pytest.raises(DatasetError, match="lacks the masks of 9 of 12 frames"):
        Distillation(make_settings(f"masks={few}")).split(dataset)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "cams.json").write_text((masks / "cams.json").read_text())
    with pytest.raises(DatasetError, match="lacks the masks of 12 of 12 frames"):
        Distillation(make_settings(f"masks=[{few}, {empty}]")).split(dataset)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("masks=[]",), "at least one source"),
        (("masks=[a, a]",), "each once"),
        (("masks=[a, b]", "mask_weights=[1]"), "one for each of the 2 sources"),
        (("masks=a", "mask_weights=[1, 2]"), "one for each of the 1 sources"),
        (("masks=[a, b]", "mask_weights=[1, 0]"), "greater than 0"),
        (("edge_weight=-1",), "edge_weight"),
    ],
)
def test_sources_and_weights_are_validated(make_settings: MakeSettings, overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_settings(*overrides)


def test_the_edge_loss_pulls_scores_to_steps_in_depth(make_settings: MakeSettings, dataset: Dataset) -> None:
    class Fixed(nn.Module):
        uses_depth = False

        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(1, 4, 32, 64))

        def forward(self, image: torch.Tensor) -> SegmenterOutput:
            return SegmenterOutput(self.logits.expand(len(image), -1, -1, -1))

    depth = torch.full((1, 1, 32, 64), 1.0)
    depth[..., 8:24, 20:44] = 0.6
    mask = torch.full((1, 32, 64), 255, dtype=torch.uint8)  # no pixel is labelled, so depth alone decides
    batch = TensorSample(torch.zeros(1, 3, 32, 64), depth, depth > 0, torch.tensor([[1.0, 0.0, 0.0]]), mask)
    made = Distillation(make_settings("edge_weight=2"))
    plain = Distillation(make_settings()).objective(Fixed(), "metric")(batch, 0.0)
    assert set(plain) == {"loss", "clipped"} and float(plain["loss"].detach()) == 0
    objective = made.objective(Fixed(), "metric")
    with torch.no_grad():
        objective.network.logits[:, 1, 8:24, 26:50] = 3.0  # a thing beside the one that depth shows
    beside = objective(batch, 0.0)
    assert float(beside["loss"]) == pytest.approx(2 * float(beside["loss_edges"]))
    with torch.no_grad():
        objective.network.logits.zero_()
        objective.network.logits[:, 1, 8:24, 20:44] = 3.0
    assert float(objective(batch, 0.0)["loss_edges"]) < float(beside["loss_edges"])
    without = Dataset(dataset.path, dataset.classes, [replace(frame, depth=None) for frame in dataset.frames])
    with pytest.raises(ConfigError, match="edge_weight needs depth"):
        made.split(without)


@pytest.mark.slow
def test_a_run_of_several_sources_is_trained_and_goes_on(
    make_settings: MakeSettings, masks: Path, dataset: Dataset, tmp_path: Path
) -> None:
    few = few_masks(masks, dataset, tmp_path / "few", 3, 2)
    given = (f"masks=[{few}, {masks}]", "mask_weights=[3, 1]", "edge_weight=0.1", "data.validation_fraction=0.5")
    whole = distill(make_settings(*given, "epochs=2"))
    assert whole.agreement is not None and 0 <= whole.agreement.miou <= 1
    again = distill(make_settings(*given, "epochs=2"))
    assert again.resumed_from == whole.steps and again.model.read_bytes()
    with pytest.raises(ConfigError, match="mask_weights is"):
        distill(make_settings(*given[:1], "mask_weights=[9, 1]", *given[2:], "epochs=2"))
