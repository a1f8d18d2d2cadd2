"""The table against figures worked out by hand, its JSON and its picture; and what is embedded of the paper."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from deal_core.experiments.definitions import BENCHMARKS
from deal_core.experiments.figure import draw_figure
from deal_core.experiments.published import published_figures
from deal_core.experiments.table import COLUMNS, Figures, Row, rows_as_markdown, write_table

SEEDS = (11, 42, 55)


def figures(oracle: float, auto: float = 0.4) -> Figures:
    return Figures(oracle, auto, boundary_oracle=0.2, boundary_auto=0.1, threshold_oracle=0.3, threshold_auto=0.35)


@pytest.fixture
def rows() -> list[Row]:
    """SEAM on VOC val: the baseline, and DEAL 1, 2 and 6 points above it."""
    base, deal = (0.50, 0.52, 0.51), (0.51, 0.54, 0.57)
    gains = tuple(d - b for d, b in zip(deal, base, strict=True))
    return [
        Row("seam", "baseline", "val", SEEDS, tuple(map(figures, base)), (0.0, 0.0, 0.0), 0.54045, 0.0),
        Row("seam", "deal", "val", SEEDS, tuple(map(figures, deal)), gains, 0.55198, 0.55198 - 0.54045),
    ]


def test_cells_are_mean_and_sample_deviation_in_percent(rows: list[Row]) -> None:
    cells = dict(zip(COLUMNS, rows[1].cells(), strict=True))
    # mean (51 + 54 + 57) / 3 = 54, deviations -3, 0, 3: sqrt(18 / 2) = 3
    assert cells["oracle"] == "54.0 ± 3.0"
    # gains 1, 2, 6: mean 3, deviations -2, -1, 3: sqrt(14 / 2) = 2.6
    assert cells["gain"] == "+3.0 ± 2.6"
    assert cells["paper"] == "55.2" and cells["paper's gain"] == "+1.2"
    assert cells["auto"] == "40.0 ± 0.0"
    assert (cells["F oracle"], cells["F auto"]) == ("20.0 ± 0.0", "10.0 ± 0.0")
    assert (cells["threshold oracle"], cells["threshold auto"]) == ("0.30", "0.35")
    assert cells["seeds"] == "3"
    baseline = dict(zip(COLUMNS, rows[0].cells(), strict=True))
    assert baseline["gain"] == baseline["paper's gain"] == ""


def test_one_seed_has_no_spread() -> None:
    row = Row("weaktr", "deal", "train", (11,), (figures(0.5),), (-0.01,))
    cells = dict(zip(COLUMNS, row.cells(), strict=True))
    assert cells["oracle"] == "50.0" and cells["gain"] == "-1.0" and cells["paper"] == ""
    assert row.to_json()["oracle"] == {"mean": 0.5, "std": None, "values": [0.5]}


def test_markdown_and_json_hold_every_row(rows: list[Row], tmp_path: Path) -> None:
    path = write_table(rows, "PASCAL VOC 2012", "voc", tmp_path)
    text = path.read_text()
    assert text == rows_as_markdown(rows, "PASCAL VOC 2012")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4 and all(line.count("|") == len(COLUMNS) + 1 for line in lines)
    stored = json.loads((tmp_path / "results.json").read_text())
    assert [row["variant"] for row in stored["rows"]] == ["baseline", "deal"]
    assert stored["rows"][1]["seeds"] == [11, 42, 55]
    assert stored["rows"][1]["oracle"]["mean"] == pytest.approx(0.54)
    assert stored["rows"][1]["gain"]["std"] == pytest.approx(math.sqrt(7) / 100)


@pytest.mark.slow
def test_the_figure_shows_each_bar_and_the_papers_mark(rows: list[Row], tmp_path: Path) -> None:
    with_paper = cv2.imread(str(draw_figure(rows, "VOC", tmp_path / "a.png")))
    without = [Row(r.model, r.variant, r.part, r.seeds, r.figures, r.gains) for r in rows]
    without_paper = cv2.imread(str(draw_figure(without, "VOC", tmp_path / "b.png")))
    assert with_paper is not None and min(with_paper.shape[:2]) > 400
    colors = {tuple(pixel) for pixel in with_paper.reshape(-1, 3)[::7].tolist()}
    assert {(0xAD, 0xA3, 0x9A), (0xD8, 0x80, 0x2F)} <= colors, "a bar of the baseline and one of deal"
    assert with_paper.shape != without_paper.shape or np.any(with_paper != without_paper)
    one = draw_figure(rows[1:], "VOC", tmp_path / "c.png")
    assert cv2.imread(str(one)) is not None


def test_the_paper_says_that_deal_gains() -> None:
    """Its headline figures: +5.4 on VOC val with SEAM, ISL and FSL, +1.3 with DEAL alone, +14.8 on HOPE val."""

    def val(benchmark: str, model: str, variant: str) -> float:
        return published_figures(benchmark, model, variant)["val"]

    assert val("voc", "seam", "deal+isl-fsl") - val("voc", "seam", "baseline") == pytest.approx(5.346)
    assert val("voc", "weaktr", "deal") - val("voc", "weaktr", "baseline") == pytest.approx(1.273)
    assert val("hope", "weaktr", "deal") - val("hope", "weaktr", "baseline") == pytest.approx(14.806)
    assert published_figures("coco", "seam", "baseline") == {}
    found = published_figures("voc", "weaktr", "baseline")
    assert found["train"] == 63.461 and "full_train" not in found


def test_every_published_row_can_be_asked_for() -> None:
    for name, benchmark in BENCHMARKS.items():
        for model in ("weaktr", "seam"):
            for variant in ("baseline", "deal", "isl-fsl", "deal+isl-fsl", "deal-estimated"):
                if published_figures(name, model, variant):
                    assert variant in {known.name for known in benchmark.variants}
                    assert model in benchmark.default_models
