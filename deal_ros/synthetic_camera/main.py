r"""The executable `synthetic_camera_node`.

Example:
    ros2 run deal_ros synthetic_camera_node --ros-args -p profile:=1280x720x30
    ros2 param set /camera/camera lost_depth 0.1
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from deal_ros.node.run import run


def main(args: Sequence[str] | None = None) -> int:
    """Run the camera until SIGINT or SIGTERM.

    Args:
        args: command line, starting with the program's name; None for `sys.argv`.

    Returns:
        0 after a signal; 2 for wrong parameters.
    """
    return run("deal_ros.synthetic_camera.node", "SyntheticCameraNode", args)


if __name__ == "__main__":
    sys.exit(main())
