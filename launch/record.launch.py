"""Launch the recorder with a RealSense: it records pairs of colour and depth with tags.

ros2 launch deal_ros record.launch.py output:=recordings/kitchen_1 classes:=mug,drill,box tags:=mug,drill
ros2 launch deal_ros record.launch.py output:=recordings/kitchen_2 classes:=kitchen/dataset.yaml start_camera:=true
"""

from pathlib import Path

from launch.launch_context import LaunchContext

from deal_core.errors import UsageError
from deal_ros.node.launching import (
    actions,
    argument,
    camera_arguments,
    camera_driver,
    deal_node,
    existing_file,
    node_arguments,
    transport,
    value,
)
from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    """Return the actions: arguments, DDS transport, camera driver and node."""
    return LaunchDescription(
        [
            argument("output", "Folder of the recording; it must not exist. Empty: as in params_file."),
            argument(
                "classes",
                "All classes that tags may name, separated by commas, or the path of a dataset.yaml. "
                "Empty: as in params_file.",
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
            *node_arguments("recorder.param.yaml", "deal_recorder"),
            *camera_arguments(),
            actions(_start),
        ]
    )


def _start(context: LaunchContext) -> list[object]:
    output = value(context, "output")
    if output and Path(output).exists():
        raise UsageError(f"launch argument 'output': {output} exists already: choose another name or remove it first")
    if Path(value(context, "classes")).name == "dataset.yaml":
        existing_file(context, "classes")
    parameters = ("output", "classes", "tags", "marker", "page", "page_host", "align_depth", "data_dir")
    node = deal_node(context, "recorder", parameters, required=("output", "classes"))
    return [*transport(context), *camera_driver(context), node]
