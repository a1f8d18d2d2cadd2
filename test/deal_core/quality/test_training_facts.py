"""Figures of a training from its model file and its history."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from deal_core.models.model_file import ModelInfo, Threshold
from deal_core.quality.training_facts import facts_of_training
from deal_core.structures import ClassList


def info(**training: object) -> ModelInfo:
    return ModelInfo("cam_net", {}, ClassList(("mug",)), (32, 32), Threshold(0.25, "otsu"), training)


def test_without_a_history_only_the_model_file_speaks(tmp_path: Path) -> None:
    for run in (None, tmp_path):
        facts = facts_of_training(info(deal_weight=1.0), run)
        assert (facts.threshold, facts.rule, facts.deal_weight) == (0.25, "otsu", 1.0)
        assert math.isnan(facts.loss_deal) and math.isnan(facts.deal_flat) and math.isnan(facts.accuracy)
    assert math.isnan(facts_of_training(info()).deal_weight), "as in files without the weight"


def test_losses_are_the_mean_of_the_last_fifth_of_the_steps(tmp_path: Path) -> None:
    steps = [{"step": s, "loss_deal": 0.1 * s, "deal_flat": 0.5} for s in range(10)]
    held_out = [{"step": 4, "held_out_tag_accuracy": 0.7}, {"step": 9, "held_out_tag_accuracy": 0.8}]
    lines = [json.dumps(line) for line in (*steps, *held_out)]
    (tmp_path / "history.jsonl").write_text("\n".join([*lines, "[1]", '{"step": 10, "lo']))
    facts = facts_of_training(info(deal_weight=1.0), tmp_path)
    assert facts.loss_deal == pytest.approx((0.8 + 0.9) / 2) and facts.deal_flat == 0.5 and facts.accuracy == 0.8


def test_the_figures_of_a_model_file_come_before_the_history(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text('{"step": 1, "loss_deal": 0.9, "deal_flat": 0.9}\n')
    entry = {"name": "mug", "tag_accuracy": 0.8, "always_absent": 0.6, "flat_maps": None, "positives": 3}
    figures = {"watched": "training", "tag_accuracy": 0.9, "always_absent": 0.7, "loss_deal": -0.1, "deal_flat": 0.2}
    facts = facts_of_training(info(figures={**figures, "classes": [entry]}), tmp_path)
    assert (facts.accuracy, facts.always_absent, facts.loss_deal, facts.deal_flat) == (0.9, 0.7, -0.1, 0.2)
    assert not facts.held_out and facts.classes[0].name == "mug"
    assert (facts.classes[0].accuracy, facts.classes[0].always_absent) == (0.8, 0.6)
    assert math.isnan(facts.classes[0].dead), "null is not measured"


def test_a_region_model_has_figures_of_its_own() -> None:
    entry = {"name": "mug", "found": 0.9, "spread": 0.3, "ranking": 0.6, "present_segments": 4}
    facts = facts_of_training(info(regions={"classes": [entry], "frames": 9}))
    assert (facts.classes[0].ranking, facts.classes[0].spread) == (0.6, 0.3)
    assert math.isnan(facts.classes[0].accuracy) and math.isnan(facts.loss_deal)
