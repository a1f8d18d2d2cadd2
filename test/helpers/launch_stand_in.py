"""Stand-ins for `launch` and `launch_ros`, of which PyPI has no wheel: launch files run, what they start is kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass
class Context:
    """A launch context: the arguments, those that were read, the environment, and what was started."""

    share: Path
    arguments: dict[str, str] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    environment: dict[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    included: list[tuple[str, dict[str, str]]] = field(default_factory=list)


class LaunchDescription:
    def __init__(self, entities: list[Any]) -> None:
        self.entities = entities


@dataclass
class DeclareLaunchArgument:
    name: str
    default_value: Any = None
    description: str = ""
    choices: list[str] | None = None


@dataclass
class OpaqueFunction:
    function: Callable[[Context], list[Any] | None]


@dataclass
class SetEnvironmentVariable:
    name: str
    value: str


@dataclass
class PythonLaunchDescriptionSource:
    location: Any


@dataclass
class IncludeLaunchDescription:
    source: PythonLaunchDescriptionSource
    launch_arguments: list[tuple[str, Any]] = field(default_factory=list)


@dataclass
class LaunchConfiguration:
    name: str

    def perform(self, context: Context) -> str:
        context.read.add(self.name)
        return context.arguments[self.name]


@dataclass
class FindPackageShare:
    package: str

    def perform(self, context: Context) -> str:
        assert self.package == "deal_ros"
        return str(context.share)


@dataclass
class PathJoinSubstitution:
    parts: list[Any]

    def perform(self, context: Context) -> str:
        return os.path.join(*(text(part, context) for part in self.parts))


@dataclass
class Node:
    package: str
    executable: str
    namespace: str = ""
    parameters: list[Any] = field(default_factory=list)
    remappings: list[tuple[str, str]] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    respawn: bool = False
    respawn_delay: float = 0.0
    output: str = ""


def text(found: Any, context: Context) -> str:
    """Return text or a substitution as text."""
    return found if isinstance(found, str) else found.perform(context)


def describe(path: Path) -> LaunchDescription:
    """Run a launch file's function."""
    namespace: dict[str, Any] = {"__file__": str(path), "__name__": path.stem}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    return namespace["generate_launch_description"]()


def launch(path: Path, given: Mapping[str, str], context: Context) -> None:
    """Do what `ros2 launch PATH given...` does, up to starting processes; included files of this project run too."""
    for entity in describe(path).entities:
        _visit(entity, given, context)


def _visit(entity: Any, given: Mapping[str, str], context: Context) -> None:
    if isinstance(entity, DeclareLaunchArgument):
        if entity.name in given:
            found = given[entity.name]
        elif entity.default_value is not None:
            found = text(entity.default_value, context)
        else:
            raise RuntimeError(f"required launch argument '{entity.name}' was not provided")
        if entity.choices and found not in entity.choices:
            raise RuntimeError(f"'{found}' is not one of {entity.choices} for '{entity.name}'")
        context.arguments[entity.name] = found
    elif isinstance(entity, OpaqueFunction):
        for made in entity.function(context) or []:
            _visit(made, given, context)
    elif isinstance(entity, SetEnvironmentVariable):
        context.environment[entity.name] = entity.value
    elif isinstance(entity, IncludeLaunchDescription):
        location = text(entity.source.location, context)
        arguments = {name: text(value, context) for name, value in entity.launch_arguments}
        context.included.append((location, arguments))
        if Path(location).is_relative_to(context.share):
            launch(Path(location), arguments, context)
    elif isinstance(entity, Node):
        context.nodes.append(entity)
    else:
        raise TypeError(f"unknown entity {entity!r}")


def install(modules: dict[str, ModuleType]) -> None:
    """Put the stand-ins into a table of modules such as `sys.modules`."""
    here = sys.modules[__name__]
    for name, contents in {
        "launch": ("LaunchDescription",),
        "launch.actions": (
            "DeclareLaunchArgument",
            "IncludeLaunchDescription",
            "OpaqueFunction",
            "SetEnvironmentVariable",
        ),
        "launch.launch_context": (),
        "launch.launch_description_sources": ("PythonLaunchDescriptionSource",),
        "launch.substitutions": ("LaunchConfiguration", "PathJoinSubstitution"),
        "launch_ros": (),
        "launch_ros.actions": ("Node",),
        "launch_ros.substitutions": ("FindPackageShare",),
    }.items():
        module = ModuleType(name)
        for item in contents:
            setattr(module, item, getattr(here, item))
        modules[name] = module
    modules["launch.launch_context"].LaunchContext = Context  # type: ignore[attr-defined]
