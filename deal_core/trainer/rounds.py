"""Distillation in rounds: the masks of the student, gated by tags and depth, teach the next student.

The first round is the training in the run folder. After a round, the student makes masks of all frames, only of tagged
classes and refined along depth, and `deal_core.quality` judges them without drawn masks. If they are better than those
from which the student learnt, another student learns from them (self-training), in `rounds/<number>/`. The model of the
round whose masks are best is the result.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.open import open_dataset
from deal_core.errors import ConfigError
from deal_core.files import os_errors_as, replacing
from deal_core.masks.mask_folder import write_cams
from deal_core.masks.refine.regions import AutoSettings
from deal_core.masks.score_dataset import CamSettings
from deal_core.models.model_file import load_model
from deal_core.quality.mask_figures import measure_masks
from deal_core.quality.verdict import Verdict, judge
from deal_core.trainer.distillation import REPORT_FILE, DistillResult, Round, distill_once
from deal_core.trainer.loop import Progress
from deal_core.trainer.run_folder import write_whole
from deal_core.trainer.settings import DistillSettings

ROUNDS = "rounds"
"""In the run folder: a folder for each further round, with the run and the masks from which it learnt."""
MASKS = "masks"


def distill(settings: DistillSettings, report: Callable[[Progress], None] = lambda progress: None) -> DistillResult:
    """Train the run in `settings.output`, or resume it, in at most `settings.rounds` rounds.

    An interrupted run resumes in the round where it stopped, and a complete one goes on with more rounds.

    Raises:
        DatasetError: the dataset cannot be read, or masks are missing, damaged, of another size or for other classes.
        ConfigError: the network is no segmenter; the run folder holds another run; the settings do not fit the data,
            the network or this machine; the network uses depth and the dataset has none in metres; or several rounds
            are asked for drawn masks or in several processes.
        ModelFileError: initial weights or the checkpoint cannot be read, or a file cannot be written.
    """
    if settings.rounds == 1:
        return distill_once(settings, report)
    first = settings.mask_sources[0]
    if first is None or len(settings.mask_sources) > 1:
        raise ConfigError(
            f"rounds: expected 1 for drawn masks, which no student improves, and for several sources of masks, found "
            f"{settings.rounds}"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"rounds: expected 1 in several processes, found {settings.rounds}: use one process")
    dataset = open_dataset(settings.data)
    now, rounds, results = settings, [], []
    taught = _score(judge(measure_masks(first, dataset)))
    for number in range(1, settings.rounds + 1):
        result = distill_once(now, report)
        masks = settings.output / ROUNDS / str(number + 1) / MASKS
        verdict = _masks_of(result.model, dataset, masks, settings.device)
        results.append(result)
        rounds.append(Round(number, str(now.masks), taught, _score(verdict)))
        if rounds[-1].own <= taught:
            break
        taught = rounds[-1].own
        now = settings.model_copy(update={"masks": masks, "output": masks.parent, "rounds": 1})
    best = max(range(len(rounds)), key=lambda index: (rounds[index].own, -index))
    model = settings.output / results[0].model.name
    if best:
        _copy(results[best].model, model)
    kept = replace(results[best], model=model, rounds=tuple(rounds), kept_round=best + 1)
    write_whole(settings.output / REPORT_FILE, json.dumps(kept.to_json(), indent=2) + "\n")
    return kept


def _masks_of(model: Path, dataset: Dataset, folder: Path, device: str) -> Verdict:
    """Write the masks that a student makes of all frames, gated by tags and depth, and return the verdict on them."""
    settings = CamSettings(gate=True, refine=AutoSettings(), device=device)
    for _ in write_cams(load_model(model), dataset, folder, settings):
        pass
    verdict = judge(measure_masks(folder, dataset))
    verdict.write(folder)
    return verdict


def _score(verdict: Verdict) -> float:
    return 0.0 if math.isnan(verdict.score) else verdict.score


def _copy(source: Path, target: Path) -> None:
    with os_errors_as(ConfigError, f"{target} cannot be written"), replacing(target) as temporary:
        shutil.copyfile(source, temporary)
