"""The stand-in writes parameter files and command lines as launch_ros does, which is compared where it is installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from helpers import launch_stand_in

pytest.importorskip("ament_index_python", reason="ROS 2 is not installed here")

CONFIGURATIONS = {"yes": "true", "number": "1", "scientific": "1e3", "empty": ""}
CONFIGURATIONS |= {"profile": "640x480x30", "list": "[1, 2]"}
# The parameter, with a substitution as ("name", type or None for YAML's rules), and what is written of it.
WRITTEN = [
    (True, "p: true\n"),
    (7, "p: 7\n"),
    (0.5, "p: 0.5\n"),
    ("true", "p: 'true'\n"),
    ("7", "p: '7'\n"),
    ("", "p: ''\n"),
    ("1e3", "p: 1e3\n"),  # text for PyYAML, a number for rcl
    ("y", "p: y\n"),  # true for rcl
    ([1, 2], "p: !!python/tuple\n- 1\n- 2\n"),
    ([1, 2.5], "p: !!python/tuple\n- 1.0\n- 2.5\n"),
    ([True, False], "p: !!python/tuple\n- true\n- false\n"),
    (["a", "no"], "p: !!python/tuple\n- a\n- 'no'\n"),
    ({"deep": {"er": 1}}, "p.deep.er: 1\n"),
    (("yes", None), "p: true\n"),
    (("number", None), "p: 1\n"),
    (("scientific", None), "p: 1e3\n"),
    (("empty", None), "p: ''\n"),
    (("profile", None), "p: 640x480x30\n"),
    (("list", None), "p: !!python/tuple\n- 1\n- 2\n"),
    (("yes", str), "p: 'true'\n"),
    (("yes", bool), "p: true\n"),
    (("number", float), "p: 1.0\n"),
    (("scientific", float), "p: 1000.0\n"),
]


def parameters(value: Any, substitutions: Any, descriptions: Any) -> dict[str, Any]:
    if not isinstance(value, tuple):
        return {"p": value}
    name, kind = value
    found = substitutions.LaunchConfiguration(name)
    return {"p": found if kind is None else descriptions.ParameterValue(found, value_type=kind)}


@pytest.mark.parametrize(("value", "text"), WRITTEN, ids=repr)
def test_a_parameter_file_has_the_types_of_launch_ros(value: Any, text: str) -> None:
    context = launch_stand_in.Context(dict(CONFIGURATIONS))
    given = parameters(value, launch_stand_in, launch_stand_in)
    file = launch_stand_in.write_parameter_file(given, "/robot1/x", context)
    indented = "".join(f"    {line}\n" for line in text.splitlines())
    assert Path(file).read_text() == f"/robot1/x:\n  ros__parameters:\n{indented}"
    Path(file).unlink()


@pytest.mark.parametrize(("value", "text"), WRITTEN, ids=repr)
def test_launch_ros_writes_the_same(value: Any, text: str) -> None:
    pytest.importorskip("launch_ros", reason="launch_ros is not installed: PyPI has no wheel of it")
    names = ("launch.substitutions", "launch_ros.parameter_descriptions", "launch_ros.utilities")
    substitutions, descriptions, utilities = map(importlib.import_module, names)
    context = importlib.import_module("launch").LaunchContext()
    context.launch_configurations.update(CONFIGURATIONS)
    normal = utilities.normalize_parameters([parameters(value, substitutions, descriptions)])
    (evaluated,) = utilities.evaluate_parameters(context, normal)
    assert yaml.dump(evaluated, default_flow_style=False) == text


@pytest.mark.parametrize(
    ("pushed", "node", "expected"),
    [
        (None, {}, []),
        (None, {"namespace": ""}, ["-r", "__ns:=/"]),
        (None, {"namespace": "arm", "name": "x"}, ["-r", "__node:=x", "-r", "__ns:=/arm"]),
        ("robot1", {}, ["-r", "__ns:=/robot1"]),
        ("robot1", {"namespace": ""}, ["-r", "__ns:=/robot1"]),
        ("robot1", {"namespace": "arm"}, ["-r", "__ns:=/robot1/arm"]),
        ("robot1", {"namespace": "/arm"}, ["-r", "__ns:=/arm"]),
        ("robot1", {"namespace": "/"}, ["-r", "__ns:=/"]),
    ],
)
def test_a_command_line_has_the_namespace_of_launch_ros(
    stand_in: ModuleType, prefix: Path, pushed: str | None, node: dict[str, str], expected: list[str]
) -> None:
    context = stand_in.Context()
    actions = [stand_in.Node(package="deal_ros", executable="segmentation_node", **node)]
    if pushed:
        actions.insert(0, stand_in.PushRosNamespace(pushed))
    stand_in.visit(stand_in.GroupAction(actions), context)
    (found,) = context.nodes
    assert found.command == [str(prefix / "lib" / "deal_ros" / "segmentation_node"), "--ros-args", *expected]
    assert "ros_namespace" not in context.configurations
