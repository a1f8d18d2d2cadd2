"""What every executable does around its node: signals, exit codes and the executor."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from deal_core.errors import DealError, UsageError

_SIGNAL_POLL_S = 0.1


class RunnableNode(Protocol):
    """An rclpy node that `run` can run."""

    def start(self) -> None:
        """Begin to work. Called once, before the executor spins.

        Raises:
            DealError: it cannot; the message says why.
        """

    def is_finished(self) -> bool:
        """Say whether the node wants to end by itself; asked between callbacks."""

    def finish(self) -> int:
        """End the work and return the process' exit code. Called once after `start` succeeded.

        Raises:
            DealError: the end went wrong; the message says how.
        """


def run(load: Callable[[], Callable[[], RunnableNode]], args: Sequence[str] | None = None) -> int:
    """Run a node until it is finished, or SIGINT or SIGTERM.

    Args:
        load: imports the node's module and returns its class. Called before rclpy is imported, so that a node can
            import torch first: loaded late, torch finds no thread-local storage left on ARM.
        args: the command line with the program's name first; the process' own when left out.

    Returns:
        What the node's `finish` returns; 1 where it raises, 2 for wrong parameters.
    """
    # Before the imports that take seconds, so that a signal meanwhile ends the node like any other.
    with _stop_on_signal() as stopped:
        create = load()

        # isort: split
        import rclpy

        node = None
        try:
            node = _create(create, args)
            node.start()
            _spin(node, stopped)
            return node.finish()
        except DealError as error:
            if node is not None:
                node.get_logger().fatal(str(error))  # type: ignore[attr-defined]
            else:
                print(f"error: {error}", file=sys.stderr)
            return 2 if isinstance(error, UsageError) else 1
        finally:
            if node is not None:
                node.destroy_node()  # type: ignore[attr-defined]
            rclpy.try_shutdown()
            # At its end the interpreter looks for garbage among a million objects of torch's, several times: for
            # seconds, in which launch loses patience.
            gc.freeze()


def _create(create: Callable[[], RunnableNode], args: Sequence[str] | None) -> RunnableNode:
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    try:
        # rclpy's own signal handlers would end the context under the worker's last publish.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        return create()
    except RuntimeError as error:  # what rcl makes of a --ros-args option or a parameter file it cannot read
        raise UsageError(f"the node cannot start: {error}") from None


def _spin(node: RunnableNode, stopped: threading.Event) -> None:
    from rclpy.executors import SingleThreadedExecutor

    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        # Python handles a signal only between calls, so no wait may be long.
        while not stopped.is_set() and not node.is_finished():
            executor.spin_once(timeout_sec=_SIGNAL_POLL_S)
    finally:
        executor.shutdown()


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """Within the block, SIGINT and SIGTERM set the event."""
    stopped = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stopped.set()) for number in signals]
    try:
        yield stopped
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
