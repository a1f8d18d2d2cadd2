"""`deal train`, `evaluate`, `cams` and `report` on one small dataset, as a person and as a script run them."""

from __future__ import annotations

import json
import os
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
import yaml
from helpers.paths import PROJECT

from deal_core.dataset.dataset import Dataset
from deal_core.models.model_file import load_model, read_info

Deal = Callable[..., Any]


@pytest.fixture(scope="module")
def config(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of a training that takes a second; `output` is given with each call."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    values = {
        "data": {"path": str(tiny_dataset), "image_size": [32, 48]},
        "output": "given/with/each/call",
        "model": {"arguments": {"backbone": "test_resnet", "width": 8}},
        **{"epochs": 3, "batch_size": 3, "log_every": 1, "device": "cpu", "threshold_rule": "otsu"},
    }
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def trained(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a complete training; tests may add files to it, and change none."""
    from deal_core.settings_file import load_settings
    from deal_core.trainer.settings import TrainSettings
    from training.commands.train import run_training

    output = tmp_path_factory.mktemp("runs") / "tiny"
    run_training(load_settings(TrainSettings, config, [f"output={output}"]), quiet=True)
    return output


@pytest.mark.slow
def test_train_evaluate_cams_report(deal: Deal, config: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "[tiny]"
    done = deal("train", config, f"output={run}", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 0 and result["model"] == str(run / "model.safetensors")
    assert (result["steps"], result["resumed_from"], result["threshold_rule"]) == (9, 0, "otsu")
    assert result["quality"] == json.loads((run / "quality.json").read_text()) and result["quality"]["score"] is None
    done = deal("train", config, f"output={run}")
    assert done.returncode == 0 and done.stdout == ""
    assert f"model: {run}/model.safetensors (background threshold {result['threshold']:.2f}, otsu)" in done.stderr

    model = run / "model.safetensors"
    done = deal("evaluate", model, tiny_dataset, "--json", "--device", "cpu", "--pictures", "2")
    evaluation = json.loads(done.stdout)
    assert done.returncode == 0 and evaluation == json.loads((run / "evaluation.json").read_text())
    assert evaluation["num_frames"] == 12 and evaluation["name"] == "[tiny]"
    assert evaluation["auto"]["threshold"] == result["threshold"] == read_info(model).threshold.value
    assert 0 < evaluation["auto"]["miou"] <= evaluation["oracle"]["miou"] <= 1
    assert len(json.loads((run / "pictures" / "pictures.json").read_text())["pictures"]) == 2

    cams = tmp_path / "cams"
    done = deal("cams", model, tiny_dataset, "--out", cams, "--scales", "0.5,1", "--device", "cpu")
    assert done.returncode == 0 and "12 frames written, 0 existed already" in done.stderr
    assert len(list(cams.rglob("*.npz"))) == len(list(cams.rglob("*.png"))) == 12
    judged = json.loads((cams / "quality.json").read_text())
    assert judged["frames"] == 12 and f"masks: {judged['grade']}, score {judged['score']:.2f}" in done.stderr
    done = deal("cams", model, tiny_dataset, "--out", cams, "--scales", "0.5,1", "--device", "cpu")
    assert done.returncode == 0 and "0 frames written, 12 existed already" in done.stderr

    masks = tmp_path / "masks"
    refined = ("--refine", "walk", "--refine-option", "steps=20", "--device", "cpu")
    for said in ("4 frames written, 0 existed already", "0 frames written, 4 existed already"):
        done = deal(
            *("cams", model, tiny_dataset, "--out", masks, "--frames", "4", *refined),
            *("--size", "image", "--normalise", "min_max", "--threshold-rule", "otsu"),
        )
        assert done.returncode == 0 and said in done.stderr
    about = json.loads((masks / "cams.json").read_text())
    assert (about["refine"]["steps"], about["size"], about["threshold_rule"]) == (20, "image", "otsu")
    done = deal("evaluate", masks, tiny_dataset, "--frames", "4", "--json", "--out", tmp_path / "of_masks")
    of_masks = json.loads(done.stdout)
    assert done.returncode == 0 and of_masks["oracle"] is None and of_masks["num_frames"] == 4
    done = deal(
        *("evaluate", model, tiny_dataset, "--frames", "4", "--json", "--out", tmp_path / "of_model", *refined),
        *("--size", "image", "--normalise", "min_max", "--threshold-rule", "otsu", "--pictures", "0"),
    )
    of_model = json.loads(done.stdout)
    assert done.returncode == 0 and of_model["auto"] == of_masks["auto"]
    assert of_model["details"]["refine"] == "walk"
    done = deal("evaluate", masks, tiny_dataset, "--frames", "4", "--out", tmp_path / "of_masks")
    assert done.returncode == 0 and "auto (otsu" in done.stdout and "oracle" not in done.stdout

    done = deal("report", run, "--out", tmp_path / "report.html", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["runs"][0]["auto"]["miou"] == evaluation["auto"]["miou"]
    assert "[tiny]" in (tmp_path / "report.html").read_text()


def test_evaluate_prints_a_table_and_writes_where_it_is_told(
    deal: Deal, trained: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    model, out = trained / "model.safetensors", tmp_path / "elsewhere"
    done = deal(
        *("evaluate", model, tiny_dataset, "--out", out, "--name", "[b]mine", "--pictures", "0"),
        *("--tags", "predicted", "--no-flip", "--recording", "tiny", "--device", "cpu"),
    )
    assert done.returncode == 0
    for said in ("[b]mine: 12 frames", "background", *Dataset.open(tiny_dataset).classes.names, "mean", "oracle"):
        assert said in done.stdout
    assert [p.name for p in out.iterdir()] == ["evaluation.json"] and not (trained / "evaluation.json").exists()
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert evaluation["details"]["tags"] == "predicted" and evaluation["name"] == "[b]mine"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train", "no.yaml"], 2, "no.yaml"),
        (["train", "{config}", "deal.wieght=1"], 2, "Did you mean 'weight'"),
        (["train", "{config}", "output={tmp}/x", "data.path={tmp}/nothing"], 1, "nothing is not a dataset"),
        (["train", "{config}", "output={tmp}/x", "batch_size=99"], 2, "batch_size 99"),
        (["train", "{config}", "output={tmp}/x", "device=gpu"], 2, "device 'gpu'"),
        (["evaluate", "{tmp}/no.safetensors", "{dataset}"], 1, "found nothing"),
        (["evaluate", "{config}", "{dataset}"], 1, "not a .safetensors file"),
        (["evaluate", "{model}", "{tmp}"], 1, "is not a dataset"),
        (["evaluate", "{model}", "{dataset}", "--recording", "tinny"], 2, "Did you mean 'tiny'"),
        (["evaluate", "{model}", "{dataset}", "--scales", "1,x"], 2, "--scales"),
        (["evaluate", "{model}", "{dataset}", "--scales", "0"], 2, "--scales"),
        (["cams", "{model}", "{dataset}", "--out", "{tmp}/cams", "--device", "gpu"], 2, "device 'gpu'"),
        (["cams", "{config}", "{dataset}", "--out", "{tmp}/cams"], 1, "not a .safetensors file"),
        (["cams", "{model}", "{dataset}", "--out", "{tmp}/cams", "--scales", ""], 2, "--scales"),
        (["cams", "{model}", "{dataset}", "--out", "{tmp}/x", "--ignore-band", "0.4,0.2"], 2, "--ignore-band"),
        (["cams", "{model}", "{dataset}", "--out", "{tmp}/x", "--ignore-band", "0.4"], 2, "--ignore-band"),
        (
            [
                "cams",
                "{model}",
                "{dataset}",
                "--out",
                "{tmp}/x",
                "--ignore-band",
                "0.2,0.4",
                "--threshold-rule",
                "otsu",
            ],
            *(2, "use one of them"),
        ),
        (["cams", "{model}", "{dataset}", "--out", "{tmp}/x", "--threshold-rule", "ostu"], 2, "Did you mean 'otsu'"),
        (["cams", "{model}", "{dataset}", "--out", "{tmp}/x", "--refine-option", "steps=3"], 2, "none was chosen"),
        (["evaluate", "{model}", "{dataset}", "--refine", "crf", "--refine-option", "stps=3"], 2, "no option 'stps'"),
        (["evaluate", "{model}", "{dataset}", "--split", "train"], 2, "no splits"),
        (["evaluate", "{model}", "{tmp}", "--as", "voc"], 1, "{tmp}"),
        (["evaluate", "{tmp}", "{dataset}"], 1, "holds no cams.json"),
        (["evaluate", "{tmp}", "{dataset}", "--refine", "crf"], 2, "a folder of finished masks"),
        (["report", "{tmp}"], 1, "deal evaluate"),
    ],
)
def test_errors_of_a_person_are_one_sentence(
    deal: Deal,
    trained: Path,
    config: Path,
    tiny_dataset: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    places = {"config": config, "dataset": tiny_dataset, "model": trained / "model.safetensors", "tmp": tmp_path}
    done = deal(*(argument.format(**places) for argument in arguments))
    assert done.returncode == code, done.stderr
    assert (
        said.format(**places) in done.stderr.replace("\n", " ") and "Traceback" not in done.stderr and not done.stdout
    )
    assert not list(tmp_path.iterdir())


def test_a_dataset_of_other_classes_or_without_masks_exits_with_1(
    deal: Deal, trained: Path, new_bag: Callable[[], Any], tmp_path: Path
) -> None:
    bag = new_bag()
    bag.session("cup", "fork")
    bag.tags(0, "cup")
    bag.pair(100, (24, 32))
    deal("extract", bag.save(tmp_path / "other"), "--out", tmp_path / "dataset")
    model = trained / "model.safetensors"
    done = deal("evaluate", model, tmp_path / "dataset", "--out", tmp_path / "run", "--device", "cpu")
    assert done.returncode == 1 and ("no frame has a mask" in done.stderr or "cup, fork" in done.stderr)
    done = deal("cams", model, tmp_path / "dataset", "--out", tmp_path / "cams", "--device", "cpu")
    assert done.returncode == 1 and "cup, fork" in done.stderr.replace("\n", " ")
    assert not (tmp_path / "run").exists() and not (tmp_path / "cams").exists()


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_goes_on(config: Path, deal: Deal, tmp_path: Path) -> None:
    """As a terminal sends it: to the process and its loading workers alike."""
    run = tmp_path / "run"
    overrides = [f"output={run}", "epochs=60", "data.workers=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "training.cli", "train", str(config), *overrides],
        cwd=PROJECT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 200
        while not (run / "checkpoint.pt").exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=100)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 130, said
    assert "interrupted" in said and "Traceback" not in said
    names = {p.name for p in run.iterdir()}
    assert names == {"settings.yaml", "history.jsonl", "tensorboard", "checkpoint.pt"}
    done = deal("train", config, *overrides, "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 0 and 0 < result["resumed_from"] < result["steps"] == 180
    steps = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [s["step"] for s in steps if "loss" in s] == list(range(1, 181))
    assert load_model(run / "model.safetensors").info.training["steps"] == 180


def test_masks_of_cams_are_those_evaluate_scores(deal: Deal, trained: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    """Two commands, one answer: mIoU counted from the pseudo masks on disk equals what evaluate says."""
    from deal_core.evaluation.metrics import ConfusionMatrix

    model = trained / "model.safetensors"
    done = deal("evaluate", model, tiny_dataset, "--out", tmp_path / "run", "--json", "--device", "cpu")
    expected = json.loads(done.stdout)["auto"]["miou"]
    deal("cams", model, tiny_dataset, "--out", tmp_path / "cams", "--device", "cpu")
    dataset = Dataset.open(tiny_dataset)
    matrix = ConfusionMatrix(len(dataset.classes))
    for frame in dataset.frames:
        mask = cv2.imread(str(tmp_path / "cams" / f"{frame.key}.png"), cv2.IMREAD_UNCHANGED)
        truth = dataset.load(frame).mask
        assert truth is not None and mask.dtype == np.uint8
        matrix.update(mask, truth)
    assert matrix.miou() == pytest.approx(expected)
