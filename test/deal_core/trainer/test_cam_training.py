"""Training: schedules, the order of batches, exact resumption, several processes, and what is refused."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.layouts import make_voc
from helpers.paths import HELPERS, PROJECT
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.settings import DataSettings
from deal_core.dataset.transforms import TensorSample, resize_sample, to_tensors
from deal_core.errors import ConfigError, DatasetError, EvaluationError, ModelFileError, UsageError
from deal_core.losses.tags import tag_loss
from deal_core.masks.class_scores import multi_scale_scores
from deal_core.masks.score_dataset import CamSettings, score_frames
from deal_core.masks.threshold_rules import create_rule
from deal_core.models.cam_net import CamNet
from deal_core.models.model_file import ModelInfo, Threshold, load_model
from deal_core.settings_file import load_settings
from deal_core.trainer import cam_training
from deal_core.trainer.cam_training import train
from deal_core.trainer.loop import Progress
from deal_core.trainer.objective import LossWeights, Objective
from deal_core.trainer.schedule import create_optimizer, learning_rate_factor, schedule_position, weight_at
from deal_core.trainer.settings import DealSettings, OptimizerSettings, TrainSettings
from deal_core.trainer.views import BatchOrder, cached_size

WORKER = HELPERS / "training_process.py"
STEPS = 9  # three epochs of three steps: nine of the twelve frames are trained on
NAN = float("nan")
SWIN = (  # made for images of 64x64
    "swin_tiny_patch4_window7_224, backbone_arguments: "
    "{img_size: 64, window_size: 2, embed_dim: 16, depths: [1, 1, 1, 1], num_heads: [1, 1, 2, 2]}"
)

MakeSettings = Callable[..., TrainSettings]


@pytest.fixture
def make_settings(tiny_dataset: Path, tmp_path: Path) -> MakeSettings:
    def make(*overrides: str, output: str = "run") -> TrainSettings:
        return load_settings(
            TrainSettings,
            None,
            [
                f"data.path={tiny_dataset}",
                f"output={tmp_path / output}",
                "data.image_size=[32, 48]",
                "model.arguments={backbone: test_resnet, width: 8}",
                *("batch_size=3", "epochs=3", "log_every=1", "device=cpu", "threshold_rule=otsu"),
                *overrides,
            ],
        )

    return make


class StoppedError(Exception):
    pass


def stop_after(step: int) -> Callable[[Progress], None]:
    """An interruption between two steps, as Ctrl-C is."""

    def report(progress: Progress) -> None:
        if progress.step == step:
            raise StoppedError

    return report


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Model tensors bit for bit, and history line for line."""
    one, two = load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors")
    assert one.keys() == two.keys()
    assert [n for n in one if not torch.equal(one[n], two[n])] == []
    assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
    assert history(ours) == history(theirs)


# ---------------------------------------------------------------------------------------------------- schedules


def test_learning_rate_warms_up_linearly_and_falls_to_nothing() -> None:
    cosine = OptimizerSettings(warmup=0.2)
    rates = [learning_rate_factor(cosine, i / 100) for i in range(100)]
    assert 0 < rates[0] < 0.01 and rates[10] == pytest.approx(0.5, abs=0.01) and rates[20] == 1.0
    assert np.diff(rates[:20]).std() < 1e-12, "a straight line"
    assert rates[60] == pytest.approx(0.5) and rates[99] < 0.001
    for share in (0.3, 0.7):
        expected = 0.5 * (1 + math.cos(math.pi * (share - 0.2) / 0.8))
        assert learning_rate_factor(cosine, share) == pytest.approx(expected)
    poly = OptimizerSettings(warmup=0.0, schedule="poly", poly_power=2.0)
    assert [learning_rate_factor(poly, p) for p in (0.0, 0.5, 0.9)] == pytest.approx([1.0, 0.25, 0.01])
    constant = OptimizerSettings(warmup=0.0, schedule="constant")
    assert {learning_rate_factor(constant, p) for p in (0.0, 0.5, 0.99)} == {1.0}


@given(
    schedule=st.sampled_from(["cosine", "poly", "constant"]),
    warmup=st.floats(0, 1),
    power=st.floats(0.1, 5),
    place=st.floats(0, 1, exclude_max=True),
)
def test_learning_rate_stays_between_nothing_and_the_full_one(
    schedule: Any, warmup: float, power: float, place: float
) -> None:
    factor = learning_rate_factor(OptimizerSettings(schedule=schedule, warmup=warmup, poly_power=power), place)
    assert 0 <= factor <= 1
    assert place == 0 or factor > 0 or schedule != "constant"


def test_deal_weight_comes_in_after_its_start_and_grows() -> None:
    settings = DealSettings(weight=2.0, start=0.3, warmup=0.2)
    places = {0.0: 0.0, 0.29: 0.0, 0.3: 0.0, 0.35: 0.5, 0.4: 1.0, 0.5: 2.0, 0.99: 2.0}
    for place, weight in places.items():
        assert weight_at(settings, place) == pytest.approx(weight)
    at_once = DealSettings(weight=2.0, start=0.5, warmup=0.0)
    assert [weight_at(at_once, p) for p in (0.49, 0.5, 0.9)] == [0.0, 2.0, 2.0]
    assert weight_at(DealSettings(weight=0.0, start=0.0), 0.9) == 0.0


def test_the_schedule_of_weaktr_is_timms_one_epoch_late() -> None:
    """Cosine over 60 epochs beneath a warm-up of 5 from 1e-6, floor 1e-5; epochs 0 and 1 both run at 1e-6."""
    rate, floor = 7.5e-5, 1e-5
    optimizer = OptimizerSettings(
        learning_rate=rate, warmup=5 / 60, warmup_from=1e-6, warmup_first=False, floor=floor, every="epoch_late"
    )
    settings = TrainSettings(data=DataSettings(path="x"), output="y", optimizer=optimizer, epochs=60)
    found = []
    for step in range(60 * 3):
        state = cam_training.TrainState(total_steps=60 * 3, step=step)
        found.append(rate * learning_rate_factor(optimizer, schedule_position(settings, state)))
    assert found[0::3] == found[1::3] == found[2::3], "one rate an epoch"
    expected = [1e-6] * 2 + [1e-6 + t * (rate - 1e-6) / 5 for t in range(1, 5)]
    expected += [floor + 0.5 * (rate - floor) * (1 + math.cos(math.pi * t / 60)) for t in range(5, 59)]
    assert found[::3] == pytest.approx(expected, rel=1e-9)


def test_the_rate_may_change_with_every_step_or_every_epoch() -> None:
    positions = {}
    for every in ("step", "epoch", "epoch_late"):
        optimizer = OptimizerSettings(every=every)
        settings = TrainSettings(data=DataSettings(path="x"), output="y", optimizer=optimizer, epochs=4)
        states = [cam_training.TrainState(total_steps=8, step=step) for step in range(8)]
        positions[every] = [schedule_position(settings, state) for state in states]
    assert positions["step"] == [i / 8 for i in range(8)]
    assert positions["epoch"] == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]
    assert positions["epoch_late"] == [0, 0, 0, 0, 0.25, 0.25, 0.5, 0.5]


# ---------------------------------------------------------------------------------------------- order of batches

ORDERS = st.fixed_dictionaries(
    {"frames": st.integers(4, 60), "batch_size": st.sampled_from([1, 2, 4]), "seed": st.integers(0, 2**32)}
)


@given(order=ORDERS, epochs=st.integers(1, 4))
def test_an_epoch_shows_each_frame_at_most_once_and_each_in_another_order(order: dict[str, int], epochs: int) -> None:
    per_epoch = order["frames"] // order["batch_size"]
    batches = list(BatchOrder(**order, start=0, stop=per_epoch * epochs))
    assert len(batches) == per_epoch * epochs and all(len(b) == order["batch_size"] for b in batches)
    shown = []
    for epoch in range(epochs):
        frames = [f for batch in batches[epoch * per_epoch : (epoch + 1) * per_epoch] for f, _ in batch]
        assert len(set(frames)) == len(frames) and set(frames) <= set(range(order["frames"]))
        assert len(frames) > order["frames"] - order["batch_size"]
        shown.append(frames)
    assert order["frames"] < 12 or len({tuple(f) for f in shown}) == epochs
    seeds = [seed for batch in batches for _, seed in batch]
    assert len(set(seeds)) == len(seeds), "no view twice"


@given(order=ORDERS, start=st.integers(0, 40), stop=st.integers(0, 40))
def test_batches_do_not_depend_on_where_the_run_starts(order: dict[str, int], start: int, stop: int) -> None:
    whole = list(BatchOrder(**order, start=0, stop=40))
    part = BatchOrder(**order, start=min(start, stop), stop=stop)
    assert list(part) == whole[min(start, stop) : stop] and len(part) == stop - min(start, stop)


@given(order=ORDERS, world=st.sampled_from([1, 2, 4]))
def test_the_shares_of_the_processes_make_up_the_batch(order: dict[str, int], world: int) -> None:
    order = {**order, "batch_size": 4}
    whole = list(BatchOrder(**order, start=0, stop=5))
    shares = [list(BatchOrder(**order, start=0, stop=5, rank=rank, world_size=world)) for rank in range(world)]
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert {len(part) for part in parts} == {4 // world}
        assert sorted(item for part in parts for item in part) == sorted(batch)


def test_another_seed_gives_another_order() -> None:
    one, two = (list(BatchOrder(30, 4, seed, 0, 7)) for seed in (1, 2))
    assert one != two


# -------------------------------------------------------------------------------------------------- the optimiser


def tiny_net(**arguments: Any) -> CamNet:
    torch.manual_seed(0)
    return CamNet(3, **{"backbone": "test_resnet", "width": 8, **arguments})


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("frozen_norms", [False, True])
def test_every_parameter_is_in_one_group_with_its_decay_and_rate(name: Any, frozen_norms: bool) -> None:
    net = tiny_net(freeze_batch_norm=frozen_norms)
    settings = OptimizerSettings(name=name, weight_decay=0.1, backbone_factor=0.25, learning_rate=0.5)
    optimizer = create_optimizer(net, settings)
    names = {id(p): n for n, p in net.named_parameters()}
    seen: list[str] = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter_name = names[id(parameter)]
            seen.append(parameter_name)
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
            assert group["factor"] == (0.25 if parameter_name.startswith("backbone.") else 1.0)
    assert len(seen) == len(set(seen))
    assert set(seen) == {n for n, p in net.named_parameters() if p.requires_grad}
    norms = {n for n in names.values() if n.startswith("backbone.") and (".bn" in n or "1.1." in n)}
    assert bool(norms & set(seen)) is not frozen_norms


def test_new_layers_and_biases_have_their_own_rates_as_in_seam() -> None:
    net = tiny_net()
    settings = OptimizerSettings(name="sgd", head_factor=10, bias_factor=2, momentum=5e-4, nesterov=False)
    optimizer = create_optimizer(net, settings)
    names = {id(p): n for n, p in net.named_parameters()}
    factors = {names[id(p)]: group["factor"] for group in optimizer.param_groups for p in group["params"]}
    assert {factors[n] for n in factors if n.startswith("backbone.") and not n.endswith("bias")} == {1}
    assert factors["classifier.weight"] == 10 and factors["classifier.bias"] == 20
    assert factors["project.0.1.weight"] == 10 and factors["project.0.1.bias"] == 20
    assert {factors[n] for n in factors if n.startswith("backbone.") and n.endswith("bias")} == {2}
    assert {(g["momentum"], g["nesterov"]) for g in optimizer.param_groups} == {(5e-4, False)}


def test_decay_may_be_on_everything() -> None:
    optimizer = create_optimizer(tiny_net(), OptimizerSettings(weight_decay=0.03, decay_all=True))
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.03}


def test_a_factor_of_0_freezes_the_backbone() -> None:
    net = tiny_net()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    optimizer = create_optimizer(net, OptimizerSettings(backbone_factor=0, weight_decay=0.5, learning_rate=0.1))
    net(torch.rand(2, 3, 32, 48)).cams.square().mean().backward()
    optimizer.step()
    for name, parameter in net.named_parameters():
        in_backbone = name.startswith("backbone.")
        assert parameter.requires_grad is not in_backbone
        assert torch.equal(parameter, before[name]) is in_backbone


# ------------------------------------------------------------------------------------------------------ the losses


def batch_of(dataset: Dataset, size: tuple[int, int] = (32, 48), count: int = 4) -> TensorSample:
    chosen = range(0, len(dataset), max(len(dataset) // count, 1))
    views = [to_tensors(resize_sample(dataset.load(i), size)) for i in chosen]
    return TensorSample(*(torch.stack([getattr(v, n) for v in views]) for n in ("image", "depth", "valid", "tags")))


def test_layers_that_no_output_depends_on_are_left_alone(make_settings: MakeSettings) -> None:
    net = tiny_net(backbone="test_efficientnet", levels=[-3], freeze_batch_norm=True)
    values = {n: t.clone() for n, t in net.state_dict().items()}
    cam_training._try_out(net, make_settings())
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


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_depth_reaches_the_loss_in_full_precision(
    make_settings: MakeSettings, tiny_dataset: Path, precision: str
) -> None:
    """Rounded to bfloat16, depth would be steps of some millimetres, and all of them edges."""
    settings, batch = make_settings(f"precision={precision}"), batch_of(Dataset.open(tiny_dataset))
    exact = Objective(tiny_net(), settings)(batch, LossWeights(deal=1.0))
    fabric = cam_training.create_fabric(settings)
    wrapped = fabric.setup(Objective(tiny_net(), settings))
    losses = wrapped(batch, LossWeights(deal=1.0))
    assert float(losses["deal_flat"]) == float(exact["deal_flat"])
    tags, exact_tags = float(losses["loss_tags"].detach()), float(exact["loss_tags"].detach())
    assert (tags == exact_tags) is (precision == "32-true") and tags == pytest.approx(exact_tags, abs=0.05)


# --------------------------------------------------------------------------------------------------- whole runs


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
    assert model.info.training == facts
    assert 0 <= result.threshold.value <= 1 and result.threshold.rule == "otsu"


def test_the_same_settings_give_the_same_run_and_another_seed_another(make_settings: MakeSettings) -> None:
    first, again = make_settings(), make_settings(output="again")
    train(first)
    torch.manual_seed(999)
    train(again)
    assert_same_run(first.output, again.output)
    other = make_settings("seed=12", output="other")
    train(other)
    assert history(other.output) != history(first.output)


@pytest.mark.slow
def test_loading_in_other_processes_or_from_memory_changes_nothing(make_settings: MakeSettings) -> None:
    plain = make_settings("data.image_size=[48, 64]")
    train(plain)
    for name, override in (("workers", "data.workers=2"), ("cache", "data.cache=true")):
        other = make_settings("data.image_size=[48, 64]", override, output=name)
        train(other)
        assert_same_run(other.output, plain.output)


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


# --------------------------------------------------------------------------------------------------- resumption


@pytest.fixture(scope="module")
def reference(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """Uninterrupted runs, by what differs from the usual settings."""
    runs: dict[tuple[str, ...], Path] = {}

    def run(make: MakeSettings, *overrides: str) -> Path:
        if overrides not in runs:
            output = tmp_path_factory.mktemp("reference") / "run"
            train(make(*overrides, f"output={output}"))
            runs[overrides] = output
        return runs[overrides]

    yield run


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 8, 9])
def test_an_interrupted_run_ends_in_the_same_bits(
    make_settings: MakeSettings, reference: Callable[..., Path], step: int
) -> None:
    settings = make_settings("checkpoint_every=2")
    with pytest.raises(StoppedError):
        train(settings, stop_after(step))
    assert not (settings.output / "model.safetensors").exists()
    result = train(settings)
    assert result.resumed_from == (9 if step == 9 else step // 2 * 2)
    assert_same_run(settings.output, reference(make_settings, "checkpoint_every=2"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer.name=sgd", "data.workers=2", "data.cache=true"),
        ("model.arguments.dropout=0.5", "model.arguments.freeze_batch_norm=true", "optimizer.backbone_factor=0"),
        ("precision=bf16-mixed", "data.erase=0.5", "data.rotation=10"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_also_with_other_settings(
    make_settings: MakeSettings, reference: Callable[..., Path], overrides: tuple[str, ...]
) -> None:
    settings = make_settings(*overrides)
    for step in (2, 5, 7):  # three interruptions of one run
        with pytest.raises(StoppedError):
            train(settings, stop_after(step))
    train(settings)
    assert_same_run(settings.output, reference(make_settings, *overrides))


def test_a_finished_run_is_left_as_it_is(make_settings: MakeSettings) -> None:
    settings = make_settings()
    train(settings)
    before = (settings.output / "model.safetensors").read_bytes(), history(settings.output)
    result = train(settings)
    assert result.resumed_from == STEPS
    assert ((settings.output / "model.safetensors").read_bytes(), history(settings.output)) == before


@pytest.mark.slow
def test_killed_while_it_trains_a_run_ends_in_the_same_bits(make_settings: MakeSettings, tmp_path: Path) -> None:
    """The process gets no chance to tidy up: a real SIGKILL at whatever it does."""
    settings = make_settings("epochs=40", "checkpoint_every=7")
    config = tmp_path / "config.yaml"
    config.write_text(cam_training.dump_settings(settings))
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "training.cli", "train", str(config), "--json"]
    process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 200
        while not (settings.output / "checkpoint.pt").exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL and not (settings.output / "model.safetensors").exists()
    with (settings.output / "history.jsonl").open("a") as file:
        file.write('{"step": 119, "los')  # a line that was being written
    (settings.output / ".checkpoint.pt.tmp").write_bytes(b"half a checkpoint")

    result = train(settings)
    assert 0 < result.resumed_from < 120
    assert not list(settings.output.glob(".*"))
    whole = make_settings("epochs=40", "checkpoint_every=7", output="whole")
    train(whole)
    assert_same_run(settings.output, whole.output)


def test_damaged_checkpoints_are_told(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with pytest.raises(StoppedError):
        train(settings, stop_after(4))
    checkpoint = settings.output / "checkpoint.pt"
    good = checkpoint.read_bytes()
    contents = torch.load(checkpoint, weights_only=True)
    bad: list[bytes | dict[str, Any] | list[int]] = [
        *(b"", b"garbage", b"\x80\x02K\x01.", good[:100], good[: len(good) // 2], good[:-1]),
        *([1, 2], {}, {**contents, "step": "four"}, {**contents, "network": {}}, {**contents, "optimizer": {}}),
    ]
    for content in bad:
        if isinstance(content, bytes):
            checkpoint.write_bytes(content)
        else:
            torch.save(content, checkpoint)
        with pytest.raises(ModelFileError, match=r"damaged checkpoint.*delete it to start the run again") as caught:
            train(settings)
        assert str(checkpoint) in str(caught.value) and "\n" not in str(caught.value)
    checkpoint.unlink()
    assert train(settings).resumed_from == 0


def test_a_checkpoint_with_code_in_it_is_not_run(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    with pytest.raises(StoppedError):
        train(settings, stop_after(4))

    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"step": Harmful(), "total_steps": STEPS}, settings.output / "checkpoint.pt")
    with pytest.raises(ModelFileError, match="damaged checkpoint"):
        train(settings)
    assert not (tmp_path / "harm").exists()


def test_a_checkpoint_that_cannot_be_written_keeps_the_old_one(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()
    with pytest.raises(StoppedError):
        train(settings, stop_after(4))
    checkpoint = settings.output / "checkpoint.pt"
    before = checkpoint.read_bytes()

    def full_disk(content: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(ModelFileError, match=f"{checkpoint}: the checkpoint cannot be written"):
            train(settings)
    assert checkpoint.read_bytes() == before and not list(settings.output.glob(".*"))
    assert train(settings).resumed_from == 3


def test_a_run_folder_of_other_settings_is_refused_and_says_which(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with pytest.raises(StoppedError):
        train(settings, stop_after(4))
    before = history(settings.output)
    other = make_settings("deal.weight=0", "model.arguments.width=16", "epochs=4")
    with pytest.raises(ConfigError) as caught:
        train(other)
    message = str(caught.value)
    assert str(settings.output) in message and "deal.weight is 1.0 there and 0.0 here" in message
    assert "model.arguments.width is 8 there and 16 here" in message and "epochs is 3 there and 4 here" in message
    assert "seed" not in message and history(settings.output) == before
    assert load_settings(TrainSettings, settings.output / "settings.yaml") == settings


def test_a_run_may_go_on_with_other_settings_that_do_not_touch_the_weights(
    make_settings: MakeSettings, reference: Callable[..., Path]
) -> None:
    with pytest.raises(StoppedError):
        train(make_settings("log_every=3"), stop_after(4))
    changed = make_settings("threshold_rule=fixed:0.125", "checkpoint_every=1", "data.workers=1")
    result = train(changed)
    assert result.resumed_from == 3 and result.threshold.value == 0.125
    ours, theirs = load_file(result.model), load_file(reference(make_settings) / "model.safetensors")
    assert all(torch.equal(t, theirs[n]) for n, t in ours.items())
    assert load_settings(TrainSettings, changed.output / "settings.yaml") == changed


def test_a_run_that_has_saved_nothing_yet_may_start_anew_with_any_settings(make_settings: MakeSettings) -> None:
    with pytest.raises(StoppedError):
        train(make_settings(), stop_after(2))
    result = train(make_settings("deal.weight=0", "epochs=1"))
    assert (result.steps, result.resumed_from) == (3, 0)
    with pytest.raises(ConfigError, match="unknown backbone"):
        train(make_settings("model.arguments.backbone=resnet81", output="typo"))
    assert train(make_settings("epochs=1", output="typo")).steps == 3


def test_a_dataset_that_grew_is_told(make_settings: MakeSettings, tiny_dataset: Path, tmp_path: Path) -> None:
    path = tmp_path / "growing"
    shutil.copytree(tiny_dataset, path)
    settings = make_settings(f"data.path={path}", "data.validation_fraction=0")
    with pytest.raises(StoppedError):
        train(settings, stop_after(5))
    shutil.copytree(path / "recordings" / "tiny", path / "recordings" / "more")
    with pytest.raises(ConfigError, match="a run of 12 steps, this one has 24: has the dataset changed"):
        train(settings)


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("batch_size=10",), "batch_size 10 is larger than the training set, 9 frames"),
        (("device=gpu",), "device 'gpu' cannot be used here"),
        (("precision=16-mixed",), "'16-mixed' needs a GPU"),
        (("threshold_rule=otsi",), "Did you mean 'otsu'"),
        (("threshold_rule=fixed:2",), r"\[0, 1\]"),
        (("data.recordings=[tinny]",), "Did you mean 'tiny'"),
        (("data.path=nowhere",), "nowhere is no dataset"),
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


def test_an_output_that_cannot_be_made_is_told(make_settings: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be written.*choose another output"):
        train(make_settings(output="file/run"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_frame_that_is_missing_is_one_sentence_also_from_a_worker(
    make_settings: MakeSettings, tiny_dataset: Path, tmp_path: Path, workers: int
) -> None:
    path = tmp_path / "damaged"
    shutil.copytree(tiny_dataset, path)
    settings = make_settings(f"data.path={path}", f"data.workers={workers}", "data.validation_fraction=0")
    file = Dataset.open(path).frames[5].depth
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DatasetError, match=f"{file}.*damaged") as caught:
        train(settings)
    assert not multiprocessing.active_children(), "the workers end with the training, not when the error is forgotten"
    assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_loss_that_explodes_is_told_and_keeps_the_checkpoint(make_settings: MakeSettings) -> None:
    settings = make_settings("optimizer.learning_rate=1e30", "optimizer.name=sgd", "optimizer.warmup=0")
    with pytest.raises(ConfigError, match=r"the loss became (nan|inf|-inf) at step \d: lower optimizer\.learning_rate"):
        train(settings)
    assert not (settings.output / "model.safetensors").exists()


def test_a_rule_that_finds_no_threshold_can_be_changed_afterwards(
    make_settings: MakeSettings, tiny_dataset: Path, tmp_path: Path
) -> None:
    path = tmp_path / "blind"
    shutil.copytree(tiny_dataset, path)
    import cv2

    for frame in Dataset.open(path).frames:
        cv2.imwrite(str(frame.depth), np.zeros((48, 64), np.uint16))
    with pytest.raises(EvaluationError, match="otsu"):
        train(make_settings(f"data.path={path}", "threshold_rule=depth_edges"))
    result = train(make_settings(f"data.path={path}", "threshold_rule=otsu"))
    assert result.resumed_from == STEPS and result.threshold.rule == "otsu"


@pytest.mark.parametrize(
    ("size", "changes", "kept"),
    [
        ((480, 640), {"crop_scale": (1, 1)}, (60, 60)),
        ((50, 640), {"crop_scale": (1, 1)}, None),
        ((480, 640), {}, (120, 160)),
        ((480, 240), {}, (240, 120)),
        ((100, 640), {}, None),
        ((480, 640), {"crop": "canvas", "long_side": (100, 160)}, (120, 160)),
        ((120, 90), {"crop": "canvas", "long_side": (100, 160)}, None),
    ],
)
def test_images_are_kept_as_large_as_their_views_need(
    size: tuple[int, int], changes: dict[str, Any], kept: tuple[int, int] | None
) -> None:
    settings = DataSettings.model_validate({"path": "x", "image_size": (60, 60), **changes})
    assert cached_size(size, settings) == kept


# ------------------------------------------------------------------------------------ watching, and the threshold


def test_watching_gives_the_losses_of_the_held_out_frames(make_settings: MakeSettings, tiny_dataset: Path) -> None:
    settings = make_settings("batch_size=5")  # 12 frames: batches of 5, 5 and 2
    frames, net = Dataset.open(tiny_dataset), tiny_net()
    net.train()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    found = cam_training.watch(net, frames, settings, torch.device("cpu"))
    assert net.training and all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    net.eval()
    losses, edges, right = [], [], []
    alignment = cam_training.alignment_loss(settings.deal, (32, 48))
    assert alignment.size == (8, 12)
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
    found = cam_training.decide_threshold(net.train(), info, frames, settings, torch.device("cpu"))
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


# ---------------------------------------------------------------------------------------------- several processes

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SMALL = {"levels": [-3], "width": 8}
PROCESS_CASES = {
    "complete": {"model": "cam_net", "tags": "complete", "arguments": {"backbone": "test_resnet", **SMALL}},
    "partial": {"model": "cam_net", "tags": "partial", "arguments": {"backbone": "test_resnet", **SMALL}},
    # Layers behind the last level in use are not part of the graph.
    "unused layers": {"model": "cam_net", "tags": "complete", "arguments": {"backbone": "test_efficientnet", **SMALL}},
    "two views": {
        "model": "seam",
        "tags": "complete",
        "arguments": {"backbone": "resnet10t", "backbone_arguments": {"channels": [8, 16, 24, 32], "stem_width": 8}},
    },
    "tokens": {
        "model": "weaktr",
        "tags": "partial",
        "arguments": {
            "backbone": "vit_tiny_patch16_224",
            "backbone_arguments": {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": [32, 48]},
        },
    },
}


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(make_settings: MakeSettings, tmp_path: Path) -> None:
    """Real processes over gloo; BatchNorm is in evaluation mode, for its statistics are of each process's share."""
    settings = make_settings("batch_size=6", "optimizer.name=sgd", "deal.start=0", "deal.warmup=0")
    config = tmp_path / "config.yaml"
    config.write_text(cam_training.dump_settings(settings))
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps(PROCESS_CASES))
    done = subprocess.run(
        [*TORCHRUN, str(WORKER), str(config), str(cases), str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    runpy.run_path(str(WORKER))["main"](config, cases, tmp_path / "one")
    for name in PROCESS_CASES:
        one, two = (load_file(tmp_path / out / f"{name}.safetensors") for out in ("one", "two"))
        assert one.keys() == two.keys() and len(one) > 20
        for key, tensor in one.items():
            torch.testing.assert_close(two[key], tensor, rtol=1e-4, atol=1e-6, msg=f"{name}: {key}")
        moved = [k for k in one if k.startswith("moved.") and float(one[k].abs().max()) > 0]
        assert len(moved) > 10, "the steps must have changed something"


def test_the_edge_loss_refuses_a_dataset_without_depth(tmp_path: Path) -> None:
    voc = make_voc(tmp_path / "VOC2012")
    common = [f"data.path={voc}", "data.format=voc", f"output={tmp_path / 'run'}", "batch_size=2"]
    with pytest.raises(ConfigError, match=r"has no depth.*deal depth.*data.depth.*deal.weight=0"):
        train(load_settings(TrainSettings, None, common))
    assert not (tmp_path / "run").exists()
    small = ["data.image_size=[32, 48]", "model.arguments={backbone: test_resnet, width: 8}", "epochs=1"]
    trained = train(load_settings(TrainSettings, None, [*common, *small, "deal.weight=0", "threshold_rule=otsu"]))
    assert load_model(trained.model).info.classes.names[0] == "aeroplane"


@pytest.mark.slow
def test_training_under_torchrun_ends_in_one_model(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings("batch_size=4", "epochs=2")
    config = tmp_path / "config.yaml"
    config.write_text(cam_training.dump_settings(settings))
    done = subprocess.run(
        [*TORCHRUN, "-m", "training.cli", "train", str(config), "--json"],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 4, "one of the processes reports"
    assert [line["step"] for line in history(settings.output) if "loss" in line] == [1, 2, 3, 4]
    image = torch.rand(1, 3, 32, 48)
    assert isinstance(load_model(settings.output / "model.safetensors").network, nn.Module)
    assert load_model(settings.output / "model.safetensors").network(image).cams.shape == (1, 3, 4, 6)
    assert train(make_settings("batch_size=4", "epochs=2")).resumed_from == 4, "one process goes on where two stopped"


@hypothesis_settings(max_examples=20)
@given(lines=st.lists(st.text(max_size=30)))
def test_a_damaged_history_never_stops_a_run(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    folder = tmp_path_factory.mktemp("history")
    good = ['{"step": 1, "loss": 0.5}', '{"step": 3, "loss": 0.25}']
    (folder / "history.jsonl").write_text("\n".join([good[0], *lines, good[1]]), encoding="utf-8")
    with cam_training.RunLog(folder, resumed_from=2) as log:
        log.write(3, 1, {"loss": 0.125})
    assert [line for line in history(folder) if "loss" in line] == [
        {"step": 1, "loss": 0.5},
        {"step": 3, "epoch": 1, "loss": 0.125},
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_on_the_gpu_a_stopped_run_goes_on_and_its_model_works_everywhere(
    make_settings: MakeSettings, dataset: Dataset, precision: str
) -> None:
    settings = make_settings("device=auto", f"precision={precision}", "epochs=6", "deal.weight=0.5", "isl.weight=0.2")
    with pytest.raises(StoppedError):
        train(settings, stop_after(STEPS + 1))
    result = train(settings)
    assert result.resumed_from == STEPS and result.steps == 2 * STEPS
    losses = [line["loss"] for line in history(settings.output) if "loss" in line]
    assert len(losses) == 2 * STEPS and np.isfinite(losses).all() and losses[-1] < losses[0]
    loaded = load_model(result.model)
    on_gpu, on_cpu = (list(score_frames(loaded, dataset, CamSettings(device=device))) for device in ("cuda", "cpu"))
    for one, two in zip(on_gpu, on_cpu, strict=True):
        np.testing.assert_allclose(one.scores, two.scores, atol=0.02)
