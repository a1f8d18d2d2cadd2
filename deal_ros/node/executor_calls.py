"""What other threads want of a node, done by its executor: rclpy's nodes are not made for several threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

from rclpy.node import Node

T = TypeVar("T")


class ExecutorCalls:
    """Calls to be made by a node's executor, in the order in which they come, until `close`.

    Args:
        node: whose executor makes them.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._waiting: SimpleQueue[tuple[Future[object], Callable[[], object]]] = SimpleQueue()
        self._is_closed = False
        self._guard = node.create_guard_condition(self._make)

    def post(self, act: Callable[[], T]) -> Future[T]:
        """Have something done; return what will become of it. Called by any thread."""
        done: Future[T] = Future()
        self._waiting.put((done, act))  # type: ignore[arg-type]
        if self._is_closed:
            self._cancel()
        else:
            self._guard.trigger()
        return done

    def close(self) -> None:
        """Cancel what was not done, and whatever else may come."""
        self._is_closed = True
        self._cancel()
        self._node.destroy_guard_condition(self._guard)

    def _make(self) -> None:
        while not self._waiting.empty():
            done, act = self._waiting.get()
            try:
                done.set_result(act())
            except Exception as error:
                done.set_exception(error)

    def _cancel(self) -> None:
        while not self._waiting.empty():
            self._waiting.get()[0].cancel()
