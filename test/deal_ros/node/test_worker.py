"""The newest-item worker: freshness, accounting, failures, stopping. No ROS."""

from __future__ import annotations

import doctest
import threading

import pytest
from helpers.workers import wait_idle
from hypothesis import given
from hypothesis import strategies as st

from deal_ros.node import worker as module
from deal_ros.node.worker import NewestItemWorker


class Gate:
    """A job that waits to be let through, one item at a time."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.started = threading.Semaphore(0)
        self._open = threading.Semaphore(0)

    def __call__(self, item: int) -> None:
        self.seen.append(item)
        self.started.release()
        assert self._open.acquire(timeout=10)

    def let_through(self, count: int = 1) -> None:
        self._open.release(count)


@pytest.fixture
def gate() -> Gate:
    return Gate()


def balanced(worker: NewestItemWorker[int]) -> bool:
    counts = worker.counts
    return counts.submitted == counts.done + counts.dropped + sum(counts.failed.values()) + counts.in_flight


def test_a_newer_item_takes_the_place_of_the_waiting_one(gate: Gate) -> None:
    worker = NewestItemWorker(gate)
    worker.start()
    worker.submit(1)
    assert gate.started.acquire(timeout=10)
    for item in (2, 3, 4):
        worker.submit(item)
        assert balanced(worker) and worker.counts.in_flight == 2
    gate.let_through(2)
    wait_idle(lambda: worker.counts)
    assert gate.seen == [1, 4]
    assert (worker.counts.done, worker.counts.dropped_busy) == (2, 2)
    assert worker.stop()


def test_submitting_never_waits_for_the_job(gate: Gate) -> None:
    worker = NewestItemWorker(gate)
    worker.start()
    for item in range(1000):
        worker.submit(item)
    assert balanced(worker)
    gate.let_through(1000)
    wait_idle(lambda: worker.counts)
    assert worker.stop() and balanced(worker)


def test_an_item_too_old_when_its_turn_comes_is_left_out() -> None:
    done: list[int] = []
    worker = NewestItemWorker(done.append, is_old=lambda item: item < 10)
    worker.start()
    for item in (5, 15, 7, 17):
        worker.submit(item)
        wait_idle(lambda: worker.counts)
    assert done == [15, 17]
    assert worker.counts.dropped_old == 2 and balanced(worker)
    assert worker.stop()


def test_a_failing_job_is_counted_reported_and_survived() -> None:
    reported: list[tuple[int, str]] = []

    def job(item: int) -> None:
        if item % 2:
            raise ValueError(f"odd {item}") if item < 4 else KeyError(item)

    worker = NewestItemWorker(job, on_error=lambda item, error: reported.append((item, str(error))))
    worker.start()
    for item in range(6):
        worker.submit(item)
        wait_idle(lambda: worker.counts)
    assert dict(worker.counts.failed) == {"ValueError": 2, "KeyError": 1}
    assert worker.counts.done == 3 and balanced(worker)
    assert reported[0] == (1, "odd 1") and len(reported) == 3
    assert worker.stop()


def test_stopping_finishes_the_running_job_and_drops_the_waiting_item(gate: Gate) -> None:
    worker = NewestItemWorker(gate)
    worker.start()
    worker.submit(1)
    assert gate.started.acquire(timeout=10)
    worker.submit(2)
    assert not worker.stop(timeout_s=0.01)  # the job still runs
    gate.let_through()
    assert worker.stop()
    worker.submit(3)
    assert gate.seen == [1]
    assert (worker.counts.done, worker.counts.dropped_stopped, worker.counts.in_flight) == (1, 2, 0)
    assert balanced(worker)


def test_it_starts_again_after_a_stop_and_ignores_a_second_start_or_stop() -> None:
    done: list[int] = []
    worker = NewestItemWorker(done.append)
    assert worker.stop()  # never started
    for item in (1, 2):
        worker.start()
        worker.start()
        worker.submit(item)
        wait_idle(lambda: worker.counts)
        assert worker.stop() and worker.stop()
    assert done == [1, 2]
    assert not [t for t in threading.enumerate() if t.name == "newest-item-worker"]


@given(st.lists(st.sampled_from(["done", "old", "failed"]), max_size=30))
def test_every_item_is_accounted_for_at_any_time(items: list[str]) -> None:
    unbalanced = []

    def job(item: str) -> None:
        unbalanced.append(not balanced(worker))
        if item == "failed":
            raise RuntimeError(item)

    worker = NewestItemWorker(job, is_old=lambda item: item == "old")
    worker.start()
    for item in items:
        worker.submit(item)
        assert balanced(worker)
    wait_idle(lambda: worker.counts)
    counts = worker.counts
    assert counts.submitted == len(items) and counts.in_flight == 0 and not any(unbalanced)
    assert counts.done <= items.count("done") and counts.dropped_old <= items.count("old")
    assert sum(counts.failed.values()) <= items.count("failed")
    assert worker.stop() and balanced(worker)


def test_example_in_the_docstring() -> None:
    assert doctest.testmod(module).failed == 0
