"""What a training will cost: how often what is repeated, and what a batch costs that is larger than the timed one."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.training_runs import STEPS, MakeSettings

from deal_core.errors import UsageError
from deal_core.trainer import timing
from deal_core.trainer.timing import repeated, time_training


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the next pieces of work take, in place of the real ones; the last is taken again."""
    taken = [1.0]

    def timed(work: object) -> tuple[float, object]:
        assert callable(work)
        return taken.pop(0) if len(taken) > 1 else taken[0], work()

    monkeypatch.setattr(timing, "timed", timed)
    return taken


def test_a_short_piece_is_warmed_up_and_the_median_of_its_repetitions_counts(clock: list[float]) -> None:
    clock[:] = [9.0, 3.0, 0.1, 2.0]
    calls: list[int] = []
    assert repeated(lambda: calls.append(1)) == 2.0 and len(calls) == 4


def test_a_long_piece_is_not_repeated(clock: list[float]) -> None:
    clock[:] = [10.5, 3.0]
    calls: list[int] = []
    assert repeated(lambda: calls.append(1)) == 10.5 and len(calls) == 1


def test_the_time_of_a_step_grows_with_the_batch(make_settings: MakeSettings, clock: list[float]) -> None:
    """A batch of 3 costs 1.5 times the timed batch of 2: one second to load, and one to compute."""
    found = time_training(make_settings())
    assert found.steps == STEPS and found.step_s == pytest.approx(1.5 * (1.0 + 1.0))
    found = time_training(make_settings("batch_size=1", "epochs=2"))
    assert found.steps == 2 * STEPS and found.step_s == pytest.approx(1.0 + 1.0)


def test_timing_writes_nothing(make_settings: MakeSettings, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    found = time_training(make_settings("fsl.weight=1.0", "isl.weight=0.2"))
    assert found.step_s > 0 and sorted(tmp_path.rglob("*")) == before


def test_a_training_that_cannot_start_is_not_timed(make_settings: MakeSettings) -> None:
    with pytest.raises(UsageError, match="batch_size 10 is larger than the training set, 9 frames"):
        time_training(make_settings("batch_size=10"))
