"""The training loop of every network, device and number of processes."""

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
    """Where a training is; handed to the caller after every step."""

    step: int
    total_steps: int
    epoch: int
    losses: Mapping[str, float]


@dataclass(frozen=True)
class Fitted:
    """How far `fit` went."""

    steps: int
    resumed_from: int
    """Step of the checkpoint that was resumed, 0 for a fresh run."""


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
    """Run a training, or what is left of it, in its run folder.

    Args:
        fabric: devices, precision and processes.
        network: that is trained.
        objective: the network with its losses, which `step` calls.
        views: of the training frames.
        settings: of the run.
        step: makes an optimiser step and returns losses as plain numbers.
        held_out_figures: returns what to log of held-out frames at the end of each epoch.
        report: called after each step.

    Raises:
        ConfigError: the run folder holds another run.
        ModelFileError: the checkpoint cannot be read, or a file cannot be written.
        DatasetError: a frame cannot be read.
    """
    if fabric.is_global_zero:
        prepare_folder(settings)
    fabric.barrier()

    # Convolutions over images stored channels last are much faster, on the CPU as on tensor cores.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # A checkpoint is that of the plain module and optimiser: it does not depend on how the run was launched.
    plain_optimizer = create_optimizer(network, settings.optimizer)
    wrapped, optimizer = fabric.setup(objective, plain_optimizer)
    steps_per_epoch = len(views) // settings.batch_size
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
            if fabric.is_global_zero and (state.step % every == 0 or state.step == state.total_steps):
                state.save(checkpoint, network, plain_optimizer, fabric.strategy.precision)
            report(Progress(state.step, state.total_steps, epoch, losses))
    return Fitted(state.total_steps, resumed_from)


def begin_step(fabric: Fabric, optimizer: Optimizer, state: TrainState, settings: RunSettings) -> float:
    """Set the learning rate, which is returned, and the random numbers of a step."""
    rate = learning_rate_factor(settings.optimizer, schedule_position(settings, state))
    for group in optimizer.param_groups:
        group["lr"] = settings.optimizer.learning_rate * group["factor"] * rate
    torch.manual_seed(hash((settings.seed, state.step, fabric.global_rank)) % 2**63)
    return settings.optimizer.learning_rate * rate


def end_step(fabric: Fabric, optimizer: Optimizer, losses: Mapping[str, Tensor], state: TrainState) -> dict[str, float]:
    """Minimise `loss` of the losses by one optimiser step, and return them all as plain numbers.

    Raises:
        ConfigError: the loss is not finite.
    """
    optimizer.zero_grad(set_to_none=True)
    fabric.backward(losses["loss"])
    optimizer.step()
    values = {name: float(value.detach()) for name, value in losses.items()}
    if not math.isfinite(values["loss"]):
        raise ConfigError(f"the loss became {values['loss']} at step {state.step}: lower optimizer.learning_rate")
    return values


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside the block; the former mode after it."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)


def batch_loader(views: Views, settings: RunSettings, fabric: Fabric, state: TrainState) -> DataLoader[Any]:
    """Return the loader of the batches of this process, from the step of `state` on."""
    order = BatchOrder(
        frames=len(views),
        batch_size=settings.batch_size,
        seed=settings.seed,
        start=state.step,
        stop=state.total_steps,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    return DataLoader(
        views,
        batch_sampler=order,
        num_workers=settings.data.workers,
        collate_fn=collate_or_error,
        pin_memory=fabric.device.type == "cuda",
    )


class _Autocast(MixedPrecision):
    """Mixed precision that leaves the inputs alone: depth rounded to bfloat16 has steps of 4 mm at 1 m."""

    def convert_input(self, data: Any) -> Any:
        """Return the data as it is; autocast converts what a layer takes."""
        return data


def create_fabric(settings: RunSettings) -> Fabric:
    """Return the devices, precision and processes of a training.

    Raises:
        ConfigError: they are not there, or do not go together.
        UsageError: an unknown device.
    """
    device = torch.device(resolve_device(settings.device))
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(launched)))
    if device.type == "cuda" and local > torch.cuda.device_count():
        raise ConfigError(
            f"{local} processes were launched, each takes a GPU, and there are {torch.cuda.device_count()}"
        )
    if device.type == "cpu" and settings.precision == "16-mixed":
        raise ConfigError("precision '16-mixed' needs a GPU; expected 32-true or bf16-mixed on the CPU")
    if settings.precision == "32-true":
        precision = Precision()
    else:
        precision = _Autocast(settings.precision, device.type)
    fabric = Fabric(
        accelerator=device.type,
        devices=local if device.index is None else [device.index],
        num_nodes=max(launched // local, 1),
        strategy="ddp" if launched > 1 else "auto",
        plugins=[precision],
    )
    fabric.launch()
    return fabric


def check_batch_size(settings: RunSettings, frames: int, processes: int) -> None:
    """Raise ConfigError if the batch cannot be shared among the processes, or filled."""
    if settings.batch_size % processes:
        raise ConfigError(f"batch_size {settings.batch_size} cannot be divided over {processes} processes")
    if frames < settings.batch_size:
        raise ConfigError(
            f"batch_size {settings.batch_size} is larger than the training set, {frames} frames of {settings.data.path}"
        )


def leave_unused_alone(network: nn.Module) -> None:
    """Switch parameters that a backward pass has not reached to need no gradient, and forget that of the others."""
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
