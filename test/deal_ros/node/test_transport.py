"""Where the Fast DDS profile is found, and who gets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_ros.node.transport import (
    PROFILE_VARIABLES,
    has_profile,
    profile_variable,
    shared_memory,
    shared_memory_environment,
)


@pytest.mark.parametrize(
    ("distribution", "variable"),
    [
        ("humble", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("jazzy", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("kilted", "FASTDDS_DEFAULT_PROFILES_FILE"),
        ("lyrical", "FASTDDS_DEFAULT_PROFILES_FILE"),
    ],
)
def test_the_variable_is_the_distributions(distribution: str, variable: str) -> None:
    environment = {"ROS_DISTRO": distribution}
    assert profile_variable(environment) == variable
    (file,) = shared_memory_environment(environment).values()
    assert Path(file).name == "fastdds_shm.xml" and Path(file).is_file()


def test_this_process_reads_the_profile(tmp_path: Path) -> None:
    """Of whichever distribution it is: the segment has the size that the profile asks for."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("this system does not tell what a process maps")
    script = """
import rclpy
rclpy.init()
node = rclpy.create_node("reader_of_the_profile")
ranges = [line.split()[0].split("-") for line in open("/proc/self/maps") if "/dev/shm/fast" in line]
print(max(int(end, 16) - int(start, 16) for start, end in ranges))
"""
    environment = {name: value for name, value in os.environ.items() if name not in PROFILE_VARIABLES}
    environment.update(shared_memory_environment(environment), ROS_LOG_DIR=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 60_000_000


def test_a_profile_of_the_users_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for distribution, variable in (("jazzy", PROFILE_VARIABLES[1]), ("lyrical", PROFILE_VARIABLES[0])):
        mine = {"ROS_DISTRO": distribution, variable: "/mine.xml"}
        assert has_profile(mine) and shared_memory_environment(mine) == {}
    variable = profile_variable(os.environ)
    monkeypatch.setenv(variable, "/mine.xml")
    with shared_memory():
        assert os.environ[variable] == "/mine.xml"
    assert os.environ[variable] == "/mine.xml"


@pytest.mark.parametrize(
    ("distribution", "unread"), [("jazzy", PROFILE_VARIABLES[0]), ("kilted", PROFILE_VARIABLES[1])]
)
def test_a_profile_in_a_variable_that_nobody_reads_is_none(distribution: str, unread: str) -> None:
    environment = {"ROS_DISTRO": distribution, unread: "/mine.xml"}
    assert not has_profile(environment)
    assert shared_memory_environment(environment).keys() == {profile_variable(environment)}


def test_the_environment_is_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with shared_memory():
        assert has_profile(os.environ)
    assert dict(os.environ) == before


def test_images_fit_the_profile() -> None:
    (file,) = shared_memory_environment({}).values()
    root = ElementTree.parse(file).getroot()
    sizes = {
        node.tag.rsplit("}", 1)[-1]: int(node.text or 0) for node in root.iter() if (node.text or "").strip().isdigit()
    }
    assert sizes["maxMessageSize"] >= 1920 * 1080 * 3 and sizes["segment_size"] >= 4 * sizes["maxMessageSize"]
