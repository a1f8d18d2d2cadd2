"""Training of CAM networks: whole runs, held-out figures, and the threshold."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.layouts import make_voc
from helpers.training_runs import STEPS, MakeSettings, history, tiny_net
from safetensors.torch import load_file

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.transforms import resize_sample, to_tensors
from deal_core.errors import ConfigError, DatasetError, EvaluationError
from deal_core.losses.tags import tag_loss
from deal_core.masks.class_scores import multi_scale_scores
from deal_core.masks.threshold_rules import create_rule
from deal_core.models.backbone import InitialWeights
from deal_core.models.model_file import ModelInfo, Threshold, load_model
from deal_core.settings_file import load_settings
from deal_core.trainer.cam_training import CamTraining, train
from deal_core.trainer.figures import TrainingFigures, tag_log_odds
from deal_core.trainer.loop import Progress
from deal_core.trainer.objective import alignment_loss
from deal_core.trainer.settings import TrainSettings


def test_a_run_leaves_settings_history_checkpoint_and_model(make_settings: MakeSettings, tiny_dataset: Path) -> None:
    settings = make_settings("log_every=2")
    seen: list[Progress] = []
    result = train(settings, seen.append)
    run = settings.output
    names = {p.name for p in run.iterdir()}
    assert names == {"settings.yaml", "history.jsonl", "tensorboard", "checkpoint.pt", "model.safetensors"}
    assert result.model == run / "model.safetensors" and (result.steps, result.resumed_from) == (STEPS, 0)
    assert [p.step for p in seen] == list(range(1, STEPS + 1)) and {p.total_steps for p in seen} == {STEPS}
    assert [p.epoch for p in seen] == [0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert load_settings(TrainSettings, run / "settings.yaml") == settings
    lines = history(run)
    assert [line["step"] for line in lines if "loss" in line] == [2, 3, 4, 6, 8, 9]
    assert [line["step"] for line in lines if "held_out_loss_tags" in line] == [3, 6, 9]
    assert lines[-2]["deal_weight"] == settings.deal.weight and lines[0]["deal_weight"] == 0
    assert list((run / "tensorboard").iterdir())

    model = load_model(result.model, expected_classes=Dataset.open(tiny_dataset).classes)
    assert model.info.input_size == (32, 48) and model.info.threshold == result.threshold
    facts = {"steps": STEPS, "frames": 9, "seed": 11, "deal_weight": 1.0, "isl_weight": 0.0, "fsl_weight": 0.0}
    assert {name: value for name, value in model.info.training.items() if name != "figures"} == facts
    assert TrainingFigures.of_training(model.info.training) == result.figures
    assert result.figures.threshold == result.threshold.value
    assert result.initial_weights == InitialWeights("none")
    assert 0 <= result.threshold.value <= 1 and result.threshold.rule == "otsu"


def test_the_edge_loss_changes_the_network(make_settings: MakeSettings) -> None:
    runs = [make_settings(f"deal.weight={w}", output=f"weight{w}") for w in (0, 1)]
    results = [load_file(train(settings).model) for settings in runs]
    assert any(not torch.equal(t, results[1][n]) for n, t in results[0].items())
    before = [[line["loss_tags"] for line in history(s.output) if "loss" in line][:3] for s in runs]
    assert before[0] == before[1], "until the loss comes in, the runs are the same"
    assert all("loss_deal" in line for line in history(runs[0].output) if "loss" in line)


@pytest.mark.slow
def test_the_loss_goes_down_where_there_is_something_to_learn(make_settings: MakeSettings) -> None:
    settings = make_settings(
        *("epochs=25", "data.color_jitter=0", "data.crop_scale=[1, 1]", "data.validation_fraction=0"),
        *("optimizer.learning_rate=0.01", "batch_size=6", "deal.weight=0.3"),
    )
    train(settings)
    losses = [line["loss_tags"] for line in history(settings.output) if "loss" in line]
    assert len(losses) == 50 and np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])
    assert not any("held_out_loss_tags" in line for line in history(settings.output))


def edit_frames(dataset: Path, change: Callable[[int, dict[str, Any]], None]) -> None:
    for file in dataset.glob("recordings/*/frames.jsonl"):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        for index, record in enumerate(records):
            change(index, record)
        file.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_partial_tags_are_trained_on(make_settings: MakeSettings, tiny_dataset: Path, tmp_path: Path) -> None:
    partial = tmp_path / "partial"
    shutil.copytree(tiny_dataset, partial)

    def forget(index: int, record: dict[str, Any]) -> None:
        record["tags"] = {**record["tags"], "marker": "ignore" if index % 3 == 0 else "partial", "absent": []}

    edit_frames(partial, forget)
    settings = make_settings(f"data.path={partial}")
    assert bool(np.isnan(Dataset.open(partial).tags).any())
    train(settings)
    assert all(math.isfinite(value) for line in history(settings.output) for value in line.values())


def test_a_rule_that_finds_no_threshold_can_be_changed_afterwards(
    make_settings: MakeSettings, tiny_dataset: Path, tmp_path: Path
) -> None:
    path = tmp_path / "blind"
    shutil.copytree(tiny_dataset, path)
    import cv2

    for frame in Dataset.open(path).frames:
        cv2.imwrite(str(frame.depth), np.zeros((48, 64), np.uint16))
    with pytest.raises(EvaluationError, match=r"run/model\.safetensors has the threshold 0\.\d\d of the rule 'otsu'"):
        train(make_settings(f"data.path={path}", "threshold_rule=depth_edges"))
    assert load_model(tmp_path / "run" / "model.safetensors").info.threshold.rule == "otsu"
    result = train(make_settings(f"data.path={path}", "threshold_rule=otsu"))
    assert result.resumed_from == STEPS and result.threshold.rule == "otsu"


def test_watching_gives_the_losses_of_the_held_out_frames(make_settings: MakeSettings, tiny_dataset: Path) -> None:
    settings = make_settings("batch_size=5")  # 12 frames: batches of 5, 5 and 2
    frames, net = Dataset.open(tiny_dataset), tiny_net()
    net.train()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    found = CamTraining(settings).held_out_figures(net, frames, torch.device("cpu"))
    assert net.training and all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    net.eval()
    losses, edges, right = [], [], []
    alignment = alignment_loss(settings.deal, (32, 48))
    assert alignment.options.size == (8, 12)
    with torch.no_grad():
        for i in range(len(frames)):
            one = to_tensors(resize_sample(frames.load(i), (32, 48)))
            output = net(one.image[None])
            losses.append(float(tag_loss(output.tag_logits["cam"], one.tags[None])))
            edges.append(float(alignment(output.cams, one.depth[None], one.tags[None], one.valid[None])))
            right += ((output.tag_logits["cam"][0] > 0) == (one.tags == 1)).tolist()
    assert found["held_out_loss_tags"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert found["held_out_loss_deal"] == pytest.approx(np.mean(edges), abs=1e-5)
    assert found["held_out_tag_accuracy"] == pytest.approx(np.mean(right))


@pytest.mark.parametrize("rule", ["otsu", "depth_edges"])
def test_the_threshold_is_that_of_its_rule_on_the_training_frames(
    make_settings: MakeSettings, tiny_dataset: Path, rule: str
) -> None:
    settings, frames, net = make_settings(f"threshold_rule={rule}"), Dataset.open(tiny_dataset), tiny_net()
    info = ModelInfo("cam_net", {}, frames.classes, (32, 48), Threshold(0.5, "none"))
    found = CamTraining(settings).threshold(net.train(), info, frames, torch.device("cpu"))
    assert net.training
    expected = create_rule(rule)
    net.eval()
    for i in range(len(frames)):
        sample = frames.load(i)
        one = to_tensors(resize_sample(sample, (32, 48)))
        with torch.no_grad():
            scores = multi_scale_scores(net, one.image[None], tags=one.tags[None])
            scores = F.interpolate(scores, sample.image.shape[:2], mode="bilinear", align_corners=False)[0]
        expected.update(scores.numpy(), sample.depth, sample.depth_valid)
    assert (found.value, found.rule) == (expected.threshold(), rule)


def test_the_edge_loss_refuses_a_dataset_without_depth(tmp_path: Path) -> None:
    voc = make_voc(tmp_path / "VOC2012")
    common = [f"data.path={voc}", "data.format=voc", f"output={tmp_path / 'run'}", "batch_size=2"]
    with pytest.raises(ConfigError, match=r"has no depth.*deal depth.*data.depth.*deal.weight=0"):
        train(load_settings(TrainSettings, None, common))
    assert not (tmp_path / "run").exists()
    small = ["data.image_size=[32, 48]", "model.arguments={backbone: test_resnet, width: 8}", "epochs=1"]
    trained = train(load_settings(TrainSettings, None, [*common, *small, "deal.weight=0", "threshold_rule=otsu"]))
    assert load_model(trained.model).info.classes.names[0] == "aeroplane"


@pytest.mark.parametrize("starts", [True, False])
def test_tag_logits_start_at_the_log_odds_of_the_tags(
    make_settings: MakeSettings, tiny_dataset: Path, starts: bool
) -> None:
    task = CamTraining(make_settings(f"bias_from_tags={starts}", "sampling=plain"))
    frames, _ = task.split(Dataset.open(tiny_dataset))
    network = tiny_net()
    before = network.classifier.bias.detach().clone()
    task.prepare(network, frames)
    expected = torch.from_numpy(tag_log_odds(frames.tags)).float() if starts else before
    assert torch.equal(network.classifier.bias.detach(), expected)
    assert task.frame_weights(frames) is None
    weights = CamTraining(make_settings("sampling=balanced")).frame_weights(frames)
    assert weights is not None and len(weights) == len(frames) and min(weights) >= 1


def retagged(tiny_dataset: Path, folder: Path, change: Callable[[int, dict[str, Any]], None]) -> Path:
    shutil.copytree(tiny_dataset, folder)
    edit_frames(folder, change)
    return folder


def test_a_dataset_without_a_present_tag_is_refused(
    make_settings: MakeSettings, tiny_dataset: Path, tmp_path: Path
) -> None:
    def forget(index: int, record: dict[str, Any]) -> None:
        record["tags"] = {"present": [], "absent": [], "marker": "partial"}

    path = retagged(tiny_dataset, tmp_path / "untagged", forget)
    with pytest.raises(DatasetError, match=r"none of the \d+ training frames is tagged present .* `deal tag`"):
        train(make_settings(f"data.path={path}"))
    assert not (tmp_path / "run").exists()


def test_a_single_frame_is_refused(make_settings: MakeSettings, tiny_dataset: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_dataset, tmp_path / "one"))
    lines = (path / "recordings" / "tiny" / "frames.jsonl").read_text().splitlines()
    (path / "recordings" / "tiny" / "frames.jsonl").write_text(lines[0] + "\n")
    with pytest.raises(DatasetError, match="gives 1 training frame, expected at least 2"):
        train(make_settings(f"data.path={path}", "batch_size=1"))


def test_classes_that_cannot_be_learnt_are_named_before_training(
    make_settings: MakeSettings, tiny_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, _ = Dataset.open(tiny_dataset).classes.names

    def only_first(index: int, record: dict[str, Any]) -> None:
        record["tags"] = {"present": [first], "absent": [], "marker": "partial"}

    path = retagged(tiny_dataset, tmp_path / "one_sided", only_first)
    CamTraining(make_settings(f"data.path={path}")).split(Dataset.open(path))
    assert any("never tagged present" in line and second in line for line in caplog.messages)
    assert any("never tagged absent" in line and first in line for line in caplog.messages)
