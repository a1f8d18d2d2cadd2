"""Run work that would block a callback for too long in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from rclpy.executors import Executor
from rclpy.task import Future

T = TypeVar("T")


def in_background(work: Callable[[], T], executor: Executor | None) -> Future[T]:
    """Start work in a thread of its own and return its future.

    A callback may `await` the future; the executor runs other callbacks meanwhile. Such a callback needs its own
    callback group: while it waits, the other callbacks of its group wait too. The thread is a daemon, so that work
    that never returns cannot keep the process alive.
    """
    future: Future[T] = Future(executor=executor)

    def run() -> None:
        try:
            result = work()
        except Exception as error:  # passed on to the caller, whatever it is
            future.set_exception(error)
        else:
            future.set_result(result)
        if executor is not None:
            executor.wake()

    threading.Thread(target=run, name="background", daemon=True).start()
    return future


def run_in_background(work: Callable[[], T], *, period_s: float, meanwhile: Callable[[], None]) -> T:
    """Run work in a thread of its own and return its result; call `meanwhile` every `period_s` seconds until then.

    Raises:
        Exception: any exception that the work raises.
    """
    future = in_background(work, None)
    finished = threading.Event()
    future.add_done_callback(lambda _: finished.set())
    while not finished.wait(period_s):
        meanwhile()
    return future.result()
