r"""The executable `recorder_node`.

Example:
    ros2 run deal_ros recorder_node --ros-args -p output:=recordings/kitchen_1 -p classes:=mug,drill,box \
        -p tags:=mug,drill \
        -r color/image_raw:=/camera/camera/color/image_raw \
        -r color/camera_info:=/camera/camera/color/camera_info \
        -r depth/image_raw:=/camera/camera/aligned_depth_to_color/image_raw
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from deal_ros.node.run import run


def main(args: Sequence[str] | None = None) -> int:
    """Run the recorder until SIGINT, SIGTERM, the key `q` or a failure.

    Args:
        args: command line, starting with the program's name; None for `sys.argv`.

    Returns:
        0 if all recordings are complete; 3 if one lost more than `max_loss`; 1 if recording was refused or failed, or
        nothing was recorded; 2 for wrong parameters.
    """
    return run("deal_ros.recorder.node", "RecorderNode", args)


if __name__ == "__main__":
    sys.exit(main())
