"""The benchmark of verdicts: rank correlation, and one run from its folder to its row."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.judged_scenes import write_masks
from helpers.scripts import load_script

from deal_core.dataset.dataset import Dataset


@pytest.fixture(scope="module")
def script() -> Any:
    return load_script("quality")


def test_rank_correlation_by_hand(script: Any) -> None:
    assert script.spearman([1, 2, 3], [2, 4, 9]) == 1 and script.spearman([1, 2, 3], [9, 4, 2]) == -1
    assert script.spearman([0, 0, 1, 2], [1, 2, 3, 4]) == pytest.approx(0.9486832980505138)
    assert math.isnan(script.spearman([1, 2], [1, 2])) and math.isnan(script.spearman([1, 1, 1], [1, 2, 3]))


def test_rows_of_runs(
    script: Any, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Dataset.open(tiny_dataset)
    run = tmp_path / "runs" / "one"
    write_masks(run / "drawn", dataset, 12)
    write_masks(run / "empty", dataset, 12, np.zeros_like)
    (run / "dataset.txt").write_text(str(tiny_dataset))
    monkeypatch.setattr("sys.argv", ["quality.py", str(tmp_path / "runs"), "--out", str(tmp_path / "rows.json")])
    script.main()
    told = capsys.readouterr().out
    drawn, empty = json.loads((tmp_path / "rows.json").read_text())
    assert (drawn["masks"], drawn["miou"]) == ("drawn", 1) and drawn["grade"] != "bad"
    assert empty["grade"] == "bad" and empty["score"] == 0 and empty["miou"] == empty["all_background"] < 0.5
    assert "all: 2 folders of masks, Spearman nan" in told and "not called bad: 0" in told
