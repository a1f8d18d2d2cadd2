"""Launch a synthetic camera, the segmentation node and RViz, to try the project without a camera.

ros2 launch deal_ros demo.launch.py model:=demo_output/deal/model.safetensors
ros2 launch deal_ros demo.launch.py model:=demo_output/deal/model.safetensors namespace:=robot1 rviz:=false
"""

from launch.actions import IncludeLaunchDescription
from launch.launch_context import LaunchContext
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from deal_ros.node.launching import (
    PACKAGE,
    actions,
    argument,
    camera_driver_namespace,
    camera_name_arguments,
    check_executable,
    dds_profile_argument,
    in_share,
    log_level_argument,
    namespace_argument,
    profile,
    switch,
    transport,
    value,
)
from launch import LaunchDescription

_HANDED_ON = ("model", "rviz", "namespace", "camera_namespace", "camera_name", "log_level", "dds_profile")


def generate_launch_description() -> LaunchDescription:
    """Return the actions: launch file of the node, and camera."""
    return LaunchDescription(
        [
            argument("model", "Path of the model file (.safetensors, .onnx), for example of `make demo`."),
            argument("profile", "Width, height and rate of the camera.", "640x480x30"),
            switch("rviz", True, "Show the outputs in RViz."),
            namespace_argument(),
            *camera_name_arguments(),
            log_level_argument(),
            dds_profile_argument(),
            actions(_start),
        ]
    )


def _start(context: LaunchContext) -> list[object]:
    executable = "synthetic_camera_node"
    check_executable(PACKAGE, executable)
    camera = Node(
        package=PACKAGE,
        executable=executable,
        name=value(context, "camera_name"),
        namespace=camera_driver_namespace(context),
        parameters=[{"profile": profile(context, "profile")}],
        arguments=["--ros-args", "--log-level", value(context, "log_level")],
        output="screen",
    )
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(in_share("launch", "segmentation.launch.py")),
        launch_arguments=[(name, LaunchConfiguration(name)) for name in _HANDED_ON],
    )
    # The camera comes last: the other file refuses wrong arguments before it starts anything.
    return [*transport(context), node, camera]
