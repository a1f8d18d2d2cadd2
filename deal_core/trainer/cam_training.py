"""Training of CAM networks from tags and depth: one loop for every network, device and number of processes.

`fit` is the loop alone, which other trainings share.

A run folder holds `settings.yaml`, `history.jsonl` (one line a logged step), `tensorboard/`, `checkpoint.pt` (to
resume; exact on the same machine) and, when the training is complete, `model.safetensors`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.open import open_dataset
from deal_core.dataset.transforms import TensorSample
from deal_core.errors import ConfigError
from deal_core.losses.tags import tag_loss
from deal_core.masks.score_dataset import CamSettings, choose_threshold, need_depth_for_rule
from deal_core.masks.threshold_rules import create_rule
from deal_core.models.factory import create_model, is_segmenter
from deal_core.models.model_file import (
    MODEL_FILE,
    LoadedModel,
    ModelInfo,
    Threshold,
    save_model,
)
from deal_core.models.output import CamOutput
from deal_core.trainer.loop import (
    Progress,
    begin_step,
    check_batch_size,
    create_fabric,
    end_step,
    evaluating,
    fit,
    leave_unused_alone,
)
from deal_core.trainer.objective import LossWeights, Objective, alignment_loss
from deal_core.trainer.run_folder import TrainState
from deal_core.trainer.schedule import weight_at
from deal_core.trainer.settings import TrainSettings
from deal_core.trainer.views import Views, plain_batches

_UNDECIDED = Threshold(0.5, "none yet")


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


def _tag_share(fabric: Fabric, tags: Tensor) -> float:
    if fabric.world_size == 1:
        return 1.0
    known = (~torch.isnan(tags)).sum().float()
    mean = float(fabric.all_reduce(known.clone(), reduce_op="mean"))
    return float(known) / mean if mean > 0 else 1.0


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
