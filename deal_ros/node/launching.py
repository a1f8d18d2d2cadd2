"""What the launch files share: arguments by their Nav2 names, the transport, the camera's topics and its driver."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction, SetEnvironmentVariable
from launch.launch_context import LaunchContext
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from deal_core.errors import UsageError
from deal_ros.node.transport import profile_variable, shared_memory_environment

_CAMERA_PACKAGE = "realsense2_camera"


def node_arguments(params_file: str) -> list[DeclareLaunchArgument]:
    """Return the arguments of every launch file that starts a node with a parameter file of `config/`."""
    return [
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node."),
        DeclareLaunchArgument(
            "params_file",
            default_value=in_share("config", params_file),
            description="Parameters of the node; arguments of this launch file go before it.",
        ),
        switch("use_sim_time", False, "Take the time from /clock."),
        switch("use_respawn", False, "Start the node anew when it ends."),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn or error."),
        DeclareLaunchArgument(
            "dds_profile",
            default_value="auto",
            description="Fast DDS profile of all processes started here; a camera started elsewhere needs it too. "
            "auto: the one in the environment, else the one shipped in config/; none: Fast DDS' default.",
        ),
    ]


def camera_arguments() -> list[DeclareLaunchArgument]:
    """Return the arguments that tell where images come from, and start a RealSense if wanted."""
    return [
        switch(
            "start_camera",
            False,
            "Start the RealSense driver too, with depth aligned to colour and both in one frameset.",
        ),
        DeclareLaunchArgument("camera_namespace", default_value="camera", description="As given to rs_launch.py."),
        DeclareLaunchArgument("camera_name", default_value="camera", description="As given to rs_launch.py."),
        DeclareLaunchArgument(
            "color_profile", default_value="640x480x30", description="Colour stream, with start_camera:=true."
        ),
        DeclareLaunchArgument(
            "depth_profile", default_value="640x480x30", description="Depth stream, with start_camera:=true."
        ),
        DeclareLaunchArgument(
            "color_topic",
            default_value="",
            description="Colour images; empty: the RealSense's. Its camera_info beside it.",
        ),
        DeclareLaunchArgument(
            "depth_topic", default_value="", description="Depth aligned to colour; empty: the RealSense's."
        ),
    ]


def switch(name: str, default: bool, description: str) -> DeclareLaunchArgument:
    """Return an argument that is true or false; see `is_true`."""
    return DeclareLaunchArgument(
        name, default_value=str(default).lower(), choices=["true", "false"], description=description
    )


def rviz_switch(default: bool) -> DeclareLaunchArgument:
    """Return the argument of `rviz`."""
    return switch("rviz", default, "Show the outputs in RViz.")


def transport() -> OpaqueFunction:
    """Return the action that gives all processes started after it shared memory which images fit into."""
    return OpaqueFunction(function=_set_profile)


def camera_driver() -> OpaqueFunction:
    """Return the action that starts the RealSense driver where `start_camera` is true."""
    return OpaqueFunction(function=_include_driver)


def deal_node(context: LaunchContext, executable: str, arguments: Mapping[str, str], *, on_camera: bool = True) -> Node:
    """Return the action that starts one of the project's nodes.

    Args:
        context: with the arguments of `node_arguments`, and of `camera_arguments` if `on_camera`.
        executable: as in setup.py.
        arguments: launch argument by parameter; an empty one leaves the parameter to the parameter file.
        on_camera: whether the node reads the camera.
    """
    given = {parameter: value(context, argument) for parameter, argument in arguments.items()}
    parameters: dict[str, Any] = {name: text for name, text in given.items() if text}
    parameters["use_sim_time"] = is_true(context, "use_sim_time")
    return Node(
        package="deal_ros",
        executable=executable,
        namespace=value(context, "namespace"),
        parameters=[value(context, "params_file"), parameters],
        remappings=camera_remappings(context) if on_camera else [],
        arguments=["--ros-args", "--log-level", value(context, "log_level")],
        respawn=is_true(context, "use_respawn"),
        respawn_delay=2.0,
        output="screen",
    )


def rviz(context: LaunchContext) -> list[Node]:
    """Return the action that shows the node's outputs in RViz where `rviz` is true."""
    if not is_true(context, "rviz"):
        return []
    layout = in_share("config", "deal.rviz").perform(context)
    return [Node(package="rviz2", executable="rviz2", arguments=["-d", layout], output="log")]


def camera_remappings(context: LaunchContext) -> list[tuple[str, str]]:
    """Return a node's input names beside the camera's topics."""
    parts = (value(context, "camera_namespace"), value(context, "camera_name"))
    camera = "/".join(["", *(part for part in parts if part)])
    color = value(context, "color_topic") or f"{camera}/color/image_raw"
    depth = value(context, "depth_topic") or f"{camera}/aligned_depth_to_color/image_raw"
    return [
        ("color/image_raw", color),
        ("color/image_raw/compressed", f"{color}/compressed"),
        ("color/camera_info", f"{color.rpartition('/')[0]}/camera_info"),
        ("depth/image_raw", depth),
        ("depth/camera_info", f"{depth.rpartition('/')[0]}/camera_info"),
    ]


def in_share(*parts: str) -> PathJoinSubstitution:
    """Return the place of an installed file of this package."""
    return PathJoinSubstitution([FindPackageShare("deal_ros"), *parts])


def value(context: LaunchContext, name: str) -> str:
    """Return a launch argument as text."""
    return str(LaunchConfiguration(name).perform(context))


def is_true(context: LaunchContext, name: str) -> bool:
    """Return a launch argument that is true or false."""
    return value(context, name) == "true"


def _set_profile(context: LaunchContext) -> list[SetEnvironmentVariable]:
    profile = value(context, "dds_profile")
    if profile == "none":
        return []
    if profile == "auto":
        added = shared_memory_environment(os.environ)
    else:
        added = {profile_variable(os.environ): profile}
    return [SetEnvironmentVariable(name, path) for name, path in added.items()]


def _include_driver(context: LaunchContext) -> Sequence[IncludeLaunchDescription]:
    if not is_true(context, "start_camera"):
        return []
    try:
        share = get_package_share_directory(_CAMERA_PACKAGE)
    except (PackageNotFoundError, OSError):  # OSError: without any ament index
        raise UsageError(
            f"start_camera:=true needs the package {_CAMERA_PACKAGE}, which is not installed; "
            "install ros-$ROS_DISTRO-realsense2-camera with apt, or start your camera yourself and leave it out"
        ) from None
    arguments = {
        "camera_namespace": value(context, "camera_namespace"),
        "camera_name": value(context, "camera_name"),
        "rgb_camera.color_profile": value(context, "color_profile"),
        "depth_module.depth_profile": value(context, "depth_profile"),
        "align_depth.enable": "true",
        "enable_sync": "true",
    }
    source = PythonLaunchDescriptionSource(os.path.join(share, "launch", "rs_launch.py"))
    return [IncludeLaunchDescription(source, launch_arguments=list(arguments.items()))]
