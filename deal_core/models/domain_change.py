"""What a training that started from an earlier model gained on the new data, and lost on the old."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from deal_core.errors import ConfigError, EvaluationError
from deal_core.files import os_errors_as, replacing
from deal_core.models.earlier_model import ClassChanges

FINE_TUNE_FILE = "fine_tune.json"
"""In the run folder: the content of `FineTuneReport.to_json`."""


@dataclass(frozen=True)
class DomainChange:
    """The figure of each class on the frames of one dataset, before and after a training.

    Args:
        dataset: Path of the dataset.
        frames: Number of frames that were watched.
        held_out: Whether the training did not see them.
        before: Figure of each class of the earlier model, in [0, 1]; None where no frame can tell.
        after: Figure of each class of the new model.
    """

    dataset: str
    frames: int
    held_out: bool
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]

    @property
    def shared(self) -> tuple[str, ...]:
        """Classes with a figure before and after."""
        return tuple(n for n, figure in self.after.items() if figure is not None and self.before.get(n) is not None)

    @property
    def mean_before(self) -> float | None:
        """Mean figure before the training, over the classes that both models have."""
        return _mean(self.before, self.shared)

    @property
    def mean_after(self) -> float | None:
        """Mean figure after the training, over the same classes."""
        return _mean(self.after, self.shared)

    @property
    def change(self) -> float | None:
        """Difference of the means; None without a class that both models have."""
        before, after = self.mean_before, self.mean_after
        return None if before is None or after is None else after - before

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        means = {"mean_before": self.mean_before, "mean_after": self.mean_after, "change": self.change}
        return {**asdict(self), **means, "mean_of_all_classes_after": _mean(self.after, tuple(self.after))}


@dataclass(frozen=True)
class FineTuneReport:
    """The report of a training that started from an earlier model.

    Args:
        earlier: Path of the earlier model.
        figure: What the figures measure.
        classes: What became of the classes.
        new: Change on the new data.
        old: Change on the earlier dataset; None without `data.rehearse`.
        max_loss_on_old: Largest fall on the old data that is accepted; None for any.
    """

    earlier: str
    figure: str
    classes: ClassChanges
    new: DomainChange
    old: DomainChange | None
    max_loss_on_old: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "earlier": self.earlier,
            "figure": self.figure,
            "classes": self.classes.to_json(),
            "new": self.new.to_json(),
            "old": self.old.to_json() if self.old else None,
            "max_loss_on_old": self.max_loss_on_old,
        }

    def write(self, folder: Path) -> None:
        """Write `FINE_TUNE_FILE`; raise `ConfigError` if it cannot be written."""
        file = folder / FINE_TUNE_FILE
        with os_errors_as(ConfigError, f"{file} cannot be written"), replacing(file) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")

    def check(self, model: Path) -> None:
        """Raise `EvaluationError` if more was lost on the old data than is accepted; `model` was kept."""
        if self.max_loss_on_old is None or self.old is None:
            return
        change = self.old.change
        if change is None:
            raise EvaluationError(
                f"{self.old.dataset}: no frame tells what was lost (max_loss_on_old: {self.max_loss_on_old:g}), since "
                f"none has a class that both models know. The training is complete: {model}"
            )
        if -change > self.max_loss_on_old:
            raise EvaluationError(
                f"{self.old.dataset}: the {self.figure} fell from {self.old.mean_before:.3f} to "
                f"{self.old.mean_after:.3f}, by {-change:.3f}, expected at most {self.max_loss_on_old:g} "
                "(max_loss_on_old). Rehearse a larger share (data.rehearse), or lower optimizer.learning_rate. The "
                f"training is complete: {model}"
            )


def balanced_tag_accuracy(logits: Tensor, tags: Tensor) -> list[float | None]:
    """Return, for each of K classes, the mean of the shares of its present and of its absent tags that are predicted.

    1/2 is chance, however rare the class is. Where the tags (N, K), in {1, 0, nan}, have one side alone, its share is
    returned, and None where no tag is known. A class is predicted where its logit (N, K) is above 0.
    """
    figures: list[float | None] = []
    for mine, known in zip((logits > 0).T, tags.T, strict=True):
        sides = [(mine == bool(side))[known == side] for side in (0, 1)]
        shares = [float(right.double().mean()) for right in sides if len(right)]
        figures.append(sum(shares) / len(shares) if shares else None)
    return figures


def check_rehearsal(init_from: Path | None, rehearse: object, max_loss_on_old: float | None) -> None:
    """Raise `ConfigError` for settings of a fine-tuning that have no effect: each needs the one before it."""
    if rehearse is not None and init_from is None:
        raise ConfigError("data.rehearse needs init_from, the model that was trained on the earlier dataset")
    if max_loss_on_old is not None and rehearse is None:
        raise ConfigError("max_loss_on_old needs data.rehearse, the dataset on which the loss is measured")


def _mean(figures: Mapping[str, float | None], names: Sequence[str]) -> float | None:
    known = [figure for name in names if (figure := figures[name]) is not None]
    return sum(known) / len(known) if known else None
