"""`deal report` as a person and as a script runs it."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from deal_core.data.sample import ClassList
from deal_core.errors import EvaluationError
from deal_core.evaluation import EvaluationResult, MaskEvaluator
from training.cli import app


@pytest.fixture
def run_folder(tmp_path):
    classes, evaluator = ClassList(("mug",)), MaskEvaluator(1)
    truth = np.zeros((8, 8), np.uint8)
    truth[2:5, 2:5] = 1
    evaluator.update(truth, truth, "kitchen/1")
    score = evaluator.score(classes, rule="otsu", threshold=0.3)
    EvaluationResult("DEAL", "kitchen", classes, 1, auto=score, per_frame=tuple(evaluator.frames)).write(tmp_path / "r")
    return tmp_path / "r"


def test_writes_a_page_and_says_where(run_folder, tmp_path):
    out = tmp_path / "new" / "page.html"
    result = CliRunner().invoke(app, ["report", str(run_folder), "--out", str(out), "--title", "A kitchen"])
    assert result.exit_code == 0
    assert str(out) in result.stderr
    assert result.stdout == ""
    text = out.read_text()
    assert "<h1>A kitchen</h1>" in text
    assert [p.name for p in out.parent.iterdir()] == ["page.html"]


def test_json_is_one_document_on_stdout(run_folder, tmp_path):
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", str(run_folder), str(run_folder), "--out", str(out), "--json"])
    assert result.exit_code == 0
    value = json.loads(result.stdout)
    assert value["report"] == str(out)
    assert [run["name"] for run in value["runs"]] == ["DEAL", "DEAL"]
    assert value["runs"][0]["auto"] == {"rule": "otsu", "miou": 1.0, "boundary_f": 1.0, "threshold": 0.3}
    assert value["runs"][0]["oracle"] is None


def test_a_folder_that_is_no_run_is_an_error_and_leaves_no_page(tmp_path):
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(out)])
    assert isinstance(result.exception, EvaluationError)
    assert str(tmp_path) in str(result.exception)
    assert not out.exists()
