"""`deal report` as a person and as a script runs it."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from deal_core.errors import EvaluationError, UsageError
from deal_core.evaluation.metrics import MaskEvaluator
from deal_core.evaluation.result import EvaluationResult
from deal_core.structures import ClassList
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


@pytest.fixture
def undrawn(tiny_dataset, tmp_path):
    """The small dataset without the masks that someone drew."""
    path = tmp_path / "undrawn"
    shutil.copytree(tiny_dataset, path)
    for folder in path.glob("recordings/*/masks"):
        shutil.rmtree(folder)
    for file in path.glob("recordings/*/frames.jsonl"):
        frames = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps({**frame, "mask": None}) + "\n" for frame in frames))
    return path


def test_runs_and_pseudo_masks_are_compared_on_a_dataset(deal, segmenter, tiny_dataset, undrawn, tmp_path):
    model = segmenter / "model.safetensors"
    masks = tmp_path / "masks"
    assert deal("cams", model, tiny_dataset, "--out", masks, "--device", "cpu", "--no-flip").returncode == 0
    told = ("report", segmenter, masks, model, "--pictures", "3", "--device", "cpu", "--json")
    named = [part for name in ("student", "pseudo masks", "again") for part in ("--name", name)]

    done = deal(*told, "--dataset", tiny_dataset, *named, "--out", tmp_path / "drawn.html")
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)["runs"]
    assert [run["name"] for run in runs] == ["student", "pseudo masks", "again"]
    assert runs[0]["auto"] == runs[2]["auto"] and runs[1]["oracle"] is None and runs[0]["frames"] == 12
    text = (tmp_path / "drawn.html").read_text()
    assert text.count('class="card frame"') == 3 and ">Truth<" in text

    done = deal(*told, "--dataset", undrawn, "--frames", "5", "--out", tmp_path / "undrawn.html")
    assert done.returncode == 0, done.stderr
    assert [run["auto"]["rule"] for run in json.loads(done.stdout)["runs"]] == ["agreement"] * 3
    text = (tmp_path / "undrawn.html").read_text()
    assert "These images have no drawn masks" in text and ">Truth<" not in text and ">boundary F<" not in text
    assert "5 images" in text and "nan" not in text.lower().split()


def test_options_that_mean_nothing_are_refused(deal, run_folder, tmp_path):
    out = ("--out", tmp_path / "page.html")
    done = deal("report", run_folder, "--frames", "3", *out)
    assert done.returncode == 2 and "go with --dataset" in done.stderr
    done = deal("report", run_folder, run_folder, "--name", "one", *out)
    assert done.returncode == 2 and "one for each of the 2 runs, found 1" in done.stderr
    (tmp_path / "file").touch()
    done = deal("report", run_folder, "--out", tmp_path / "file" / "page.html")
    assert done.returncode == 1 and "cannot be written there" in done.stderr
    done = deal("report", run_folder, "--name", "my run", *out)
    assert done.returncode == 0 and "my run" in (tmp_path / "page.html").read_text()


def test_a_page_never_replaces_what_is_read(run_folder, tmp_path):
    page = run_folder / "report.html"
    for _ in range(2):  # an earlier page may be replaced
        assert CliRunner().invoke(app, ["report", str(run_folder), "--out", str(page)]).exit_code == 0
    before = (run_folder / "evaluation.json").read_bytes()
    result = CliRunner().invoke(app, ["report", str(run_folder), "--out", str(run_folder / "evaluation.json")])
    assert isinstance(result.exception, UsageError) and "would replace what is read" in str(result.exception)
    assert (run_folder / "evaluation.json").read_bytes() == before
