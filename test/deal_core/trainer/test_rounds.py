"""Distillation in rounds: what teaches the next student, when it stops, what is kept, and how it resumes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.training_runs import StoppedError

from deal_core.dataset.dataset import Dataset
from deal_core.errors import ConfigError
from deal_core.masks.mask_folder import cam_paths, write_cams
from deal_core.masks.score_dataset import CamSettings
from deal_core.models.model_file import LoadedModel
from deal_core.quality.verdict import Verdict
from deal_core.settings_file import load_settings
from deal_core.trainer import rounds
from deal_core.trainer.loop import Progress
from deal_core.trainer.rounds import distill
from deal_core.trainer.settings import DistillSettings

MakeSettings = Callable[..., DistillSettings]


@pytest.fixture
def masks(dataset: Dataset, make_model: Callable[..., LoadedModel], tmp_path: Path) -> Path:
    assert sum(write_cams(make_model(), dataset, tmp_path / "masks", CamSettings(device="cpu"))) == len(dataset)
    return tmp_path / "masks"


@pytest.fixture
def make_settings(tiny_dataset: Path, masks: Path, tmp_path: Path) -> MakeSettings:
    def make(*overrides: str, output: str = "run") -> DistillSettings:
        given = [
            *(f"data.path={tiny_dataset}", f"output={tmp_path / output}", f"masks={masks}", "epochs=1"),
            *("data.image_size=[32, 64]", "model.arguments={encoder: test_resnet}", "batch_size=3", "device=cpu"),
        ]
        return load_settings(DistillSettings, None, [*given, *overrides])

    return make


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give the masks these scores, in the order in which they are judged."""

    def give(*scores: float) -> None:
        left = list(scores)
        monkeypatch.setattr(rounds, "judge", lambda figures: Verdict("good", left.pop(0), (), ()))

    return give


def scores_of(file: Path) -> Sequence[tuple[int, float, float]]:
    return [(one["number"], one["taught"], one["own"]) for one in json.loads(file.read_text())["rounds"]]


def test_better_masks_teach_again_and_name_only_tagged_classes(
    make_settings: MakeSettings, judged: Callable[..., None], dataset: Dataset
) -> None:
    judged(0.4, 0.5, 0.6)
    settings = make_settings("rounds=2")
    result = distill(settings)
    second = settings.output / "rounds" / "2"
    assert result.kept_round == 2 and result.model == settings.output / "model.safetensors"
    assert result.model.read_bytes() == (second / "model.safetensors").read_bytes()
    assert scores_of(settings.output / "distill.json") == [(1, 0.4, 0.5), (2, 0.5, 0.6)]
    assert result.rounds[1].masks == str(second / "masks")
    for frame in dataset.frames:
        mask = cv2.imread(str(cam_paths(second / "masks", frame.key)[1]), cv2.IMREAD_UNCHANGED)
        tagged = {dataset.classes.id_of(name) for name in frame.tags.present}
        assert set(np.unique(mask).tolist()) <= {0, 255, *tagged}


def test_a_student_whose_masks_are_no_better_teaches_nobody(
    make_settings: MakeSettings, judged: Callable[..., None]
) -> None:
    judged(0.4, 0.4)
    settings = make_settings("rounds=3")
    alone = distill(make_settings(output="alone"))
    result = distill(settings)
    assert result.kept_round == 1 and len(result.rounds) == 1
    assert not (settings.output / "rounds" / "2" / "model.safetensors").exists()
    assert result.model.read_bytes() == alone.model.read_bytes() and alone.rounds == ()


def test_the_better_round_is_kept(make_settings: MakeSettings, judged: Callable[..., None]) -> None:
    judged(0.4, 0.6, 0.5)
    settings = make_settings("rounds=3")
    result = distill(settings)
    assert result.kept_round == 1 and [one.own for one in result.rounds] == [0.6, 0.5]
    second = settings.output / "rounds" / "2" / "model.safetensors"
    assert second.exists() and result.model.read_bytes() != second.read_bytes()


def test_an_interrupted_second_round_goes_on(make_settings: MakeSettings, judged: Callable[..., None]) -> None:
    begun: list[int] = []

    def stop(progress: Progress) -> None:
        begun.append(progress.step)
        if begun.count(2) == 2:
            raise StoppedError

    settings = make_settings("rounds=2", "checkpoint_every=1")
    judged(0.4, 0.5)
    with pytest.raises(StoppedError):
        distill(settings, stop)
    judged(0.4, 0.5, 0.6)
    resumed = distill(settings)
    judged(0.4, 0.5, 0.6)
    whole = distill(make_settings("rounds=2", "checkpoint_every=1", output="whole"))
    assert resumed.kept_round == 2 == whole.kept_round and 0 < resumed.resumed_from < resumed.steps
    assert resumed.model.stat().st_size == whole.model.stat().st_size


def test_a_complete_run_goes_on_with_more_rounds(make_settings: MakeSettings, judged: Callable[..., None]) -> None:
    first = distill(make_settings())
    before = first.model.read_bytes()
    judged(0.4, 0.5, 0.3)
    result = distill(make_settings("rounds=2"))
    assert result.kept_round == 1 and result.model.read_bytes() == before


def test_drawn_masks_and_several_processes_are_refused(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="drawn masks"):
        distill(make_settings("rounds=2", "masks=drawn"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="use one process"):
        distill(make_settings("rounds=2"))
