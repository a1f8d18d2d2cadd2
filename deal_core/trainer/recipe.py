"""The recipe that every training follows: data, network, loop and model file; a `Task` is what differs.

A run folder holds `settings.yaml`, `history.jsonl` (one line a logged step), `tensorboard/`, `checkpoint.pt` (to
resume; exact on the same machine) and, when the training is complete, `model.safetensors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.open import open_dataset
from deal_core.dataset.transforms import TensorSample
from deal_core.errors import ConfigError
from deal_core.models.factory import create_model
from deal_core.models.model_file import MODEL_FILE, ModelInfo, Threshold, save_model
from deal_core.structures import DepthKind
from deal_core.trainer.loop import (
    Progress,
    check_batch_size,
    create_fabric,
    evaluating,
    fit,
    leave_unused_alone,
)
from deal_core.trainer.run_folder import TrainState
from deal_core.trainer.settings import RunSettings
from deal_core.trainer.views import Frames, Views

F = TypeVar("F", bound=Frames)

_UNDECIDED = Threshold(0.5, "none yet")


class Task(Protocol[F]):
    """What one kind of training does in its own way; the methods are called in this order."""

    with_mask: bool
    """Whether the training reads masks."""

    @property
    def settings(self) -> RunSettings:
        """Settings of the run."""

    def split(self, dataset: Dataset) -> tuple[F, F]:
        """Return the frames to train on and those held out.

        Raises:
            DealError: the training cannot use this dataset.
        """

    def outputs(self, network: nn.Module, image: Tensor) -> Iterable[Tensor]:
        """Pass an image (1, 3, H, W) through and return every output that a loss may act on."""

    def objective(self, network: nn.Module, depth_kind: DepthKind) -> nn.Module:
        """Return the network together with its losses, for `step` to call."""

    def step(
        self, fabric: Fabric, objective: Any, optimizer: Optimizer, batch: TensorSample, state: TrainState
    ) -> dict[str, float]:
        """Make one optimiser step and return the losses of this process as plain numbers."""

    def held_out_figures(self, network: nn.Module, held_out: F, device: torch.device) -> Mapping[str, float]:
        """Return what to log of the held-out frames at the end of an epoch; there is at least one frame."""

    def facts(self) -> Mapping[str, Any]:
        """Return what the model file says about the training, beside steps, frames and seed."""

    def threshold(self, network: nn.Module, info: ModelInfo, frames: F, device: torch.device) -> Threshold:
        """Return the background threshold of the trained network; `frames` are those that were trained on."""


@dataclass(frozen=True, eq=False)
class Trained(Generic[F]):
    """A complete training.

    Args:
        model: the model file.
        network: with the trained weights.
        info: as in the model file.
        frames: that were trained on.
        held_out: that were not.
        steps: of the training.
        resumed_from: step of the checkpoint that was resumed, 0 for a fresh run.
        fabric: devices and processes of the training.
    """

    model: Path
    network: nn.Module
    info: ModelInfo
    frames: F
    held_out: F
    steps: int
    resumed_from: int
    fabric: Fabric


def run_task(task: Task[F], report: Callable[[Progress], None]) -> Trained[F]:
    """Train, or go on with, the run in the output folder of the task's settings.

    Raises:
        DatasetError: the dataset cannot be read.
        ConfigError: the run folder holds another run, or the settings do not fit the data, the network or this
            machine.
        ModelFileError: initial weights or the checkpoint cannot be read, or a file cannot be written.
        DealError: as the task's own methods.
    """
    settings = task.settings
    fabric = create_fabric(settings)
    dataset = open_dataset(settings.data)
    frames, held_out = task.split(dataset)
    check_batch_size(settings, len(frames), fabric.world_size)
    torch.manual_seed(settings.seed)
    network = create_model(settings.model.name, len(dataset.classes), **settings.model.arguments)
    try_out(network, task)
    objective = task.objective(network, dataset.depth_kind)

    def held_out_figures() -> Mapping[str, float]:
        return task.held_out_figures(network, held_out, fabric.device) if len(held_out) else {}

    views = Views(frames, settings, with_mask=task.with_mask)
    done = fit(fabric, network, objective, views, settings, task.step, held_out_figures, report)

    facts = {"steps": done.steps, "frames": len(frames), "seed": settings.seed, **task.facts()}
    name, arguments, size = settings.model.name, settings.model.arguments, settings.data.image_size
    info = ModelInfo(name, arguments, dataset.classes, size, _UNDECIDED, facts)
    info = replace(info, threshold=task.threshold(network, info, frames, fabric.device))
    model = settings.output / MODEL_FILE
    if fabric.is_global_zero:
        save_model(model, network, info)
    fabric.barrier()
    return Trained(model, network, info, frames, held_out, done.steps, done.resumed_from, fabric)


def try_out(network: nn.Module, task: Task[Any]) -> None:
    """Pass one black image through the network, forward and backward, before the training begins.

    Parameters that no output depends on, such as those of layers behind the last level in use, are switched to need
    no gradient: several processes would wait for it.

    Raises:
        ConfigError: the network cannot take images of this size, such as a transformer made for another size; or it
            lacks a map that a loss acts on.
    """
    size = task.settings.data.image_size
    try:
        with evaluating(network), torch.enable_grad():
            outputs = task.outputs(network, torch.zeros(1, 3, *size))
            torch.stack([output.sum() for output in outputs]).sum().backward()
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"the network cannot take images of {size[0]}x{size[1]} (data.image_size): {reason}"
        ) from error
    leave_unused_alone(network)
