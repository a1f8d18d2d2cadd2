"""Figures of a training that need no mask: what its network knows of the tags, and whether its maps are alive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from deal_core.dataset.dataset import Dataset, evenly_spread
from deal_core.losses.activation import is_flat
from deal_core.models.model_file import Threshold
from deal_core.models.output import CamOutput
from deal_core.structures import Float64Array
from deal_core.trainer.loop import evaluating
from deal_core.trainer.objective import alignment_loss
from deal_core.trainer.settings import TrainSettings
from deal_core.trainer.views import output_of, plain_batches

FIGURES_KEY = "figures"
"""Key of the figures in the training facts of a model file."""
MAX_FRAMES = 500
"""Largest number of frames from which figures are made."""


@dataclass(frozen=True)
class ClassFigures:
    """Figures of one class; shares are in [0, 1], and None where no frame can tell.

    Args:
        name: Name of the class.
        positives: Number of training frames in which the class is tagged as present.
        negatives: Number of training frames in which it is tagged as absent.
        tag_accuracy: Share of the watched frames with a known tag whose tag the network predicts.
        always_absent: Share of them that "always absent" predicts.
        flat_maps: Share of the watched frames with the class whose map for it is empty or the same everywhere.
    """

    name: str
    positives: int
    negatives: int
    tag_accuracy: float | None
    always_absent: float | None
    flat_maps: float | None


@dataclass(frozen=True)
class TrainingFigures:
    """Figures of a training, on frames that are held out, or on training frames if none are.

    Args:
        watched: Which frames were watched.
        frames: Number of watched frames.
        tag_accuracy: Share of all known tags that the network predicts; None if none is known.
        always_absent: Share of all known tags that "always absent" predicts; None if none is known.
        loss_deal: Edge loss on these frames; None without depth.
        deal_flat: Edge loss of a map without edges on these frames; a network whose loss equals it learnt no edges.
        threshold: Background threshold that the rule chose.
        threshold_at_end: Whether a rule chose it at an end of its range, where masks are everything or nothing.
        classes: Figures of each class.
    """

    watched: Literal["held_out", "training"]
    frames: int
    tag_accuracy: float | None
    always_absent: float | None
    loss_deal: float | None
    deal_flat: float | None
    threshold: float
    threshold_at_end: bool
    classes: tuple[ClassFigures, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, which a model file holds under `FIGURES_KEY` in its training facts."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainingFigures:
        """Read the JSON form; keys of later versions are ignored.

        Raises:
            KeyError: a figure is missing.
        """
        classes = tuple(ClassFigures(**_known(ClassFigures, each)) for each in value["classes"])
        return cls(**{**_known(cls, value), "classes": classes})

    @classmethod
    def of_training(cls, facts: Mapping[str, Any]) -> TrainingFigures | None:
        """Return the figures among the training facts of a model file; None in files that hold none."""
        return cls.from_json(facts[FIGURES_KEY]) if FIGURES_KEY in facts else None


def measure_figures(
    network: nn.Module,
    settings: TrainSettings,
    training: Dataset,
    held_out: Dataset,
    threshold: Threshold,
    device: torch.device,
) -> TrainingFigures:
    """Return the figures of a trained CAM network, on at most `MAX_FRAMES` of the frames that they watch."""
    watched = evenly_spread(held_out if len(held_out) else training, MAX_FRAMES)
    alignment = alignment_loss(settings.deal, settings.data.image_size, watched.depth_kind)
    tags, logits, flat, terms = [], [], [], []
    with evaluating(network):
        for batch in plain_batches(watched, settings, device, network=network):
            output: CamOutput = output_of(network, batch)
            tags.append(batch.tags.cpu())
            logits.append(torch.stack(list(output.tag_logits.values())).mean(0).cpu())
            flat.append(is_flat(output.activation).cpu())
            cams = output.map(settings.deal.map, settings.deal.through_backbone)
            found = alignment.terms(cams, batch.depth, batch.tags, batch.valid)
            terms.append((len(batch.tags), float(found.loss), float(found.flat)))
    known_tags, all_tags = training.tags, torch.cat(tags)
    right = (torch.cat(logits) > 0) == (all_tags == 1)
    is_known, is_flat_map = ~torch.isnan(all_tags), torch.cat(flat)
    sizes, deal, deal_flat = zip(*terms, strict=True)
    return TrainingFigures(
        watched="held_out" if len(held_out) else "training",
        frames=len(watched),
        tag_accuracy=_share(right[is_known]),
        always_absent=_share((all_tags == 0)[is_known]),
        loss_deal=float(np.average(deal, weights=sizes)) if watched.has_depth else None,
        deal_flat=float(np.average(deal_flat, weights=sizes)) if watched.has_depth else None,
        threshold=threshold.value,
        threshold_at_end=threshold.has_failed,
        classes=tuple(
            ClassFigures(
                name,
                positives=int((known_tags[:, k] == 1).sum()),
                negatives=int((known_tags[:, k] == 0).sum()),
                tag_accuracy=_share(right[:, k][is_known[:, k]]),
                always_absent=_share((all_tags[:, k] == 0)[is_known[:, k]]),
                flat_maps=_share(is_flat_map[:, k][all_tags[:, k] == 1]),
            )
            for k, name in enumerate(training.classes.names)
        ),
    )


def tag_log_odds(tags: npt.NDArray[np.floating[Any]], *, least: float = 0.02) -> Float64Array:
    """Return (K,) the log-odds of the share of the known tags (N, K) that are present.

    One frame of each kind is added (Laplace), and shares are kept in [least, 1 - least]: a class that no frame has, or
    every frame, has finite log-odds.
    """
    present, known = (tags == 1).sum(0), (~np.isnan(tags)).sum(0)
    share = np.clip((present + 1) / (known + 2), least, 1 - least)
    odds: Float64Array = np.log(share / (1 - share))
    return odds


def rare_tag_weights(tags: npt.NDArray[np.floating[Any]], *, most: float = 4.0) -> Float64Array:
    """Return (N,) weights in [1, most] of the frames with these tags (N, K): more for frames with a rare tag.

    The weight of a frame is the largest of its known tags, sqrt(0.5 / share), with the share of the known tags of the
    class that have this value: repeat-factor sampling (Gupta, Dollar, Girshick 2019), for tags that are rarely absent
    as for those that are rarely present.
    """
    known = np.maximum((~np.isnan(tags)).sum(0), 1)
    weights = np.ones(len(tags))
    for value in (0.0, 1.0):
        has = tags == value
        share = np.maximum(has.sum(0) / known, 1e-12)
        factor = np.clip(np.sqrt(0.5 / share), 1.0, most)
        weights = np.maximum(weights, np.where(has, factor, 1.0).max(axis=1, initial=1.0))
    return weights


def _share(which: Tensor) -> float | None:
    return float(which.double().mean()) if which.numel() else None


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: values[field.name] for field in fields(kind)}
