"""deal_core works where ROS does not exist."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import PROJECT

CORE = PROJECT / "deal_core"
MODULES = sorted(CORE.rglob("*.py"))
ROS = {
    "ament_index_python",
    "builtin_interfaces",
    "cv_bridge",
    "deal_ros",
    "diagnostic_msgs",
    "geometry_msgs",
    "launch",
    "launch_ros",
    "lifecycle_msgs",
    "message_filters",
    "rcl_interfaces",
    "rclpy",
    "rosgraph_msgs",
    "rosidl_runtime_py",
    "sensor_msgs",
    "sensor_msgs_py",
    "std_msgs",
    "std_srvs",
    "tf2_ros",
    "tf2_msgs",
    "vision_msgs",
    "visualization_msgs",
}
# Fails every import of a ROS package before anything can find it, then imports each module of deal_core.
IMPORT_ALL = """
import importlib, sys

class NoRos:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ros:
            raise ModuleNotFoundError(f"a module of deal_core imports {name}")

ros, modules = set(sys.argv[1].split()), sys.argv[2].split()
sys.meta_path.insert(0, NoRos())
for module in modules:
    importlib.import_module(module)
assert not ros & {name.split(".")[0] for name in sys.modules}
print(len(modules))
"""


def name_of(file: Path) -> str:
    parts = file.relative_to(CORE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_no_module_names_ros_in_an_import(file: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add((node.module or "").split(".")[0])
    assert not imported & ROS
    assert not imported & {"argparse", "typer", "click"}, "deal_core does not read the command line"


@pytest.mark.slow
def test_every_module_imports_where_ros_is_missing() -> None:
    names = " ".join(name_of(file) for file in MODULES)
    finished = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, " ".join(sorted(ROS)), names], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout) == len(MODULES) > 10
