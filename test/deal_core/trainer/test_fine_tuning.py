"""Trainings that start from an earlier model: weights, rehearsal, the report, and its bound."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from helpers.training_runs import MakeSettings, StoppedError, assert_same_run, stop_after
from safetensors.torch import load_file

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.extract import ExtractOptions, extract_recording
from deal_core.errors import ConfigError, EvaluationError, UsageError
from deal_core.models.model_file import LoadedModel, load_model, read_info
from deal_core.settings_file import load_settings
from deal_core.structures import ClassList
from deal_core.synthetic.recording import SyntheticConfig, write_recording
from deal_core.trainer.cam_training import CamTraining, train
from deal_core.trainer.fine_tune_request import FineTuneRequest, fine_tune_settings
from deal_core.trainer.rounds import distill
from deal_core.trainer.settings import DistillSettings, TrainSettings


@pytest.fixture(scope="module")
def new_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 frames of four classes, of which the tiny dataset has the first three; here they stand in another order."""
    root = tmp_path_factory.mktemp("new")
    config = SyntheticConfig(seed=5, scenes=4, frames_per_scene=3, width=64, height=48, num_classes=4)
    write_recording(root / "new_place", config)
    extract_recording(root / "new_place", root / "data", ExtractOptions())
    header = root / "data" / "dataset.yaml"
    content = yaml.safe_load(header.read_text())
    content["classes"].reverse()
    header.write_text(yaml.safe_dump(content))
    return root / "data"


@pytest.fixture
def old_run(make_settings: MakeSettings, reference: Callable[..., Path]) -> Path:
    return reference(make_settings)


@pytest.fixture(scope="module")
def old_robot(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model file of a segmenter that was trained for a moment on the drawn masks."""
    output = tmp_path_factory.mktemp("robot") / "run"
    values = [f"data.path={tiny_dataset}", "masks=drawn", f"output={output}", "data.image_size=[32, 48]"]
    small = ["model.arguments={encoder: test_resnet}", "batch_size=3", "epochs=1", "device=cpu"]
    return distill(load_settings(DistillSettings, None, [*values, *small])).model


def tuned(make: MakeSettings, new: Path, old: Path, *overrides: str, output: str = "tuned") -> TrainSettings:
    start = [f"data.path={new}", f"init_from={old / 'model.safetensors'}", "model=null"]
    return make(*start, *overrides, output=output)


def test_a_cam_network_starts_from_the_model_and_the_report_compares_by_class(
    make_settings: MakeSettings, new_dataset: Path, tiny_dataset: Path, old_run: Path
) -> None:
    settings = tuned(make_settings, new_dataset, old_run, f"data.rehearse=[{tiny_dataset}, 0.5]", "max_loss_on_old=1")
    result = train(settings)
    info, report = read_info(result.model), result.report
    assert info.classes.names == ("thermos", "kettle", "jar", "mug") and info.arguments["width"] == 8
    assert result.steps == 3 * (18 // 3), "nine new frames, and as many old ones"
    assert info.training["init_from"]["new"] == ["thermos"] and info.arguments["freeze_batch_norm"] is True
    assert report is not None and report.old is not None
    assert set(report.old.shared) <= {"kettle", "jar", "mug"} and (report.old.held_out, report.old.frames) == (True, 3)
    assert json.loads((settings.output / "fine_tune.json").read_text()) == report.to_json()
    assert str(result.initial_weights).startswith(f"pretrained weights of {old_run / 'model.safetensors'}")
    before, after = load_file(old_run / "model.safetensors"), load_file(result.model)
    statistics = [name for name in before if name.startswith("backbone") and name.endswith("running_var")]
    assert statistics and all(torch.equal(before[name], after[name]) for name in statistics), "they are frozen"
    assert not torch.equal(before["classifier.weight"][0], after["classifier.weight"][3]), "the rest has learnt"


def test_the_figures_before_are_those_of_the_earlier_model(
    make_settings: MakeSettings, tiny_dataset: Path, old_run: Path
) -> None:
    result = train(tuned(make_settings, tiny_dataset, old_run, f"data.rehearse=[{tiny_dataset}, 0]"))
    assert result.report is not None and result.report.old is not None
    new, old = result.report.new, result.report.old
    assert (new.before, new.after) == (old.before, old.after), "the same frames and the same classes"
    model, frames = load_model(old_run / "model.safetensors"), Dataset.open(tiny_dataset)
    held_out = frames.split_by_segment(0.1, seed=11).held_out
    right: dict[str, dict[bool, list[bool]]] = {name: {True: [], False: []} for name in frames.classes.names}
    from deal_core.dataset.transforms import resize_sample, to_tensors

    for record in held_out.frames:
        one = to_tensors(resize_sample(held_out.load(record), (32, 48)))
        with torch.no_grad():
            logits = model.network(one.image[None]).tag_logits["cam"][0]
        for name, logit, tag in zip(frames.classes.names, logits, one.tags, strict=True):
            right[name][bool(tag)].append(bool(logit > 0) == bool(tag))
    for name, sides in right.items():
        shares = [sum(side) / len(side) for side in sides.values() if side]
        assert new.before[name] == pytest.approx(sum(shares) / len(shares))


def test_an_interrupted_fine_tuning_goes_on_as_if_it_had_not_stopped(
    make_settings: MakeSettings, new_dataset: Path, tiny_dataset: Path, old_run: Path
) -> None:
    rehearse = f"data.rehearse=[{tiny_dataset}, 0.3]"
    whole = tuned(make_settings, new_dataset, old_run, rehearse, output="whole")
    parts = tuned(make_settings, new_dataset, old_run, rehearse, "checkpoint_every=2", output="parts")
    train(whole)
    with pytest.raises(StoppedError):
        train(parts, stop_after(5))
    assert train(parts).resumed_from == 4
    assert_same_run(parts.output, whole.output)


def test_what_was_lost_beyond_the_bound_fails_and_keeps_the_model(
    make_settings: MakeSettings,
    new_dataset: Path,
    tiny_dataset: Path,
    old_run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def figures(task: CamTraining, model: LoadedModel, frames: Dataset, device: object) -> dict[str, float]:
        return dict.fromkeys(frames.classes.names, 0.9 if model.sha256 else 0.7)

    monkeypatch.setattr(CamTraining, "class_figures", figures)
    common = (f"data.rehearse=[{tiny_dataset}, 0]", "max_loss_on_old=0.1", "epochs=1")
    settings = tuned(make_settings, new_dataset, old_run, *common)
    with pytest.raises(EvaluationError, match=r"fell from 0.900 to 0.700, by 0.200, expected at most 0.1"):
        train(settings)
    assert load_model(settings.output / "model.safetensors").info.classes.names[0] == "thermos"
    assert json.loads((settings.output / "fine_tune.json").read_text())["old"]["change"] == pytest.approx(-0.2)
    result = train(settings.model_copy(update={"max_loss_on_old": 0.3}))
    assert result.resumed_from == result.steps, "the bound may change afterwards"


@pytest.mark.parametrize("masks", ["model", "drawn"])
def test_a_segmenter_rehearses_masks_of_the_model_or_drawn_ones(
    new_dataset: Path, tiny_dataset: Path, old_robot: Path, tmp_path: Path, masks: str
) -> None:
    overrides = ["device=cpu", f"rehearse_masks={masks}", "log_every=1"]
    start = FineTuneRequest(new_dataset, old_robot, tmp_path / "run", tiny_dataset, 0.5, masks="drawn", max_loss=1.0)
    request = replace(start, steps=4, overrides=overrides)
    settings = fine_tune_settings(request)
    assert isinstance(settings, DistillSettings)
    result = distill(settings)
    assert read_info(result.model).classes.names == ("thermos", "kettle", "jar", "mug")
    assert result.report is not None and result.report.old is not None
    assert result.report.figure == "IoU with masks" and result.report.old.held_out
    assert (tmp_path / "run" / "rehearsal_masks").is_dir() == (masks == "model")


def test_a_fine_tuning_takes_the_settings_beside_the_model(
    make_settings: MakeSettings, new_dataset: Path, tiny_dataset: Path, old_run: Path, tmp_path: Path
) -> None:
    model = old_run / "model.safetensors"
    settings = fine_tune_settings(
        FineTuneRequest(new_dataset, model, tmp_path / "a: {b}", tiny_dataset, 0.25, steps=30)
    )
    assert isinstance(settings, TrainSettings)
    assert settings.data.image_size == (32, 48) and settings.threshold_rule == "otsu" and settings.log_every == 1
    assert settings.output == tmp_path / "a: {b}" and settings.data.rehearse == (tiny_dataset, 0.25)
    assert settings.batch_size == 9 and settings.epochs == 30, "nine new frames and three old ones: one step an epoch"
    given = FineTuneRequest(new_dataset, model, tmp_path, overrides=("epochs=2", "batch_size=3"))
    assert (fine_tune_settings(given).epochs, fine_tune_settings(given).batch_size) == (2, 3)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["data.rehearse=[somewhere, 0.3]"], r"data.rehearse needs init_from"),
        (["max_loss_on_old=0.1"], r"max_loss_on_old needs data.rehearse"),
        (["init_from=MODEL", "model.arguments={width: 16}"], r"width is 8 there and 16 here.*model=null"),
        (["init_from=MODEL", "model={name: weaktr}"], r"is a cam_net, and model.name is weaktr: set model=null"),
        (["init_from=MODEL", "model=null", "output=RUN"], r"would replace what is read"),
    ],
)
def test_settings_that_contradict_are_refused(
    make_settings: MakeSettings, old_run: Path, overrides: list[str], told: str
) -> None:
    model = old_run / "model.safetensors"
    filled = [o.replace("MODEL", str(model)).replace("RUN", str(old_run)) for o in overrides]
    with pytest.raises(ConfigError, match=told):
        train(make_settings(*filled, output="refused"))


def test_a_model_of_another_kind_is_sent_to_its_command(
    make_settings: MakeSettings, old_run: Path, old_robot: Path, new_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"model.name=segmenter needs masks for training: use `deal distill`"):
        train(make_settings(f"init_from={old_robot}", "model=null"))
    with pytest.raises(UsageError, match="is a segmenter, which learns from masks: give --masks"):
        fine_tune_settings(FineTuneRequest(new_dataset, old_robot, tmp_path / "run"))
    with pytest.raises(UsageError, match="is a cam_net, which learns from tags: leave out --masks"):
        fine_tune_settings(FineTuneRequest(new_dataset, old_run / "model.safetensors", tmp_path, masks="drawn"))


def test_frames_of_other_classes_have_unknown_tags_and_background(tiny_dataset: Path) -> None:
    frames = Dataset.open(tiny_dataset)
    mug, _, kettle = frames.classes.names
    other = frames.with_classes(ClassList(("thermos", kettle, mug)))
    assert other.classes.names == ("thermos", kettle, mug) and len(other) == len(frames)
    for index in range(len(frames)):
        ours, theirs = other.load(index), frames.load(index)
        assert ours.mask is not None and theirs.mask is not None
        assert torch.isnan(torch.from_numpy(ours.tags))[0], "the dataset does not know this class"
        assert ours.tags[1:].tolist() == [theirs.tags[2], theirs.tags[0]]
        expected = [[{0: 0, 1: 3, 2: 0, 3: 2, 255: 255}[int(v)] for v in row] for row in theirs.mask]
        assert ours.mask.tolist() == expected and (ours.depth == theirs.depth).all()
    assert frames.with_classes(frames.classes) is frames
