"""The segmentation node on a RealSense's topics.

ros2 launch deal_ros segmentation.launch.py model:=model.safetensors
"""

import os

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.launch_context import LaunchContext
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from deal_ros.transport import profile_variable, shared_memory_environment
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Return the arguments, the transport and the node."""
    config = PathJoinSubstitution([FindPackageShare("deal_ros"), "config"])
    return LaunchDescription(
        [
            DeclareLaunchArgument("model", description="Model file (.safetensors)."),
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node."),
            DeclareLaunchArgument(
                "params_file",
                default_value=PathJoinSubstitution([config, "segmentation.param.yaml"]),
                description="Parameters of the node; `model` and `device` below go before it.",
            ),
            DeclareLaunchArgument(
                "device", default_value="", description="auto, cpu, cuda or cuda:N; empty: from params_file."
            ),
            DeclareLaunchArgument("camera_namespace", default_value="camera", description="As given to rs_launch.py."),
            DeclareLaunchArgument("camera_name", default_value="camera", description="As given to rs_launch.py."),
            DeclareLaunchArgument(
                "color_topic", default_value="", description="Colour images; empty: the RealSense's."
            ),
            DeclareLaunchArgument(
                "depth_topic", default_value="", description="Depth aligned to colour; empty: the RealSense's."
            ),
            DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn or error."),
            DeclareLaunchArgument(
                "dds_profile",
                default_value="auto",
                description="Fast DDS profile; the camera's process needs it too. auto: the one in the environment, "
                "else the one shipped in config/; none: Fast DDS' default.",
            ),
            OpaqueFunction(function=_transport),
            OpaqueFunction(function=_node),
        ]
    )


def _transport(context: LaunchContext) -> list[SetEnvironmentVariable]:
    profile = LaunchConfiguration("dds_profile").perform(context)
    if profile == "none":
        return []
    if profile == "auto":
        added = shared_memory_environment(os.environ)
    else:
        added = {profile_variable(os.environ): profile}
    return [SetEnvironmentVariable(name, value) for name, value in added.items()]


def _node(context: LaunchContext) -> list[Node]:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    camera = "/".join(["", *(part for part in (value("camera_namespace"), value("camera_name")) if part)])
    parameters = {"model": value("model")}
    if value("device"):
        parameters["device"] = value("device")
    return [
        Node(
            package="deal_ros",
            executable="segmentation_node",
            namespace=value("namespace"),
            parameters=[value("params_file"), parameters],
            remappings=[
                ("color/image_raw", value("color_topic") or f"{camera}/color/image_raw"),
                ("depth/image_raw", value("depth_topic") or f"{camera}/aligned_depth_to_color/image_raw"),
            ],
            arguments=["--ros-args", "--log-level", value("log_level")],
            output="screen",
        )
    ]
