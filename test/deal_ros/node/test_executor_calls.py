"""What other threads ask of a node is done by its executor, or cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_ros.node.executor_calls import ExecutorCalls

pytestmark = pytest.mark.ros
WAIT_S = 60


@pytest.fixture
def node(new_domain: Callable[[], int]) -> Iterator[Any]:
    import rclpy
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor

    context = Context()
    rclpy.init(args=[], context=context, domain_id=new_domain())
    found = rclpy.create_node("called", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(found)
    yield found
    executor.shutdown()
    found.destroy_node()
    context.shutdown()


def test_calls_are_made_in_order_by_the_thread_that_spins(node: Any) -> None:
    calls, made = ExecutorCalls(node), []

    def note(number: int) -> int:
        made.append((number, threading.current_thread()))
        if number == 3:
            raise ValueError("three")
        return number * 10

    asked: list[Any] = []
    asker = threading.Thread(target=lambda: asked.extend(calls.post(lambda n=n: note(n)) for n in range(5)))
    asker.start()
    asker.join()
    assert not any(future.done() for future in asked)
    while not all(future.done() for future in asked):
        node.executor.spin_once(timeout_sec=WAIT_S)
    assert made == [(number, threading.current_thread()) for number in range(5)]
    assert [future.result() for future in asked if not future.exception()] == [0, 10, 20, 40]
    with pytest.raises(ValueError, match="three"):
        asked[3].result()
    calls.close()


def test_what_is_not_done_at_the_end_is_cancelled(node: Any) -> None:
    calls = ExecutorCalls(node)
    waiting = calls.post(lambda: "too late")
    calls.close()
    for future in (waiting, calls.post(lambda: "later still")):
        with pytest.raises(CancelledError):
            future.result(WAIT_S)
