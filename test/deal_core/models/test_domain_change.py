"""The report of a fine-tuning, and its bound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from deal_core.errors import EvaluationError
from deal_core.models.domain_change import DomainChange, FineTuneReport, balanced_tag_accuracy
from deal_core.models.earlier_model import ClassChanges

NAN = float("nan")


def report(before: float | None, after: float | None, bound: float | None) -> FineTuneReport:
    classes = ClassChanges(("mug",), ("kettle",), ("drill",))
    new = DomainChange("new", 4, True, {"mug": 0.5, "drill": 0.9}, {"mug": 0.75, "kettle": 0.25})
    old = DomainChange("old", 8, True, {"mug": before}, {"mug": after, "kettle": 0.1})
    return FineTuneReport("old.safetensors", "accuracy", classes, new, old, bound)


def test_means_are_over_the_classes_of_both_models() -> None:
    new = report(0.9, 0.8, None).new
    assert (new.shared, new.mean_before, new.mean_after, new.change) == (("mug",), 0.5, 0.75, 0.25)
    assert new.to_json()["mean_of_all_classes_after"] == 0.5


@pytest.mark.parametrize(("after", "bound", "fails"), [(0.8, 0.05, True), (0.86, 0.05, False), (0.1, None, False)])
def test_a_loss_above_the_bound_is_an_error(after: float, bound: float | None, fails: bool) -> None:
    made = report(0.9, after, bound)
    if not fails:
        made.check(Path("m"))
        return
    with pytest.raises(
        EvaluationError, match=r"old: the accuracy fell from 0.900 to 0.800, by 0.100, expected at most"
    ):
        made.check(Path("m"))


def test_a_bound_that_no_frame_can_tell_is_an_error_too() -> None:
    with pytest.raises(EvaluationError, match="no frame tells what was lost"):
        report(None, 0.5, 0.1).check(Path("m"))


def test_the_file_holds_all_figures(tmp_path: Path) -> None:
    report(0.9, 0.8, 0.2).write(tmp_path)
    found = json.loads((tmp_path / "fine_tune.json").read_text())
    assert found["classes"] == {"kept": ["mug"], "new": ["kettle"], "dropped": ["drill"]}
    assert found["old"]["change"] == pytest.approx(-0.1) and found["max_loss_on_old"] == 0.2


def test_balanced_tag_accuracy_by_hand() -> None:
    logits = torch.tensor([[1.0, -1, 1, 1], [-1, -1, 1, 1], [1, -1, 1, 1]])
    tags = torch.tensor([[1.0, 0, 1, NAN], [1, 0, 0, NAN], [0, NAN, 0, NAN]])
    # Half of the present and none of the absent; all absent; all present and no absent; nothing known.
    assert balanced_tag_accuracy(logits, tags) == [0.25, 1.0, 0.5, None]
