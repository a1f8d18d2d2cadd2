"""Launch the recorder with a RealSense: it records pairs of colour and depth with tags.

ros2 launch deal_ros record.launch.py output:=recordings/kitchen_1 classes:=mug,drill,box tags:=mug,drill
ros2 launch deal_ros record.launch.py output:=recordings/kitchen_2 classes:=kitchen/dataset.yaml start_camera:=true
"""

from launch.actions import OpaqueFunction
from launch.launch_context import LaunchContext
from launch_ros.actions import Node

from deal_ros.node.launching import argument, camera_arguments, camera_driver, deal_node, node_arguments, transport
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Return the actions: arguments, DDS transport, camera driver and node."""
    return LaunchDescription(
        [
            argument("output", "Folder of the recording; it must not exist.", None),
            argument(
                "classes",
                "All classes that tags may name, separated by commas, or the path of a dataset.yaml.",
                None,
            ),
            argument("tags", "Classes visible at the start, separated by commas. Empty: as in params_file."),
            argument(
                "marker",
                "complete: all other classes are absent; partial: they are unknown; ignore: pairs get no labels. "
                "Empty: as in params_file.",
            ),
            argument(
                "page",
                "true: serve a web page with the camera image and a button for each class. Empty: as in params_file.",
            ),
            argument(
                "page_host",
                "Host address of the page; 0.0.0.0 admits other devices such as a phone. Empty: as in params_file.",
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
