"""The result of an evaluation, and the file `deal evaluate` writes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deal_core.errors import DealError, EvaluationError
from deal_core.evaluation.metrics import ClassScore, FrameScore, MaskScore
from deal_core.evaluation.sweep import SweepCurve
from deal_core.files import replacing
from deal_core.structures import ClassList, Float64Array

if TYPE_CHECKING:
    pass


EVALUATION_FILE = "evaluation.json"


EVALUATION_FORMAT = "deal-evaluation"


EVALUATION_VERSION = 1


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """What `deal evaluate` found out about one model on one dataset; lies as evaluation.json in a run's folder.

    Args:
        name: of the run, as a reader should see it.
        dataset: what it was evaluated on.
        classes: names and colours.
        num_frames: images that were compared.
        oracle: with the threshold swept on the truth, as papers report; None for a model without threshold.
        auto: with the threshold of a rule that sees no masks, or `argmax`; None where it was not asked for.
        curve: mIoU by threshold; None for a model without threshold.
        per_frame: the mIoU of every image, with the auto threshold where there is one, else the oracle's.
        details: anything else worth a line in the report (seed, backbone, model hash, ...).
    """

    name: str
    dataset: str
    classes: ClassList
    num_frames: int
    oracle: MaskScore | None = None
    auto: MaskScore | None = None
    curve: SweepCurve | None = None
    per_frame: tuple[FrameScore, ...] = ()
    details: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the plain form; figures that are not defined become null."""
        colors = [list(color) for color in self.classes.colors]
        return {
            "format": EVALUATION_FORMAT,
            "version": EVALUATION_VERSION,
            "name": self.name,
            "dataset": self.dataset,
            "classes": [{"name": name, "color": color} for name, color in zip(self.classes.names, colors, strict=True)],
            "num_frames": self.num_frames,
            "oracle": None if self.oracle is None else score_to_json(self.oracle),
            "auto": None if self.auto is None else score_to_json(self.auto),
            "curve": None
            if self.curve is None
            else {
                "thresholds": [_number(t) for t in self.curve.thresholds],
                "miou": [_number(m) for m in self.curve.miou],
            },
            "per_frame": [{"key": frame.key, "iou": _number(frame.iou)} for frame in self.per_frame],
            "details": dict(self.details),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EvaluationResult:
        """Read the plain form of `to_json`.

        Raises:
            EvaluationError: another format or version, a missing key or a value of another type.
        """
        try:
            if value.get("format") != EVALUATION_FORMAT:
                raise EvaluationError(f"expected the format '{EVALUATION_FORMAT}', found {value.get('format')!r}")
            if value["version"] != EVALUATION_VERSION:
                raise EvaluationError(f"expected version {EVALUATION_VERSION}, found {value['version']!r}")
            curve = value["curve"]
            return cls(
                name=str(value["name"]),
                dataset=str(value["dataset"]),
                classes=ClassList(
                    tuple(entry["name"] for entry in value["classes"]),
                    tuple(tuple(entry["color"]) for entry in value["classes"]),
                ),
                num_frames=int(value["num_frames"]),
                oracle=_score_from_json(value["oracle"]),
                auto=_score_from_json(value["auto"]),
                curve=None if curve is None else SweepCurve(_floats(curve["thresholds"]), _floats(curve["miou"])),
                per_frame=tuple(FrameScore(str(frame["key"]), _figure(frame["iou"])) for frame in value["per_frame"]),
                details=dict(value["details"]),
            )
        except EvaluationError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, DealError) as error:
            kind = f"no key {error}" if isinstance(error, KeyError) else str(error)
            raise EvaluationError(f"not a readable evaluation: {kind}") from None

    def write(self, folder: Path) -> Path:
        """Write evaluation.json into `folder` (made if missing), under a temporary name first.

        Returns:
            The file's path.
        """
        path = folder / EVALUATION_FILE
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", "utf-8")
        return path

    @classmethod
    def read(cls, folder: Path) -> EvaluationResult:
        """Read evaluation.json of a run's folder.

        Raises:
            EvaluationError: no such folder or file, or a file that holds something else.
        """
        path = folder / EVALUATION_FILE
        if not folder.is_dir():
            raise EvaluationError(f"{folder}: expected the folder of a run, found no folder")
        if not path.is_file():
            raise EvaluationError(
                f"{folder}: expected a run's folder with {EVALUATION_FILE}, found none. `deal evaluate` writes it"
            )
        try:
            return cls.from_json(json.loads(path.read_text("utf-8")))
        except (EvaluationError, ValueError) as error:
            raise EvaluationError(f"{path}: {error}. Write it again with `deal evaluate`") from None


def score_to_json(score: MaskScore) -> dict[str, Any]:
    """Return the figures as JSON, nan as null."""
    return {
        "rule": score.rule,
        "threshold": score.threshold,
        "miou": _number(score.miou),
        "pixel_accuracy": _number(score.pixel_accuracy),
        "boundary_f": _number(score.boundary_f),
        "per_class": [
            {
                "name": entry.name,
                "iou": _number(entry.iou),
                "precision": _number(entry.precision),
                "recall": _number(entry.recall),
                "boundary_f": _number(entry.boundary_f),
            }
            for entry in score.classes
        ],
    }


def _score_from_json(value: Mapping[str, Any] | None) -> MaskScore | None:
    if value is None:
        return None
    return MaskScore(
        rule=str(value["rule"]),
        threshold=None if value["threshold"] is None else float(value["threshold"]),
        miou=_figure(value["miou"]),
        pixel_accuracy=_figure(value["pixel_accuracy"]),
        boundary_f=_figure(value["boundary_f"]),
        classes=tuple(
            ClassScore(
                str(entry["name"]),
                _figure(entry["iou"]),
                _figure(entry["precision"]),
                _figure(entry["recall"]),
                _figure(entry["boundary_f"]),
            )
            for entry in value["per_class"]
        ),
    )


def _number(value: float) -> float | None:
    """Return a JSON number; JSON has no nan."""
    return float(value) if math.isfinite(value) else None


def _figure(value: Any) -> float:
    return math.nan if value is None else float(value)


def _floats(values: Sequence[Any]) -> Float64Array:
    return np.array([_figure(value) for value in values], np.float64)
