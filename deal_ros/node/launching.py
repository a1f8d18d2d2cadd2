"""Parts that the launch files share: arguments with Nav2's names, DDS transport, camera topics, camera driver and RViz.

A launch file declares its arguments and has one function that returns all actions. That function looks up everything
first and raises a UsageError for what is missing: launch does not stop the processes that it has started when a later
action fails.
"""

from __future__ import annotations

import atexit
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import launch.logging
from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.launch_context import LaunchContext
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare
from rclpy.exceptions import NameValidationException
from rclpy.utilities import remove_ros_args
from rclpy.validate_namespace import validate_namespace
from rclpy.validate_node_name import validate_node_name
from rclpy.validate_topic_name import validate_topic_name

from deal_core.errors import UsageError
from deal_ros.node.launch_parameters import ParameterFile, boolean, typed_values, write_parameters
from deal_ros.node.transport import profile_variable, shared_memory_environment

PACKAGE = "deal_ros"

_CAMERA_PACKAGE = "realsense2_camera"
_LAYOUT, _LAYOUT_NODE, _LAYOUT_CAMERA = "deal.rviz", "/deal_segmentation/", "camera_color_optical_frame"
_LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
_PROFILE = re.compile(r"\s*\d+\s*[xX,]\s*\d+\s*[xX,]\s*\d+\s*")


def node_arguments(params_file: str, node_name: str) -> list[DeclareLaunchArgument]:
    """Return the arguments of a launch file that starts a node with a parameter file in `config/`."""
    return [
        namespace_argument(),
        argument("node_name", "Name of the node; two nodes in one namespace need two names.", node_name),
        argument(
            "params_file",
            "Parameter file of the node; the arguments of this launch file override it.",
            in_share("config", params_file),
        ),
        argument("use_sim_time", "true: use the time published on /clock; false: do not. Empty: as in params_file."),
        argument(
            "data_dir",
            "Folder below which parameters that somebody sets while the node runs may name files and folders. "
            "Empty: as in params_file.",
        ),
        switch("use_respawn", False, "Restart the node when it exits."),
        log_level_argument(),
        dds_profile_argument(),
    ]


def camera_arguments() -> list[DeclareLaunchArgument]:
    """Return the arguments that name the image topics and start a RealSense."""
    color, depth = (f"Profile of the {stream} stream, with start_camera:=true." for stream in ("colour", "depth"))
    return [
        switch(
            "start_camera",
            False,
            "Also start the RealSense driver, with depth aligned to colour and synchronised streams.",
        ),
        *camera_name_arguments(),
        argument("serial_no", "Serial number of the RealSense, if several are connected, with start_camera:=true."),
        argument("color_profile", color, "640x480x30"),
        argument("depth_profile", depth, "640x480x30"),
        argument(
            "color_topic",
            "Topic of colour images, with camera_info next to it; a relative one is in `namespace`. "
            "Empty: the topic of the RealSense.",
        ),
        argument(
            "depth_topic",
            "Topic of depth images aligned to colour; a relative one is in `namespace`. "
            "Empty: the topic of the RealSense.",
        ),
        argument(
            "align_depth",
            "true: the node aligns depth to colour, for a camera whose driver does not; depth_topic is then its depth "
            "as it is, with camera_info next to it. false: it does not. Empty: as in params_file.",
        ),
    ]


def camera_name_arguments() -> list[DeclareLaunchArgument]:
    """Return the arguments that name the camera."""
    return [
        argument(
            "camera_namespace",
            "Namespace of the camera, as for rs_launch.py; a relative one is in `namespace`.",
            "camera",
        ),
        argument("camera_name", "Name of the camera, as for rs_launch.py.", "camera"),
    ]


def namespace_argument() -> DeclareLaunchArgument:
    """Return the argument `namespace`, as Nav2 has it."""
    return argument("namespace", "Namespace of all that this file starts, for example of a robot.")


def log_level_argument() -> DeclareLaunchArgument:
    """Return the argument `log_level`."""
    return argument("log_level", f"Log level: {', '.join(_LOG_LEVELS[:-1])} or {_LOG_LEVELS[-1]}.", "info")


def dds_profile_argument() -> DeclareLaunchArgument:
    """Return the argument `dds_profile`."""
    return argument(
        "dds_profile",
        "Fast DDS profile of all processes that this file starts; a camera started elsewhere needs it too. "
        "auto: the profile in the environment, or else the one in config/; none: Fast DDS' default.",
        "auto",
    )


def argument(name: str, description: str, default: str | PathJoinSubstitution = "") -> DeclareLaunchArgument:
    """Return a launch argument."""
    return DeclareLaunchArgument(name, default_value=default, description=description)


def switch(name: str, default: bool, description: str) -> DeclareLaunchArgument:
    """Return an argument that takes true or false; `is_true` reads it."""
    return argument(name, f"true or false: {description[0].lower()}{description[1:]}", str(default).lower())


def actions(function: Callable[[LaunchContext], list[Any]]) -> OpaqueFunction:
    """Return the action whose function returns all other actions of a launch file."""
    return OpaqueFunction(function=function)


def transport(context: LaunchContext) -> list[SetEnvironmentVariable]:
    """Return the actions that set the Fast DDS profile of all processes started after them.

    The shared memory of the shipped profile is large enough for images.
    """
    choice = value(context, "dds_profile")
    if choice == "none":
        return []
    if choice == "auto":
        added = shared_memory_environment(os.environ)
    else:
        added = {profile_variable(os.environ): str(existing_file(context, "dds_profile"))}
    return [SetEnvironmentVariable(name, path) for name, path in added.items()]


def deal_node(
    context: LaunchContext,
    room: str,
    parameters: Sequence[str],
    *,
    required: Sequence[str] = (),
    files: Sequence[str] = (),
) -> Node:
    """Return the action that starts one of the project's nodes on the camera.

    Args:
        context: launch context with the arguments of `node_arguments` and `camera_arguments`.
        room: room of the node; the executable is `<room>_node`.
        parameters: parameters with launch arguments of the same names; if one is empty, the parameter file applies.
        required: those of them that the arguments or the parameter file must set.
        files: those of the required ones that name a file.

    Raises:
        UsageError: an argument has a wrong value, or names something that does not exist.
    """
    file = ParameterFile.read(existing_file(context, "params_file"))
    _check_parameter_file(file)
    given = {name: value(context, name) for name in parameters}
    _check_required(given, required, file)
    _check_files(given, files, file)
    schema = in_share("config", "schema", f"{room}.schema.json").perform(context)
    values = typed_values(given, Path(schema))
    if value(context, "use_sim_time"):
        values["use_sim_time"] = is_true(context, "use_sim_time")
    paths = write_parameters(_scratch_folder(), file, values)
    _check_log_level(value(context, "log_level"))
    executable = f"{room}_node"
    check_executable(PACKAGE, executable)
    return Node(
        package=PACKAGE,
        executable=executable,
        name=_valid(context, "node_name", validate_node_name),
        namespace=node_namespace(context),
        parameters=[str(path) for path in paths],
        remappings=camera_remappings(context),
        arguments=["--ros-args", "--log-level", value(context, "log_level")],
        respawn=is_true(context, "use_respawn"),
        respawn_delay=2.0,
        output="screen",
    )


def camera_driver(context: LaunchContext) -> list[GroupAction]:
    """Return the action that starts the RealSense driver if `start_camera` is true.

    Raises:
        UsageError: the driver is not installed, or a profile is not one.
    """
    if not is_true(context, "start_camera"):
        return []
    serial = value(context, "serial_no")
    arguments = {
        "camera_namespace": camera_driver_namespace(context),
        "camera_name": value(context, "camera_name"),
        "serial_no": f"_{serial}" if serial.isdigit() else serial or "''",  # the driver takes digits for a number
        "rgb_camera.color_profile": profile(context, "color_profile"),
        "depth_module.depth_profile": profile(context, "depth_profile"),
        "align_depth.enable": "false" if aligns_depth(context) else "true",
        "enable_sync": "true",
        # Arguments of our launch files have the same names, and launch hands them on.
        "log_level": value(context, "log_level"),
        "output": "screen",
    }
    source = PythonLaunchDescriptionSource(_driver_launch_file())
    # In a group, because the arguments of an included file otherwise stay set.
    return [GroupAction([IncludeLaunchDescription(source, launch_arguments=list(arguments.items()))])]


def rviz(context: LaunchContext) -> list[Node]:
    """Return the action that shows the node's outputs in RViz if `rviz` is true; warn if RViz is not installed."""
    if not is_true(context, "rviz"):
        return []
    try:
        check_executable("rviz2", "rviz2")
    except UsageError as error:
        distribution = os.environ.get("ROS_DISTRO", "$ROS_DISTRO")
        launch.logging.get_logger(PACKAGE).warning(
            f"rviz:=true: {error}; going on without RViz. To see the outputs, install ros-{distribution}-rviz2 with apt"
        )
        return []
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            namespace=node_namespace(context),
            arguments=["-d", str(_layout(context))],
            output="log",
        )
    ]


def camera_remappings(context: LaunchContext) -> list[tuple[str, str]]:
    """Return the remappings of a node's inputs to the camera's topics.

    They are relative to the node's namespace, which the driver's namespace is relative to as well.

    Raises:
        UsageError: the camera's name or a topic is not a name.
    """
    for name in ("camera_namespace", "camera_name", "color_topic", "depth_topic"):
        if value(context, name) not in ("", "/"):
            _valid(context, name, validate_topic_name)
    camera = _joined(value(context, "camera_namespace"), value(context, "camera_name"))
    color = value(context, "color_topic") or _joined(camera, "color/image_raw")
    aligned = "depth/image_rect_raw" if aligns_depth(context) else "aligned_depth_to_color/image_raw"
    depth = value(context, "depth_topic") or _joined(camera, aligned)
    return [
        ("color/image_raw", color),
        ("color/image_raw/compressed", f"{color}/compressed"),
        ("color/camera_info", _joined(posixpath.dirname(color), "camera_info")),
        ("depth/image_raw", depth),
        ("depth/image_raw/compressed", f"{depth}/compressed"),
        ("depth/image_raw/compressedDepth", f"{depth}/compressedDepth"),
        ("depth/camera_info", _joined(posixpath.dirname(depth), "camera_info")),
        ("extrinsics/depth_to_color", _joined(camera, "extrinsics/depth_to_color")),
    ]


def aligns_depth(context: LaunchContext) -> bool:
    """Return whether the launch argument `align_depth` is true.

    Raises:
        UsageError: it is neither empty, true nor false.
    """
    return bool(value(context, "align_depth")) and is_true(context, "align_depth")


def node_namespace(context: LaunchContext) -> str:
    """Return the argument `namespace`, which PushRosNamespace puts in another one if it is relative.

    Raises:
        UsageError: it is not a namespace.
    """
    return _valid(context, "namespace", lambda name: validate_namespace(posixpath.join("/", name)))


def camera_driver_namespace(context: LaunchContext) -> str:
    """Return the namespace of a camera driver that the launch file starts.

    Raises:
        UsageError: `namespace` is not a namespace.
    """
    return _joined(node_namespace(context), value(context, "camera_namespace"))


def in_share(*parts: str) -> PathJoinSubstitution:
    """Return the path of an installed file of this package."""
    return PathJoinSubstitution([FindPackageShare(PACKAGE), *parts])


def value(context: LaunchContext, name: str) -> str:
    """Return a launch argument as text."""
    return str(LaunchConfiguration(name).perform(context))


def is_true(context: LaunchContext, name: str) -> bool:
    """Return whether a launch argument is true.

    Raises:
        UsageError: it is neither true nor false.
    """
    return boolean(name, value(context, name))


def profile(context: LaunchContext, name: str) -> str:
    """Return a launch argument that is the profile of a stream.

    Raises:
        UsageError: it is not one.
    """
    found = value(context, name)
    if not _PROFILE.fullmatch(found):
        raise UsageError(
            f"launch argument '{name}': expected WIDTHxHEIGHTxRATE, for example 640x480x30, found '{found}'"
        )
    return found


def existing_file(context: LaunchContext, name: str) -> Path:
    """Return the path that a launch argument names.

    Raises:
        UsageError: there is no such file.
    """
    path = Path(value(context, name)).expanduser()
    if not path.is_file():
        raise UsageError(f"launch argument '{name}': there is no file {path}")
    return path


def check_executable(package: str, name: str) -> None:
    """Check that a package with an executable is installed.

    Raises:
        UsageError: it is not.
    """
    try:
        folder = Path(get_package_prefix(package), "lib", package)
    except (PackageNotFoundError, OSError):  # OSError: there is no ament index at all
        raise UsageError(f"the package {package} is not installed") from None
    if not os.access(folder / name, os.X_OK):
        raise UsageError(f"the package {package} has no executable {folder / name}")


def _driver_launch_file() -> str:
    missing = UsageError(
        f"start_camera:=true needs the package {_CAMERA_PACKAGE}, which is not installed; "
        "install ros-$ROS_DISTRO-realsense2-camera with apt, or start your camera yourself and omit start_camera"
    )
    try:
        file = os.path.join(get_package_share_directory(_CAMERA_PACKAGE), "launch", "rs_launch.py")
    except (PackageNotFoundError, OSError):  # OSError: there is no ament index at all
        raise missing from None
    if not os.path.isfile(file):
        raise missing
    return file


def _layout(context: LaunchContext) -> Path:
    """Return the layout of RViz with the topics of the node and the frame of the camera."""
    layout = Path(in_share("config", _LAYOUT).perform(context))
    pushed = str(LaunchConfiguration("ros_namespace", default="").perform(context))
    node = _joined("/", pushed, node_namespace(context), value(context, "node_name"))
    frame = f"{value(context, 'camera_name')}_color_optical_frame"
    text = layout.read_text(encoding="utf-8")
    adapted = text.replace(_LAYOUT_NODE, f"{node}/").replace(_LAYOUT_CAMERA, frame)
    if adapted != text:
        layout = _scratch_folder() / _LAYOUT
        layout.write_text(adapted, encoding="utf-8")
    return layout


def _check_required(given: dict[str, str], required: Sequence[str], file: ParameterFile) -> None:
    for name in required:
        if not given[name] and not any(file.values(name)):
            raise UsageError(f"launch argument '{name}': expected a value here or in {file.path}, found none")


def _check_files(given: dict[str, str], names: Sequence[str], file: ParameterFile) -> None:
    for name in names:
        place, named = f"launch argument '{name}'", [given[name]]
        if not given[name]:
            place, named = f"parameter '{name}' in {file.path}", file.values(name)
        if not any(Path(path).expanduser().is_file() for path in named):
            raise UsageError(f"{place}: there is no file {' or '.join(named)}")


def _check_parameter_file(file: ParameterFile) -> None:
    try:
        remove_ros_args(["--ros-args", "--params-file", str(file.path)])  # it parses the file, with rcl
    except RuntimeError as error:
        reason = str(error).partition("Error: ")[2].partition(", at ")[0].strip() or error
        raise UsageError(
            f"launch argument 'params_file': expected a parameter file, found {file.path}: {reason}"
        ) from None


def _check_log_level(text: str) -> None:
    level = text.rpartition(":=")[2]  # LOGGER:=LEVEL sets the level of one logger
    if level.lower() not in _LOG_LEVELS:
        raise UsageError(f"launch argument 'log_level': expected one of {', '.join(_LOG_LEVELS)}, found '{text}'")


def _valid(context: LaunchContext, name: str, check: Callable[[str], object]) -> str:
    """Return a launch argument that is a name of ROS."""
    found = value(context, name)
    try:
        check(found)
    except NameValidationException as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"launch argument '{name}': expected a name of ROS, found '{found}': {reason}") from None
    return found


def _joined(*names: str) -> str:
    """Return names as one; an absolute one drops those before it, as ROS does."""
    return posixpath.join("", *(name for name in names if name))


def _scratch_folder() -> Path:
    """Return a new folder for files of this launch; it is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="deal_launch_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
