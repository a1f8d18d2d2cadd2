"""The file of an evaluation: written, read back, and damaged."""

import json
import math
import re

import numpy as np
import pytest

from deal_core.errors import EvaluationError
from deal_core.evaluation.metrics import MaskEvaluator
from deal_core.evaluation.result import EVALUATION_FILE, EvaluationResult
from deal_core.evaluation.sweep import SweepCurve, ThresholdSweep
from deal_core.masks.decide import predict_mask
from deal_core.structures import ClassList


def example_result():
    rng = np.random.default_rng(0)
    classes = ClassList(("mug", "drill", "unseen"))
    sweep, evaluator = ThresholdSweep(3), MaskEvaluator(3)
    for index in range(3):
        values, truth = rng.random((3, 12, 16)), rng.integers(0, 3, (12, 16))
        values[2] = 0
        sweep.update(values, None, truth)
        evaluator.update(predict_mask(values, None, 0.5), truth, f"kitchen/{index}")
    return EvaluationResult(
        name="DEAL",
        dataset="kitchen",
        classes=classes,
        num_frames=3,
        oracle=evaluator.score(classes, rule="oracle", threshold=sweep.best().threshold),
        auto=evaluator.score(classes, rule="otsu", threshold=0.5),
        curve=sweep.curve(),
        per_frame=tuple(evaluator.frames),
        flicker=0.025,
        details={"seed": 11, "backbone": "mobilenetv2_100"},
    )


def test_evaluation_survives_the_disk(tmp_path):
    result = example_result()
    path = result.write(tmp_path / "run")
    assert path.name == EVALUATION_FILE
    assert list(path.parent.iterdir()) == [path]
    again = EvaluationResult.read(tmp_path / "run")
    assert json.loads(path.read_text()) == again.to_json() == result.to_json()
    assert again.classes == result.classes
    assert again.per_frame == result.per_frame and again.flicker == 0.025
    assert math.isnan(again.oracle.classes[3].iou)
    assert again.oracle.classes[1] == result.oracle.classes[1]
    np.testing.assert_array_equal(again.curve.miou, result.curve.miou)


def test_an_evaluation_from_before_there_was_flicker_is_read() -> None:
    value = example_result().to_json()
    del value["flicker"]
    assert EvaluationResult.from_json(value).flicker is None


def test_evaluation_without_thresholds_survives_the_disk(tmp_path):
    result = EvaluationResult("student", "kitchen", ClassList(("mug",)), 0)
    result.write(tmp_path)
    again = EvaluationResult.read(tmp_path)
    assert again.oracle is None
    assert again.curve is None
    assert again.per_frame == ()


def test_nan_never_reaches_the_file(tmp_path):
    curve = SweepCurve(np.array([0.0, 1.0]), np.array([np.nan, 0.5]))
    result = EvaluationResult("x", "y", ClassList(("mug",)), 1, curve=curve)
    text = result.write(tmp_path).read_text()
    assert "NaN" not in text
    np.testing.assert_array_equal(EvaluationResult.read(tmp_path).curve.miou, [np.nan, 0.5])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1"),
        ("[]", "not a readable evaluation"),
        ("3", "not a readable evaluation: expected a JSON object, found 3"),
        ('{"format": "other"}', "'format': expected 'deal-evaluation', found 'other'"),
        ('{"format": "deal-evaluation", "version": 99}', "'version': expected 1, found 99"),
        ('{"format": "deal-evaluation", "version": 1}', "'name' is missing"),
    ],
)
def test_a_file_that_is_no_evaluation_is_named(tmp_path, content, message):
    (tmp_path / EVALUATION_FILE).write_text(content)
    with pytest.raises(EvaluationError, match=re.escape(message)) as error:
        EvaluationResult.read(tmp_path)
    assert str(tmp_path / EVALUATION_FILE) in str(error.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((("auto", "miou"), value) for value in ("nan", "0.5", True, [])),
        *((("auto", "threshold"), value) for value in ("0.5", float("nan"), float("inf"), [])),
        *((("num_frames",), value) for value in ("3", 3.5, None, True)),
        *((("curve", "miou"), value) for value in (None, 0.5, ["nan"])),
        *((("per_frame", 0, "key"), value) for value in (None, 3)),
        *((("oracle", "per_class", 1, "iou"), value) for value in ("nan", {})),
        *((("classes",), value) for value in ([], [{"color": [1, 2, 3]}], "mug", [{"name": 3}])),
        *((("details", "seed"), value) for value in (None, [11])),
    ],
)
def test_a_wrong_value_in_an_evaluation_is_named(tmp_path, place, value):
    content = example_result().to_json()
    inside = content
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    (tmp_path / EVALUATION_FILE).write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match="not a readable evaluation: ") as error:
        EvaluationResult.read(tmp_path)
    assert str(tmp_path / EVALUATION_FILE) in str(error.value)
    assert str(place[-1]) in str(error.value) or place == ("classes",)


def test_a_folder_without_evaluation_says_which_command_writes_it(tmp_path):
    with pytest.raises(EvaluationError, match="deal evaluate"):
        EvaluationResult.read(tmp_path)
    with pytest.raises(EvaluationError, match="found no folder"):
        EvaluationResult.read(tmp_path / "nowhere")
