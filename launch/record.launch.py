"""The recorder on a RealSense's topics: whole pairs of colour and depth, with what is visible.

ros2 launch deal_ros record.launch.py output:=recordings/kitchen_1 classes:=mug,drill,box tags:=mug,drill
ros2 launch deal_ros record.launch.py output:=recordings/kitchen_2 classes:=kitchen/dataset.yaml start_camera:=true
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.launch_context import LaunchContext
from launch_ros.actions import Node

from deal_ros.node.launching import camera_arguments, camera_driver, deal_node, node_arguments, transport
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Return the arguments, the transport, the camera if wanted, and the node."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("output", description="Folder of the recording; it must not exist."),
            DeclareLaunchArgument(
                "classes", description="All classes that tags may name, with commas; or a dataset.yaml."
            ),
            DeclareLaunchArgument("tags", default_value="", description="What is visible at the start, with commas."),
            DeclareLaunchArgument(
                "marker",
                default_value="",
                description="complete: the other classes are absent; partial: they are unknown; ignore. "
                "Empty: from params_file.",
            ),
            DeclareLaunchArgument(
                "page",
                default_value="",
                description="true: a web page with the camera's picture and a button for each class. Empty: from "
                "params_file.",
            ),
            DeclareLaunchArgument(
                "page_host",
                default_value="",
                description="Address of the page; 0.0.0.0 lets a phone in. Empty: from params_file.",
            ),
            *node_arguments("recorder.param.yaml"),
            *camera_arguments(),
            transport(),
            camera_driver(),
            OpaqueFunction(function=_node),
        ]
    )


def _node(context: LaunchContext) -> list[Node]:
    parameters = ("output", "classes", "tags", "marker", "page", "page_host")
    return [deal_node(context, "recorder_node", {name: name for name in parameters})]
