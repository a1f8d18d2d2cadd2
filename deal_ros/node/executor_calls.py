"""Run calls from other threads in a node's executor, because rclpy nodes are not thread-safe."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

from rclpy.node import Node

T = TypeVar("T")


class ExecutorCalls:
    """Queue of calls that a node's executor runs in the order of `post`, until `close`.

    Args:
        node: the node whose executor runs the calls.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._waiting: SimpleQueue[tuple[Future[object], Callable[[], object]]] = SimpleQueue()
        self._is_closed = False
        self._guard = node.create_guard_condition(self._make)

    def post(self, act: Callable[[], T]) -> Future[T]:
        """Queue a call and return the future of its result. Thread-safe."""
        done: Future[T] = Future()
        self._waiting.put((done, act))  # type: ignore[arg-type]
        if self._is_closed:
            self._cancel()
        else:
            self._guard.trigger()
        return done

    def close(self) -> None:
        """Cancel the calls that wait, and all calls posted later."""
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
