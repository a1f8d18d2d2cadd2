"""Where the Fast DDS profile is found, and who gets it."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_ros.node.transport import has_profile, profile_variable, shared_memory, shared_memory_environment


@pytest.mark.parametrize(
    ("distribution", "variable"),
    [
        ("humble", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("jazzy", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        ("kilted", "FASTDDS_DEFAULT_PROFILES_FILE"),
        ("", "FASTDDS_DEFAULT_PROFILES_FILE"),
    ],
)
def test_the_variable_is_the_distributions(distribution: str, variable: str) -> None:
    environment = {"ROS_DISTRO": distribution}
    assert profile_variable(environment) == variable
    (file,) = shared_memory_environment(environment).values()
    assert Path(file).name == "fastdds_shm.xml" and Path(file).is_file()


def test_a_profile_of_the_users_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {"FASTRTPS_DEFAULT_PROFILES_FILE": "/mine.xml"}
    assert has_profile(mine) and shared_memory_environment(mine) == {}
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "/mine.xml")
    with shared_memory():
        assert os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] == "/mine.xml"
    assert os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] == "/mine.xml"


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
