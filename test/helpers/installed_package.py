"""A prefix as colcon makes one, with this package and, where a test wants them, stand-ins for the packages it uses."""

from __future__ import annotations

import sys
from pathlib import Path

from helpers.paths import PROJECT

ROOMS = ("segmentation", "recorder", "synthetic_camera")
# As realsense-ros' file of this name: it hands all its arguments to the driver, and has some of ours.
_RS_LAUNCH = """
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

ARGUMENTS = {
    "camera_name": "camera",
    "camera_namespace": "camera",
    "serial_no": "''",
    "rgb_camera.color_profile": "0,0,0",
    "depth_module.depth_profile": "0,0,0",
    "align_depth.enable": "false",
    "enable_sync": "false",
    "log_level": "info",
    "output": "screen",
}


def generate_launch_description():
    arguments = [DeclareLaunchArgument(name, default_value=value) for name, value in ARGUMENTS.items()]
    return LaunchDescription([*arguments, OpaqueFunction(function=setup)])


def setup(context):
    parameters = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    return [
        Node(
            package="realsense2_camera",
            executable="realsense2_camera_node",
            namespace=LaunchConfiguration("camera_namespace"),
            name=LaunchConfiguration("camera_name"),
            parameters=[parameters, {"profile": LaunchConfiguration("rgb_camera.color_profile"), "views": 1}],
            arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
            output=LaunchConfiguration("output"),
        )
    ]
"""


def install_package(prefix: Path) -> Path:
    """Install this package's launch files, settings and executables; return the prefix."""
    _list(prefix, "deal_ros")
    for name in ("launch", "config"):
        (prefix / "share" / "deal_ros" / name).symlink_to(PROJECT / name)
    for room in ROOMS:
        _script(prefix, "deal_ros", f"{room}_node", _main_of(room))
    return prefix


def install_realsense(prefix: Path) -> None:
    """Install a driver that is the synthetic camera."""
    _list(prefix, "realsense2_camera")
    folder = prefix / "share" / "realsense2_camera" / "launch"
    folder.mkdir()
    (folder / "rs_launch.py").write_text(_RS_LAUNCH)
    _script(prefix, "realsense2_camera", "realsense2_camera_node", _main_of("synthetic_camera"))


def install_rviz(prefix: Path) -> None:
    """Install an RViz that shows nothing until it is told to stop."""
    _list(prefix, "rviz2")
    _script(prefix, "rviz2", "rviz2", "import signal\nsignal.sigwait([signal.SIGINT, signal.SIGTERM])\n")


def _list(prefix: Path, package: str) -> None:
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True, exist_ok=True)
    (index / package).touch()
    (prefix / "share" / package).mkdir()


def _script(prefix: Path, package: str, name: str, content: str) -> None:
    folder = prefix / "lib" / package
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!{sys.executable}\n{content}")
    (folder / name).chmod(0o755)


def _main_of(room: str) -> str:
    return f"import sys\nfrom deal_ros.{room}.main import main\nsys.exit(main())\n"
