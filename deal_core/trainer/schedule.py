"""Schedules of the learning rate and the loss weights, and the optimiser."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from deal_core.trainer.run_folder import TrainState
from deal_core.trainer.settings import LossSettings, OptimizerSettings, RunSettings

_PRETRAINED_FACTOR = 0.1
_BLOCK = re.compile(r"[a-z]\d+(?:\.[a-z]\d+)*(?=\.)|.*?(?:\.\d+)+(?=\.)")
"""Name of a numbered block at the beginning of the name of a parameter."""


def schedule_position(settings: RunSettings, state: TrainState) -> float:
    """Return the position in the training, in [0, 1), that determines the learning rate."""
    if settings.optimizer.every == "step":
        return state.step / state.total_steps
    epoch = state.step * settings.epochs // state.total_steps
    return max(epoch - (settings.optimizer.every == "epoch_late"), 0) / settings.epochs


def learning_rate_factor(settings: OptimizerSettings, position: float) -> float:
    """Return the factor on the learning rate at `position` in [0, 1) of the training."""
    lowest, start = (value / settings.learning_rate for value in (settings.floor, settings.warmup_from))
    if position < settings.warmup:
        offset = 0.0 if start > 0 else 1e-3  # a step with a rate of 0 would have no effect
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


def layers_from_the_end(names: Sequence[str]) -> list[int]:
    """Return the layer of each parameter of a backbone, 0 for the last one; `names` go from its input to its output.

    A layer is a numbered block, such as `layer1.0` of a ResNet, `s2.b1` of a RegNet or `blocks.3` of a transformer.
    What has no number belongs to the layer before it, at the input to the first.

    >>> layers_from_the_end(["conv1.weight", "layer1.0.conv1.weight", "layer1.1.conv1.weight", "norm.weight"])
    [2, 1, 0, 0]
    """
    found: list[str] = [""]
    layers = []
    for name in names:
        block = _BLOCK.match(name)
        if block and block[0] not in found:
            found.append(block[0])
        layers.append(found.index(block[0]) if block else len(found) - 1)
    return [max(layers) - layer for layer in layers]


def create_optimizer(network: nn.Module, settings: OptimizerSettings, *, on_cpu: bool = False) -> Optimizer:
    """Return the optimiser; parameters are grouped by weight decay and factor on the learning rate.

    Without `decay_all`, only weights of two or more dimensions decay. A backbone factor of 0 turns off the gradients of
    the backbone. Without a factor, a backbone with pretrained weights learns with a tenth of the rate. With a
    `layer_decay`, this is the rate of its last layer, see `layers_from_the_end`.

    Training on the CPU takes PyTorch's fused implementation, which reads and writes each tensor once in a step, not
    about ten times. A run that resumes from a checkpoint of the other implementation keeps that one.
    """
    factor_of_backbone = settings.backbone_factor
    if factor_of_backbone is None:
        source = getattr(getattr(network.backbone, "initial_weights", None), "source", "none")
        factor_of_backbone = 1.0 if source == "none" else _PRETRAINED_FACTOR
    named = list(network.backbone.named_parameters()) if isinstance(network.backbone, nn.Module) else []
    layers = layers_from_the_end([name for name, _ in named])
    backbone = {id(parameter): layer for (_, parameter), layer in zip(named, layers, strict=True)}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        in_backbone = id(parameter) in backbone
        if in_backbone and factor_of_backbone == 0:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            factor = settings.head_factor
            if in_backbone:
                factor = factor_of_backbone * settings.layer_decay ** backbone[id(parameter)]
            factor *= settings.bias_factor if name.endswith("bias") else 1.0
            groups.setdefault((factor, settings.decay_all or parameter.ndim > 1), []).append(parameter)
    listed = [
        {"params": chosen, "weight_decay": settings.weight_decay if decays else 0.0, "factor": factor}
        for (factor, decays), chosen in groups.items()
    ]
    if settings.name == "sgd":
        momentum = settings.momentum
        nesterov = settings.nesterov and momentum > 0
        return SGD(listed, settings.learning_rate, momentum=momentum, nesterov=nesterov, fused=on_cpu or None)
    return AdamW(listed, lr=settings.learning_rate, fused=on_cpu or None)
