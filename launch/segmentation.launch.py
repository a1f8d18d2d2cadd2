"""Launch the segmentation node with a RealSense.

ros2 launch deal_ros segmentation.launch.py model:=model.safetensors
ros2 launch deal_ros segmentation.launch.py model:=model.safetensors start_camera:=true rviz:=true
ros2 launch deal_ros segmentation.launch.py model:=model.safetensors namespace:=robot1 start_camera:=true
"""

from launch.launch_context import LaunchContext

from deal_ros.node.launching import (
    actions,
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
            argument("model", "Path of the model file (.safetensors, .onnx). Empty: as in params_file."),
            argument(
                "backend",
                "Library that runs the network: auto, torch, onnxruntime or tensorrt. Empty: as in params_file.",
            ),
            argument("device", "Device that runs the network: auto, cpu, cuda or cuda:N. Empty: as in params_file."),
            argument(
                "autostart",
                "true: configure and activate the node at the start; false: wait for a manager. "
                "Empty: as in params_file.",
            ),
            switch("rviz", False, "Show the outputs in RViz."),
            *node_arguments("segmentation.param.yaml", "deal_segmentation"),
            *camera_arguments(),
            actions(_start),
        ]
    )


def _start(context: LaunchContext) -> list[object]:
    node = deal_node(
        context,
        "segmentation",
        ("model", "backend", "device", "autostart", "align_depth", "data_dir"),
        required=("model",),
        files=("model",),
    )
    return [*transport(context), *camera_driver(context), node, *rviz(context)]
