"""What a training will cost, from a few of its steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.open import open_dataset
from deal_core.errors import DealError
from deal_core.models.factory import create_model
from deal_core.models.model_info import without_initial_weights
from deal_core.trainer.cam_training import CamTraining
from deal_core.trainer.loop import batch_loader, check_batch_size, create_fabric
from deal_core.trainer.run_folder import TrainState
from deal_core.trainer.schedule import create_optimizer
from deal_core.trainer.settings import TrainSettings
from deal_core.trainer.task import try_out
from deal_core.trainer.views import Views

T = TypeVar("T")

_LONG_S = 10.0
"""A repetition that takes longer is not repeated."""
_REPEATS = 3
_FRAMES_ON_CPU = 2


@dataclass(frozen=True)
class TrainingCost:
    """Number of optimiser steps of a training, and seconds that each takes, images included."""

    steps: int
    step_s: float


def time_training(settings: TrainSettings) -> TrainingCost:
    """Return the cost of a training from a few steps of an untrained network; nothing is written.

    On the CPU the steps have two images, and their time is scaled to the batch.

    Raises:
        DealError: the training cannot start, as `deal_core.trainer.cam_training.train` says.
    """
    task, fabric = CamTraining(settings), create_fabric(settings)
    dataset = open_dataset(settings.data)
    frames, _ = task.split(dataset)
    check_batch_size(settings, len(frames), fabric.world_size)
    steps = len(frames) // settings.batch_size * settings.epochs
    on_cpu = fabric.device.type == "cpu"
    few = settings.model_copy(
        update={
            "batch_size": min(_FRAMES_ON_CPU, settings.batch_size) if on_cpu else settings.batch_size,
            "data": settings.data.model_copy(update={"workers": 0}),
        }
    )
    arguments = without_initial_weights(settings.model.arguments)  # none to read or to download
    network = create_model(settings.model.name, len(dataset.classes), **arguments)
    task.prepare(network, frames)
    try_out(network, task)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = task.objective(network, dataset.depth_kind)
    wrapped, optimizer = fabric.setup(objective, create_optimizer(network, settings.optimizer, on_cpu=on_cpu))
    wrapped.train()
    state = TrainState(total_steps=steps)
    batches = iter(batch_loader(_views(frames, few, task), few, fabric, TrainState(total_steps=2)))
    next(batches)
    loading_s, batch = timed(lambda: next(batches))
    if isinstance(batch, DealError):
        raise batch
    batch = batch.map(lambda tensor: tensor.to(fabric.device))
    compute_s = repeated(lambda: task.step(fabric, wrapped, optimizer, batch, state))  # ends by reading the loss
    scale = settings.batch_size / few.batch_size
    workers = settings.data.workers
    # On the CPU, the processes that load images take the cores of the network.
    step_s = compute_s + loading_s if on_cpu or not workers else max(compute_s, loading_s / workers)
    return TrainingCost(steps, step_s * scale)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that some work takes, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def repeated(work: Callable[[], object]) -> float:
    """Return the seconds of a repetition of some work, after one to warm up unless it is long."""
    first, _ = timed(work)
    if first > _LONG_S:
        return first
    times = [timed(work)[0] for _ in range(_REPEATS)]
    return sorted(times)[_REPEATS // 2]


def _views(frames: Dataset, settings: TrainSettings, task: CamTraining) -> Views:
    return Views(frames, settings, with_mask=False, frame_weights=task.frame_weights(frames))
