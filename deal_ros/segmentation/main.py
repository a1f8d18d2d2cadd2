r"""The executable `segmentation_node`.

Example:
    ros2 run deal_ros segmentation_node --ros-args -p model:=model.safetensors \
        -r color/image_raw:=/camera/camera/color/image_raw \
        -r depth/image_raw:=/camera/camera/aligned_depth_to_color/image_raw
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from deal_ros.node.malloc import keep_freed_memory
from deal_ros.node.run import run

_SWITCH_INTERVAL_S = 1e-4
"""The executor's thread holds the interpreter for half a millisecond after it hands a pair over. With Python's 5 ms
the worker, which makes the mask, waits for all of it."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM.

    Args:
        args: command line, starting with the program's name; None for `sys.argv`.

    Returns:
        0 after a signal; 1 if the model file cannot be used; 2 for wrong parameters.
    """
    keep_freed_memory()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    return run("deal_ros.segmentation.node", "SegmentationNode", args)


if __name__ == "__main__":
    sys.exit(main())
