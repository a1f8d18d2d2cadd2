"""What the missing results of a plan cost: what counts as missing, and how the times add up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.layouts import make_voc
from helpers.paths import PROJECT

from deal_core.errors import DatasetError
from deal_core.experiments import cost
from deal_core.experiments.cost import ModelCost, estimate_cost
from deal_core.experiments.plan import ExperimentOptions, Plan, make_plan
from deal_core.trainer.settings import TrainSettings
from deal_core.trainer.timing import TrainingCost

STEP_S, IMAGE_S = 2.0, 3.0
TINY = (
    *("epochs=4", "batch_size=2", "precision=32-true", "device=cpu", "data.image_size=[32,32]", "data.workers=0"),
    "seam:model.arguments=" + json.dumps({"backbone": "test_resnet"}),
)


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_voc(tmp_path_factory.mktemp("voc"))


@pytest.fixture
def make(voc: Path, tmp_path: Path) -> Callable[..., Plan]:
    """Plans of SEAM on 4 training and 2 validation images: two steps an epoch."""
    about = {"format": "deal-depth", "version": 1, "kind": "inverse", "scale": 1e-4, "model": "none"}
    depth = tmp_path / "depth"
    depth.mkdir()
    (depth / "depth.json").write_text(json.dumps(about))

    def plan(*overrides: str) -> Plan:
        options = ExperimentOptions(
            "voc",
            voc,
            tmp_path / "runs",
            PROJECT / "config" / "experiments",
            depth=depth,
            models=("seam",),
            variants=("baseline", "isl-fsl"),
            seeds=(11,),
            scales=(1.0,),
            overrides=(*TINY, *overrides),
        )
        return make_plan(options)

    return plan


@pytest.fixture
def plan(make: Callable[..., Plan]) -> Plan:
    return make()


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[TrainSettings]:
    """The trainings that were timed; each step takes `STEP_S` and each image `IMAGE_S`, whatever the machine."""
    trainings: list[TrainSettings] = []

    def time_training(settings: TrainSettings) -> TrainingCost:
        trainings.append(settings)
        return TrainingCost(steps=8, step_s=STEP_S)

    def repeated(work: Callable[[], object]) -> float:
        work()
        return IMAGE_S

    monkeypatch.setattr(cost, "time_training", time_training)
    monkeypatch.setattr(cost, "repeated", repeated)
    return trainings


def test_all_is_missing_at_first(plan: Plan, timed: list[TrainSettings]) -> None:
    threads = torch.get_num_threads()
    (found,) = estimate_cost(plan, threads + 1)
    assert torch.get_num_threads() == threads
    assert found == ModelCost("seam", runs=2, steps=2 * 8, step_s=STEP_S, images=2 * (4 + 2), image_s=IMAGE_S)
    assert found.hours == pytest.approx((16 * STEP_S + 12 * IMAGE_S) / 3600)
    assert [settings.fsl.weight > 0 for settings in timed] == [True], "the variant with most losses is timed, once"


def test_what_is_there_costs_nothing(plan: Plan, timed: list[TrainSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    """One run is trained and has one of its two evaluations; the other stopped after three of four epochs."""
    first, second = plan.runs
    monkeypatch.setattr(cost, "is_trained", lambda run: run.key == first.key)
    monkeypatch.setattr(cost, "is_evaluated", lambda run, part: run.key == first.key and part.part == "train")
    monkeypatch.setattr(cost, "epochs_done", lambda folder: 3 if folder == second.folder else 0)
    (found,) = estimate_cost(plan, 1)
    assert (found.runs, found.steps, found.images) == (2, 2, 2 + 4 + 2)


def test_a_complete_plan_costs_nothing_and_is_not_timed(
    plan: Plan, timed: list[TrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "is_trained", lambda run: True)
    monkeypatch.setattr(cost, "is_evaluated", lambda run, part: True)
    assert estimate_cost(plan, 1) == [] and timed == []


def test_only_evaluations_are_missing(plan: Plan, timed: list[TrainSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "is_trained", lambda run: True)
    monkeypatch.setattr(cost, "is_evaluated", lambda run, part: part.part == "val")
    (found,) = estimate_cost(plan, 1)
    assert found == ModelCost("seam", runs=2, steps=0, step_s=0.0, images=2 * 4, image_s=IMAGE_S) and timed == []


def test_a_training_that_cannot_start_is_an_error(plan: Plan) -> None:
    with pytest.raises(DatasetError, match="lacks the depth maps of 6 of 6 images"):
        estimate_cost(plan, 1)
