"""Dockerfiles: linted, and naming files and packages that are there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from helpers.paths import PROJECT

DISTRIBUTIONS = ("humble", "jazzy", "lyrical")
# What the base image brings.
ROS_BASE = {
    "ament_index_python",
    "builtin_interfaces",
    "diagnostic_msgs",
    "geometry_msgs",
    "launch",
    "launch_ros",
    "lifecycle_msgs",
    "rcl_interfaces",
    "rclpy",
    "sensor_msgs",
    "std_msgs",
    "std_srvs",
    "visualization_msgs",
}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_dockerfile_is_linted(distribution: str) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed (extra dev, Linux on x86-64)")
    file = PROJECT / "docker" / f"{distribution}.Dockerfile"
    linted = subprocess.run([hadolint, str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_dockerfile_installs_every_ros_package_that_is_declared(distribution: str) -> None:
    text = (PROJECT / "docker" / f"{distribution}.Dockerfile").read_text()
    assert f"FROM ros:{distribution}-ros-base" in text
    installed = {name.replace("-", "_") for name in re.findall(rf"ros-{distribution}-([\w-]+)", text)}
    package = ElementTree.parse(PROJECT / "package.xml").getroot()
    declared = {element.text for element in package if element.tag == "exec_depend"}
    assert declared - ROS_BASE <= installed


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_container_stops_what_launch_started(distribution: str) -> None:
    # After SIGTERM, the default, `ros2 launch` leaves its nodes running.
    assert "\nSTOPSIGNAL SIGINT\n" in (PROJECT / "docker" / f"{distribution}.Dockerfile").read_text()


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_dockerfile_copies_files_that_are_there(distribution: str) -> None:
    text = (PROJECT / "docker" / f"{distribution}.Dockerfile").read_text()
    copied = [source for source in re.findall(r"^COPY (\S+) \S+$", text, re.MULTILINE) if source != "."]
    assert copied and all((PROJECT / source).is_file() for source in copied)
    assert subprocess.run(["bash", "-n", str(PROJECT / "docker" / "entrypoint.sh")], check=False).returncode == 0
