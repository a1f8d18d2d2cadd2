"""Multiple-instance learning of linear heads: the tags of an image say which classes some of its regions have.

The image score of a class is a noisy-or over the regions (Zhang, Platt and Viola 2005), in which near-duplicates share
one vote. Every region of an image without the class is a negative. A softmax over "none" and the classes makes classes
compete for a region, so that a region gets the one class that explains the tags of all images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deal_core.regions.bags import RegionBags
from deal_core.regions.settings import HeadSettings

_LEAST = 1e-6


@dataclass(frozen=True, eq=False)
class Heads:
    """E linear heads: weight (E, K + 1, D) and bias (E, K + 1) of the logits, "none" first."""

    weight: Tensor
    bias: Tensor

    @property
    def members(self) -> int:
        """Number E of heads."""
        return len(self.weight)

    def probabilities(self, features: Tensor) -> Tensor:
        """Return the probabilities (E, R, K + 1) of regions with features (R, D)."""
        members, outputs, _ = self.weight.shape
        logits = (features @ self.weight.flatten(0, 1).T).unflatten(1, (members, outputs)) + self.bias
        return logits.softmax(-1).transpose(0, 1)


def train_heads(bags: RegionBags, settings: HeadSettings, seed: int, start: Heads | None = None) -> Heads:
    """Train all heads at once; each learns from the tags of a random share of the segments.

    The loss is the binary cross entropy of the image scores, the weight decay and, with `settings.links`, the squared
    difference of the probabilities of linked regions. Regions with known names add `settings.taps` times `name_loss`.
    Each step of Adam sees all regions. The result depends on the arguments alone. The heads begin as those of `start`,
    or else at random.
    """
    generator = torch.Generator().manual_seed(seed)
    frames, classes = bags.tags.shape
    chosen = [_of_some_segments(bags, settings.share, generator) for _ in range(settings.members)]
    tags = torch.stack([mine.tags for mine in chosen])
    named = [mine.names for mine in chosen if mine.names is not None] if settings.taps else []
    names = torch.stack(named) if named else None
    size = (settings.members, classes + 1, bags.features.shape[1])
    weight, bias = 1e-3 * torch.randn(size, generator=generator), torch.zeros(size[:2])
    bias[:, 0] = settings.none_bias
    if start is not None:
        weight, bias = start.weight.clone(), start.bias.clone()
    weight.requires_grad_()
    bias.requires_grad_()
    optimizer = torch.optim.Adam([weight, bias], settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    for _ in range(settings.steps):
        probabilities = Heads(weight, bias).probabilities(bags.features)
        absence = log_absence(probabilities[..., 1:], bags.votes, bags.frame, frames)
        loss = settings.members * (bag_loss(absence, tags) + settings.links * _link_loss(probabilities, bags.links))
        if names is not None:
            loss = loss + settings.members * settings.taps * name_loss(probabilities[..., 1:], names, bags)
        loss = loss + settings.weight_decay * weight.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return Heads(weight.detach(), bias.detach())


def log_absence(probabilities: Tensor, votes: Tensor, frame: Tensor, frames: int) -> Tensor:
    """Return (..., F, K) the logarithm of the probability that no region of a frame has a class: a weighted noisy-or.

    The probability of absence is the product over the regions r of (1 - p_r)^v_r; it is 1 without regions.

    Args:
        probabilities: (..., R, K) probabilities of the classes.
        votes: (R,) weight v_r of each region.
        frame: (R,) index of the frame of each region.
        frames: Number F of frames.
    """
    logs = torch.log1p(-probabilities.clamp(max=1 - _LEAST)) * votes[:, None]
    total = logs.new_zeros(*logs.shape[:-2], frames, logs.shape[-1])
    return total.index_add(-2, frame, logs)


def presence_log_odds(absence: Tensor) -> Tensor:
    """Return the log-odds that a class is in a frame, from the logarithm of the probability of its absence."""
    known = absence.clamp(max=-_LEAST)
    return torch.log(-torch.expm1(known)) - known


def bag_loss(absence: Tensor, tags: Tensor) -> Tensor:
    """Return the mean binary cross entropy of image tags (..., F, K) and the log-probabilities of absence.

    For an absent class, it is the sum over the regions of -v_r log(1 - p_r): every region is a negative. An unknown tag
    (nan) has neither loss nor gradient.
    """
    present, absent = tags == 1, tags == 0
    log_presence = torch.log(-torch.expm1(absence.clamp(max=-_LEAST)))
    loss = -torch.where(present, log_presence, 0.0) - torch.where(absent, absence, 0.0)
    return loss.sum() / (present | absent).sum().clamp(min=1)


def name_loss(probabilities: Tensor, names: Tensor, bags: RegionBags) -> Tensor:
    """Return the cross entropy of the regions with known names, for each pair of a frame and a class that has some.

    A region r of the class costs -v_r log p_r, one of another class or of none -v_r log(1 - p_r), as in `bag_loss`.

    Args:
        probabilities: (E, R, K) probabilities of the classes.
        names: (E, R, K) names, as those of `RegionBags`.
        bags: Regions, their votes and frames.
    """
    known = ~torch.isnan(names)
    kept = probabilities.clamp(_LEAST, 1 - _LEAST)
    losses = torch.where(names == 1, -torch.log(kept), -torch.log1p(-kept))
    total = (torch.where(known, losses, 0.0) * bags.votes[:, None]).sum()
    members, _, classes = names.shape
    counts = names.new_zeros(members, len(bags.tags), classes).index_add(1, bags.frame, known.to(names.dtype))
    return total / (counts > 0).sum().clamp(min=1)


def _of_some_segments(bags: RegionBags, share: float, generator: torch.Generator) -> RegionBags:
    names = bags.segments.unique()
    count = max(round(share * len(names)), 1)
    return bags.of_segments(names[torch.randperm(len(names), generator=generator)[:count]])


def _link_loss(probabilities: Tensor, links: Tensor) -> Tensor:
    if not len(links):
        return probabilities.new_zeros(())
    one, two = (probabilities[:, links[:, side]] for side in (0, 1))
    return (one - two).square().sum(-1).mean()
