"""Which distribution is in use."""

from __future__ import annotations

from importlib import metadata

import pytest
from helpers.paths import PROJECT

from deal_ros.node.distributions import DISTRIBUTIONS, Distribution, distribution_in_use


def installed(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    def find(name: str) -> str:
        assert name == "ros-rclpy"
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", find)


@pytest.mark.parametrize(("version", "name"), [("7.1.6", "jazzy"), ("9.1.2", "kilted"), ("99.0.0", ""), (None, "")])
def test_wheels_are_told_by_their_version(monkeypatch: pytest.MonkeyPatch, version: str | None, name: str) -> None:
    installed(monkeypatch, version)
    assert distribution_in_use({}) == name == distribution_in_use({"ROS_DISTRO": ""})


def test_what_is_sourced_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "9.1.2")
    assert distribution_in_use({"ROS_DISTRO": "rolling"}) == "rolling"


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda distribution: distribution.name)
def test_the_documents_name_the_same_system(distribution: Distribution) -> None:
    """Each has a row with its Ubuntu, its Python and the line that sets it up, and wheels are named where there are."""
    rows = (PROJECT / "docs" / "how_to" / "install.md").read_text().splitlines()
    (row,) = [row for row in rows if row.startswith("|") and f"source /opt/ros/{distribution.name}/setup.bash" in row]
    assert f"Ubuntu {distribution.ubuntu}" in row and f"| 3.{distribution.python} |" in row
    wheels = [row for row in rows if row.startswith("| no ROS") and f"({distribution.name.capitalize()})" in row]
    assert len(wheels) == (distribution.rclpy is not None)
