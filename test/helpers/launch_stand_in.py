"""Stand-ins for `launch` and `launch_ros`, of which PyPI has no wheel: launch files run, and processes start.

They do what the real ones do, as far as launch files of this project need it: configurations, scopes and namespaces,
the command line of a node, and the parameter file that launch_ros writes for each dictionary. As a script it is
`ros2 launch FILE name:=value...`, with the real launch where it is installed.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

_TYPES = (bool, int, float, str)


@dataclass
class Context:
    """A launch context: configurations, those that were read, the environment, and what was included and executed.

    Args:
        configurations: launch configurations by name; arguments become some.
        start: called with each node that is executed, as soon as it is.
    """

    configurations: dict[str, str] = field(default_factory=dict)
    start: Callable[[Node], None] = lambda node: None
    read: set[str] = field(default_factory=set)
    environment: dict[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    included: list[tuple[str, dict[str, str]]] = field(default_factory=list)


class LaunchDescription:
    def __init__(self, entities: Sequence[Any] = ()) -> None:
        self.entities = list(entities)

    def execute(self, context: Context) -> list[Any]:
        return self.entities


@dataclass
class DeclareLaunchArgument:
    name: str
    default_value: Any = None
    description: str = ""
    choices: list[str] | None = None

    def execute(self, context: Context) -> list[Any]:
        if self.name not in context.configurations:
            if self.default_value is None:
                raise RuntimeError(f"required launch argument '{self.name}' was not provided")
            context.configurations[self.name] = text(self.default_value, context)
        found = context.configurations[self.name]
        if self.choices and found not in self.choices:
            raise RuntimeError(f"'{found}' is not one of {self.choices} for '{self.name}'")
        return []


@dataclass
class OpaqueFunction:
    function: Callable[..., list[Any] | None]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def execute(self, context: Context) -> list[Any]:
        return self.function(context, **self.kwargs) or []


@dataclass
class SetEnvironmentVariable:
    name: str
    value: str

    def execute(self, context: Context) -> list[Any]:
        context.environment[self.name] = self.value
        return []


@dataclass
class PythonLaunchDescriptionSource:
    location: Any


@dataclass
class IncludeLaunchDescription:
    source: PythonLaunchDescriptionSource
    launch_arguments: Sequence[tuple[str, Any]] = ()

    def execute(self, context: Context) -> list[Any]:
        location = text(self.source.location, context)
        arguments = {name: text(value, context) for name, value in self.launch_arguments}
        context.included.append((location, arguments))
        context.configurations.update(arguments)  # not undone afterwards, as in the real one
        return [describe(Path(location))]


@dataclass
class GroupAction:
    actions: Sequence[Any]

    def execute(self, context: Context) -> list[Any]:
        before = dict(context.configurations)

        def restore(context: Context) -> None:
            context.configurations.clear()
            context.configurations.update(before)

        return [*self.actions, OpaqueFunction(restore)]


@dataclass
class PushRosNamespace:
    namespace: Any

    def execute(self, context: Context) -> list[Any]:
        pushed = in_namespace(context.configurations.get("ros_namespace"), text(self.namespace, context))
        assert pushed is not None
        context.configurations["ros_namespace"] = "/" + pushed.lstrip("/")
        return []


@dataclass
class LaunchConfiguration:
    name: str
    default: str | None = None

    def perform(self, context: Context) -> str:
        context.read.add(self.name)
        if self.default is not None:
            return context.configurations.get(self.name, self.default)
        return context.configurations[self.name]


@dataclass
class FindPackageShare:
    package: str

    def perform(self, context: Context) -> str:
        from ament_index_python.packages import get_package_share_directory

        return get_package_share_directory(self.package)


@dataclass
class PathJoinSubstitution:
    parts: list[Any]

    def perform(self, context: Context) -> str:
        return os.path.join(*(text(part, context) for part in self.parts))


@dataclass
class ParameterValue:
    """A parameter whose text is to be read as a type, or as YAML without one."""

    value: Any
    value_type: Any = None


@dataclass
class Node:
    package: str
    executable: str
    name: Any = None
    namespace: Any = None
    parameters: Sequence[Any] = ()
    remappings: Sequence[tuple[str, str]] = ()
    arguments: Sequence[Any] = ()
    ros_arguments: Sequence[Any] = ()
    respawn: bool = False
    respawn_delay: float = 0.0
    output: Any = "log"
    emulate_tty: bool = False
    command: list[str] = field(default_factory=list)
    full_name: str = ""

    def execute(self, context: Context) -> list[Any]:
        """Compose the command line, and write a parameter file for each dictionary."""
        if text(self.output, context) not in ("screen", "log", "both", "own_log", "full"):
            raise ValueError(f"'{text(self.output, context)}' is not a valid standard output config")
        space = in_namespace(
            context.configurations.get("ros_namespace"),
            None if self.namespace is None else text(self.namespace, context),
        )
        space = None if space is None else "/" + space.lstrip("/")
        name = None if self.name is None else text(self.name, context)
        _check_names(name, space)
        # Only a node whose name and namespace are known gets files for itself.
        section = "/**" if name is None or space is None else f"{space.rstrip('/')}/{name}"
        files = [
            write_parameter_file(found, section, context) if isinstance(found, Mapping) else text(found, context)
            for found in self.parameters
        ]
        self.full_name = section
        self.command = [
            find_executable(self.package, self.executable),
            *(text(word, context) for word in self.arguments),
            *(["--ros-args", *(text(word, context) for word in self.ros_arguments)] if self.ros_arguments else []),
            "--ros-args",
            *(["-r", f"__node:={name}"] if name is not None else []),
            *(["-r", f"__ns:={space}"] if space is not None else []),
            # A file that does not exist is passed over with a warning.
            *(word for file in files if os.path.isfile(file) for word in ("--params-file", file)),
            *(word for source, target in self.remappings for word in ("-r", f"{source}:={target}")),
        ]
        context.nodes.append(self)
        context.start(self)
        return []


def text(found: Any, context: Context) -> str:
    """Return text or a substitution as text."""
    return str(found) if isinstance(found, (str, Path)) else found.perform(context)


def in_namespace(base: str | None, name: str | None) -> str | None:
    """Return a namespace inside another one; an absolute one stays as it is, and None is none."""
    if base is None or name is None:
        return base if name is None else name
    found = name if not base or name.startswith("/") else f"{base.rstrip('/')}/{name}"
    return found if found == "/" else found.rstrip("/")


def find_executable(package: str, name: str) -> str:
    """Return the path of a package's executable; an error if package or executable are missing."""
    from ament_index_python.packages import get_package_prefix

    path = Path(get_package_prefix(package), "lib", package, name)
    if not os.access(path, os.X_OK):
        raise RuntimeError(f"executable '{name}' not found on the libexec directory '{path.parent}'")
    return str(path)


def write_parameter_file(parameters: Mapping[str, Any], section: str, context: Context) -> str:
    """Write a dictionary as launch_ros does, and return the path of the file."""
    values = {name: evaluate(value, context, name) for name, value in _flat(parameters).items()}
    with tempfile.NamedTemporaryFile("w", prefix="launch_params_", delete=False) as file:
        yaml.dump({section: {"ros__parameters": values}}, file, default_flow_style=False)
    return file.name


def evaluate(value: Any, context: Context, name: str = "") -> Any:
    """Return the value of a parameter in its type: text stays text, and a substitution is read as YAML."""
    if isinstance(value, ParameterValue):
        return _of_type(value, context, name)
    if isinstance(value, (bool, int, float, str, bytes)):
        return value
    if hasattr(value, "perform"):
        return _read_as_yaml(text(value, context), name)
    kinds = {type(entry) for entry in value}
    if kinds == {int, float}:
        return tuple(float(entry) for entry in value)
    if len(kinds) != 1 or not kinds <= set(_TYPES):
        raise TypeError(f"Expected a non-empty sequence, with items of uniform type, for {name}")
    return tuple(value)


def describe(path: Path) -> LaunchDescription:
    """Run a launch file's function."""
    namespace: dict[str, Any] = {"__file__": str(path), "__name__": path.stem}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    return namespace["generate_launch_description"]()


def launch(path: Path, given: Mapping[str, str], context: Context) -> None:
    """Do what `ros2 launch PATH given...` does."""
    visit(IncludeLaunchDescription(PythonLaunchDescriptionSource(str(path)), list(given.items())), context)


def visit(entity: Any, context: Context) -> None:
    """Execute an action and, one after the other and each to its end, the actions that it returns."""
    for made in entity.execute(context):
        visit(made, context)


def install(modules: dict[str, ModuleType]) -> None:
    """Put the stand-ins into a table of modules such as `sys.modules`."""
    here = sys.modules[__name__]
    for name, contents in {
        "launch": ("LaunchDescription",),
        "launch.actions": (
            "DeclareLaunchArgument",
            "GroupAction",
            "IncludeLaunchDescription",
            "OpaqueFunction",
            "SetEnvironmentVariable",
        ),
        "launch.launch_context": (),
        "launch.launch_description_sources": ("PythonLaunchDescriptionSource",),
        "launch.logging": (),
        "launch.substitutions": ("LaunchConfiguration", "PathJoinSubstitution"),
        "launch_ros": (),
        "launch_ros.actions": ("Node", "PushRosNamespace"),
        "launch_ros.parameter_descriptions": ("ParameterValue",),
        "launch_ros.substitutions": ("FindPackageShare",),
    }.items():
        module = ModuleType(name)
        for item in contents:
            setattr(module, item, getattr(here, item))
        modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    modules["launch.launch_context"].LaunchContext = Context  # type: ignore[attr-defined]
    modules["launch.logging"].get_logger = logging.getLogger  # type: ignore[attr-defined]


@contextmanager
def in_use(prefix: Path) -> Iterator[None]:
    """Put the stand-ins in place of `launch` and `launch_ros`, and use the packages of a prefix alone."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(tempfile, "tempdir", folder)  # parameter files stay there, as those of launch_ros do in /tmp
        stand_ins: dict[str, ModuleType] = {}
        install(stand_ins)
        for name, module in stand_ins.items():
            patch.setitem(sys.modules, name, module)
        patch.delitem(sys.modules, "deal_ros.node.launching", raising=False)
        for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
            patch.delenv(name, raising=False)
        patch.setenv("ROS_DISTRO", "kilted")
        patch.setenv("AMENT_PREFIX_PATH", str(prefix))
        yield
        sys.modules.pop("deal_ros.node.launching", None)  # it holds the stand-ins


def main(path: str, *words: str) -> int:
    """Do what `ros2 launch` does, until SIGINT or until all processes have ended.

    As the real one, it leaves behind the processes that it has started when a later action fails.
    """
    given = dict(word.split(":=", 1) for word in words)
    stopped: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
    processes: list[subprocess.Popen[bytes]] = []
    context = Context(
        start=lambda node: processes.append(subprocess.Popen(node.command, env={**os.environ, **context.environment}))
    )
    try:
        launch(Path(path), given, context)
    except Exception as error:
        print(f"[ERROR] [launch]: Caught exception in launch (see debug for traceback): {error}", file=sys.stderr)
        return 1
    while not stopped and any(process.poll() is None for process in processes):
        time.sleep(0.1)
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    for process in processes:
        process.wait()
    return 0


def main_of_the_real_one(path: str, *words: str) -> int:
    """Do what `ros2 launch` does, with the real launch."""
    from launch.actions import IncludeLaunchDescription as Include
    from launch.launch_description_sources import PythonLaunchDescriptionSource as Source

    from launch import LaunchDescription as Description
    from launch import LaunchService

    service = LaunchService(noninteractive=not sys.stdin.isatty())
    arguments = [tuple(word.split(":=", 1)) for word in words]
    service.include_launch_description(Description([Include(Source(path), launch_arguments=arguments)]))
    return int(service.run())


def _check_names(name: str | None, space: str | None) -> None:
    from rclpy.validate_namespace import validate_namespace
    from rclpy.validate_node_name import validate_node_name

    if name is not None:
        validate_node_name(name)
    if space is not None:
        validate_namespace(space)


def _flat(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in parameters.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return flat


def _read_as_yaml(found: str, name: str) -> Any:
    value = yaml.safe_load(found or "''")
    if type(value) in (*_TYPES, bytes):
        return value
    if isinstance(value, list) and value and type(value[0]) in _TYPES and len({type(entry) for entry in value}) == 1:
        return tuple(value)
    raise TypeError(f"a parameter is text, a number, true or false, or a list of one of them, not {found!r} ({name})")


def _of_type(value: ParameterValue, context: Context, name: str) -> Any:
    if not hasattr(value.value, "perform"):
        return value.value
    found = text(value.value, context)
    if value.value_type in (str, int, float):
        return value.value_type(found)
    read = _read_as_yaml(found, name)
    if value.value_type is bool and type(read) is not bool:
        raise ValueError(f"cannot convert '{found}' to a bool ({name})")
    return read


if __name__ == "__main__":
    try:
        import launch_ros  # noqa: F401
    except ImportError:
        install(sys.modules)
        sys.exit(main(*sys.argv[1:]))
    sys.exit(main_of_the_real_one(*sys.argv[1:]))
