"""Training of a region model on tags and depth; it reads no masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from deal_core.dataset.dataset import Dataset
from deal_core.dataset.open import open_dataset
from deal_core.devices import resolve_device
from deal_core.errors import ConfigError
from deal_core.files import os_errors_as, owning, replacing
from deal_core.models.backbone import settle_weights
from deal_core.models.domain_change import FineTuneReport, check_rehearsal
from deal_core.models.earlier_model import start_from
from deal_core.models.factory import create_model
from deal_core.models.model_file import MODEL_FILE, ModelInfo, Threshold, save_model
from deal_core.models.model_info import REGION_MIL
from deal_core.models.region_mil import RegionMil
from deal_core.ownership import remove_leftovers
from deal_core.regions.bags import FindThings, RegionBags, join_bags, make_bags, standardise
from deal_core.regions.cache import frame_regions
from deal_core.regions.choice import LevelChoice, choose_levels
from deal_core.regions.figures import RegionFigures, class_figures
from deal_core.regions.fine_tuning import (
    FIGURE,
    domain_change,
    old_frames,
    open_earlier,
    settings_from,
)
from deal_core.regions.head import Heads, train_heads
from deal_core.regions.scores import SCORE_THRESHOLD
from deal_core.regions.settings import RegionTrainSettings
from deal_core.settings_file import dump_settings
from deal_core.structures import ClassList

SETTINGS_FILE = "settings.yaml"
FEATURES = "features"
"""Folder of the regions and features in a run folder."""


@dataclass(frozen=True)
class RegionResult:
    """The result of a training: the path of the model file, and what the model says about itself without masks.

    `report` says what was gained and lost since the model of `init_from`; None without one.
    """

    model: Path
    figures: RegionFigures
    report: FineTuneReport | None = None


def train_regions(
    settings: RegionTrainSettings,
    advance: Callable[[int, int], None] = lambda done, total: None,
    find_things: Callable[[Dataset], FindThings | None] = lambda dataset: None,
) -> RegionResult:
    """Train a region model and write it to the run folder.

    The features of each frame are computed once and kept in the folder. Another run in it, such as one that was
    interrupted or one with other settings of the heads, uses them. Equal settings give equal models on one machine.

    Args:
        settings: Settings of the run.
        advance: Function to call with the number of frames that have features, and the number of all frames.
        find_things: Function that returns what a person showed in the frames of the dataset; None for nothing.

    Raises:
        DatasetError: the dataset cannot be read.
        ConfigError: the dataset has no depth, fewer than two segments, or no class that is present in some frames and
            absent in others; no frame has a region; or the settings do not fit the network.
        ModelFileError: initial weights cannot be read, or the model cannot be written.
        InUseError: another process trains in the folder.
        UsageError: the device is not available.
        EvaluationError: more was lost on the dataset of `data.rehearse` than is accepted; the model is kept.
    """
    check_rehearsal(settings.init_from, settings.data.rehearse, settings.max_loss_on_old)
    with owning(settings.output, ConfigError):
        return _train(settings, advance, find_things)


def _train(
    settings: RegionTrainSettings,
    advance: Callable[[int, int], None],
    find_things: Callable[[Dataset], FindThings | None],
) -> RegionResult:
    earlier = open_earlier(settings)
    if earlier:
        settings = settings_from(settings, earlier)
    arguments = settle_weights(settings.network.arguments)
    settings = settings.model_copy(update={"network": settings.network.model_copy(update={"arguments": arguments})})
    dataset = open_dataset(settings.data)
    check_learnable(dataset)
    old = old_frames(settings, len(dataset))
    device = resolve_device(settings.device)
    size = _image_size(settings, dataset)
    sets = settings.network.levels
    torch.manual_seed(settings.seed)
    network = _create(settings, len(dataset.classes), sorted({level for levels in sets for level in levels}))
    changes = start_from(network, dataset.classes, earlier.model, earlier.path) if earlier else None
    _write_settings(settings)
    total = len(dataset) + (len(old.rehearsed) + len(old.watched) if old else 0)
    done = 0

    def bags_of(frames: Dataset, things: FindThings | None = None) -> RegionBags:
        nonlocal done
        before, done = done, done + len(frames)
        found = frame_regions(
            network.to(device),
            frames,
            size,
            settings.output / FEATURES,
            arguments=settings.network.arguments,
            advance=lambda count: advance(before + count, total),
        )
        network.cpu()
        return make_bags(found, frames, things)

    bags = bags_of(dataset, find_things(dataset) if settings.head.taps else None)
    if not len(bags.frame):
        raise ConfigError(f"{dataset.path}: no frame has a region; look at its depth with `deal check`")
    learnt = bags
    if old and len(old.rehearsed):
        learnt = join_bags(bags, bags_of(old.rehearsed.with_classes(dataset.classes)))
    choice = choose_levels(learnt, network, settings)
    columns = network.columns(choice.levels)
    scale = (network.feature_mean, network.feature_std) if earlier else (None, None)
    chosen, mean, std = standardise(learnt.with_features(columns), *scale)
    start = Heads(network.weight.detach(), network.bias.detach()) if earlier else None
    heads = train_heads(chosen, settings.head, settings.seed, start)
    trained = _create(settings, len(dataset.classes), choice.levels)
    trained.take(network, mean, std, heads.weight, heads.bias)
    own = standardise(bags.with_features(columns), mean, std).bags
    figures = _figures(own, heads, choice, dataset.classes)
    arguments = {**arguments, **trained.settled, "levels": choice.levels, "members": heads.members}
    facts = {
        "frames": figures.frames,
        "segments": figures.segments,
        "seed": settings.seed,
        "regions": figures.to_json(),
    }
    if earlier and changes:
        facts["init_from"] = {"sha256": earlier.model.sha256, **changes.to_json()}
    threshold = Threshold(SCORE_THRESHOLD, "argmax")
    info = ModelInfo(REGION_MIL, arguments, dataset.classes, size, threshold, facts)
    model = settings.output / MODEL_FILE
    save_model(model, trained, info)
    if not earlier or not changes:
        return RegionResult(model, figures)
    sides = (earlier.heads, earlier.model.info.classes), (heads, dataset.classes)
    watched = standardise(bags_of(old.watched), mean, std).bags if old else None
    lost = domain_change(old.watched, watched, old.held_out, *sides) if old and watched else None
    gained = domain_change(dataset, own, False, *sides)
    report = FineTuneReport(str(earlier.path), FIGURE, changes, gained, lost, settings.max_loss_on_old)
    report.write(settings.output)
    report.check(model)
    return RegionResult(model, figures, report)


def _figures(bags: RegionBags, heads: Heads, choice: LevelChoice, classes: ClassList) -> RegionFigures:
    counts = torch.bincount(bags.frame, minlength=len(bags.tags)).tolist()
    return RegionFigures(
        frames=len(counts),
        segments=len(bags.segments.unique()),
        frames_without_regions=counts.count(0),
        regions_per_frame=sum(counts) / len(counts),
        levels=choice.levels,
        compared=choice.compared,
        classes=class_figures(bags, heads, choice.ranking, classes),
    )


def check_learnable(dataset: Dataset) -> None:
    """Raise `ConfigError` if the tags or the depth of the frames cannot train a region model."""
    if not dataset.has_depth:
        raise ConfigError(
            f"{dataset.path} has no depth, from which regions are made: estimate it with `deal depth` and set "
            "data.depth to its folder, or train a CAM network with `deal train`"
        )
    segments = {(frame.recording, frame.segment) for frame in dataset.frames}
    if len(segments) < 2:
        raise ConfigError(
            f"{dataset.path}: expected frames of at least two segments (scenes), found {len(segments)}: a region model "
            "learns from what changes between scenes"
        )
    tags = dataset.tags
    present, absent = (tags == 1).any(0), (tags == 0).any(0)
    if not (present & absent).any():
        lacking = "tagged present" if not present.any() else "tagged absent"
        raise ConfigError(
            f"{dataset.path}: no class is {lacking} in some frames and the contrary in others: record scenes without "
            "the class, and mark tags as complete, so that classes that are not named count as absent"
        )


def _image_size(settings: RegionTrainSettings, dataset: Dataset) -> tuple[int, int]:
    height, width = settings.image_size or dataset.load_image(0).shape[:2]
    return height, width


def _create(settings: RegionTrainSettings, num_classes: int, levels: Sequence[int]) -> RegionMil:
    given = settings.network.arguments
    for name, key in (("levels", "network.levels"), ("members", "head.members")):
        if name in given:
            raise ConfigError(f"network.arguments.{name} has no effect: set {key}")
    arguments = {**given, "levels": levels, "members": settings.head.members}
    network = create_model(REGION_MIL, num_classes, **arguments)
    assert isinstance(network, RegionMil)
    return network.eval()


def _write_settings(settings: RegionTrainSettings) -> None:
    file = settings.output / SETTINGS_FILE
    if file.exists():
        remove_leftovers(settings.output)
    with os_errors_as(ConfigError, f"{file} cannot be written"), replacing(file) as temporary:
        temporary.write_text(dump_settings(settings), encoding="utf-8")
