"""Launch a synthetic camera, the segmentation node and RViz, to try the project without a camera.

ros2 launch deal_ros demo.launch.py model:=demo_output/deal/model.safetensors
"""

from launch.actions import IncludeLaunchDescription, OpaqueFunction
from launch.launch_context import LaunchContext
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from deal_ros.node.launching import argument, in_share, switch, transport, value
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Return the actions: camera, and launch file of the node."""
    return LaunchDescription(
        [
            argument("model", "Path of the model file (.safetensors), for example of `make demo`.", None),
            argument("profile", "Width, height and rate of the camera.", "640x480x30"),
            switch("rviz", True, "Show the outputs in RViz."),
            argument("dds_profile", "Fast DDS profile; see segmentation.launch.py.", "auto"),
            transport(),
            OpaqueFunction(function=_camera),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(in_share("launch", "segmentation.launch.py")),
                launch_arguments=[(name, LaunchConfiguration(name)) for name in ("model", "rviz", "dds_profile")],
            ),
        ]
    )


def _camera(context: LaunchContext) -> list[Node]:
    return [
        Node(
            package="deal_ros",
            executable="synthetic_camera_node",
            namespace="camera",
            parameters=[{"profile": value(context, "profile")}],
            output="screen",
        )
    ]
