"""A verdict on pseudo masks, class by class, from figures that need no drawn mask.

The score of a class is a product of four shares in [0, 1]: tagged frames whose mask has the class, pixels off tables
and walls, masks of a plausible size, and agreement with the second opinion of other segments. Its rank correlation with
the true mIoU is in docs/how_to/quality.md. Single figures beside it say what is wrong and what to do; most of them only
make a result doubtful, since good masks exist with each of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from deal_core.errors import EvaluationError, explain_invalid
from deal_core.files import os_errors_as, replacing
from deal_core.quality.mask_figures import ClassMaskFigures, MaskFigures
from deal_core.quality.training_facts import ClassTrainingFacts, TrainingFacts
from deal_core.text_formats import read_json

Grade = Literal["good", "doubtful", "bad"]
QUALITY_FILE = "quality.json"
GRADES: tuple[Grade, ...] = ("good", "doubtful", "bad")
"""From the best to the worst."""


@dataclass(frozen=True)
class Finding:
    """One figure that is not good.

    Args:
        figure: Name of the figure.
        grade: doubtful or bad.
        text: What the figure says.
        advice: What to do.
    """

    figure: str
    grade: Grade
    text: str
    advice: str


@dataclass(frozen=True)
class ClassVerdict:
    """The verdict on one class.

    Args:
        name: Name of the class.
        grade: The worst grade of its findings.
        score: Score in [0, 1]; nan for a class that is tagged in no frame.
        findings: Figures that are not good, worst first.
    """

    name: str
    grade: Grade
    score: float
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The verdict on masks, or on a model alone.

    Args:
        grade: Grade of the whole.
        score: Score in [0, 1]; nan without masks.
        findings: Figures of the whole that are not good, worst first.
        classes: Verdict on each class.
        frames: Number of measured frames.
    """

    grade: Grade
    score: float
    findings: tuple[Finding, ...]
    classes: tuple[ClassVerdict, ...]
    frames: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; undefined scores become null."""
        return {
            "grade": self.grade,
            "score": _number(self.score),
            "frames": self.frames,
            "findings": [asdict(finding) for finding in self.findings],
            "classes": [{**asdict(one), "score": _number(one.score)} for one in self.classes],
        }

    @classmethod
    def from_json(cls, value: Any) -> Verdict:
        """Read the JSON form of `to_json`.

        Raises:
            EvaluationError: a key is missing, or a value has another type.
        """
        try:
            return _VerdictJson.model_validate(value).verdict()
        except ValidationError as error:
            raise EvaluationError(f"not a readable verdict: {explain_invalid(error)}") from None

    def write(self, folder: Path) -> Path:
        """Write quality.json into a run folder or a folder of masks, and return its path.

        Raises:
            EvaluationError: the file cannot be written.
        """
        path = folder / QUALITY_FILE
        with (
            os_errors_as(EvaluationError, f"{path}: the verdict cannot be written"),
            replacing(path) as temporary,
        ):
            temporary.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", "utf-8")
        return path

    @classmethod
    def read(cls, folder: Path) -> Verdict | None:
        """Read quality.json of a folder; None without one.

        Raises:
            EvaluationError: the file has other content.
        """
        path = folder / QUALITY_FILE
        if not path.is_file():
            return None
        try:
            return cls.from_json(read_json(path, "description_bytes", finite=False))
        except (EvaluationError, ValueError, OSError) as error:
            raise EvaluationError(f"{path}: {error}. Write it again with `deal cams`, or delete it") from None

    def warnings(self) -> tuple[Finding, ...]:
        """Return the findings of the whole and of all classes, worst first; equal ones of several classes as one."""
        named: dict[tuple[str, Grade, str], list[tuple[str, str]]] = {}
        for one in self.classes:
            for found in one.findings:
                named.setdefault((found.figure, found.grade, found.advice), []).append((one.name, found.text))
        merged = [
            Finding(figure, grade, _of_several(texts), advice) for (figure, grade, advice), texts in named.items()
        ]
        return _worst_first([*self.findings, *merged])


@dataclass(frozen=True)
class Bounds:
    """Bounds of a figure: good up to the first, bad from the second on; for falling bounds the other way round."""

    good: float
    bad: float

    def grade(self, value: float) -> Grade:
        """Return the grade of a value; an unknown value (nan) is good: it tells nothing.

        >>> Bounds(0.1, 0.5).grade(0.3), Bounds(0.75, 0.6).grade(0.8)
        ('doubtful', 'good')
        """
        sign = 1.0 if self.good <= self.bad else -1.0
        if math.isnan(value) or sign * value <= sign * self.good:
            return "good"
        return "bad" if sign * value >= sign * self.bad else "doubtful"


BOUNDS: Mapping[str, Bounds] = {
    "score": Bounds(0.45, 0.2),
    "missing": Bounds(0.15, 0.5),
    "empty": Bounds(0.1, 0.5),
    "named": Bounds(0.35, 0.6),
    "on_planes": Bounds(0.3, 0.75),
    "outline": Bounds(0.7, -math.inf),
    "agreement": Bounds(0.1, 0.03),
    "lot": Bounds(1.2, 0.85),
    "absent": Bounds(0.1, -math.inf),
    "segments": Bounds(4, -math.inf),
    "tags": Bounds(0.02, -math.inf),
    "dead": Bounds(0.1, 0.5),
    "ranking": Bounds(0.7, -math.inf),
    "spread": Bounds(0.2, math.inf),
    "threshold": Bounds(0.02, -math.inf),
    "flat": Bounds(0.002, -math.inf),
}
"""Bounds of each figure; docs/how_to/quality.md explains them."""

_NAMED = 6
_FULL_AGREEMENT = 0.35
"""Agreement of true masks with the second opinion where things of a class differ in colour."""
_PLAUSIBLE, _IMPLAUSIBLE = 0.15, 0.6
"""Mean shares of the image with a name: masks of things are near the first, masks of everything beyond the second."""


def judge(masks: MaskFigures | None = None, training: TrainingFacts | None = None) -> Verdict:
    """Return the verdict from the figures that are known; what was not measured counts neither for nor against.

    Args:
        masks: Figures of pseudo masks.
        training: Figures of the training of the network behind them.

    Raises:
        ValueError: there are no figures, or they are of different classes.
    """
    if masks is None and training is None:
        raise ValueError("expected figures of masks or of a training, found none")
    of_masks = {one.name: one for one in masks.classes} if masks else {}
    of_training = {one.name: one for one in training.classes} if training else {}
    if of_masks and of_training and list(of_masks) != list(of_training):
        raise ValueError(f"expected figures of the same classes, found {list(of_masks)} and {list(of_training)}")
    names = of_masks or of_training
    named = masks.named if masks else math.nan
    classes = tuple(_judge_class(name, of_masks.get(name), of_training.get(name), named) for name in names)
    findings = _worst_first([*_of_masks(masks), *_of_training(training)])
    known = [one.score for one in classes if not math.isnan(one.score)]
    score = sum(known) / len(known) if known else math.nan
    return Verdict(_whole_grade(score, findings, classes), score, findings, classes, masks.frames if masks else 0)


def class_score(figures: ClassMaskFigures, named: float) -> float:
    """Return the score of the masks of a class in [0, 1]; nan for a class that is tagged in no measured frame.

    Args:
        figures: Figures of the class.
        named: Mean share of the image that the masks give to any class.
    """
    return math.prod(_factors(figures, named).values()) if figures.tagged else math.nan


def _factors(figures: ClassMaskFigures, named: float) -> dict[str, float]:
    """Return the factors of the score in [0, 1], by what they tell."""
    size = min(max((_IMPLAUSIBLE - named) / (_IMPLAUSIBLE - _PLAUSIBLE), 0.0), 1.0)
    agreement = 0.0 if math.isnan(figures.agreement) else min(figures.agreement / _FULL_AGREEMENT, 1.0)
    return {
        "the tagged frames without a pixel of it": 1.0 - figures.missing,
        "its pixels on tables, walls and floors": 1.0 if math.isnan(figures.on_planes) else 1.0 - figures.on_planes,
        "the share of the image that the masks take": size,
        "the agreement with masks of other segments": agreement,
    }


def _judge_class(
    name: str, masks: ClassMaskFigures | None, training: ClassTrainingFacts | None, named: float
) -> ClassVerdict:
    of_masks = _of_class_masks(masks) if masks else ()
    of_training = _of_class_training(training) if training else ()
    findings = [*of_masks, *of_training]
    score = class_score(masks, named) if masks else math.nan
    grade = _worst([found.grade for found in findings])
    if masks and GRADES.index(BOUNDS["score"].grade(score)) > GRADES.index(grade):
        grade = BOUNDS["score"].grade(score)
        factors = _factors(masks, named)
        why = min(factors, key=lambda factor: factors[factor])
        text = f"its score is {score:.2f} of 1, most of all for {why}"
        findings.append(Finding("score", grade, text, "look at the masks (`deal view`), or use `deal regions`"))
    return ClassVerdict(name, grade, score, _worst_first(findings))


def _of_class_masks(one: ClassMaskFigures) -> Iterator[Finding]:
    if not one.tagged:
        yield Finding("tagged", "doubtful", "no measured frame is tagged with it", "record and tag frames that show it")
        return
    share = one.absent / (one.absent + one.tagged)
    yield from _found(
        "missing",
        one.missing,
        f"{_percent(one.missing)} of the tagged frames have no pixel of it",
        "start from ImageNet weights, choose the threshold anew (`deal cams --threshold-rule otsu`), or use "
        "`deal regions`",
    )
    yield from _found(
        "outline",
        one.outline,
        f"its outline hardly follows steps in depth (rank {one.outline:.2f}, by chance 0.50)",
        "refine the masks along depth (`deal cams --refine regions`), or train with the edge loss (deal.weight=1)",
    )
    yield from _found(
        "on_planes",
        one.on_planes,
        f"{_percent(one.on_planes)} of its pixels are on a table, a wall or a floor",
        "refine the masks (`deal cams --refine regions`); for a class that is flat itself, this is no fault",
    )
    yield from _found(
        "agreement",
        one.agreement,
        f"a recogniser that learnt the masks of other segments finds {_percent(one.agreement)} of it again",
        "tag more frames as absent, start from ImageNet weights, or use `deal regions`",
    )
    yield from _found(
        "absent",
        share,
        f"it is absent from {_percent(share)} of the frames with a known tag, so the place can stand for it",
        "record frames without it, in the same places",
    )
    yield from _found(
        "segments",
        one.segments,
        f"it is tagged in {one.segments} segment{'s' if one.segments != 1 else ''}",
        "record it in more scenes",
    )


def _of_class_training(one: ClassTrainingFacts) -> Iterator[Finding]:
    yield from _found(
        "tags",
        _gain(one.accuracy, one.always_absent),
        f"its tag is predicted correctly in {_percent(one.accuracy)} of the frames, and 'always absent' is right in "
        f"{_percent(one.always_absent)}",
        "start from ImageNet weights, train longer, or tag more frames",
    )
    yield from _found(
        "dead",
        one.dead,
        f"{_percent(one.dead)} of its maps are empty or flat",
        "start from ImageNet weights, or train longer: its logits are negative everywhere",
    )
    yield from _found(
        "ranking",
        one.ranking,
        f"regions of unseen segments hardly tell frames with it from frames without it (ranking {one.ranking:.2f}, by "
        "chance 0.50)",
        "record more scenes with it and without it",
    )
    yield from _found(
        "spread",
        one.spread,
        f"heads trained on parts of the segments disagree about it by {one.spread:.2f}",
        "record it in more scenes: its name hangs on few segments",
    )


def _of_masks(masks: MaskFigures | None) -> Iterator[Finding]:
    if masks is None:
        return
    yield from _found(
        "empty",
        masks.empty,
        f"{_percent(masks.empty)} of the tagged frames have an empty mask",
        "choose the threshold anew (`deal cams --threshold-rule otsu`), start from ImageNet weights, or use "
        "`deal regions`",
    )
    yield from _found(
        "named",
        masks.named,
        f"the masks take {_percent(masks.named)} of the image",
        "raise the threshold (`deal cams --threshold-rule otsu`), or refine the masks",
    )
    lot = masks.agreement / masks.agreement_by_lot if masks.agreement_by_lot > 0 else math.nan
    yield from _found(
        "lot",
        lot,
        f"a recogniser finds {_percent(masks.agreement)} of the masks again, and {_percent(masks.agreement_by_lot)} "
        "of the same regions with names by lot",
        "tag more frames as absent, start from ImageNet weights, or use `deal regions`",
    )


def _of_training(training: TrainingFacts | None) -> Iterator[Finding]:
    if training is None:
        return
    yield from _found(
        "tags",
        _gain(training.accuracy, training.always_absent),
        f"{_percent(training.accuracy)} of the tags of {'held-out' if training.held_out else 'training'} frames are "
        f"predicted correctly, and 'always absent' is right in {_percent(training.always_absent)}",
        "start from ImageNet weights, train longer, or tag more frames",
    )
    if not training.rule.startswith(("argmax", "fixed")):
        yield from _found(
            "threshold",
            min(training.threshold, 1 - training.threshold),
            f"the threshold {training.threshold:.2f} ({training.rule}) is at the end of its range",
            "the maps do not separate things from the background: start from ImageNet weights, or train longer",
        )
    if training.deal_weight > 0:
        yield from _found(
            "flat",
            abs(training.loss_deal - training.deal_flat),
            f"loss_deal {training.loss_deal:.4f} is that of a flat map, deal_flat {training.deal_flat:.4f}: the edge "
            "loss has nothing to act on",
            "train longer before the loss starts (deal.start), or start from ImageNet weights",
        )


def _whole_grade(score: float, findings: Sequence[Finding], classes: Sequence[ClassVerdict]) -> Grade:
    """Return the grade of the whole: of its score and findings, and bad if most classes are."""
    bad = sum(one.grade == "bad" for one in classes)
    of_classes: Grade = (
        "good" if 2 * bad <= len(classes) and not bad else "bad" if 2 * bad > len(classes) else "doubtful"
    )
    return _worst([BOUNDS["score"].grade(score), of_classes, *(found.grade for found in findings)])


def _gain(accuracy: float, always_absent: float) -> float:
    """Return the accuracy beyond that of "always absent"; nan where all tags are right, and no more can be gained."""
    return math.nan if accuracy == 1.0 else accuracy - always_absent


def _found(figure: str, value: float, text: str, advice: str) -> Iterator[Finding]:
    """Yield the finding, unless the figure is good."""
    grade = BOUNDS[figure].grade(value)
    if grade != "good":
        yield Finding(figure, grade, text, advice)


def _worst(grades: Sequence[Grade]) -> Grade:
    return max(grades, key=GRADES.index, default="good")


def _worst_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda found: -GRADES.index(found.grade)))


def _of_several(texts: Sequence[tuple[str, str]]) -> str:
    """Return what is said of several classes, each with its name, at most `_NAMED` of them."""
    by_text: dict[str, list[str]] = {}
    for name, text in texts:
        by_text.setdefault(text, []).append(name)
    said = [f"{', '.join(names)}: {text}" for text, names in by_text.items()]
    more = [f"{len(said) - _NAMED} more"] if len(said) > _NAMED else []
    return "; ".join([*said[:_NAMED], *more])


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.0f} %"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


class _Json(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    grade: Grade


class _FindingJson(_Json):
    figure: str
    text: str
    advice: str

    def finding(self) -> Finding:
        return Finding(self.figure, self.grade, self.text, self.advice)


class _ClassJson(_Json):
    name: str
    score: float | None
    findings: list[_FindingJson]


class _VerdictJson(_Json):
    score: float | None
    frames: int
    findings: list[_FindingJson]
    classes: list[_ClassJson]

    def verdict(self) -> Verdict:
        return Verdict(
            self.grade,
            _figure(self.score),
            tuple(found.finding() for found in self.findings),
            tuple(
                ClassVerdict(c.name, c.grade, _figure(c.score), tuple(found.finding() for found in c.findings))
                for c in self.classes
            ),
            self.frames,
        )


def _figure(value: float | None) -> float:
    return math.nan if value is None else value
