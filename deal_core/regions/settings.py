"""Settings of the training of a region model, from a YAML file and dotted overrides; every key is validated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from deal_core.dataset.settings import Rehearsal, SourceSettings
from deal_core.settings_file import Fraction, NotNegative, Number, Positive, PositiveWhole, Settings, Size, Whole

LevelSet = Annotated[tuple[Whole, ...], Field(min_length=1)]


class RegionNetworkSettings(Settings):
    """The frozen backbone; `arguments` go to `deal_core.models.region_mil.RegionMil`."""

    arguments: Mapping[str, Any] = {}
    levels: Annotated[tuple[LevelSet, ...], Field(min_length=1)] = ((-3,), (-3, -2, -1), (-1,))
    """Sets of feature levels to choose from without masks, from local to coarse; one set leaves no choice."""


class HeadSettings(Settings):
    """The training of the heads by multiple-instance learning."""

    members: PositiveWhole = 10
    """Number of heads; each learns from 90 % of the segments."""
    share: Annotated[Number, Field(gt=0, le=1)] = 0.9
    """Share of the segments from which a head learns."""
    steps: PositiveWhole = 100
    """Number of steps, each on all regions of all frames."""
    learning_rate: Positive = 0.1
    """Learning rate at the start; it falls to 0 along a cosine."""
    weight_decay: NotNegative = 1e-4
    """Factor on the sum of the squared weights."""
    none_bias: Number = 1.0
    """Logit of "none of the classes" before training; above 0, a region has no class at first."""
    links: NotNegative = 0.0
    """Factor on the difference of the probabilities of overlapping regions in neighbouring frames."""
    taps: NotNegative = 1.0
    """Factor on the loss of regions that taps and boxes name; without taps it has no effect."""


class RegionDataSettings(SourceSettings):
    """The dataset to train on."""

    rehearse: Rehearsal | None = None
    """[dataset, share]: an earlier dataset, frames of which make up this share of the training; share 0 only measures
    what was lost. It needs `init_from`."""


class RegionTrainSettings(Settings):
    """Settings of `deal regions`."""

    data: RegionDataSettings
    output: Path
    """Run folder; it keeps the features of all frames, so the next run with the same backbone takes seconds."""
    image_size: Size | None = None
    """(height, width) of the image before the network scales it; that of the first frame if null."""
    network: RegionNetworkSettings = RegionNetworkSettings()
    head: HeadSettings = HeadSettings()
    seed: Annotated[Whole, Field(ge=0)] = 11
    device: str = "auto"
    """auto, cpu, cuda, cuda:1."""
    init_from: Path | None = None
    """Model file of an earlier training, from which this one starts: its backbone and feature level, and its heads, in
    which classes are mapped by name, and new ones start fresh."""
    max_loss_on_old: Fraction | None = None
    """Largest fall, on the dataset of `data.rehearse`, of the figure of `fine_tune.json`; a larger one fails the run,
    whose model is kept."""
