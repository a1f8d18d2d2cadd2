"""Work that takes longer than a callback may, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from rclpy.executors import Executor
from rclpy.task import Future

T = TypeVar("T")


def in_background(work: Callable[[], T], executor: Executor | None) -> Future[T]:
    """Start work in a thread of its own and return its future.

    A callback of the executor may `await` it, and the executor goes on meanwhile. Such a callback needs a callback
    group of its own: it counts as running while it waits, and those of its group wait with it. The thread is a
    daemon, so that work that never ends cannot keep the process alive.
    """
    future: Future[T] = Future(executor=executor)

    def run() -> None:
        try:
            result = work()
        except Exception as error:  # whatever it is, who waits for the work wants to know
            future.set_exception(error)
        else:
            future.set_result(result)
        if executor is not None:
            executor.wake()

    threading.Thread(target=run, name="background", daemon=True).start()
    return future


def run_in_background(work: Callable[[], T], *, period_s: float, meanwhile: Callable[[], None]) -> T:
    """Run work in a thread of its own, wait for it, and call `meanwhile` every so often.

    Raises:
        Exception: what the work raises.
    """
    future = in_background(work, None)
    finished = threading.Event()
    future.add_done_callback(lambda _: finished.set())
    while not finished.wait(period_s):
        meanwhile()
    return future.result()
