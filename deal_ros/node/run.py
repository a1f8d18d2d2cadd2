"""Run a node as an executable: signals, exit codes and the executor."""

from __future__ import annotations

import gc
import importlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from deal_core.errors import DealError, UsageError
from deal_ros.node.torch_libraries import reserve_for_torch

_SIGNAL_POLL_S = 0.1
_LOG_PERIOD_S = 5.0
_FAILURE_PAUSE_S = 0.001  # callbacks that fail one after the other must not block a core


class RunnableNode(Protocol):
    """An rclpy node that `run` can run."""

    def start(self) -> None:
        """Start the node. Called once, before the executor spins.

        Raises:
            DealError: the node cannot start; the message says why.
        """

    def is_finished(self) -> bool:
        """Return whether the node is done. Called between callbacks."""

    def finish(self) -> int:
        """Stop the node and return the exit code of the process. Called once, after `start` succeeded.

        Raises:
            DealError: the node did not finish its work; the message says why.
        """


def run(module: str, name: str, args: Sequence[str] | None = None) -> int:
    """Run a node until it is finished, or until SIGINT or SIGTERM.

    Args:
        module: the node's module.
        name: the node's class in it, a `RunnableNode`.
        args: command line, starting with the program's name; None for `sys.argv`.

    Returns:
        The exit code that the node's `finish` returns; 1 if the node fails, 2 for wrong parameters.
    """
    # Before the imports, which take seconds: a signal during them must stop the node too.
    with stop_on_signal() as stopped:
        reserve_for_torch()
        import rclpy

        create = getattr(importlib.import_module(module), name)

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
            # At exit the interpreter runs garbage collection over a million objects of torch several times. It takes
            # seconds, and launch would kill the process meanwhile.
            gc.freeze()


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set within the block, so that the caller can finish its work."""
    stopped = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stopped.set()) for number in signals]
    try:
        yield stopped
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _create(create: Callable[[], RunnableNode], args: Sequence[str] | None) -> RunnableNode:
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    try:
        # rclpy's own signal handlers would shut down the context before the worker publishes its last result.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        return create()
    except RuntimeError as error:  # from rcl: a --ros-args option or a parameter file that it cannot read
        raise UsageError(f"the node cannot start: {error}") from None


def _spin(node: RunnableNode, stopped: threading.Event) -> None:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        # Python handles signals only between calls, so each wait must be short.
        while not stopped.is_set() and not node.is_finished():
            try:
                executor.spin_once(timeout_sec=_SIGNAL_POLL_S)
            except Exception:  # of a callback, which whoever sends messages may cause
                if not rclpy.ok():
                    raise
                message = f"a callback failed; the node goes on:\n{traceback.format_exc()}"
                node.get_logger().error(message, throttle_duration_sec=_LOG_PERIOD_S)  # type: ignore[attr-defined]
                time.sleep(_FAILURE_PAUSE_S)
    finally:
        executor.shutdown()
