r"""The executable `segmentation_node`: signals, exit codes and the executor around `deal_ros.segmentation`.

Example:
    ros2 run deal_ros segmentation_node --ros-args -p model:=model.safetensors \
        -r color/image_raw:=/camera/camera/color/image_raw \
        -r depth/image_raw:=/camera/camera/aligned_depth_to_color/image_raw
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from deal_core.errors import DealError, UsageError

if TYPE_CHECKING:
    from deal_ros.segmentation import SegmentationNode

_SIGNAL_POLL_S = 0.1


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM.

    Args:
        args: the command line with the program's name first; the process' own when left out.

    Returns:
        0 after a signal; 1 for a model file that cannot be used; 2 for wrong parameters.
    """
    # Before the imports that take seconds, so that a signal meanwhile ends the node like any other.
    with _stop_on_signal() as stopped:
        import torch  # noqa: F401 (before rclpy: loaded late, it finds no thread-local storage left on ARM)

        # isort: split
        import rclpy

        node = None
        try:
            node = _create_node(args)
            node.configure()
            node.activate()
            _spin(node, stopped)
            node.deactivate()
        except DealError as error:
            if node is not None:
                node.get_logger().fatal(str(error))
            else:
                print(f"error: {error}", file=sys.stderr)
            return 2 if isinstance(error, UsageError) else 1
        finally:
            if node is not None:
                node.destroy_node()
            rclpy.try_shutdown()
    return 0


def _create_node(args: Sequence[str] | None) -> SegmentationNode:
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from deal_ros.segmentation import SegmentationNode

    try:
        # rclpy's own signal handlers would end the context under the worker's last publish.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        return SegmentationNode()
    except RuntimeError as error:  # what rcl makes of a --ros-args option or a parameter file it cannot read
        raise UsageError(f"the node cannot start: {error}") from None


def _spin(node: SegmentationNode, stopped: threading.Event) -> None:
    from rclpy.executors import SingleThreadedExecutor

    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        # Python handles a signal only between calls, so no wait may be long.
        while not stopped.is_set():
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


if __name__ == "__main__":
    sys.exit(main())
