"""The recipe of every training: data, network, loop and model file. A `Task` supplies the parts that differ.

A run folder holds `settings.yaml`, `history.jsonl` (one line per logged step), `tensorboard/`, `checkpoint.pt` (to
resume, exactly on the same machine) and, when the training is complete, `model.safetensors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
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
from deal_core.errors import ConfigError, EvaluationError
from deal_core.files import owning, refuse_output_on_input
from deal_core.models.factory import create_model
from deal_core.models.model_file import MODEL_FILE, ModelInfo, Threshold, save_model
from deal_core.structures import DepthKind
from deal_core.trainer.loop import Progress, check_batch_size, create_fabric, evaluating, fit, leave_unused_alone
from deal_core.trainer.run_folder import TrainState
from deal_core.trainer.settings import RunSettings
from deal_core.trainer.views import Frames, Views

F = TypeVar("F", bound=Frames)

_UNDECIDED = Threshold(0.5, "none yet")


class ThresholdError(EvaluationError):
    """The threshold rule of a training finds no threshold.

    Args:
        reason: Reason that the rule gives.
        instead: Threshold of another rule, which works.
    """

    def __init__(self, reason: str, instead: Threshold) -> None:
        super().__init__(reason)
        self.instead = instead


class Task(Protocol[F]):
    """The parts of one kind of training; the recipe calls the methods in this order."""

    with_mask: bool
    """Whether the training reads masks."""

    @property
    def settings(self) -> RunSettings:
        """Settings of the run."""

    def split(self, dataset: Dataset) -> tuple[F, F]:
        """Return the training and the held-out frames; raise `DealError` if the dataset does not fit."""

    def prepare(self, network: nn.Module, frames: F) -> None:
        """Change the first weights of the network to suit the training frames; a checkpoint replaces them."""

    def frame_weights(self, frames: F) -> Sequence[float] | None:
        """Return how often to show each training frame, relative to the others; None: each once per epoch."""

    def outputs(self, network: nn.Module, image: Tensor) -> Iterable[Tensor]:
        """Return every output for an image (1, 3, H, W) that a loss may use."""

    def objective(self, network: nn.Module, depth_kind: DepthKind) -> nn.Module:
        """Return the network together with its losses, which `step` calls."""

    def step(
        self, fabric: Fabric, objective: Any, optimizer: Optimizer, batch: TensorSample, state: TrainState
    ) -> dict[str, float]:
        """Make one optimiser step and return the losses of this process as plain numbers."""

    def held_out_figures(self, network: nn.Module, held_out: F, device: torch.device) -> Mapping[str, float]:
        """Return the figures to log at the end of an epoch; there is at least one held-out frame."""

    def facts(self) -> Mapping[str, Any]:
        """Return facts about the training for the model file, in addition to steps, frames and seed."""

    def threshold(self, network: nn.Module, info: ModelInfo, frames: F, device: torch.device) -> Threshold:
        """Return the background threshold of the network from its training frames, or raise `ThresholdError`."""

    def figures(
        self, network: nn.Module, threshold: Threshold, frames: F, held_out: F, device: torch.device
    ) -> Mapping[str, Any]:
        """Return facts about the trained network for the model file, as JSON values."""


@dataclass(frozen=True, eq=False)
class Trained(Generic[F]):
    """A complete training.

    Args:
        model: Path of the model file.
        network: Network with the trained weights.
        info: Description in the model file.
        frames: Training frames.
        held_out: Held-out frames.
        steps: Number of optimiser steps.
        resumed_from: Step of the checkpoint from which the run resumed; 0 for a fresh run.
        fabric: Devices and processes of the training.
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
    """Train the run in the output folder of the task's settings, or resume it.

    Raises:
        DatasetError: the dataset cannot be read.
        ConfigError: the run folder holds another run, or the settings do not fit the data, network or machine.
        ModelFileError: initial weights or the checkpoint cannot be read, or a file cannot be written.
        EvaluationError: the training is complete, but its threshold rule finds no threshold; the model is kept.
        InUseError: another process trains in the folder.
        DealError: a method of the task raises it.
    """
    settings = task.settings
    fabric = create_fabric(settings)
    with owning(settings.output, ConfigError) if fabric.is_global_zero else nullcontext():
        return _run(task, fabric, report)


def _run(task: Task[F], fabric: Fabric, report: Callable[[Progress], None]) -> Trained[F]:
    settings = task.settings
    dataset = open_dataset(settings.data)
    frames, held_out = task.split(dataset)
    check_batch_size(settings, len(frames), fabric.world_size)
    weights = settings.model.arguments.get("weights")
    if isinstance(weights, str) and Path(weights).is_file():
        refuse_output_on_input([settings.output / MODEL_FILE], [Path(weights)], ConfigError)
    torch.manual_seed(settings.seed)
    network = create_model(settings.model.name, len(dataset.classes), **settings.model.arguments)
    task.prepare(network, frames)
    try_out(network, task)
    objective = task.objective(network, dataset.depth_kind)

    def held_out_figures() -> Mapping[str, float]:
        return task.held_out_figures(network, held_out, fabric.device) if len(held_out) else {}

    views = Views(frames, settings, with_mask=task.with_mask, frame_weights=task.frame_weights(frames))
    done = fit(fabric, network, objective, views, settings, task.step, held_out_figures, report)

    facts = {"steps": done.steps, "frames": len(frames), "seed": settings.seed, **task.facts()}
    name, arguments, size = settings.model.name, settings.model.arguments, settings.data.image_size
    info = ModelInfo(name, arguments, dataset.classes, size, _UNDECIDED, facts)
    failed: ThresholdError | None = None
    try:
        threshold = task.threshold(network, info, frames, fabric.device)
    except ThresholdError as error:
        failed, threshold = error, error.instead
    figures = task.figures(network, threshold, frames, held_out, fabric.device)
    info = replace(info, threshold=threshold, training={**facts, **figures})
    model = settings.output / MODEL_FILE
    if fabric.is_global_zero:
        save_model(model, network, info)
    fabric.barrier()
    if failed:
        raise EvaluationError(
            f"{failed}. The training is complete: {model} has the threshold {threshold.value:.2f} of the rule "
            f"'{threshold.rule}', which works"
        )
    return Trained(model, network, info, frames, held_out, done.steps, done.resumed_from, fabric)


def try_out(network: nn.Module, task: Task[Any]) -> None:
    """Run one forward and one backward pass on a black image before the training begins.

    Turns off gradients of parameters that no output depends on, such as layers after the last level in use: with
    several processes, each would wait for these gradients.

    Raises:
        ConfigError: the network cannot take images of this size, or lacks a map that a loss uses.
    """
    size = task.settings.data.image_size
    try:
        with evaluating(network), torch.enable_grad():
            outputs = task.outputs(network, torch.zeros(1, 3, *size))
            torch.stack([output.sum() for output in outputs]).sum().backward()
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        where = f"{size[0]}x{size[1]} (data.image_size)"
        raise ConfigError(f"the network cannot take images of {where}: {reason}") from error
    leave_unused_alone(network)
