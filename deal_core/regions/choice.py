"""The choice of feature levels without masks, by what heads say about segments that they did not see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from deal_core.models.region_mil import RegionMil
from deal_core.regions.bags import RegionBags, best_of_frames, standardise
from deal_core.regions.head import train_heads
from deal_core.regions.settings import HeadSettings, RegionTrainSettings

TOLERANCE = 0.04
"""Difference of two rankings at which the more local features are chosen."""


@dataclass(frozen=True, eq=False)
class LevelChoice:
    """The chosen set of levels.

    Args:
        levels: The set.
        ranking: (K,) `held_out_ranking` of each class with this set.
        compared: Mean of the ranking over the classes, by set, such as "-3,-2".
    """

    levels: tuple[int, ...]
    ranking: Tensor
    compared: Mapping[str, float]


def choose_levels(bags: RegionBags, network: RegionMil, settings: RegionTrainSettings) -> LevelChoice:
    """Return the first set of levels whose mean `held_out_ranking` is within `TOLERANCE` of the best one.

    The loss of held-out tags prefers features with cautious probabilities, not those with better masks; the order of
    the frames does not depend on how sure the heads are. Coarse features also see what surrounds a region: they rank
    frames a little better and name the wrong region. So the sets go from local to coarse, and a coarse one must rank
    clearly better.

    Args:
        bags: Regions of all frames, with the features of all levels.
        network: Network that made the features.
        settings: Settings of the run, with the sets to choose from.
    """
    sets = settings.network.levels
    rankings = [
        held_out_ranking(bags.with_features(network.columns(levels)), settings.head, settings.seed) for levels in sets
    ]
    means = [float(ranking.nanmean().nan_to_num(0.5)) for ranking in rankings]
    chosen = next(index for index, mean in enumerate(means) if mean >= max(means) - TOLERANCE)
    names = [",".join(map(str, levels)) for levels in sets]
    return LevelChoice(sets[chosen], rankings[chosen], dict(zip(names, means, strict=True)))


def held_out_ranking(bags: RegionBags, settings: HeadSettings, seed: int) -> Tensor:
    """Return (K,) how well the best regions of unseen segments tell frames with a class from frames without it.

    The segments are divided in two halves, and a head that learns from one half is asked about the other. The ranking
    is the area under the ROC curve of the probability of a frame's best region, in the mean over both halves: 1 if each
    frame with the class has a better region than every frame without it, 1/2 by chance. nan for a class without frames
    of both kinds in one half at least.
    """
    bags = standardise(bags).bags
    names = bags.segments.unique()
    shuffled = names[torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))]
    halves = (shuffled[::2], shuffled[1::2])
    one_head = settings.model_copy(update={"members": 1, "share": 1.0})
    found = []
    for seen, unseen in (halves, halves[::-1]):
        heads = train_heads(bags.of_segments(seen), one_head, seed)
        best = best_of_frames(heads.probabilities(bags.features)[..., 1:], bags)[0]
        found.append(roc_areas(best, bags.of_segments(unseen).tags))
    return torch.stack(found).nanmean(0)


def roc_areas(scores: Tensor, tags: Tensor) -> Tensor:
    """Return (K,) the area under the ROC curve of scores (F, K) for tags (F, K); equal scores count half.

    An unknown tag (nan) is ignored; nan for a class that is not both present and absent.
    """
    areas = []
    for mine, known in zip(scores.T, tags.T, strict=True):
        gaps = mine[known == 1][:, None] - mine[known == 0][None]
        areas.append(((gaps > 0).float() + 0.5 * (gaps == 0)).mean())
    return torch.stack(areas)
