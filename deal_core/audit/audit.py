"""The audit of the tags of a dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from deal_core.audit.evidence import FrameEvidence, gather_evidence
from deal_core.audit.held_out import Bags, held_out_presence, make_bags
from deal_core.audit.next_frames import choose_frames, is_unsure
from deal_core.audit.place import FEWEST_VISITS, PlaceFigure, place_figures, roc_area
from deal_core.audit.result import Audit, ClassFacts, NextFrame, PlaceShortcut, WrongTag, WrongTags
from deal_core.audit.suspicion import Suspicion, list_worst, suspect
from deal_core.audit.visits import divided, tag_spans, visits_of
from deal_core.dataset.dataset import Dataset
from deal_core.dataset.tag_notes import FEWEST_SEGMENTS, tag_notes
from deal_core.devices import resolve_device
from deal_core.errors import ConfigError
from deal_core.models.backbone import settle_weights
from deal_core.models.factory import create_model
from deal_core.models.model_info import REGION_MIL
from deal_core.models.region_mil import RegionMil
from deal_core.structures import Float32Array, Int64Array

ROUNDS = 3
"""Times that the heads learn; before each but the first, the most suspicious tags are set aside."""
FEWEST_GROUPS = 10
"""Fewest scenes from which wrong tags can be told: below, heads that did not see a scene know too little."""
_LAST_REPEATS = 2
_SET_ASIDE = 0.5
_POORLY_RANKED = 0.7
_LEVELS = (-3, -2, -1)
_TELLING = (-2, -1)
"""Levels whose features tell classes; the background has those of all levels."""


@dataclass(frozen=True)
class AuditSettings:
    """Settings of an audit.

    Args:
        network: Arguments of `deal_core.models.region_mil.RegionMil`: backbone, weights, mean, std, scale and
            backbone_arguments.
        image_size: (height, width) of the image before the network scales it; that of the first frame if None.
        precision: Least estimated share of wrong tags in the list, in (0, 1].
        next_frames: Largest number of frames to name as the next ones to tag.
        features: Folder in which features are kept; None keeps nothing.
        device: auto, cpu, cuda or cuda:1.
        seed: Seed of the folds and of the heads.

    Raises:
        ConfigError: a value is out of range.
    """

    network: dict[str, object] = field(default_factory=lambda: {"backbone": "resnet18", "weights": "auto"})
    image_size: tuple[int, int] | None = None
    precision: float = 0.8
    next_frames: int = 10
    features: Path | None = None
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.precision <= 1:
            raise ConfigError(f"precision: expected above 0 and at most 1, found {self.precision}")
        if self.next_frames < 0:
            raise ConfigError(f"next frames: expected a number from 0, found {self.next_frames}")


@dataclass(frozen=True)
class AuditProgress:
    """Functions that are called as an audit goes on.

    Args:
        frame: Called with the number of frames that were looked at.
        training: Called with the number of trainings of the heads that are done, and the number of all.
    """

    frame: Callable[[int], None] = lambda done: None
    training: Callable[[int, int], None] = lambda done, total: None


def audit_dataset(dataset: Dataset, settings: AuditSettings, progress: AuditProgress = AuditProgress()) -> Audit:
    """Audit the tags of a dataset; it reads images, depth and tags, and no masks.

    Raises:
        DatasetError: a file of the dataset is missing or damaged.
        ConfigError: the settings do not fit the network, or features cannot be kept.
        ModelFileError: the weights cannot be read.
        UsageError: the device is not available.
    """
    evidence, columns = _look(dataset, settings, progress)
    return judge_tags(dataset, evidence, columns, settings, progress)


def judge_tags(
    dataset: Dataset,
    evidence: list[FrameEvidence],
    columns: list[int],
    settings: AuditSettings,
    progress: AuditProgress = AuditProgress(),
) -> Audit:
    """Return the audit from what was seen in the frames.

    Args:
        dataset: Frames with tags.
        evidence: What is seen in each frame.
        columns: Indices of the features of regions that tell classes.
        settings: Settings.
        progress: Functions that are called as the audit goes on.
    """
    tags, visits, spans = dataset.tags, visits_of(dataset.frames), tag_spans(dataset.frames)
    places = place_figures(evidence, tags, visits, settings.seed)
    groups = divided(visits, spans, FEWEST_GROUPS)
    of_spans = _first_rows(spans)
    can_check = len(np.unique(groups)) >= FEWEST_GROUPS and _both_sides(tags).any()
    if can_check:
        bags = make_bags(evidence, columns)
        odds, found = find_wrong(bags, tags, spans, groups, settings.seed, progress)
        wrong_tags = _list(dataset, found, spans, settings.precision)
        presence = 1 / (1 + np.exp(-np.clip(odds, -30, 30).astype(np.float64)))
        rankings = [_ranking(odds[:, k], tags[:, k]) for k in range(tags.shape[1])]
        following = _next_frames(dataset, evidence, presence, spans, settings.next_frames)
    else:
        wrong_tags = WrongTags((), int((~np.isnan(tags[of_spans])).sum()), None, None, None)
        rankings, following = [None] * tags.shape[1], ()
    facts = tuple(
        _facts(name, tags[:, k], visits, rankings[k], places[k]) for k, name in enumerate(dataset.classes.names)
    )
    shortcuts = tuple(
        PlaceShortcut(name, place.ranking or 0.0, tuple(dataset.frames[row].key for row in place.frames))
        for name, place in zip(dataset.classes.names, places, strict=True)
        if place.predicts
    )
    return Audit(
        dataset=str(dataset.path),
        frames=len(dataset),
        visits=int(visits.max(initial=-1)) + 1,
        classes=facts,
        wrong_tags=wrong_tags,
        shortcuts=shortcuts,
        notes=tuple(tag_notes(dataset)),
        record_next=tuple(_advice(facts, shortcuts)),
        next_frames=following,
    )


def find_wrong(
    bags: Bags,
    tags: Float32Array,
    spans: Int64Array,
    groups: Int64Array,
    seed: int,
    progress: AuditProgress = AuditProgress(),
) -> tuple[Float32Array, Suspicion]:
    """Return the held-out log-odds (F, K) of presence, and the suspicion of the tags of each span, (S, K).

    The heads learn three times. Tags that are more probably wrong than right are set aside before the next time, as in
    confident learning (Northcutt, Jiang and Chuang 2021).

    Args:
        bags: Regions of all frames.
        tags: (F, K) tags: 1 present, 0 absent, nan unknown.
        spans: (F,) number of the span of each frame, from 0.
        groups: (F,) groups, of which none is on both sides of a fold.
        seed: Seed.
        progress: Functions that are called as the work goes on.
    """
    learnt, total, done = tags, ROUNDS - 1 + _LAST_REPEATS, 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress.training(done, total)

    for turn in range(ROUNDS):
        repeats = _LAST_REPEATS if turn == ROUNDS - 1 else 1
        odds = held_out_presence(bags, learnt, groups, repeats=repeats, seed=seed + 10 * turn, advance=advance)
        found = suspect(_means(odds, spans), tags[_first_rows(spans)])
        learnt = np.where(np.nan_to_num(found.wrong)[spans] > _SET_ASIDE, np.float32(np.nan), tags)
    return odds, found


def _look(dataset: Dataset, settings: AuditSettings, progress: AuditProgress) -> tuple[list[FrameEvidence], list[int]]:
    arguments = settle_weights(settings.network)
    torch.manual_seed(settings.seed)
    network = create_model(REGION_MIL, 1, **{**arguments, "levels": _LEVELS, "members": 1}).eval()
    assert isinstance(network, RegionMil)
    size = settings.image_size or tuple(dataset.load_image(0).shape[:2])
    evidence = gather_evidence(
        network.to(resolve_device(settings.device)),
        dataset,
        (size[0], size[1]),
        settings.features,
        arguments=arguments,
        advance=progress.frame,
    )
    return evidence, network.columns(_TELLING)


def _list(dataset: Dataset, found: Suspicion, spans: Int64Array, precision: float) -> WrongTags:
    known = ~np.isnan(found.wrong)
    chosen = list_worst(found.wrong, precision)
    tags = dataset.tags[_first_rows(spans)]
    listed = []
    for span, k in sorted(np.argwhere(chosen).tolist(), key=lambda place: -found.wrong[place[0], place[1]]):
        frames = [dataset.frames[row] for row in np.flatnonzero(spans == span)]
        listed.append(
            WrongTag(
                dataset.classes.names[k],
                "present" if tags[span, k] == 1 else "absent",
                frames[0].recording,
                frames[0].segment,
                tuple(frame.key for frame in frames),
                float(found.wrong[span, k]),
            )
        )
    expected = float(found.wrong[known].sum())
    probabilities = found.wrong[chosen]
    return WrongTags(
        tuple(listed),
        int(known.sum()),
        expected,
        float(probabilities.mean()) if len(listed) else None,
        float(probabilities.sum() / expected) if expected > 0 else None,
    )


def _next_frames(
    dataset: Dataset, evidence: list[FrameEvidence], presence: np.ndarray, spans: Int64Array, count: int
) -> tuple[NextFrame, ...]:
    tags = dataset.tags
    unknown = np.isnan(tags)
    looks = np.stack([one.regions.astype(np.float32).mean(0) for one in evidence])
    chosen = choose_frames(presence, unknown, looks, spans, count)
    unsure, found = is_unsure(presence), []
    for row in chosen:
        order = np.argsort(np.abs(presence[row] - 0.5))
        mine = [int(k) for k in order if unsure[row, k]]
        frame = dataset.frames[row]
        names = tuple(dataset.classes.names[k] for k in mine)
        found.append(NextFrame(frame.key, frame.recording, frame.segment, names, not unknown[row, mine].any()))
    return tuple(found)


def _facts(name: str, tags: Float32Array, visits: Int64Array, ranking: float | None, place: PlaceFigure) -> ClassFacts:
    with_it, without = (len(np.unique(visits[tags == value])) for value in (1, 0))
    return ClassFacts(name, with_it, without, ranking, place.ranking)


def _advice(facts: tuple[ClassFacts, ...], shortcuts: tuple[PlaceShortcut, ...]) -> list[str]:
    """Return what to record next, the most urgent first."""
    by_place = {one.name for one in shortcuts}
    said = [f"{name}: the place predicts it; record the same place without it" for name in sorted(by_place)]
    for one in facts:
        if one.with_it < FEWEST_SEGMENTS:
            said.append(f"{one.name}: visits with it: {one.with_it}; record it in {FEWEST_VISITS} or more")
        elif one.without < FEWEST_SEGMENTS:
            said.append(f"{one.name}: visits without it: {one.without}; record the same places without it")
        elif one.ranking is not None and one.ranking < _POORLY_RANKED and one.name not in by_place:
            said.append(
                f"{one.name}: heads that did not see a visit hardly tell whether it is there (ranking "
                f"{one.ranking:.2f}, by chance 0.50); record it in more visits, nearer to the camera"
            )
    return said


def _ranking(odds: Float32Array, tags: Float32Array) -> float | None:
    sides = [odds[tags == value].astype(np.float64) for value in (1, 0)]
    return roc_area(*sides)[0] if all(len(side) for side in sides) else None


def _both_sides(tags: Float32Array) -> np.ndarray:
    return np.asarray((tags == 1).any(0) & (tags == 0).any(0))


def _first_rows(spans: Int64Array) -> Int64Array:
    return np.unique(spans, return_index=True)[1]


def _means(values: Float32Array, spans: Int64Array) -> Float32Array:
    sums = np.zeros((int(spans.max()) + 1, values.shape[1]))
    np.add.at(sums, spans, values)
    return (sums / np.bincount(spans)[:, None]).astype(np.float32)
