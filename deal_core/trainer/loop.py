"""The training loop for every network, device and number of processes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from deal_core.dataset.transforms import TensorSample
from deal_core.devices import resolve_device
from deal_core.errors import ConfigError, DealError
from deal_core.trainer.run_folder import CHECKPOINT_FILE, RunLog, TrainState, prepare_folder
from deal_core.trainer.schedule import create_optimizer, learning_rate_factor, schedule_position
from deal_core.trainer.settings import RunSettings
from deal_core.trainer.views import BatchOrder, Views, collate_or_error


@dataclass(frozen=True)
class Progress:
    """The progress of a training, reported after every step."""

    step: int
    total_steps: int
    epoch: int
    losses: Mapping[str, float]


@dataclass(frozen=True)
class Fitted:
    """Number of steps of a run, and the step of the checkpoint from which it resumed; 0 for a fresh run."""

    steps: int
    resumed_from: int


def fit(
    fabric: Fabric,
    network: nn.Module,
    objective: nn.Module,
    views: Views,
    settings: RunSettings,
    step: Callable[[Fabric, Any, Optimizer, TensorSample, TrainState], dict[str, float]],
    held_out_figures: Callable[[], Mapping[str, float]],
    report: Callable[[Progress], None],
) -> Fitted:
    """Run a training, or the rest of it, in its run folder.

    Args:
        fabric: Devices, precision and processes.
        network: Network to train.
        objective: Network together with its losses, which `step` calls.
        views: Views of the training frames.
        settings: Settings of the run.
        step: Function that makes an optimiser step and returns losses as plain numbers.
        held_out_figures: Function that returns the figures to log at the end of each epoch.
        report: Function to call after each step.

    Raises:
        ConfigError: the run folder holds another run, or PyTorch cannot compile here.
        ModelFileError: the checkpoint cannot be read, or a file cannot be written.
        DatasetError: a frame cannot be read.
    """
    if fabric.is_global_zero:
        prepare_folder(settings)
    fabric.barrier()

    # Convolutions over images stored channels last are much faster, on the CPU as on tensor cores.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.compile:
        _check_compiler(fabric.device)
        network.compile()  # in place: its state dictionary and what holds the network stay as they are
    # A checkpoint holds the plain module and optimiser: it does not depend on how the run was launched.
    plain_optimizer = create_optimizer(network, settings.optimizer, on_cpu=fabric.device.type == "cpu")
    wrapped, optimizer = fabric.setup(objective, plain_optimizer)
    steps_per_epoch = views.epoch // settings.batch_size
    state = TrainState(total_steps=steps_per_epoch * settings.epochs)
    checkpoint = settings.output / CHECKPOINT_FILE
    resumed_from = state.load(checkpoint, network, plain_optimizer, fabric.strategy.precision)
    batches = fabric.setup_dataloaders(batch_loader(views, settings, fabric, state), use_distributed_sampler=False)

    wrapped.train()
    with RunLog(settings.output, resumed_from) if fabric.is_global_zero else nullcontext() as log:
        for batch in batches:
            if isinstance(batch, DealError):
                raise batch
            losses = step(fabric, wrapped, optimizer, batch, state)
            state.step += 1
            epoch = state.step // steps_per_epoch
            epoch_ends = state.step % steps_per_epoch == 0
            if log and (state.step % settings.log_every == 0 or epoch_ends):
                log.write(state.step, epoch, losses)
            if epoch_ends:
                watched = held_out_figures()
                if log and watched:
                    log.write(state.step, epoch, watched)
            every = settings.checkpoint_every or steps_per_epoch
            if log and (state.step % every == 0 or state.step == state.total_steps):
                log.sync()
                state.save(checkpoint, network, plain_optimizer, fabric.strategy.precision)
            report(Progress(state.step, state.total_steps, epoch, losses))
    return Fitted(state.total_steps, resumed_from)


def _check_compiler(device: torch.device) -> None:
    try:
        torch.compile(torch.neg)(torch.zeros(1, device=device))
    except Exception as error:  # errors of many classes
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"torch cannot compile the network ({reason}); set compile=false") from error


def begin_step(fabric: Fabric, optimizer: Optimizer, state: TrainState, settings: RunSettings) -> float:
    """Set the learning rate and the random seed of a step, and return the learning rate."""
    rate = learning_rate_factor(settings.optimizer, schedule_position(settings, state))
    for group in optimizer.param_groups:
        group["lr"] = settings.optimizer.learning_rate * group["factor"] * rate
    torch.manual_seed(hash((settings.seed, state.step, fabric.global_rank)) % 2**63)
    return settings.optimizer.learning_rate * rate


def end_step(fabric: Fabric, optimizer: Optimizer, losses: Mapping[str, Tensor], state: TrainState) -> dict[str, float]:
    """Minimise `losses["loss"]` by one optimiser step, and return all losses as plain numbers.

    Raises:
        ConfigError: the loss is not finite.
    """
    optimizer.zero_grad(set_to_none=True)
    fabric.backward(losses["loss"])
    optimizer.step()
    values = {name: float(value.detach()) for name, value in losses.items()}
    if not math.isfinite(values["loss"]):
        wrong = ", ".join(f"{name} {value}" for name, value in values.items() if not math.isfinite(value))
        raise ConfigError(
            f"the loss became {values['loss']} at step {state.step}: lower optimizer.learning_rate; the outputs of the "
            f"network are not finite ({wrong})"
        )
    return values


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluate without gradients inside the block, and restore the mode of the network after it."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)


def batch_loader(views: Views, settings: RunSettings, fabric: Fabric, state: TrainState) -> DataLoader[Any]:
    """Return a loader of the batches of this process, starting at the step of `state`."""
    order = BatchOrder(
        frames=len(views),
        batch_size=settings.batch_size,
        seed=settings.seed,
        start=state.step,
        stop=state.total_steps,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        weights=views.frame_weights,
        epoch=views.epoch,
    )
    return DataLoader(
        views,
        batch_sampler=order,
        num_workers=settings.data.workers,
        collate_fn=collate_or_error,
        pin_memory=fabric.device.type == "cuda",
    )


class _Autocast(MixedPrecision):
    """Mixed precision that keeps the type of the inputs: depth in bfloat16 would have steps of 4 mm at 1 m."""

    def convert_input(self, data: Any) -> Any:
        """Return the data unchanged; autocast converts the input of each layer."""
        return data


def create_fabric(settings: RunSettings) -> Fabric:
    """Return the devices, precision and processes of a training.

    Raises:
        ConfigError: a device is missing, or the settings contradict each other.
        UsageError: the device is unknown.
    """
    device = torch.device(resolve_device(settings.device))
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(launched)))
    if device.type == "cuda" and local > torch.cuda.device_count():
        raise ConfigError(f"expected a GPU for each of the {local} processes, found {torch.cuda.device_count()}")
    if device.type == "cpu" and settings.precision == "16-mixed":
        raise ConfigError("precision '16-mixed' needs a GPU; expected 32-true or bf16-mixed on the CPU")
    is_full = settings.precision == "32-true"
    fabric = Fabric(
        accelerator=device.type,
        devices=local if device.index is None else [device.index],
        num_nodes=max(launched // local, 1),
        strategy="ddp" if launched > 1 else "auto",
        plugins=[Precision() if is_full else _Autocast(settings.precision, device.type)],
    )
    fabric.launch()
    return fabric


def check_batch_size(settings: RunSettings, frames: int, processes: int) -> None:
    """Raise `ConfigError` if the processes cannot share the batch, or the frames do not fill it."""
    if settings.batch_size % processes:
        raise ConfigError(f"batch_size {settings.batch_size} cannot be divided over {processes} processes")
    if frames < settings.batch_size:
        raise ConfigError(
            f"batch_size {settings.batch_size} is larger than the training set, {frames} frames of {settings.data.path}"
        )


def leave_unused_alone(network: nn.Module) -> None:
    """Turn off gradients of parameters that a backward pass did not reach, and clear all other gradients."""
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
