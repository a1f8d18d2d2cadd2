"""Runs side by side, with a stand-in for `deal` that takes milliseconds: what is kept, made, and left by a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from helpers.paths import PROJECT

from deal_core.evaluation.metrics import MaskScore
from deal_core.evaluation.result import EvaluationResult
from deal_core.experiments.definitions import BENCHMARKS, Variant
from deal_core.experiments.plan import Evaluation, Plan, PlannedRun
from deal_core.experiments.run import Resources, RunFailure, RunStatus, epochs_done, is_evaluated, is_trained, run_plan
from deal_core.experiments.table import collect_rows
from deal_core.models.factory import create_model
from deal_core.models.model_file import ModelInfo, Threshold, save_model
from deal_core.settings_file import dump_settings
from deal_core.structures import ClassList
from deal_core.trainer.settings import TrainSettings

SEEDS = (11, 42)
CLASSES = ClassList(("cup", "fork"))

# Writes down that it was called, waits as long as the file hang/<run> is there, fails where fail/<run> is, and copies
# what the real command would have made from prepared/<run>.
STAND_IN = """
import json, os, pathlib, shutil, sys, time
home, command, *words = sys.argv[1:]
home = pathlib.Path(home)
if command == "train":
    out = pathlib.Path(json.loads(next(w for w in words if w.startswith("output="))[7:]))
    key, made = out.name, ["settings.yaml", "model.safetensors"]
else:
    out = pathlib.Path(words[words.index("--out") + 1])
    key, made = out.parent.name, ["evaluation.json"]
entry = {"pid": os.getpid(), "call": command, "run": key, "threads": os.environ["OMP_NUM_THREADS"],
         "gpu": os.environ.get("CUDA_VISIBLE_DEVICES", ""), "words": words, "from": time.monotonic()}
with (home / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(entry) + "\\n")
while (home / "hang" / key).exists():
    time.sleep(0.01)
if (home / "fail" / key).exists():
    print("error: the loss became nan")
    sys.exit(3)
out.mkdir(parents=True, exist_ok=True)
for name in made:
    shutil.copy(home / "prepared" / key / name, out / name)
print("ended well")
"""


@dataclass
class Laboratory:
    """A plan of two runs, and the stand-in that carries it out."""

    home: Path
    plan: Plan

    def machine(self, jobs: int = 2, gpus: tuple[str, ...] = ()) -> Resources:
        return Resources((sys.executable, str(self.home / "stand_in.py"), str(self.home)), jobs, 3, gpus)

    def calls(self) -> list[dict[str, object]]:
        file = self.home / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def told(self) -> list[tuple[object, object]]:
        return sorted((call["run"], call["call"]) for call in self.calls())

    def flag(self, kind: str, run: str) -> Path:
        path = self.home / kind / run
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return path


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    arguments = {"backbone": "test_resnet", "width": 4}
    network = create_model("cam_net", len(CLASSES), **arguments)
    save_model(path, network, ModelInfo("cam_net", arguments, CLASSES, (32, 32), Threshold(0.3, "otsu")))
    return path


@pytest.fixture
def lab(tmp_path: Path, model_file: Path) -> Laboratory:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    runs = []
    for place, seed in enumerate(SEEDS):
        key = f"seed-{seed}"
        output = tmp_path / "out" / "seam" / "deal" / key
        settings = TrainSettings.model_validate({"data": {"path": "dataset"}, "output": output, "seed": seed})
        prepared = tmp_path / "prepared" / key
        prepared.mkdir(parents=True)
        (prepared / "settings.yaml").write_text(dump_settings(settings))
        (prepared / "model.safetensors").write_bytes(model_file.read_bytes())
        score = MaskScore("oracle", 0.3, 0.5 + place / 10, 0.9, 0.2, ())
        EvaluationResult("x", "y", CLASSES, 4, score, replace(score, rule="otsu", threshold=0.35, miou=0.4)).write(
            prepared
        )
        overrides = (f"seed={seed}", f"output={json.dumps(str(output))}")
        evaluations = (Evaluation("train", ("--scales", "1.0")), Evaluation("val", ("--scales", "1.0"), "train"))
        variant = Variant("deal", frozenset({"deal"}))
        runs.append(PlannedRun("seam", variant, tmp_path / "seam.yaml", overrides, settings, evaluations))
    return Laboratory(tmp_path, Plan(BENCHMARKS["voc"], tmp_path / "out", tuple(runs)))


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_each_step_is_made_once_and_kept(lab: Laboratory) -> None:
    seen: list[RunStatus] = []
    assert run_plan(lab.plan, lab.machine(gpus=("3", "7")), seen.append) == ()
    every = [(f"seed-{seed}", call) for seed in SEEDS for call in ("evaluate", "evaluate", "train")]
    assert lab.told() == every
    assert [run.key for run in lab.plan.runs] == ["seam/deal/seed-11", "seam/deal/seed-42"]
    by_run = {str(call["run"]): call for call in lab.calls()}
    assert {call["threads"] for call in by_run.values()} == {"3"}
    assert (by_run["seed-11"]["gpu"], by_run["seed-42"]["gpu"]) == ("3", "7")
    stages = [s.stage for s in seen if s.run is lab.plan.runs[0]]
    assert list(dict.fromkeys(stages)) == ["training", "evaluating train", "evaluating val", "done"]
    for run in lab.plan.runs:
        assert {p.name for p in run.folder.glob("*.log")} == {
            "training.log",
            "evaluating-train.log",
            "evaluating-val.log",
        }
        assert (run.folder / "training.log").read_text() == "ended well\n"
    # The validation images are cut at the threshold that the training images gave.
    words = [str(call["words"]) for call in lab.calls() if call["call"] == "evaluate"]
    assert sum("fixed:0.35" in each for each in words) == sum("--threshold-rule" in each for each in words) == 2
    assert run_plan(lab.plan, lab.machine()) == ()
    assert lab.told() == every, "nothing is made twice"

    rows = collect_rows(lab.plan)
    assert [(row.part, row.seeds, row.summary("oracle").values) for row in rows] == [
        ("train", SEEDS, (0.5, 0.6)),
        ("val", SEEDS, (0.5, 0.6)),
    ]
    assert rows[0].published == pytest.approx(0.5838) and rows[0].gains == ()
    few = Plan(lab.plan.benchmark, lab.plan.out, lab.plan.runs[1:])
    assert [row.seeds for row in collect_rows(few)] == [(42, 11)] * 2, "those of an earlier call stay"


def test_what_is_damaged_or_of_other_settings_is_made_again(lab: Laboratory) -> None:
    run_plan(lab.plan, lab.machine())
    first, second = lab.plan.runs
    (first.folder / "val" / "evaluation.json").write_text('{"format": "deal-eval')
    whole = second.model_file.read_bytes()
    second.model_file.write_bytes(whole[:-10])
    assert is_trained(first) and not is_evaluated(first, first.evaluations[1])
    assert not is_trained(second)
    (lab.home / "calls.jsonl").unlink()
    assert run_plan(lab.plan, lab.machine()) == ()
    # The model came out the same, so its evaluations stand.
    assert lab.told() == [("seed-11", "evaluate"), ("seed-42", "train")]

    other = replace(first, evaluations=(Evaluation("train", ("--scales", "0.5,1.0")), first.evaluations[1]))
    assert not is_evaluated(other, other.evaluations[0]) and is_evaluated(other, other.evaluations[1])
    longer = replace(first, settings=first.settings.model_copy(update={"epochs": 99}))
    assert not is_trained(longer), "the trainer decides what becomes of it"
    moved = replace(first, settings=first.settings.model_copy(update={"output": Path("elsewhere")}))
    assert not is_trained(moved), "no model there"


def test_a_run_that_fails_is_reported_and_the_others_go_on(lab: Laboratory) -> None:
    flag = lab.flag("fail", "seed-11")
    seen: list[RunStatus] = []
    (failure,) = run_plan(lab.plan, lab.machine(jobs=1), seen.append)
    assert (failure.run.key, failure.stage, failure.code) == ("seam/deal/seed-11", "training", 3)
    assert failure.last_lines == "error: the loss became nan"
    assert "exit code 3" in str(failure) and str(failure.log) in str(failure)
    assert [s.run.settings.seed for s in seen if s.stage in ("done", "failed")] == [11, 42]
    (row, _) = collect_rows(lab.plan)
    assert row.seeds == (42,)
    flag.unlink()
    assert run_plan(lab.plan, lab.machine()) == ()
    assert collect_rows(lab.plan)[0].seeds == SEEDS


def test_a_child_that_is_killed_is_a_failure_and_goes_on_next_time(lab: Laboratory) -> None:
    flag = lab.flag("hang", "seed-42")
    found: list[RunFailure] = []
    thread = threading.Thread(target=lambda: found.extend(run_plan(lab.plan, lab.machine())))
    thread.start()
    wait_for(lambda: [c for c in lab.calls() if c["run"] == "seed-42"])
    (call,) = [c for c in lab.calls() if c["run"] == "seed-42"]
    os.kill(int(str(call["pid"])), signal.SIGKILL)
    thread.join(60)
    assert [(f.run.settings.seed, f.code, f.stage) for f in found] == [(42, -9, "training")]
    assert "signal 9" in str(found[0])
    assert is_evaluated(lab.plan.runs[0], lab.plan.runs[0].evaluations[1])
    flag.unlink()
    assert run_plan(lab.plan, lab.machine()) == ()


COMMAND = """
import pickle, sys
from deal_core.experiments.run import run_plan
with open(sys.argv[1], "rb") as file:
    run_plan(*pickle.load(file))
"""


@pytest.mark.slow
def test_a_command_that_is_killed_leaves_no_run_made_twice(lab: Laboratory, tmp_path: Path) -> None:
    """Its trainer lives on and holds the run; the next command waits for it and goes on from what it made."""
    import pickle

    flag = lab.flag("hang", "seed-11")
    (tmp_path / "plan.pickle").write_bytes(pickle.dumps((lab.plan, lab.machine(jobs=1))))
    command = subprocess.Popen([sys.executable, "-c", COMMAND, tmp_path / "plan.pickle"], cwd=PROJECT)
    wait_for(lab.calls)
    command.kill()
    command.wait()
    trainer = int(str(lab.calls()[0]["pid"]))
    os.kill(trainer, 0)  # it lives

    seen: list[RunStatus] = []
    thread = threading.Thread(target=lambda: run_plan(lab.plan, lab.machine(jobs=1), seen.append))
    thread.start()
    wait_for(lambda: [s for s in seen if s.run.settings.seed == 42 and s.stage == "done"])
    assert {s.stage for s in seen if s.run.settings.seed == 11} == {"waiting"}, "the free run goes first"
    flag.unlink()
    thread.join(60)
    assert seen[-1].stage == "done"
    assert lab.told() == [(f"seed-{seed}", call) for seed in SEEDS for call in ("evaluate", "evaluate", "train")]
    assert next(call["pid"] for call in lab.calls() if (call["run"], call["call"]) == ("seed-11", "train")) == trainer


def test_what_interrupts_the_plan_ends_its_processes(lab: Laboratory) -> None:
    lab.flag("hang", "seed-11")
    lab.flag("hang", "seed-42")

    def interrupt(status: RunStatus) -> None:
        if len(lab.calls()) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_plan(lab.plan, lab.machine(), interrupt)
    for call in lab.calls():
        with pytest.raises(ProcessLookupError):
            os.kill(int(str(call["pid"])), 0)


def test_epochs_done_are_those_of_the_last_whole_line(tmp_path: Path) -> None:
    assert epochs_done(tmp_path) == 0
    history = tmp_path / "history.jsonl"
    lines = [json.dumps({"step": i, "epoch": i // 10, "loss": 0.5}) for i in range(500)]
    history.write_text("\n".join(lines) + "\n" + '{"step": 500, "ep')
    assert epochs_done(tmp_path) == 49
    history.write_text('{"step": 1')
    assert epochs_done(tmp_path) == 0
