"""What the missing results of a plan will cost on this machine, from a timed handful of steps and images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from deal_core.dataset.dataset import Dataset, evenly_spread, with_masks
from deal_core.dataset.open import open_dataset
from deal_core.dataset.settings import SourceSettings
from deal_core.devices import release_gpu_memory
from deal_core.experiments.definitions import Part
from deal_core.experiments.plan import Plan, PlannedRun
from deal_core.experiments.run import epochs_done, is_evaluated, is_trained
from deal_core.masks.score_dataset import CamSettings, score_frames
from deal_core.models.factory import create_model
from deal_core.models.model_file import LoadedModel, ModelInfo, Threshold
from deal_core.models.model_info import without_initial_weights
from deal_core.trainer.timing import repeated, time_training


@dataclass(frozen=True)
class ModelCost:
    """What the missing results of one network take.

    Args:
        model: Name of the preset.
        runs: Number of runs with missing results.
        steps: Missing optimiser steps of all these runs.
        step_s: Seconds of a step.
        images: Missing images of all evaluations.
        image_s: Seconds of the CAMs of an image.
    """

    model: str
    runs: int
    steps: int
    step_s: float
    images: int
    image_s: float

    @property
    def hours(self) -> float:
        """The hours of one run after the other."""
        return (self.steps * self.step_s + self.images * self.image_s) / 3600


def estimate_cost(plan: Plan, threads: int) -> list[ModelCost]:
    """Return the cost of the missing results of each network with any, on one device with this number of threads.

    Raises:
        DealError: a network cannot be trained here, or the dataset cannot be read.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return [cost for model in dict.fromkeys(run.model for run in plan.runs) if (cost := _of_model(plan, model))]
    finally:
        torch.set_num_threads(before)
        release_gpu_memory()


def _of_model(plan: Plan, model: str) -> ModelCost | None:
    runs = [run for run in plan.runs if run.model == model]
    parts = {part: _frames(plan, runs[0], plan.benchmark.parts[part]) for part in plan.parts}
    missing = {run.key: _missing(run) for run in runs}
    left = [run for run in runs if any(missing[run.key])]
    if not left:
        return None
    epochs = sum(missing[run.key][0] for run in left)
    training = time_training(_with_most_losses(left).settings) if epochs else None
    images = sum(len(parts[part]) for run in left for part in missing[run.key][1])
    return ModelCost(
        model=model,
        runs=len(left),
        steps=round(epochs * training.steps / left[0].settings.epochs) if training else 0,
        step_s=training.step_s if training else 0.0,
        images=images,
        image_s=_time_image(left[0], next(iter(parts.values()))) if images else 0.0,
    )


def _missing(run: PlannedRun) -> tuple[int, Sequence[str]]:
    """Return the number of missing epochs of a run, and the parts whose evaluation is missing."""
    if not is_trained(run):
        done = min(epochs_done(run.folder), run.settings.epochs)
        return run.settings.epochs - done, [evaluation.part for evaluation in run.evaluations]
    return 0, [evaluation.part for evaluation in run.evaluations if not is_evaluated(run, evaluation)]


def _with_most_losses(runs: Iterable[PlannedRun]) -> PlannedRun:
    return max(runs, key=lambda run: len(run.variant.losses))


def _frames(plan: Plan, run: PlannedRun, part: Part) -> Dataset:
    """Return the frames of an evaluation; their depth takes no time."""
    data = run.settings.data
    source = SourceSettings(
        path=data.path,
        format=data.format,
        split=part.split,
        recordings=part.recordings,
        class_ids=data.class_ids,
    )
    frames = with_masks(open_dataset(source))
    return frames if part.frames is None else evenly_spread(frames, part.frames)


def _time_image(run: PlannedRun, frames: Dataset) -> float:
    """Return the seconds of the CAMs of an image, with an untrained network."""
    settings, recipe = run.settings, run.recipe
    arguments = without_initial_weights(settings.model.arguments)
    network = create_model(settings.model.name, len(frames.classes), **arguments).eval()
    threshold = Threshold(0.5, "fixed")
    info = ModelInfo(settings.model.name, arguments, frames.classes, settings.data.image_size, threshold)
    cams = CamSettings(
        scales=recipe.scales,
        size=recipe.size,
        normalise=recipe.normalise,
        precision=recipe.precision,
        device=settings.device,
        batch_size=1,
    )
    one = evenly_spread(frames, 1)
    return repeated(lambda: list(score_frames(LoadedModel(network, info, sha256=""), one, cams)))
