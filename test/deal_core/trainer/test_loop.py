"""The loop: the same bits after an interruption, several processes, precision, and errors."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import HELPERS, PROJECT
from helpers.training_runs import STEPS, MakeSettings, StoppedError, assert_same_run, history, stop_after, tiny_net
from safetensors.torch import load_file
from torch import nn

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.transforms import TensorSample, resize_sample, to_tensors
from deal_core.errors import ConfigError, DatasetError
from deal_core.masks.score_dataset import CamSettings, score_frames
from deal_core.models.model_file import load_model
from deal_core.settings_file import dump_settings
from deal_core.trainer.cam_training import train
from deal_core.trainer.loop import create_fabric
from deal_core.trainer.objective import LossWeights, Objective


def batch_of(dataset: Dataset, size: tuple[int, int] = (32, 48), count: int = 4) -> TensorSample:
    chosen = range(0, len(dataset), max(len(dataset) // count, 1))
    views = [to_tensors(resize_sample(dataset.load(i), size)) for i in chosen]
    return TensorSample(*(torch.stack([getattr(v, n) for v in views]) for n in ("image", "depth", "valid", "tags")))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_depth_reaches_the_loss_in_full_precision(
    make_settings: MakeSettings, tiny_dataset: Path, precision: str
) -> None:
    """Rounded to bfloat16, depth would be steps of some millimetres, and all of them edges."""
    settings, batch = make_settings(f"precision={precision}"), batch_of(Dataset.open(tiny_dataset))
    exact = Objective(tiny_net(), settings)(batch, LossWeights(deal=1.0))
    fabric = create_fabric(settings)
    wrapped = fabric.setup(Objective(tiny_net(), settings))
    losses = wrapped(batch, LossWeights(deal=1.0))
    assert float(losses["deal_flat"]) == float(exact["deal_flat"])
    tags, exact_tags = float(losses["loss_tags"].detach()), float(exact["loss_tags"].detach())
    assert (tags == exact_tags) is (precision == "32-true") and tags == pytest.approx(exact_tags, abs=0.05)


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
        ("sampling=plain", "deal.start=0", "deal.holes=ignore"),
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
    config.write_text(dump_settings(settings))
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
    work = settings.output / ".checkpoint.pt.tmp"
    work.mkdir(exist_ok=True)
    (work / "new").write_bytes(b"half a checkpoint")

    result = train(settings)
    assert 0 < result.resumed_from < 120
    assert not list(settings.output.glob(".*"))
    whole = make_settings("epochs=40", "checkpoint_every=7", output="whole")
    train(whole)
    assert_same_run(settings.output, whole.output)


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


WORKER = HELPERS / "training_process.py"


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
    config.write_text(dump_settings(settings))
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


@pytest.mark.slow
def test_training_under_torchrun_ends_in_one_model(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings("batch_size=4", "epochs=2")
    config = tmp_path / "config.yaml"
    config.write_text(dump_settings(settings))
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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_a_compiled_network_learns_the_same_and_goes_on_without_the_compiler(make_settings: MakeSettings) -> None:
    plain, compiled = make_settings("epochs=1"), make_settings("epochs=1", "compile=true", output="compiled")
    train(plain)
    with pytest.raises(StoppedError):
        train(compiled, stop_after(2))
    first = history(compiled.output)
    train(compiled.model_copy(update={"compile": False}))
    losses = [line["loss_tags"] for line in history(plain.output) if "loss_tags" in line]
    assert [line["loss_tags"] for line in first] == pytest.approx(losses[:2], rel=1e-2)
    one, two = (load_file(settings.output / "model.safetensors") for settings in (plain, compiled))
    assert one.keys() == two.keys()


def test_a_machine_without_a_compiler_says_so(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_nothing(*_: object) -> None:
        raise RuntimeError("No working C++ compiler found\nsecond line")

    monkeypatch.setattr(torch, "compile", compile_nothing)
    with pytest.raises(
        ConfigError, match=r"torch cannot compile .*\(No working C\+\+ compiler found\); set compile=fal"
    ):
        train(make_settings("compile=true"))
