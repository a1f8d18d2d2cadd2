"""Presence of classes in frames, by heads that did not see the frame's visit.

The image score of a class is a noisy-or over the regions, as in `deal_core.regions.head`. A linear head with as many
features as there are regions learns wrong tags by heart; a small network that is stopped early does not, and ranks
wrong tags far better (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deal_core.audit.evidence import FrameEvidence
from deal_core.audit.visits import folds_of
from deal_core.regions.head import bag_loss, log_absence, presence_log_odds
from deal_core.structures import Float32Array, Int64Array

FOLDS = 5
_COMPONENTS = 128
_HIDDEN = 32
_STEPS, _LEARNING_RATE, _WEIGHT_DECAY = 60, 0.01, 1e-3
_NONE_BIAS = 1.0
_LEAST_STD = 1e-3


@dataclass(frozen=True, eq=False)
class Bags:
    """The regions of all frames: principal components (R, C), the frame (R,) and the vote (R,) of each region."""

    features: Tensor
    frame: Tensor
    votes: Tensor


def make_bags(evidence: Sequence[FrameEvidence], columns: Sequence[int]) -> Bags:
    """Return the regions of all frames, with the principal components of some columns of their features."""
    counts = [len(one.regions) for one in evidence]
    raw = torch.from_numpy(np.concatenate([one.regions[:, list(columns)] for one in evidence]).astype(np.float32))
    standard = (raw - raw.mean(0)) / raw.std(0, correction=0).clamp(min=_LEAST_STD)
    _, directions = torch.linalg.eigh(standard.T @ standard / len(standard))
    return Bags(
        standard @ directions[:, -_COMPONENTS:],
        torch.from_numpy(np.repeat(np.arange(len(evidence)), counts)),
        torch.from_numpy(np.concatenate([one.votes for one in evidence])),
    )


def held_out_presence(
    bags: Bags,
    tags: Float32Array,
    groups: Int64Array,
    *,
    repeats: int,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> Float32Array:
    """Return (F, K) the log-odds that a class is in a frame, by heads that learn from other groups alone.

    Args:
        bags: Regions of all frames.
        tags: (F, K) tags: 1 present, 0 absent, nan unknown.
        groups: (F,) groups, of which none is on both sides of a fold.
        repeats: Number of divisions into folds, over which the log-odds are averaged.
        seed: Seed.
        advance: Function to call after each of the repeats.
    """
    total = np.zeros(tags.shape, np.float32)
    rows = np.arange(len(tags))
    for repeat in range(repeats):
        fold = folds_of(groups, min(FOLDS, len(np.unique(groups))), seed + repeat)
        learnt = [np.where((fold == one)[:, None], np.nan, tags) for one in range(fold.max() + 1)]
        odds = _train(bags, torch.from_numpy(np.stack(learnt).astype(np.float32)), seed + repeat)
        total += odds[fold, rows].numpy()
        advance()
    return total / np.float32(repeats)


def _train(bags: Bags, tags: Tensor, seed: int) -> Tensor:
    """Return the log-odds (E, F, K) of all frames by E small networks, which learn from their tags (E, F, K)."""
    generator = torch.Generator().manual_seed(seed)
    members, frames, classes = tags.shape
    width = bags.features.shape[1]
    first = torch.randn(members, width, _HIDDEN, generator=generator) / width**0.5
    second = 1e-2 * torch.randn(members, _HIDDEN, classes + 1, generator=generator)
    biases = [torch.zeros(members, 1, _HIDDEN), torch.zeros(members, 1, classes + 1)]
    biases[1][..., 0] = _NONE_BIAS
    parameters = [first, second, *biases]
    for parameter in parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.Adam(parameters, _LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)

    def absence() -> Tensor:
        logits = torch.relu(bags.features @ first + biases[0]) @ second + biases[1]
        return log_absence(logits.softmax(-1)[..., 1:], bags.votes, bags.frame, frames)

    for _ in range(_STEPS):
        decay = first.square().sum() + second.square().sum()
        loss = members * bag_loss(absence(), tags) + _WEIGHT_DECAY * decay
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return presence_log_odds(absence())
