"""Parts that the launch files share: arguments with Nav2's names, DDS transport, camera topics and camera driver."""

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
    """Return the arguments of a launch file that starts a node with a parameter file in `config/`."""
    return [
        argument("namespace", "Namespace of the node."),
        argument(
            "params_file",
            "Parameter file of the node; the arguments of this launch file override it.",
            in_share("config", params_file),
        ),
        switch("use_sim_time", False, "Use the time published on /clock."),
        switch("use_respawn", False, "Restart the node when it exits."),
        argument("log_level", "Log level: debug, info, warn or error.", "info"),
        argument(
            "dds_profile",
            "Fast DDS profile of all processes that this file starts; a camera started elsewhere needs it too. "
            "auto: the profile in the environment, or else the one in config/; none: Fast DDS' default.",
            "auto",
        ),
    ]


def camera_arguments() -> list[DeclareLaunchArgument]:
    """Return the arguments that name the image topics and start a RealSense."""
    color, depth = (f"Profile of the {stream} stream, with start_camera:=true." for stream in ("colour", "depth"))
    return [
        switch(
            "start_camera",
            False,
            "Also start the RealSense driver, with depth aligned to colour and synchronised streams.",
        ),
        argument("camera_namespace", "Namespace of the camera, as for rs_launch.py.", "camera"),
        argument("camera_name", "Name of the camera, as for rs_launch.py.", "camera"),
        argument("color_profile", color, "640x480x30"),
        argument("depth_profile", depth, "640x480x30"),
        argument(
            "color_topic",
            "Topic of colour images, with camera_info next to it. Empty: the topic of the RealSense.",
        ),
        argument("depth_topic", "Topic of depth images aligned to colour. Empty: the topic of the RealSense."),
    ]


def argument(name: str, description: str, default: str | PathJoinSubstitution | None = "") -> DeclareLaunchArgument:
    """Return a launch argument; without a default (None) it is required."""
    return DeclareLaunchArgument(name, default_value=default, description=description)


def switch(name: str, default: bool, description: str) -> DeclareLaunchArgument:
    """Return an argument that takes true or false; `is_true` reads it."""
    return DeclareLaunchArgument(
        name, default_value=str(default).lower(), choices=["true", "false"], description=description
    )


def transport() -> OpaqueFunction:
    """Return the action that sets the Fast DDS profile of all processes started after it.

    The shared memory of the shipped profile is large enough for images.
    """
    return OpaqueFunction(function=_set_profile)


def camera_driver() -> OpaqueFunction:
    """Return the action that starts the RealSense driver if `start_camera` is true."""
    return OpaqueFunction(function=_include_driver)


def deal_node(context: LaunchContext, executable: str, arguments: Mapping[str, str], *, on_camera: bool = True) -> Node:
    """Return the action that starts one of the project's nodes.

    Args:
        context: launch context with the arguments of `node_arguments`, and of `camera_arguments` if `on_camera`.
        executable: name of the executable in setup.py.
        arguments: launch argument by parameter; if it is empty, the value in the parameter file applies.
        on_camera: whether the node subscribes to the camera.
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
    """Return the action that shows the node's outputs in RViz if `rviz` is true."""
    if not is_true(context, "rviz"):
        return []
    layout = in_share("config", "deal.rviz").perform(context)
    return [Node(package="rviz2", executable="rviz2", arguments=["-d", layout], output="log")]


def camera_remappings(context: LaunchContext) -> list[tuple[str, str]]:
    """Return the remappings of a node's inputs to the camera's topics."""
    parts = (value(context, "camera_namespace"), value(context, "camera_name"))
    camera = "/".join(["", *(part for part in parts if part)])
    color = value(context, "color_topic") or f"{camera}/color/image_raw"
    depth = value(context, "depth_topic") or f"{camera}/aligned_depth_to_color/image_raw"
    return [
        ("color/image_raw", color),
        ("color/image_raw/compressed", f"{color}/compressed"),
        ("color/camera_info", f"{color.rpartition('/')[0]}/camera_info"),
        ("depth/image_raw", depth),
        ("depth/image_raw/compressed", f"{depth}/compressed"),
        ("depth/image_raw/compressedDepth", f"{depth}/compressedDepth"),
        ("depth/camera_info", f"{depth.rpartition('/')[0]}/camera_info"),
    ]


def in_share(*parts: str) -> PathJoinSubstitution:
    """Return the path of an installed file of this package."""
    return PathJoinSubstitution([FindPackageShare("deal_ros"), *parts])


def value(context: LaunchContext, name: str) -> str:
    """Return a launch argument as text."""
    return str(LaunchConfiguration(name).perform(context))


def is_true(context: LaunchContext, name: str) -> bool:
    """Return whether a launch argument is true."""
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
    except (PackageNotFoundError, OSError):  # OSError: there is no ament index at all
        raise UsageError(
            f"start_camera:=true needs the package {_CAMERA_PACKAGE}, which is not installed; "
            "install ros-$ROS_DISTRO-realsense2-camera with apt, or start your camera yourself and omit start_camera"
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
