"""Figures of a region model that say, without masks, how far its names can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from deal_core.dataset.tag_notes import FEWEST_SEGMENTS
from deal_core.regions.bags import RegionBags, best_of_frames
from deal_core.regions.head import Heads
from deal_core.regions.scores import SCORE_THRESHOLD
from deal_core.structures import ClassList

LEAST_RANKING = 0.65
"""A class with a smaller ranking was not learnt."""


@dataclass(frozen=True)
class ClassFigures:
    """The figures of one class.

    Args:
        name: Name of the class.
        present_segments: Number of segments with a frame that is tagged with the class.
        absent_segments: Number of segments with a frame in which the class is tagged absent.
        found: Share of the frames with the class in which a region has it with a probability above one half; None
            without such frames.
        spread: Standard deviation, over the heads, of the probability of the best region, in the mean over the frames
            with the class, in [0, 0.5]; None without such frames.
        ranking: How well the best regions of unseen segments tell frames with the class from frames without it, see
            `held_out_ranking`: 1 is perfect, 1/2 is chance; None if too few segments tell.
    """

    name: str
    present_segments: int
    absent_segments: int
    found: float | None
    spread: float | None
    ranking: float | None

    @property
    def warning(self) -> str | None:
        """What makes the class hard to learn, and what to record; None if nothing does."""
        if self.present_segments < FEWEST_SEGMENTS:
            return (
                f"{self.name}: present in {self.present_segments} segments, expected at least {FEWEST_SEGMENTS}: "
                "record it in more places"
            )
        if self.absent_segments < FEWEST_SEGMENTS:
            return (
                f"{self.name}: absent in {self.absent_segments} segments, expected at least {FEWEST_SEGMENTS}: a class "
                "that is hardly ever absent cannot be told from the room; record scenes without it"
            )
        if self.ranking is not None and self.ranking < LEAST_RANKING:
            return (
                f"{self.name}: in scenes that the heads did not see, its regions tell frames with it from frames "
                f"without it hardly better than chance ({self.ranking:.2f}; 1 is perfect, 0.5 is chance)"
            )
        return None


@dataclass(frozen=True)
class RegionFigures:
    """The figures of a region model, on its training frames.

    Args:
        frames: Number of frames.
        segments: Number of segments.
        frames_without_regions: Number of frames without any region, such as frames without depth.
        regions_per_frame: Mean number of regions of a frame.
        levels: Feature levels that were chosen.
        compared: Mean ranking of each set of levels, such as "-3,-2", from which the levels were chosen.
        classes: Figures of each class.
    """

    frames: int
    segments: int
    frames_without_regions: int
    regions_per_frame: float
    levels: tuple[int, ...]
    compared: Mapping[str, float]
    classes: tuple[ClassFigures, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes classes hard to learn, for a person."""
        return tuple(warning for figures in self.classes if (warning := figures.warning))

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON, as the model file holds them under `training.regions`."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RegionFigures:
        """Read the form of `to_json`."""
        classes = tuple(ClassFigures(**figures) for figures in value["classes"])
        return cls(**{**value, "levels": tuple(value["levels"]), "classes": classes})


def class_figures(bags: RegionBags, heads: Heads, ranking: Tensor, classes: ClassList) -> tuple[ClassFigures, ...]:
    """Return the figures of each class on the training frames; `ranking` (K,) is that of `held_out_ranking`."""
    best = best_of_frames(heads.probabilities(bags.features)[..., 1:], bags)
    return tuple(
        _figures(name, bags.tags[:, index], bags.segments, best[..., index], float(ranking[index]))
        for index, name in enumerate(classes.names)
    )


def _figures(name: str, tags: Tensor, segments: Tensor, best: Tensor, ranking: float) -> ClassFigures:
    present = tags == 1
    mine = best[:, present]
    return ClassFigures(
        name,
        present_segments=len(segments[present].unique()),
        absent_segments=len(segments[tags == 0].unique()),
        found=float((mine.mean(0) > SCORE_THRESHOLD).float().mean()) if present.any() else None,
        spread=float(mine.std(0, correction=0).mean()) if present.any() else None,
        ranking=None if math.isnan(ranking) else ranking,
    )
