"""A region model that starts from an earlier one: its network, the frames to rehearse, and what was gained and lost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deal_core.dataset.dataset import Dataset, evenly_spread
from deal_core.dataset.open import open_dataset
from deal_core.dataset.settings import SourceSettings
from deal_core.errors import ConfigError
from deal_core.files import refuse_output_on_input
from deal_core.models.domain_change import DomainChange, balanced_tag_accuracy
from deal_core.models.earlier_model import arguments_from
from deal_core.models.model_file import MODEL_FILE, LoadedModel, load_model
from deal_core.regions.bags import RegionBags
from deal_core.regions.head import Heads, log_absence, presence_log_odds
from deal_core.regions.settings import RegionTrainSettings
from deal_core.structures import ClassList

FIGURE = "balanced tag accuracy"
"""What `class_figures` measures."""
_MOST_WATCHED = 500


@dataclass(frozen=True)
class OldFrames:
    """Frames of an earlier dataset: those that are rehearsed, and those on which the loss is measured."""

    rehearsed: Dataset
    watched: Dataset
    held_out: bool


@dataclass(frozen=True, eq=False)
class Earlier:
    """The model of `init_from`, and its path."""

    model: LoadedModel
    path: Path

    @property
    def heads(self) -> Heads:
        """The heads of the model."""
        network: Any = self.model.network
        return Heads(network.weight.detach(), network.bias.detach())


def open_earlier(settings: RegionTrainSettings) -> Earlier | None:
    """Return the model of `init_from`; None without one.

    Raises:
        ModelFileError: the file cannot be read.
        ConfigError: it is no region model, or the new model would replace it.
    """
    path = settings.init_from
    if path is None:
        return None
    model = load_model(path)
    if not model.info.names_regions:
        raise ConfigError(f"{path} is a {model.info.architecture}: expected a region model, or use `deal fine-tune`")
    refuse_output_on_input([settings.output / MODEL_FILE], [path], ConfigError)
    return Earlier(model, path)


def settings_from(settings: RegionTrainSettings, earlier: Earlier) -> RegionTrainSettings:
    """Return the settings of a training that starts from an earlier model: its network, level set and number of heads.

    Raises:
        ConfigError: the settings ask for another network.
    """
    path, info = earlier.path, earlier.model.info
    arguments = arguments_from(path, info, settings.network.arguments)
    levels, members = tuple(arguments.pop("levels")), int(arguments.pop("members"))
    if "levels" in settings.network.model_fields_set and levels not in settings.network.levels:
        raise ConfigError(
            f"{path} has the feature levels {list(levels)}, which network.levels does not list: set network=null, "
            "which takes the network of the file"
        )
    if "members" in settings.head.model_fields_set and members != settings.head.members:
        raise ConfigError(f"{path} has {members} heads, and head.members is {settings.head.members}: leave it out")
    network = settings.network.model_copy(update={"arguments": arguments, "levels": (levels,)})
    head = settings.head.model_copy(update={"members": members})
    return settings.model_copy(update={"network": network, "head": head})


def old_frames(settings: RegionTrainSettings, new_frames: int) -> OldFrames | None:
    """Return the frames of `data.rehearse`, with their own classes; None without it.

    Frames that are not rehearsed tell what was lost; where all are, the rehearsed ones do.
    """
    if settings.data.rehearse is None:
        return None
    path, share = settings.data.rehearse
    dataset = open_dataset(SourceSettings(path=path))
    if not dataset.has_depth:
        raise ConfigError(f"{path} (data.rehearse) has no depth, from which regions are made")
    count = round(new_frames * share / (1 - share))
    rehearsed = evenly_spread(dataset, count) if count else dataset.subset(predicate=lambda frame: False)
    keys = {frame.key for frame in rehearsed.frames}
    others = dataset.subset(predicate=lambda frame: frame.key not in keys)
    return OldFrames(rehearsed, evenly_spread(others if len(others) else dataset, _MOST_WATCHED), bool(len(others)))


def domain_change(
    dataset: Dataset, bags: RegionBags, held_out: bool, before: tuple[Heads, ClassList], after: tuple[Heads, ClassList]
) -> DomainChange:
    """Return the figures of earlier and of new heads, each with its classes, on the standardised regions of frames."""
    figures = [_class_figures(heads, classes, dataset, bags) for heads, classes in (before, after)]
    return DomainChange(str(dataset.path), len(dataset), held_out, figures[0], figures[1])


def _class_figures(heads: Heads, classes: ClassList, dataset: Dataset, bags: RegionBags) -> dict[str, float | None]:
    tags = torch.from_numpy(dataset.with_classes(classes).tags)
    return dict(zip(classes.names, balanced_tag_accuracy(_presence(heads, bags, len(tags)), tags), strict=True))


def _presence(heads: Heads, bags: RegionBags, frames: int) -> Tensor:
    """Return (F, K) the logit of the probability, by noisy-or over the regions, that a frame has a class."""
    probabilities = heads.probabilities(bags.features).mean(0)[:, 1:]
    return presence_log_odds(log_absence(probabilities, bags.votes, bags.frame, frames))
