"""Training of CAM networks from tags and depth: one loop for every network, device and number of processes.

`fit` is the loop alone, which other trainings share.

A run folder holds `settings.yaml`, `history.jsonl` (one line a logged step), `tensorboard/`, `checkpoint.pt` (to
resume; exact on the same machine) and, when the training is complete, `model.safetensors`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from types import TracebackType
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import yaml
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.open import open_dataset
from deal_core.dataset.transforms import TensorSample, TrainTransform, resize_sample, to_tensors
from deal_core.errors import ConfigError, DealError, ModelFileError
from deal_core.files import replacing
from deal_core.losses.tags import tag_loss
from deal_core.masks.score_dataset import CamSettings, choose_threshold, need_depth_for_rule
from deal_core.masks.threshold_rules import create_rule
from deal_core.models.factory import create_model, is_segmenter
from deal_core.models.model_file import LoadedModel, ModelInfo, Threshold, save_model
from deal_core.models.output import CamOutput
from deal_core.runtime.segmenter import resolve_device
from deal_core.structures import Sample
from deal_core.trainer.objective import LossWeights, Objective, alignment_loss
from deal_core.trainer.settings import (
    DataSettings,
    LossSettings,
    OptimizerSettings,
    RunSettings,
    TrainSettings,
    dump_settings,
)

SETTINGS_FILE, HISTORY_FILE, CHECKPOINT_FILE, MODEL_FILE = (
    "settings.yaml",
    "history.jsonl",
    "checkpoint.pt",
    "model.safetensors",
)
_UNDECIDED = Threshold(0.5, "none yet")
R = TypeVar("R", bound=RunSettings)
_MAY_CHANGE = ("device", "threshold_rule", "checkpoint_every", "log_every", "data.workers")
"""Settings that do not touch the weights: a run may go on with others."""


@dataclass(frozen=True)
class Progress:
    """Where a training is; handed to the caller after every step."""

    step: int
    total_steps: int
    epoch: int
    losses: Mapping[str, float]


@dataclass(frozen=True)
class TrainResult:
    """What a training leaves behind."""

    model: Path
    threshold: Threshold
    steps: int
    resumed_from: int
    """Step of the checkpoint that was resumed, 0 for a fresh run."""


def train(settings: TrainSettings, report: Callable[[Progress], None] = lambda progress: None) -> TrainResult:
    """Train, or go on with, the run in `settings.output`.

    Raises:
        DatasetError: the dataset cannot be read.
        ConfigError: the run folder holds another run, or the settings do not fit the data, the network or this
            machine; or there is no depth for the edge loss.
        ModelFileError: initial weights or the checkpoint cannot be read, or a file cannot be written.
        UsageError: the rule of the threshold reads depth and there is none.
        EvaluationError: the training is complete, but its rule finds no threshold; go on with another rule.
    """
    create_rule(settings.threshold_rule)  # an unknown one is told now, not after the last step
    if is_segmenter(settings.model.name):
        raise ConfigError(f"model.name={settings.model.name} is trained on masks: use `deal distill`")
    fabric = create_fabric(settings)
    dataset = open_dataset(settings.data)
    if settings.deal.weight > 0 and not dataset.has_depth:
        raise ConfigError(
            f"{settings.data.path} has no depth, which the edge loss needs: make some with `deal depth` and give its "
            "folder as data.depth, or train without the loss (deal.weight=0)"
        )
    need_depth_for_rule(settings.threshold_rule, dataset)
    training_set, held_out = dataset.split_by_segment(settings.data.validation_fraction, seed=settings.seed)
    check_batch_size(settings, len(training_set), fabric.world_size)
    torch.manual_seed(settings.seed)
    network = create_model(settings.model.name, len(dataset.classes), **settings.model.arguments)
    _try_out(network, settings)
    objective = Objective(network, settings, dataset.depth_kind)

    def held_out_figures() -> dict[str, float]:
        return watch(network, held_out, settings, fabric.device) if len(held_out) else {}

    done = fit(
        fabric, network, objective, Views(training_set, settings), settings, train_step, held_out_figures, report
    )

    facts = {
        "steps": done.steps,
        "frames": len(training_set),
        "seed": settings.seed,
        "deal_weight": settings.deal.weight,
        "isl_weight": settings.isl.weight,
        "fsl_weight": settings.fsl.weight,
    }
    name, arguments, size = settings.model.name, settings.model.arguments, settings.data.image_size
    info = ModelInfo(name, arguments, dataset.classes, size, _UNDECIDED, facts)
    threshold = decide_threshold(network, info, training_set, settings, fabric.device)
    model = settings.output / MODEL_FILE
    if fabric.is_global_zero:
        save_model(model, network, replace(info, threshold=threshold))
    fabric.barrier()
    return TrainResult(model, threshold, done.steps, done.resumed_from)


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
    settings: R,
    step: Callable[[Fabric, Any, Optimizer, TensorSample, TrainState, R], dict[str, float]],
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
        step: makes an optimiser step and returns losses as plain numbers; `train_step` is one.
        held_out_figures: what to log of held-out frames at the end of each epoch.
        report: told of each step.

    Raises:
        ConfigError: the run folder holds another run.
        ModelFileError: the checkpoint cannot be read, or a file cannot be written.
        DatasetError: a frame cannot be read.
    """
    if fabric.is_global_zero:
        _prepare_folder(settings)
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
    batches = fabric.setup_dataloaders(_loader(views, settings, fabric, state), use_distributed_sampler=False)

    wrapped.train()
    with RunLog(settings.output, resumed_from) if fabric.is_global_zero else nullcontext() as log:
        for batch in batches:
            if isinstance(batch, DealError):
                raise batch
            losses = step(fabric, wrapped, optimizer, batch, state, settings)
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


def train_step(
    fabric: Fabric,
    objective: Any,
    optimizer: Optimizer,
    batch: TensorSample,
    state: TrainState,
    settings: TrainSettings,
) -> dict[str, float]:
    """Make one optimiser step and return the losses of this process as plain numbers."""
    position = state.step / state.total_steps
    rate = begin_step(fabric, optimizer, state, settings)
    weights = LossWeights(*(weight_at(loss, position) for loss in (settings.deal, settings.isl, settings.fsl)))
    losses: dict[str, Tensor] = objective(batch, weights, _tag_share(fabric, batch.tags))
    values = end_step(fabric, optimizer, losses, state)
    return {**values, "lr": rate, "deal_weight": weights.deal}


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


def schedule_position(settings: RunSettings, state: TrainState) -> float:
    """Return the position in [0, 1) of the training that the learning rate is that of."""
    if settings.optimizer.every == "step":
        return state.step / state.total_steps
    epoch = state.step * settings.epochs // state.total_steps
    return max(epoch - (settings.optimizer.every == "epoch_late"), 0) / settings.epochs


def learning_rate_factor(settings: OptimizerSettings, position: float) -> float:
    """Return the factor on the learning rate at `position` in [0, 1) of the training."""
    lowest, start = (value / settings.learning_rate for value in (settings.floor, settings.warmup_from))
    if position < settings.warmup:
        offset = 0.0 if start > 0 else 1e-3  # a step at a rate of 0 would be lost
        return start + (1 - start) * (position + offset) / (settings.warmup + offset)
    after = position
    if settings.warmup_first:
        after = (position - settings.warmup) / (1 - settings.warmup) if settings.warmup < 1 else 0.0
    if settings.schedule == "constant":
        return 1.0
    fall = (
        0.5 * (1 + math.cos(math.pi * after)) if settings.schedule == "cosine" else (1 - after) ** settings.poly_power
    )
    return lowest + (1 - lowest) * fall


def weight_at(settings: LossSettings, position: float) -> float:
    """Return the weight of an added loss at `position` in [0, 1) of the training."""
    if position < settings.start:
        return 0.0
    if settings.warmup == 0:
        return settings.weight
    return settings.weight * min(1.0, (position - settings.start) / settings.warmup)


def create_optimizer(network: nn.Module, settings: OptimizerSettings) -> Optimizer:
    """Return the optimiser, with groups of parameters by part of the network, decay and factor on the learning rate.

    Decay is on weights of two or more dimensions only, unless `decay_all`. Parameters of a backbone whose factor is 0
    are switched to need no gradient.
    """
    backbone = {id(p) for p in network.backbone.parameters()} if isinstance(network.backbone, nn.Module) else set()
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        in_backbone = id(parameter) in backbone
        if in_backbone and settings.backbone_factor == 0:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            factor = settings.backbone_factor if in_backbone else settings.head_factor
            factor *= settings.bias_factor if name.endswith("bias") else 1.0
            groups.setdefault((factor, settings.decay_all or parameter.ndim > 1), []).append(parameter)
    listed = [
        {"params": chosen, "weight_decay": settings.weight_decay if decays else 0.0, "factor": factor}
        for (factor, decays), chosen in groups.items()
    ]
    if settings.name == "sgd":
        momentum = settings.momentum
        return SGD(listed, lr=settings.learning_rate, momentum=momentum, nesterov=settings.nesterov and momentum > 0)
    return AdamW(listed, lr=settings.learning_rate)


@dataclass
class TrainState:
    """How far a training is. Random numbers are a function of seed and step, so no state of theirs is kept."""

    total_steps: int
    step: int = 0

    def save(self, path: Path, network: nn.Module, optimizer: Optimizer, precision: Precision) -> None:
        """Write a checkpoint; the old one stays until the new one is whole.

        Raises:
            ModelFileError: it cannot be written, as on a full disk.
        """
        content = {
            "step": self.step,
            "total_steps": self.total_steps,
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "precision": precision.state_dict(),
        }
        try:
            with replacing(path, per_process=False) as temporary:
                torch.save(content, temporary)
        except (OSError, RuntimeError) as error:
            raise ModelFileError(f"{path}: the checkpoint cannot be written ({error})") from error

    def load(self, path: Path, network: nn.Module, optimizer: Optimizer, precision: Precision) -> int:
        """Go on from a checkpoint, if there is one; return its step.

        Raises:
            ModelFileError: the file is damaged, or of another network.
            ConfigError: it belongs to a training of another length.
        """
        if not path.exists():
            return 0
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            step, total = int(content["step"]), int(content["total_steps"])
            if total == self.total_steps:
                network.load_state_dict(content["network"])
                optimizer.load_state_dict(content["optimizer"])
                precision.load_state_dict(content["precision"])
        except (OSError, EOFError, RuntimeError, KeyError, IndexError, ValueError, TypeError, UnpicklingError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelFileError(f"{path}: damaged checkpoint ({reason}); delete it to start the run again") from None
        if total != self.total_steps:
            raise ConfigError(
                f"{path}: a checkpoint of a run of {total} steps, this one has {self.total_steps}: has the dataset "
                "changed? Choose another output, or delete the checkpoint"
            )
        self.step = step
        return step


class Frames(Protocol):
    """Frames to train on; those of a `Dataset` are some."""

    def __len__(self) -> int: ...

    def load(self, frame: int) -> Sample:
        """Read one; raises `DatasetError`."""


class Views(TorchDataset["TensorSample | DealError"]):
    """Random views of frames; an item is (frame, seed of the view).

    A frame that cannot be read is handed over as the error: raised in a worker, it would arrive with the worker's
    traceback for a message.
    """

    def __init__(self, frames: Frames, settings: RunSettings, *, with_mask: bool = False) -> None:
        self._frames = frames
        self._settings = settings.data
        self._transform = TrainTransform(settings.data, with_mask=with_mask)
        self._cache: dict[int, Sample] | None = {} if settings.data.cache else None

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, item: tuple[int, int]) -> TensorSample | DealError:
        frame, seed = item
        try:
            return self._transform(self._load(frame), seed)
        except DealError as error:
            return error

    def _load(self, frame: int) -> Sample:
        if self._cache is None:
            return self._frames.load(frame)
        if frame not in self._cache:
            sample = self._frames.load(frame)
            size = cached_size(sample.image.shape[:2], self._settings)
            self._cache[frame] = sample if size is None else resize_sample(sample, size)
        return self._cache[frame]


def cached_size(size: tuple[int, ...], settings: DataSettings) -> tuple[int, int] | None:
    """Return the (height, width) at which an image of `size` is kept in memory; None if it is not made smaller.

    Where all of the image is seen, that of the network. Crops are enlarged to that, so what they are cut from keeps its
    own shape and is twice as fine; of a canvas, it is as large as it can come to lie there.
    """
    height, width = size
    like_height, like_width = settings.image_size
    if settings.crop == "resized" and settings.crop_scale == (1.0, 1.0):
        return settings.image_size if height > like_height else None
    if settings.crop == "canvas":
        factor = settings.long_side[1] / max(size)
    else:
        factor = max(2 * like_height / height, 2 * like_width / width)
    return (round(height * factor), round(width * factor)) if factor < 1 else None


@dataclass(frozen=True)
class BatchOrder:
    """The batches of one process from `start` to `stop` (steps), each a list of (frame, seed of its view).

    A function of the seed alone: what a step sees depends neither on the number of processes nor on whether the
    run was interrupted before it.
    """

    frames: int
    batch_size: int
    seed: int
    start: int
    stop: int
    rank: int = 0
    world_size: int = 1

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        steps_per_epoch = self.frames // self.batch_size
        for step in range(self.start, self.stop):
            epoch, within = divmod(step, steps_per_epoch)
            order = np.random.default_rng([self.seed, epoch]).permutation(self.frames)
            chosen = order[within * self.batch_size : (within + 1) * self.batch_size]
            views = np.random.default_rng([self.seed, epoch, within]).integers(2**31, size=self.batch_size)
            pairs = list(zip(chosen.tolist(), views.tolist(), strict=True))
            yield pairs[self.rank :: self.world_size]


class RunLog:
    """history.jsonl and TensorBoard, as a context manager; a resumed run drops the lines after its checkpoint."""

    def __init__(self, folder: Path, resumed_from: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / HISTORY_FILE
        kept = "".join(line + "\n" for line in _history_lines(path, resumed_from))
        write_whole(path, kept)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_from + 1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()

    def write(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Add one line, and one TensorBoard point a value."""
        self._file.write(json.dumps({"step": step, "epoch": epoch, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)


def watch(network: nn.Module, frames: Dataset, settings: TrainSettings, device: torch.device) -> dict[str, float]:
    """Return the losses and the share of right tags on held-out frames; masks are not looked at."""
    alignment = alignment_loss(settings.deal, settings.data.image_size, frames.depth_kind)
    losses, deal, sizes, right, known = [], [], [], 0, 0
    with evaluating(network):
        for batch in plain_batches(frames, settings, device):
            output: CamOutput = network(batch.image)
            logits = torch.stack(list(output.tag_logits.values())).mean(0)
            losses.append(float(tag_loss(logits, batch.tags)))
            cams = output.map(settings.deal.map, settings.deal.through_backbone)
            deal.append(float(alignment(cams, batch.depth, batch.tags, batch.valid)))
            sizes.append(len(batch.tags))
            is_known = ~torch.isnan(batch.tags)
            right += int((((logits > 0) == (batch.tags == 1)) & is_known).sum())
            known += int(is_known.sum())
    return {
        "held_out_loss_tags": float(np.average(losses, weights=sizes)),
        "held_out_loss_deal": float(np.average(deal, weights=sizes)),
        "held_out_tag_accuracy": right / max(known, 1),
    }


def decide_threshold(
    network: nn.Module, info: ModelInfo, frames: Dataset, settings: TrainSettings, device: torch.device
) -> Threshold:
    """Choose the background threshold by the rule of the settings, which sees no masks, on the training frames."""
    model = LoadedModel(network, info, sha256="")
    cams = CamSettings(device=str(device), batch_size=settings.batch_size)
    with evaluating(network):
        return choose_threshold(model, frames, cams, settings.threshold_rule)


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


def plain_batches(
    frames: Frames, settings: RunSettings, device: torch.device, *, with_mask: bool = False
) -> Iterator[TensorSample]:
    """Yield the frames as they are, at the size of the network."""
    for start in range(0, len(frames), settings.batch_size):
        samples = [frames.load(i) for i in range(start, min(start + settings.batch_size, len(frames)))]
        sized = [resize_sample(sample, settings.data.image_size) for sample in samples]
        yield _collate([to_tensors(sample, with_mask=with_mask) for sample in sized]).map(lambda t: t.to(device))


def _tag_share(fabric: Fabric, tags: Tensor) -> float:
    if fabric.world_size == 1:
        return 1.0
    known = (~torch.isnan(tags)).sum().float()
    mean = float(fabric.all_reduce(known.clone(), reduce_op="mean"))
    return float(known) / mean if mean > 0 else 1.0


def _collate_or_error(samples: list[TensorSample | DealError]) -> TensorSample | DealError:
    views = [sample for sample in samples if isinstance(sample, TensorSample)]
    failed = [sample for sample in samples if isinstance(sample, DealError)]
    return failed[0] if failed else _collate(views)


def _collate(samples: list[TensorSample]) -> TensorSample:
    tensors = [default_collate([getattr(s, name) for s in samples]) for name in ("image", "depth", "valid", "tags")]
    masks = [sample.mask for sample in samples if sample.mask is not None]
    image, depth, valid, tags = tensors
    return TensorSample(image, depth, valid, tags, default_collate(masks) if masks else None)


def _loader(views: Views, settings: RunSettings, fabric: Fabric, state: TrainState) -> DataLoader[Any]:
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
        collate_fn=_collate_or_error,
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


def _try_out(network: nn.Module, settings: TrainSettings) -> None:
    """Pass one image through, forward and backward.

    Refuses a size that the network cannot take, such as that of a transformer made for another. Parameters that no
    output depends on, of layers behind the last level in use, are switched to need no gradient: several processes
    would wait for it.
    """
    was_training, size = network.training, settings.data.image_size
    try:
        output: CamOutput = network.eval()(torch.zeros(1, 3, *size))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"the network cannot take images of {size[0]}x{size[1]} (data.image_size): {reason}"
        ) from error
    # Of the maps that losses may act on, a name that is not there is told here.
    maps = [output.map(), *(output.map(loss.map, loss.through_backbone) for loss in (settings.deal, settings.fsl))]
    maps += [] if output.refined is None else [output.refined]
    torch.stack([tensor.sum() for tensor in (*output.tag_logits.values(), *maps)]).sum().backward()
    leave_unused_alone(network)
    network.train(was_training)


def leave_unused_alone(network: nn.Module) -> None:
    """Switch parameters that a backward pass has not reached to need no gradient, and forget that of the others."""
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None


def _prepare_folder(settings: RunSettings) -> None:
    """Make the run folder; refuse one that holds the beginnings of a run with other settings."""
    path, text = settings.output / SETTINGS_FILE, dump_settings(settings)
    if (settings.output / CHECKPOINT_FILE).exists() and path.exists():
        try:
            there = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} cannot be read ({error}): choose another output") from None
        ours = _dotted(yaml.safe_load(text))
        theirs = _dotted(there) if isinstance(there, dict) else {}
        other = [k for k in {**theirs, **ours} if theirs.get(k) != ours.get(k) and k not in _MAY_CHANGE]
        if other:
            told = ", ".join(f"{k} is {theirs.get(k)!r} there and {ours.get(k)!r} here" for k in other)
            raise ConfigError(
                f"{settings.output}: holds a run with other settings ({told}); choose another output, or delete it"
            )
    write_whole(path, text)


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def _history_lines(path: Path, last_step: int) -> Iterator[str]:
    """Yield the lines up to a step; one that a kill cut off comes after the last checkpoint, and is left out."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            if json.loads(line)["step"] <= last_step:
                yield line
        except (ValueError, KeyError, TypeError):
            continue


def write_whole(path: Path, text: str) -> None:
    """Write a file of a run folder; the name appears only when the file is whole.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        with replacing(path, per_process=False) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error}): choose another output") from error
