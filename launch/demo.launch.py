"""A synthetic camera, the segmentation node on it, and RViz: everything but the hardware.

ros2 launch deal_ros demo.launch.py model:=demo_output/deal/model.safetensors
"""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_context import LaunchContext
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from deal_ros.node.launching import in_share, rviz_switch, transport, value
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Return the camera, and the launch file of the node."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("model", description="Model file (.safetensors), as `make demo` trains one."),
            DeclareLaunchArgument("profile", default_value="640x480x30", description="Width, height, images a second."),
            rviz_switch(True),
            DeclareLaunchArgument("dds_profile", default_value="auto", description="As in segmentation.launch.py."),
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
