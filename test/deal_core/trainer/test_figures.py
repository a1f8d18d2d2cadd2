"""Figures of a training without masks: tags, flat maps, thresholds at an end, and weights of rare tags."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.training_runs import MakeSettings
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from deal_core.dataset.dataset import Dataset
from deal_core.models.model_file import Threshold
from deal_core.models.output import CamOutput
from deal_core.trainer.figures import (
    TrainingFigures,
    measure_figures,
    rare_tag_weights,
    tag_log_odds,
)

NAN = math.nan


class Fixed(nn.Module):
    """Logits of each class by a fixed value; the map of class k varies over the image only if `lives[k]`."""

    def __init__(self, logits: list[float], lives: list[bool]) -> None:
        super().__init__()
        self.logits, self.lives = torch.tensor(logits), torch.tensor(lives)

    def forward(self, image: torch.Tensor) -> CamOutput:
        ramp = torch.linspace(-1, 1, 12).view(1, 1, 3, 4) * self.lives[:, None, None]
        cams = (self.logits[:, None, None] + ramp).repeat(len(image), 1, 1, 1)
        tags = {"cam": cams.mean(dim=(-2, -1))}
        return CamOutput(tags, "cam", cams, 8, {"cam": lambda _: cams}, activated="above_mean")


def measured(make_settings: MakeSettings, tiny_dataset: Path, threshold: Threshold | None = None) -> TrainingFigures:
    dataset = Dataset.open(tiny_dataset)
    frames, held_out = dataset.split_by_segment(0.3)
    network = Fixed([2.0, -3.0, -3.0], [True, True, False])
    return measure_figures(
        network, make_settings(), frames, held_out, threshold or Threshold(0.4, "otsu"), torch.device("cpu")
    )


def test_they_count_what_a_loop_counts(make_settings: MakeSettings, tiny_dataset: Path) -> None:
    found = measured(make_settings, tiny_dataset)
    frames, held_out = Dataset.open(tiny_dataset).split_by_segment(0.3)
    assert found.watched == "held_out" and found.frames == len(held_out)
    right = known = absent = 0
    for k, each in enumerate(found.classes):
        tags = [frame.tags.vector(held_out.classes)[k] for frame in held_out.frames]
        told = [tag for tag in tags if not math.isnan(tag)]
        predicted = 1.0 if k == 0 else 0.0
        right, known, absent = right + told.count(predicted), known + len(told), absent + told.count(0.0)
        assert each.tag_accuracy == (pytest.approx(told.count(predicted) / len(told)) if told else None)
        assert each.always_absent == (pytest.approx(told.count(0.0) / len(told)) if told else None)
        assert each.flat_maps == (None if 1.0 not in told else float(k == 2))
        of_training = [frame.tags.vector(frames.classes)[k] for frame in frames.frames]
        assert (each.positives, each.negatives) == (of_training.count(1.0), of_training.count(0.0))
    assert found.tag_accuracy == pytest.approx(right / known)
    assert found.always_absent == pytest.approx(absent / known)
    assert found.loss_deal is not None and found.deal_flat is not None
    assert -1 <= found.loss_deal <= 1 and -1 <= found.deal_flat <= 1


def test_they_go_through_json(make_settings: MakeSettings, tiny_dataset: Path) -> None:
    found = measured(make_settings, tiny_dataset)
    told = json.loads(json.dumps(found.to_json()))
    assert TrainingFigures.from_json(told) == found
    assert TrainingFigures.of_training({"figures": {**told, "of_a_later_version": 1}}) == found
    assert TrainingFigures.of_training({"steps": 3}) is None


@pytest.mark.parametrize(
    ("value", "rule", "at_end"),
    [(0.0, "depth_relief", True), (1.0, "otsu", True), (0.5, "otsu", False), (0.0, "fixed:0", False)],
)
def test_a_chosen_threshold_at_an_end_is_told(
    make_settings: MakeSettings, tiny_dataset: Path, value: float, rule: str, at_end: bool
) -> None:
    assert measured(make_settings, tiny_dataset, Threshold(value, rule)).threshold_at_end is at_end


def test_without_held_out_frames_the_training_frames_are_watched(
    make_settings: MakeSettings, tiny_dataset: Path
) -> None:
    dataset = Dataset.open(tiny_dataset)
    frames, held_out = dataset.split_by_segment(0.0)
    network = Fixed([0.0] * 3, [True] * 3)
    found = measure_figures(network, make_settings(), frames, held_out, Threshold(0.4, "otsu"), torch.device("cpu"))
    assert found.watched == "training" and found.frames == len(dataset)
    assert replace(found, classes=()).classes == ()


@given(st.integers(0, 10_000))
@hypothesis_settings(max_examples=40, deadline=None)
def test_log_odds_are_finite_and_rise_with_the_share(seed: int) -> None:
    tags = np.random.default_rng(seed).choice([0.0, 1.0, NAN], (7, 4))
    odds = tag_log_odds(tags)
    assert np.isfinite(odds).all() and (np.abs(odds) <= math.log(0.98 / 0.02) + 1e-9).all()
    more = tags.copy()
    more[np.isnan(more)] = 1.0
    assert (tag_log_odds(more) >= odds - 1e-12).all()


def test_log_odds_by_hand() -> None:
    tags = np.array([[1.0, NAN, 0.0]] * 2 + [[0.0, NAN, 0.0]] * 6)
    np.testing.assert_allclose(tag_log_odds(tags), [math.log(0.3 / 0.7), 0.0, math.log(0.1 / 0.9)])


def test_rare_tags_weigh_more_whether_rarely_present_or_rarely_absent() -> None:
    tags = np.zeros((100, 3))
    tags[:10, 0] = 1  # in a tenth of the frames
    tags[:, 1] = 1
    tags[50:52, 1] = 0  # absent from two
    tags[:, 2] = NAN
    weights = rare_tag_weights(tags)
    np.testing.assert_allclose(weights[:10], math.sqrt(5.0))
    np.testing.assert_allclose(weights[50:52], 4.0)
    np.testing.assert_allclose(weights[60:], 1.0)
