"""The recipe of every training: data, network, loop and model file. A `Task` supplies the parts that differ.

A run folder holds `settings.yaml`, `history.jsonl` (one line per logged step), `tensorboard/`, `checkpoint.pt` (to
resume, exactly on the same machine) and, when the training is complete, `model.safetensors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.open import open_dataset
from deal_core.dataset.settings import SourceSettings
from deal_core.dataset.transforms import TensorSample
from deal_core.errors import ConfigError, EvaluationError
from deal_core.files import owning, refuse_output_on_input
from deal_core.models.domain_change import DomainChange, FineTuneReport, check_rehearsal
from deal_core.models.earlier_model import ClassChanges, start_from
from deal_core.models.factory import create_model
from deal_core.models.model_file import MODEL_FILE, LoadedModel, ModelInfo, Threshold, load_model, save_model
from deal_core.structures import ClassList, DepthKind
from deal_core.trainer.frozen_views import freeze
from deal_core.trainer.loop import Progress, check_batch_size, create_fabric, evaluating, fit, leave_unused_alone
from deal_core.trainer.rehearsal import RehearsedFrames
from deal_core.trainer.run_folder import TrainState
from deal_core.trainer.settings import DistillSettings, RunSettings
from deal_core.trainer.views import Frames, Views


class ClassFrames(Frames, Protocol):
    """Frames with tags or masks of classes."""

    @property
    def classes(self) -> ClassList:
        """The classes."""

    def with_classes(self: F, classes: ClassList) -> F:
        """Return the same frames for other classes, which are mapped by name."""


F = TypeVar("F", bound=ClassFrames)

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


class Shown(NamedTuple):
    """Training frames and rehearsed frames to read for views, and whether views have their masks."""

    frames: Frames
    old: Frames | None
    with_mask: bool


class Task(Protocol[F]):
    """The parts of one kind of training; the recipe calls the methods in this order."""

    figure: str
    """What `class_figures` measures."""

    @property
    def settings(self) -> RunSettings:
        """Settings of the run."""

    def split(self, dataset: Dataset) -> tuple[F, F]:
        """Return the training and the held-out frames; raise `DealError` if the dataset does not fit."""

    def prepare(self, network: nn.Module, frames: F) -> None:
        """Change the first weights of the network to suit the training frames; a checkpoint replaces them."""

    def frame_weights(self, frames: F) -> Sequence[float] | None:
        """Return how often to show each training frame, relative to the others; None: each once per epoch."""

    def shown(self, frames: F, old: F | None) -> Shown:
        """Return the frames to read for views: those of training, and those of `data.rehearse` if they are given."""

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

    def old_frames(self, dataset: Dataset, earlier: LoadedModel) -> tuple[F, F]:
        """Return the training and the held-out frames of the dataset of `data.rehearse`."""

    def class_figures(self, model: LoadedModel, frames: F, device: torch.device) -> Mapping[str, float | None]:
        """Return `figure` of each class of a model on frames for the same classes; None where no frame can tell."""


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
        report: What was gained and lost since the model of `init_from`; None without one.
    """

    model: Path
    network: nn.Module
    info: ModelInfo
    frames: F
    held_out: F
    steps: int
    resumed_from: int
    fabric: Fabric
    report: FineTuneReport | None = None


@dataclass(frozen=True, eq=False)
class _Earlier(Generic[F]):
    """The model of `init_from`, and the training and held-out frames of `data.rehearse`, if it is given."""

    model: LoadedModel
    path: Path
    frames: F | None
    held_out: F | None


def run_task(task: Task[F], report: Callable[[Progress], None]) -> Trained[F]:
    """Train the run in the output folder of the task's settings, or resume it.

    Raises:
        DatasetError: the dataset cannot be read.
        ConfigError: the run folder holds another run, or the settings do not fit the data, network or machine.
        ModelFileError: initial weights or the checkpoint cannot be read, or a file cannot be written.
        InUseError: another process trains in the folder.
        EvaluationError: the training is complete, but its threshold rule finds no threshold, or more was lost on the
            dataset of `data.rehearse` than is accepted; the model is kept.
        DealError: a method of the task raises it.
    """
    settings = task.settings
    _check_settings(settings)
    fabric = create_fabric(settings)
    with owning(settings.output, ConfigError) if fabric.is_global_zero else nullcontext():
        return _run(task, fabric, report)


def _run(task: Task[F], fabric: Fabric, report: Callable[[Progress], None]) -> Trained[F]:
    settings = task.settings
    dataset = open_dataset(settings.data)
    frames, held_out = task.split(dataset)
    weights = settings.init_from or settings.model.arguments.get("weights")
    if weights is not None and Path(weights).is_file():
        refuse_output_on_input([settings.output / MODEL_FILE], [Path(weights)], ConfigError)
    with fabric.rank_zero_first():  # the others read the masks that it writes
        earlier = _open_earlier(task)
    shown = _shown(task, frames, earlier)
    check_batch_size(settings, shown.epoch, fabric.world_size)
    torch.manual_seed(settings.seed)
    network = create_model(settings.model.name, len(dataset.classes), **settings.model.arguments)
    task.prepare(network, frames)
    changes = start_from(network, dataset.classes, earlier.model, earlier.path) if earlier else None
    try_out(network, task)
    with fabric.rank_zero_first():  # the others read the maps that it writes
        frozen = freeze(network, shown.frames, held_out, settings, fabric.device)
    objective = task.objective(network, dataset.depth_kind)

    def held_out_figures() -> Mapping[str, float]:
        return task.held_out_figures(network, held_out, fabric.device) if len(held_out) else {}

    views = Views(
        shown.frames,
        settings,
        with_mask=shown.with_mask,
        frame_weights=shown.weights,
        epoch=shown.epoch,
        frozen=frozen,
    )
    done = fit(fabric, network, objective, views, settings, task.step, held_out_figures, report)

    facts = {"steps": done.steps, "frames": len(frames), "seed": settings.seed, **task.facts()}
    if earlier and changes:
        facts["init_from"] = {"sha256": earlier.model.sha256, **changes.to_json()}
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
    change = _report(task, earlier, changes, LoadedModel(network, info, sha256=""), (frames, held_out), fabric.device)
    if change and fabric.is_global_zero:
        change.write(settings.output)
    fabric.barrier()
    if failed:
        raise EvaluationError(
            f"{failed}. The training is complete: {model} has the threshold {threshold.value:.2f} of the rule "
            f"'{threshold.rule}', which works"
        )
    if change:
        change.check(model)
    return Trained(model, network, info, frames, held_out, done.steps, done.resumed_from, fabric, change)


def _check_settings(settings: RunSettings) -> None:
    """Raise `ConfigError` for settings of a fine-tuning that have no effect."""
    rehearse = settings.data.rehearse
    check_rehearsal(settings.init_from, rehearse, settings.max_loss_on_old)
    if isinstance(settings, DistillSettings) and settings.rehearse_masks != "model" and rehearse is None:
        raise ConfigError("rehearse_masks needs data.rehearse, the dataset whose masks they are")


def _open_earlier(task: Task[F]) -> _Earlier[F] | None:
    """Return the model of `init_from`, with the frames of `data.rehearse`; None for a training without one."""
    settings = task.settings
    if settings.init_from is None:
        return None
    model = load_model(settings.init_from)
    if settings.data.rehearse is None:
        return _Earlier(model, settings.init_from, None, None)
    dataset = open_dataset(SourceSettings(path=settings.data.rehearse[0]))
    return _Earlier(model, settings.init_from, *task.old_frames(dataset, model))


class _Epoch(NamedTuple):
    """The frames of a training, how often to show each, how many an epoch shows, and whether views have masks."""

    frames: Frames
    weights: Sequence[float] | None
    epoch: int
    with_mask: bool


def _shown(task: Task[F], frames: F, earlier: _Earlier[F] | None) -> _Epoch:
    """Return the training frames, with those that are rehearsed."""
    weights, rehearse = task.frame_weights(frames), task.settings.data.rehearse
    if not earlier or earlier.frames is None or rehearse is None or rehearse[1] == 0:
        shown = task.shown(frames, None)
        return _Epoch(shown.frames, weights, len(frames), shown.with_mask)
    shown = task.shown(frames, earlier.frames.with_classes(frames.classes))
    assert shown.old is not None  # old frames were given
    both = RehearsedFrames(shown.frames, shown.old, rehearse[1])
    return _Epoch(both, both.weights(weights), both.epoch, shown.with_mask)


def _report(
    task: Task[F],
    earlier: _Earlier[F] | None,
    changes: ClassChanges | None,
    model: LoadedModel,
    new: tuple[F, F],
    device: torch.device,
) -> FineTuneReport | None:
    """Return what was gained on the new frames (training, held out) and lost on the old ones."""
    if not earlier or not changes:
        return None
    settings = task.settings

    def change(training: F, held_out: F, dataset: Path) -> DomainChange:
        watched = held_out if len(held_out) else training
        before, after = (
            task.class_figures(of, watched.with_classes(of.info.classes), device) for of in (earlier.model, model)
        )
        return DomainChange(str(dataset), len(watched), bool(len(held_out)), before, after)

    old = None
    if earlier.frames is not None and earlier.held_out is not None and settings.data.rehearse:
        old = change(earlier.frames, earlier.held_out, settings.data.rehearse[0])
    return FineTuneReport(
        str(earlier.path), task.figure, changes, change(*new, settings.data.path), old, settings.max_loss_on_old
    )


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
