"""The segmentation node on a RealSense's topics.

ros2 launch deal_ros segmentation.launch.py model:=model.safetensors
ros2 launch deal_ros segmentation.launch.py model:=model.safetensors start_camera:=true rviz:=true
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.launch_context import LaunchContext
from launch_ros.actions import Node

from deal_ros.node.launching import (
    camera_arguments,
    camera_driver,
    deal_node,
    node_arguments,
    rviz,
    rviz_switch,
    switch,
    transport,
)
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Return the arguments, the transport, the camera if wanted, the node, and RViz if wanted."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("model", description="Model file (.safetensors)."),
            DeclareLaunchArgument(
                "backend",
                default_value="",
                description="auto, torch, onnxruntime or tensorrt; empty: from params_file.",
            ),
            DeclareLaunchArgument(
                "device", default_value="", description="auto, cpu, cuda or cuda:N; empty: from params_file."
            ),
            switch("autostart", True, "Configure and activate at once; false: wait for a lifecycle manager."),
            rviz_switch(False),
            *node_arguments("segmentation.param.yaml"),
            *camera_arguments(),
            transport(),
            camera_driver(),
            OpaqueFunction(function=_node),
            OpaqueFunction(function=rviz),
        ]
    )


def _node(context: LaunchContext) -> list[Node]:
    parameters = ("model", "backend", "device", "autostart")
    return [deal_node(context, "segmentation_node", {name: name for name in parameters})]
