"""`deal experiments` on small sets: from nothing to table and figure, and again without training anything twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from helpers.layouts import HEIGHT, WIDTH, make_voc
from helpers.paths import PROJECT

from deal_core.models.model_file import read_info
from training.cli import app

PRESETS = PROJECT / "config" / "experiments"
Deal = Callable[..., Any]
TINY_WEAKTR = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_arguments": {"depth": 2, "embed_dim": 16, "num_heads": 2, "patch_size": 8},
}
TINY = [
    *("epochs=1", "batch_size=4", "precision=32-true", "device=cpu", "data.workers=0", "log_every=1"),
    *("data.image_size=[32,32]", "threshold_rule=fixed:0.3", "weaktr:model.arguments=" + json.dumps(TINY_WEAKTR)),
]


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_voc(tmp_path_factory.mktemp("voc"))


@pytest.fixture(scope="module")
def depth(voc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Estimated depth of every image: a plane with a box on it."""
    from deal_core.dataset.depth_maps import DepthMapsWriter

    folder = tmp_path_factory.mktemp("depth")
    estimate = np.tile(np.linspace(1, 2, WIDTH, dtype=np.float32), (HEIGHT, 1))
    estimate[12:30, 8:24] = 3
    writer = DepthMapsWriter(folder, "inverse", "none")
    for image in sorted((voc / "VOCdevkit" / "VOC2012" / "JPEGImages").iterdir()):
        writer.write(f"VOC2012/{image.stem}", estimate)
    return folder


@pytest.mark.slow
def test_the_table_of_voc_from_nothing_and_again(deal: Deal, voc: Path, depth: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "[voc]"
    words = ["experiments", "voc", "--data", voc, "--depth", depth, "--out", out, "--models", "weaktr", "--seeds", "11"]
    words += ["--variants", "baseline,deal", "--jobs", "2", "--scales", "1.0", *TINY]
    done = deal(*words)
    assert done.returncode == 0, done.stderr
    assert re.search(r"cost: weaktr, 2 runs: 2 steps of \S+ s and 12 images of \S+ s, 0 min", done.stderr)
    for said in ("weaktr", "baseline", "deal", "train", "val", "63.5", "61.9"):
        assert said in done.stdout
    assert f"table:  {out}/table.md" in done.stderr and cv2.imread(str(out / "figure.png")) is not None
    runs = {variant: out / "weaktr" / variant / "seed-11" for variant in ("baseline", "deal")}
    for variant, run in runs.items():
        facts = read_info(run / "model.safetensors").training
        assert (facts["deal_weight"] > 0) == (variant == "deal") and facts["isl_weight"] == facts["fsl_weight"] == 0
        assert facts["frames"] == 6 and facts["seed"] == 11
        frames = {
            part: json.loads((run / part / "evaluation.json").read_text())["num_frames"] for part in ("train", "val")
        }
        assert frames == {"train": 4, "val": 2}

    made = {file: file.stat().st_mtime_ns for run in runs.values() for file in run.rglob("*") if file.is_file()}
    done = deal(*words, "--json")
    assert done.returncode == 0
    rows = json.loads(done.stdout)["rows"]
    assert [(row["variant"], row["part"], row["published"]) for row in rows] == [
        ("baseline", "train", pytest.approx(0.63461)),
        ("baseline", "val", pytest.approx(0.60635)),
        ("deal", "train", pytest.approx(0.64792)),
        ("deal", "val", pytest.approx(0.61908)),
    ]
    val = json.loads((runs["deal"] / "val" / "evaluation.json").read_text())
    assert rows[3]["oracle"]["values"] == [val["oracle"]["miou"]]
    assert {file: file.stat().st_mtime_ns for file in made} == made, "nothing is made twice"
    again = deal(*words, "--dry-run")
    assert again.returncode == 0 and not again.stdout and "cost" not in again.stderr, "nothing is missing"


KILLED_TABLE = os.environ.get("DEAL_KILLED_TABLE", "").split()
"""Networks and variants of the test below, such as `weaktr,seam baseline,deal`; it takes minutes."""


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(len(KILLED_TABLE) != 2, reason="DEAL_KILLED_TABLE names no networks and variants")
def test_a_table_that_is_killed_three_times_is_the_same(deal: Deal, voc: Path, depth: Path, tmp_path: Path) -> None:
    """From imported weights; kill -9 of everything in a training, in an evaluation and between two results."""
    models, variants = KILLED_TABLE

    def words(out: Path) -> list[str]:
        given: list[str | Path] = ["experiments", "voc", "--data", voc, "--depth", depth, "--out", out]
        given += ["--seeds", "11", "--scales", "1.0"]
        given += ["--models", models, "--variants", variants, "--jobs", "1", *TINY, "epochs=6", "batch_size=2"]
        given += ["data.image_size=[64,64]", *imported_weights(deal, tmp_path, models.split(","))]
        return [*map(str, given), "--json"]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = deal(*words(whole))
    assert done.returncode == 0, done.stderr
    assert "cost: " in done.stderr and " steps of " in done.stderr and " images of " in done.stderr
    places = []
    for place in ("checkpoint.pt", "*/evaluation_frames/1-of-1.frames", "train/made.json"):
        kill_when(words(killed), lambda place=place: list(killed.glob(f"*/*/*/{place}")))
        places.append({file.relative_to(killed).as_posix() for file in killed.rglob("*") if file.is_file()})
    assert not any(name.endswith("model.safetensors") for name in places[0])
    assert not any(name.endswith("evaluation.json") for name in places[1])
    assert not any(name.endswith("val/evaluation.json") for name in places[2])
    resumed = deal(*words(killed))
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["rows"] == json.loads(done.stdout)["rows"]
    assert (killed / "table.md").read_text() == (whole / "table.md").read_text()
    assert not list(killed.glob("*/*/*/*/evaluation_frames"))


def imported_weights(deal: Deal, folder: Path, models: list[str]) -> list[str]:
    """Return the settings of small networks whose weights were published as .pth, one as DeiT's are."""
    import timm
    import torch

    names, settings = {"weaktr": "test_vit", "seam": "test_resnet"}, []
    for model in models:
        name = names[model]
        out = folder / f"{name}.safetensors"
        if not out.exists():
            torch.manual_seed(0)
            tensors = timm.create_model(name).state_dict()
            torch.save({"model": tensors} if model == "weaktr" else tensors, folder / f"{name}.pth")
            done = deal("import-weights", folder / f"{name}.pth", "--backbone", name, "--out", out)
            assert done.returncode == 0, done.stderr
        settings.append(f"{model}:model.arguments=" + json.dumps({"backbone": name, "weights": str(out)}))
    return settings


def kill_when(words: list[str], reached: Callable[[], object]) -> None:
    """Run `deal` and kill it with all processes that it started, by signal 9, when a place is reached."""
    command = subprocess.Popen(
        [sys.executable, "-m", "training.cli", *words], cwd=PROJECT, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 250
    while not reached():
        assert command.poll() is None and time.monotonic() < deadline, command.communicate()[1].decode()
        time.sleep(0.002)
    os.killpg(command.pid, signal.SIGKILL)
    command.communicate()


@pytest.mark.slow
def test_a_killed_trainer_goes_on_from_its_checkpoint(deal: Deal, tmp_path: Path) -> None:
    """kill -9 of the training itself: the command reports it, and given again resumes."""
    out = tmp_path / "runs"
    words = ["experiments", "synthetic", "--out", str(out), "--scenes", "2", "--test-scenes", "2", "--models", "seam"]
    words += ["--seeds", "11", "--variants", "baseline", "--no-val", "epochs=8", "batch_size=4", "device=cpu"]
    words += ["threshold_rule=otsu", "data.image_size=[48,64]"]
    command = subprocess.Popen(
        [sys.executable, "-m", "training.cli", *words],
        cwd=PROJECT,
        env={**os.environ, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = out / "seam" / "baseline" / "seed-11"
    try:
        deadline = time.monotonic() + 200
        while not (run / "checkpoint.pt").exists():
            assert command.poll() is None and time.monotonic() < deadline, command.communicate()
            time.sleep(0.01)
        children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        _, said = command.communicate(timeout=100)
    finally:
        if command.poll() is None:
            command.kill()
    assert command.returncode == 1 and "training was ended by signal 9" in said, said
    assert not (run / "model.safetensors").exists()
    done = deal(*words)
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line)["step"] for line in (run / "history.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == read_info(run / "model.safetensors").training["steps"] == 24
    assert not (run / "val").exists() and (run / "train" / "evaluation.json").exists()


@pytest.mark.parametrize("benchmark", ["voc", "coco", "hope", "synthetic"])
def test_what_is_planned_is_what_the_commands_take(
    benchmark: str, depth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deal_core.experiments.plan import ExperimentOptions, make_plan

    monkeypatch.chdir(tmp_path)
    taken = None if benchmark == "synthetic" else depth
    options = ExperimentOptions(
        benchmark, tmp_path, tmp_path / "runs", PRESETS, taken, ("weaktr", "seam"), full_train=benchmark == "voc"
    )
    group = typer.main.get_command(app)
    for run in make_plan(options).runs:
        for evaluation in run.evaluations:
            words = ["model.safetensors", str(run.settings.data.path), *evaluation.arguments]
            parsed = group.commands["evaluate"].make_context("evaluate", words).params  # type: ignore[attr-defined]
            assert parsed["layout"] == run.settings.data.format
            assert parsed["class_ids"] == run.settings.data.class_ids


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["voc"], "--data: expected the folder of the voc dataset"),
        (["voc", "--data", "{tmp}/nothing", "--depth", "{depth}"], "nothing"),
        (["voc", "--data", "{voc}"], "voc has no depth"),
        (["voc", "--data", "{voc}", "--depth", "{depth}", "--variants", "baselin"], "Did you mean 'baseline'"),
        (["voc", "--data", "{voc}", "--depth", "{depth}", "--seeds", "1,x"], "--seeds"),
        (["voc", "--data", "{voc}", "--depth", "{depth}", "--seeds", "11", "42"], "given with commas"),
        (["voc", "--data", "{voc}", "--depth", "{depth}", "--scales", "0"], "--scales"),
        (["voc", "--data", "{voc}", "--depth", "{depth}", "--scenes", "3"], "--scenes"),
        (["synthetic", "--data", "{voc}"], "renders its own scenes"),
    ],
)
def test_errors_of_a_person_are_one_sentence(
    deal: Deal, voc: Path, depth: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    places = {"voc": voc, "depth": depth, "tmp": tmp_path}
    out = tmp_path / "runs"
    done = deal("experiments", *(argument.format(**places) for argument in arguments), "--out", out)
    assert done.returncode in (1, 2), done.stderr
    assert said in done.stderr.replace("\n", " ") and "Traceback" not in done.stderr and not done.stdout
    assert not out.exists()


def test_a_folder_of_something_else_is_left_alone(deal: Deal, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    done = deal("experiments", "synthetic", "--out", tmp_path)
    assert done.returncode == 2 and "no experiment's folder" in done.stderr.replace("\n", " ")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]
