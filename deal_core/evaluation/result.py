"""The result of an evaluation, and its file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    PlainSerializer,
    Strict,
    ValidationError,
)

from deal_core.errors import DatasetError, EvaluationError, explain_invalid
from deal_core.evaluation.metrics import ClassScore, FrameScore, MaskScore
from deal_core.evaluation.sweep import SweepCurve
from deal_core.files import os_errors_as, replacing
from deal_core.structures import ClassList, classes_from_json, classes_to_json
from deal_core.text_formats import read_json

EVALUATION_FILE = "evaluation.json"


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """The result of one model on one dataset; `deal evaluate` writes it as evaluation.json into a run folder.

    Args:
        name: Name of the run for the report.
        dataset: Path of the dataset.
        classes: Names and colours of the classes.
        num_frames: Number of compared images.
        oracle: Score at the threshold swept on the truth, as in papers; None for a model without threshold.
        auto: Score at the threshold of a rule without masks, or of `argmax`; None if it was not measured.
        curve: mIoU by threshold; None for a model without threshold.
        per_frame: mIoU of every image, at the auto threshold if there is one, else at the oracle threshold.
        details: Further facts for the report (seed, backbone, model hash, ...).
        flicker: Share of the pixels that change their predicted class between successive frames of a recording although
            their true class stays, at the threshold of `per_frame`; None without successive frames. See `Flicker`.
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
    flicker: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; undefined figures become null."""
        return _EvaluationJson(
            format="deal-evaluation",
            version=1,
            name=self.name,
            dataset=self.dataset,
            classes=classes_to_json(self.classes),
            num_frames=self.num_frames,
            oracle=None if self.oracle is None else _ScoreJson.model_validate(self.oracle),
            auto=None if self.auto is None else _ScoreJson.model_validate(self.auto),
            curve=None if self.curve is None else _CurveJson.model_validate(self.curve),
            per_frame=[_FrameJson.model_validate(frame) for frame in self.per_frame],
            flicker=self.flicker,
            details=dict(self.details),
        ).model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Any) -> EvaluationResult:
        """Read the JSON form of `to_json`.

        Raises:
            EvaluationError: format or version are others, a key is missing, or a value has another type.
        """
        try:
            read = _EvaluationJson.model_validate(value)
            classes = classes_from_json(read.classes)
        except (ValidationError, DatasetError) as error:
            reason = explain_invalid(error) if isinstance(error, ValidationError) else error
            raise EvaluationError(f"not a readable evaluation: {reason}") from None
        return cls(
            name=read.name,
            dataset=read.dataset,
            classes=classes,
            num_frames=read.num_frames,
            oracle=None if read.oracle is None else read.oracle.score(),
            auto=None if read.auto is None else read.auto.score(),
            curve=None if read.curve is None else read.curve.curve(),
            per_frame=tuple(FrameScore(frame.key, frame.iou) for frame in read.per_frame),
            flicker=read.flicker,
            details=read.details,
        )

    def write(self, folder: Path) -> Path:
        """Write evaluation.json into `folder`, which is made if missing, and return the path of the file.

        Raises:
            EvaluationError: the file cannot be written.
        """
        path = folder / EVALUATION_FILE
        with os_errors_as(EvaluationError, f"{path} cannot be written"), replacing(path) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", "utf-8")
        return path

    @classmethod
    def read(cls, folder: Path) -> EvaluationResult:
        """Read evaluation.json of a run folder.

        Raises:
            EvaluationError: the folder or the file is missing, or the file has other content.
        """
        path = folder / EVALUATION_FILE
        if not folder.is_dir():
            raise EvaluationError(f"{folder}: expected a run folder, found no folder")
        if not path.is_file():
            raise EvaluationError(f"{folder}: expected {EVALUATION_FILE} of `deal evaluate`, found none")
        try:
            return cls.from_json(read_json(path, finite=False))
        except (EvaluationError, OSError, ValueError) as error:
            raise EvaluationError(f"{path}: {error}. Write it again with `deal evaluate`") from None


def score_to_json(score: MaskScore) -> dict[str, Any]:
    """Return the score as JSON; nan becomes null."""
    return _ScoreJson.model_validate(score).model_dump(mode="json")


_Figure = Annotated[
    float,
    Strict(),
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: float(value) if math.isfinite(value) else None, return_type=float | None),
]
"""A figure; undefined figures are null in JSON and nan in Python."""


class _Json(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class _ClassJson(_Json):
    name: str
    iou: _Figure
    precision: _Figure
    recall: _Figure
    boundary_f: _Figure


class _ScoreJson(_Json):
    rule: str
    threshold: Annotated[float, Strict(), Field(allow_inf_nan=False)] | None
    miou: _Figure
    pixel_accuracy: _Figure
    boundary_f: _Figure
    per_class: Annotated[list[_ClassJson], FailFast()] = Field(validation_alias=AliasChoices("per_class", "classes"))

    def score(self) -> MaskScore:
        classes = tuple(ClassScore(**dict(entry)) for entry in self.per_class)
        return MaskScore(self.rule, self.threshold, self.miou, self.pixel_accuracy, self.boundary_f, classes)


class _CurveJson(_Json):
    thresholds: Annotated[list[_Figure], FailFast()]
    miou: Annotated[list[_Figure], FailFast()]

    def curve(self) -> SweepCurve:
        return SweepCurve(np.array(self.thresholds, np.float64), np.array(self.miou, np.float64))


class _FrameJson(_Json):
    key: str
    iou: _Figure


class _EvaluationJson(BaseModel):
    format: Literal["deal-evaluation"]
    version: Literal[1]
    name: str
    dataset: str
    classes: list[Any]
    num_frames: Annotated[int, Strict()]
    oracle: _ScoreJson | None
    auto: _ScoreJson | None
    curve: _CurveJson | None
    per_frame: Annotated[list[_FrameJson], FailFast()]
    flicker: Annotated[float, Strict(), Field(ge=0, le=1)] | None = None
    details: dict[str, str | int | float | bool]
