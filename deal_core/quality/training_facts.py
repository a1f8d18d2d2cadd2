"""Figures of a training that tell whether its maps live: its losses, and where its threshold lies."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deal_core.models.model_file import ModelInfo

HISTORY_FILE = "history.jsonl"
_LAST = 0.2
"""Share of the logged steps, at the end, over which losses are averaged."""


@dataclass(frozen=True)
class TrainingFacts:
    """Figures of a training; nan where nothing was logged.

    Args:
        threshold: Background threshold of the model.
        rule: Rule that chose the threshold.
        deal_weight: Weight of the edge loss; 0 for a training without it.
        loss_deal: Mean edge loss of the last steps.
        deal_flat: Mean edge loss of a flat map in these steps.
        accuracy: Share of the held-out tags that were predicted correctly at the end.
    """

    threshold: float
    rule: str
    deal_weight: float = math.nan
    loss_deal: float = math.nan
    deal_flat: float = math.nan
    accuracy: float = math.nan


def training_facts(info: ModelInfo, run: Path | None = None) -> TrainingFacts:
    """Return the figures of the training of a model.

    Args:
        info: Description of the model.
        run: Run folder of the training, for the losses in its history; without a history they are nan.
    """
    steps = list(_history(run / HISTORY_FILE)) if run else []
    losses = [step for step in steps if "loss_deal" in step and "deal_flat" in step]
    last = losses[-max(round(_LAST * len(losses)), 1) :]
    return TrainingFacts(
        info.threshold.value,
        info.threshold.rule,
        float(info.training.get("deal_weight", math.nan)),
        _mean(last, "loss_deal"),
        _mean(last, "deal_flat"),
        _mean([step for step in steps if "held_out_tag_accuracy" in step][-1:], "held_out_tag_accuracy"),
    )


def _history(file: Path) -> list[Mapping[str, Any]]:
    """Return the logged steps; an incomplete line, which an interrupted training leaves, is ignored."""
    if not file.is_file():
        return []
    found: list[Mapping[str, Any]] = []
    for line in file.read_text("utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found


def _mean(steps: list[Mapping[str, Any]], name: str) -> float:
    values = [float(step[name]) for step in steps if isinstance(step.get(name), (int, float))]
    return sum(values) / len(values) if values else math.nan
