"""Verdicts: on masks that are right and on masks that are spoilt, and on each figure alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.judged_scenes import CLASSES, SPOILT, perfect, scenes
from hypothesis import given
from hypothesis import strategies as st

from deal_core.errors import EvaluationError
from deal_core.quality.mask_figures import ClassMaskFigures, MaskFigures, MaskMeter
from deal_core.quality.training_facts import ClassTrainingFacts, TrainingFacts
from deal_core.quality.verdict import BOUNDS, GRADES, Bounds, Verdict, class_score, judge

MUG = ClassMaskFigures("mug", 20, 20, 6, 0.02, 0.3, 0.05, 0.85)
GOOD = MaskFigures(40, 0.02, 0.0, 0.1, 0.05, 0.7, 0.85, 0.3, 0.15, 0.5, (MUG, replace(MUG, name="jar")))
TRAINED = TrainingFacts(
    *(0.3, "depth_relief", 1.0, -0.2, 0.1, 0.9, 0.7, True),
    classes=(ClassTrainingFacts("mug", 0.9, 0.7, 0.0), ClassTrainingFacts("jar", 0.9, 0.7, 0.0)),
)


def figures(verdict: Verdict) -> dict[str, str]:
    return {found.figure: found.grade for found in verdict.findings}


def test_right_masks_are_good_and_spoilt_ones_are_not() -> None:
    made = scenes()
    verdicts = {}
    for name, spoil in {"perfect": perfect, **SPOILT}.items():
        meter, rng = MaskMeter(CLASSES), np.random.default_rng(1)
        for scene in made:
            meter.update(scene.sample, spoil(scene, rng), scene.segment)
        verdicts[name] = judge(meter.figures())
    right = verdicts["perfect"]
    assert right.grade == "good" and right.score > 0.9 and right.warnings() == ()
    assert all(one.grade == "good" for one in right.classes)
    assert {verdicts[name].grade for name in ("empty", "everything", "shifted", "blobs")} == {"bad"}
    assert all(verdicts[name].score < 0.2 for name in ("empty", "everything", "shifted", "blobs"))
    assert verdicts["half_missing"].grade == "bad" and verdicts["half_missing"].score < right.score
    assert "lot" in figures(verdicts["named_by_lot"]) and verdicts["named_by_lot"].score < right.score
    assert "50 % of the tagged frames have an empty mask" in verdicts["half_missing"].findings[0].text


def test_good_figures_leave_nothing_to_say() -> None:
    verdict = judge(GOOD, TRAINED)
    assert verdict.grade == "good" and verdict.findings == () and verdict.warnings() == () and verdict.frames == 40
    expected = 0.98 * 0.95 * 1.0 * 0.3 / 0.35
    assert [one.score for one in verdict.classes] == [pytest.approx(expected)] * 2 == [pytest.approx(verdict.score)] * 2


@pytest.mark.parametrize(
    ("figure", "masks", "grade"),
    [
        ("empty", replace(GOOD, empty=0.2), "doubtful"),
        ("empty", replace(GOOD, empty=0.99), "bad"),
        ("named", replace(GOOD, named=0.4), "doubtful"),
        ("named", replace(GOOD, named=0.7), "bad"),
        ("lot", replace(GOOD, agreement_by_lot=0.29), "doubtful"),
        ("lot", replace(GOOD, agreement_by_lot=0.4), "bad"),
    ],
)
def test_each_figure_of_masks_alone(figure: str, masks: MaskFigures, grade: str) -> None:
    verdict = judge(masks)
    assert figures(verdict) == {figure: grade} and GRADES.index(verdict.grade) >= GRADES.index(
        verdict.findings[0].grade
    )
    assert verdict.findings[0].advice


@pytest.mark.parametrize(
    ("figure", "one", "grade"),
    [
        ("missing", replace(MUG, missing=0.2), "doubtful"),
        ("missing", replace(MUG, missing=0.9), "bad"),
        ("outline", replace(MUG, outline=0.5), "doubtful"),
        ("on_planes", replace(MUG, on_planes=0.4), "doubtful"),
        ("on_planes", replace(MUG, on_planes=0.8), "bad"),
        ("agreement", replace(MUG, agreement=0.08), "doubtful"),
        ("agreement", replace(MUG, agreement=0.01), "bad"),
        ("absent", replace(MUG, tagged=39, absent=1), "doubtful"),
        ("segments", replace(MUG, segments=2), "doubtful"),
        ("tagged", replace(MUG, tagged=0), "doubtful"),
    ],
)
def test_each_figure_of_a_class_alone(figure: str, one: ClassMaskFigures, grade: str) -> None:
    verdict = judge(replace(GOOD, classes=(one, GOOD.classes[1])))
    first, second = verdict.classes
    assert [(found.figure, found.grade) for found in first.findings] == [(figure, grade)] and first.findings[0].advice
    assert second.grade == "good" and second.findings == ()
    assert GRADES.index(first.grade) >= GRADES.index(first.findings[0].grade)


@pytest.mark.parametrize(
    ("figure", "training"),
    [
        ("threshold", replace(TRAINED, threshold=0.0)),
        ("threshold", replace(TRAINED, threshold=1.0)),
        ("flat", replace(TRAINED, loss_deal=0.1004)),
        ("tags", replace(TRAINED, accuracy=0.705)),
    ],
)
def test_each_figure_of_a_training_alone(figure: str, training: TrainingFacts) -> None:
    verdict = judge(GOOD, training)
    assert figures(verdict) == {figure: "doubtful"} and verdict.grade == "doubtful"
    alone = judge(training=training)
    assert figures(alone) == {figure: "doubtful"} and math.isnan(alone.score) and alone.frames == 0


def test_a_score_that_is_worse_than_every_figure_says_why() -> None:
    low = replace(MUG, agreement=0.11)
    (found,) = judge(replace(GOOD, classes=(low,))).classes[0].findings
    assert (found.figure, found.grade) == ("score", "doubtful") and "0.29 of 1" in found.text
    assert "agreement with masks of other segments" in found.text
    (found,) = judge(replace(GOOD, named=0.59, classes=(MUG,))).classes[0].findings
    assert (found.figure, found.grade) == ("score", "bad") and "share of the image" in found.text


def test_classes_that_a_network_does_not_know() -> None:
    known = TRAINED.classes
    lost = replace(TRAINED, classes=(replace(known[0], accuracy=0.7, dead=0.9), known[1]))
    verdict = judge(training=lost)
    assert [(f.figure, f.grade) for f in verdict.classes[0].findings] == [("dead", "bad"), ("tags", "doubtful")]
    assert verdict.classes[1].grade == "good" and verdict.grade == "doubtful"


def test_right_tags_are_no_fault_where_always_absent_is_right_too() -> None:
    known = TRAINED.classes
    right = replace(TRAINED, classes=(replace(known[0], accuracy=1.0, always_absent=1.0), known[1]))
    assert judge(training=right).classes[0].findings == ()
    assert judge(training=replace(TRAINED, accuracy=1.0, always_absent=1.0)).findings == ()
    wrong = replace(TRAINED, classes=(replace(known[0], accuracy=0.99, always_absent=1.0), known[1]))
    assert [found.figure for found in judge(training=wrong).classes[0].findings] == ["tags"]


def test_classes_that_a_region_model_does_not_know() -> None:
    first, second = TRAINED.classes
    shaky = replace(
        TRAINED, classes=(replace(first, ranking=0.55, spread=0.3), replace(second, ranking=0.9, spread=0.1))
    )
    one, other = judge(training=shaky).classes
    assert {found.figure for found in one.findings} == {"ranking", "spread"} and one.grade == "doubtful"
    assert other.findings == ()


def test_figures_that_do_not_apply_say_nothing() -> None:
    unknown = TrainingFacts(0.0, "fixed")
    assert judge(training=unknown) == Verdict("good", math.nan, (), ())
    assert judge(training=replace(TRAINED, deal_weight=0.0, loss_deal=0.1)).grade == "good", "trained without the loss"
    assert judge(training=TrainingFacts(0.5, "argmax")).grade == "good"
    with pytest.raises(ValueError, match="found none"):
        judge()
    with pytest.raises(ValueError, match="same classes"):
        judge(replace(GOOD, classes=(MUG,)), TRAINED)


def test_most_classes_bad_is_bad() -> None:
    lost, jar, box = replace(MUG, missing=0.6), replace(MUG, name="jar"), replace(MUG, name="box")
    assert judge(replace(GOOD, classes=(lost, jar, box))).grade == "doubtful"
    assert judge(replace(GOOD, classes=(lost, replace(lost, name="jar"), box))).grade == "bad"


def test_warnings_join_what_classes_have_in_common_and_begin_with_the_worst() -> None:
    some, many = replace(MUG, missing=0.3), replace(MUG, name="jar", missing=0.3)
    other = replace(MUG, name="box", missing=0.4)
    first, second = judge(replace(GOOD, named=0.36, classes=(some, many, other))).warnings()
    assert {first.figure, second.figure} == {"named", "missing"}
    said = first if first.figure == "missing" else second
    assert said.text == (
        "mug, jar: 30 % of the tagged frames have no pixel of it; box: 40 % of the tagged frames have no pixel of it"
    )
    worst = judge(replace(GOOD, named=0.7, classes=(some,))).warnings()[0]
    assert (worst.figure, worst.grade) == ("named", "bad")
    crowd = tuple(replace(MUG, name=f"c{k}", missing=0.2 + k / 100) for k in range(9))
    assert judge(replace(GOOD, classes=crowd)).warnings()[0].text.endswith("; 3 more")


shares = st.one_of(st.just(math.nan), st.floats(0, 1))


@given(shares, shares, shares, shares)
def test_scores_are_shares_and_never_rise_with_what_is_wrong(a: float, b: float, missing: float, named: float) -> None:
    missing = 0.0 if math.isnan(missing) else missing
    one = replace(MUG, missing=missing, agreement=a, on_planes=b)
    score = class_score(one, named)
    assert math.isnan(named) or 0 <= score <= 1
    worse = class_score(replace(one, missing=min(missing + 0.1, 1.0)), named)
    assert math.isnan(named) or worse <= score


@given(st.sampled_from(sorted(BOUNDS)), st.floats(-1, 2))
def test_a_grade_never_gets_better_on_the_way_to_the_bad_side(figure: str, value: float) -> None:
    bounds = BOUNDS[figure]
    step = 0.05 if bounds.good <= bounds.bad else -0.05
    assert GRADES.index(bounds.grade(value)) <= GRADES.index(bounds.grade(value + step))
    assert bounds.grade(math.nan) == "good" and Bounds(0.1, 0.5).grade(0.5) == "bad"


def test_a_verdict_survives_its_file(tmp_path: Path) -> None:
    verdict = judge(replace(GOOD, empty=0.9, classes=(replace(MUG, tagged=0), replace(MUG, name="jar"))), TRAINED)
    assert Verdict.read(tmp_path) is None
    assert verdict.write(tmp_path) == tmp_path / "quality.json"
    again = Verdict.read(tmp_path)
    assert again is not None and again.to_json() == verdict.to_json() and again.findings == verdict.findings
    assert again.classes[1] == verdict.classes[1] and math.isnan(again.classes[0].score)
    assert json.loads((tmp_path / "quality.json").read_text())["classes"][0]["score"] is None


@pytest.mark.parametrize("content", ["{", "[]", '{"grade": "fine"}'])
def test_a_damaged_file_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "quality.json").write_text(content)
    with pytest.raises(EvaluationError, match=r"quality\.json"):
        Verdict.read(tmp_path)


def test_an_unwritable_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="cannot be written"):
        judge(GOOD).write(tmp_path / "file")
