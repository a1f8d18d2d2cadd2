"""Launch the segmentation node with a RealSense.

ros2 launch deal_ros segmentation.launch.py model:=model.safetensors
ros2 launch deal_ros segmentation.launch.py model:=model.safetensors start_camera:=true rviz:=true
"""

from launch.actions import OpaqueFunction
from launch.launch_context import LaunchContext
from launch_ros.actions import Node

from deal_ros.node.launching import (
    argument,
    camera_arguments,
    camera_driver,
    deal_node,
    node_arguments,
    rviz,
    switch,
    transport,
)
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Return the actions: arguments, DDS transport, camera driver, node and RViz."""
    return LaunchDescription(
        [
            argument("model", "Path of the model file (.safetensors).", None),
            argument(
                "backend",
                "Library that runs the network: auto, torch, onnxruntime or tensorrt. Empty: as in params_file.",
            ),
            argument("device", "Device that runs the network: auto, cpu, cuda or cuda:N. Empty: as in params_file."),
            switch("autostart", True, "Configure and activate the node at the start; false: wait for a manager."),
            switch("rviz", False, "Show the outputs in RViz."),
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
