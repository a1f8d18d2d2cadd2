"""Figures of a training: what its network knows of the tags, whether its maps are alive, and its threshold.

A model file holds them among its training facts. A file without them, as of version 0.1.0, leaves the history of its
run folder, or nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deal_core.limits import read_bytes
from deal_core.models.model_file import ModelInfo
from deal_core.text_formats import parse_json

HISTORY_FILE = "history.jsonl"
_FIGURES, _REGIONS = "figures", "regions"  # of a CAM network, and of a region model
_LAST = 0.2
"""Share of the logged steps, at the end, over which losses are averaged."""


@dataclass(frozen=True)
class ClassTrainingFacts:
    """Figures of one class; nan where nothing was measured.

    Args:
        name: Name of the class.
        accuracy: Share of the watched frames whose tag the network predicts.
        always_absent: Share of the watched frames in which the class is absent.
        dead: Share of the watched frames with the class whose map for it is empty or flat.
        ranking: How well the regions of unseen segments tell frames with the class from frames without it: 1 is
            perfect, 1/2 is chance. Only a region model has it.
        spread: Standard deviation, over an ensemble on parts of the segments, of the probability of the best region.
            Only a region model has it.
    """

    name: str
    accuracy: float = math.nan
    always_absent: float = math.nan
    dead: float = math.nan
    ranking: float = math.nan
    spread: float = math.nan


@dataclass(frozen=True)
class TrainingFacts:
    """Figures of a training; nan where nothing was measured.

    Args:
        threshold: Background threshold of the masks.
        rule: Rule that chose the threshold.
        deal_weight: Weight of the edge loss; 0 for a training without it.
        loss_deal: Edge loss at the end.
        deal_flat: Edge loss of a flat map on the same frames.
        accuracy: Share of the known tags that are predicted correctly.
        always_absent: Share of the known tags that are absent.
        held_out: Whether tags were predicted on frames that the training did not see.
        classes: Figures of each class; empty if there are none.
    """

    threshold: float
    rule: str
    deal_weight: float = math.nan
    loss_deal: float = math.nan
    deal_flat: float = math.nan
    accuracy: float = math.nan
    always_absent: float = math.nan
    held_out: bool = True
    classes: tuple[ClassTrainingFacts, ...] = ()


def facts_of_training(info: ModelInfo, run: Path | None = None) -> TrainingFacts:
    """Return the figures of the training of a model.

    Args:
        info: Description of the model.
        run: Run folder of the training: its history is read if the model file holds no figures.
    """
    found, of_regions = info.training.get(_FIGURES), info.training.get(_REGIONS)
    figures: Mapping[str, Any] = found if isinstance(found, Mapping) else _of_history(run)
    entries = figures.get("classes") or (of_regions.get("classes") if isinstance(of_regions, Mapping) else None)
    return TrainingFacts(
        info.threshold.value,
        info.threshold.rule,
        _number(info.training, "deal_weight"),
        _number(figures, "loss_deal"),
        _number(figures, "deal_flat"),
        _number(figures, "tag_accuracy"),
        _number(figures, "always_absent"),
        figures.get("watched", "held_out") == "held_out",
        tuple(
            ClassTrainingFacts(
                str(entry.get("name")),
                _number(entry, "tag_accuracy"),
                _number(entry, "always_absent"),
                _number(entry, "flat_maps"),
                _number(entry, "ranking"),
                _number(entry, "spread"),
            )
            for entry in (entries if isinstance(entries, list) else ())
            if isinstance(entry, Mapping)
        ),
    )


def _of_history(run: Path | None) -> Mapping[str, Any]:
    """Return the figures that the history of a run folder tells, under the names of the model file."""
    steps = _history(run / HISTORY_FILE) if run else []
    losses = [step for step in steps if "loss_deal" in step and "deal_flat" in step]
    last = losses[-max(round(_LAST * len(losses)), 1) :]
    held_out = [step for step in steps if "held_out_tag_accuracy" in step][-1:]
    return {
        "loss_deal": _mean(last, "loss_deal"),
        "deal_flat": _mean(last, "deal_flat"),
        "tag_accuracy": _mean(held_out, "held_out_tag_accuracy"),
    }


def _history(file: Path) -> list[Mapping[str, Any]]:
    """Return the logged steps; an incomplete line, which an interrupted training leaves, is ignored."""
    if not file.is_file():
        return []
    found: list[Mapping[str, Any]] = []
    for line in read_bytes(file).decode("utf-8", errors="replace").splitlines():
        try:
            entry = parse_json(line, finite=False)
        except ValueError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found


def _mean(steps: list[Mapping[str, Any]], name: str) -> float:
    values = [_number(step, name) for step in steps]
    return sum(values) / len(values) if values else math.nan


def _number(values: Mapping[str, Any], name: str) -> float:
    """Return a number; nan if it is missing, null or no number."""
    value = values.get(name)
    return float(value) if isinstance(value, (int, float)) else math.nan
