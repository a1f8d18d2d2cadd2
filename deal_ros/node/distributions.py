"""The ROS 2 distributions that the project is written for, and which of them is in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class Distribution:
    """A distribution, and where it comes from.

    Args:
        name: as in ROS_DISTRO.
        ubuntu: the release of Ubuntu whose apt has it.
        python: minor version of that Ubuntu's Python 3.
        rclpy: major version of its `ros-rclpy` on PyPI; None if it has no wheels.
    """

    name: str
    ubuntu: str
    python: int
    rclpy: int | None = None


DISTRIBUTIONS = (
    Distribution("humble", "22.04", 10),
    Distribution("jazzy", "24.04", 12, rclpy=7),
    Distribution("kilted", "24.04", 12, rclpy=9),
    Distribution("lyrical", "26.04", 14),
)


def distribution_in_use(environment: Mapping[str, str]) -> str:
    """Return the name of the distribution that is sourced, or else of the installed wheels; empty if there is none.

    A sourced distribution need not be one of `DISTRIBUTIONS`.
    """
    return environment.get("ROS_DISTRO", "") or _distribution_of_wheels()


def _distribution_of_wheels() -> str:
    try:
        major = int(metadata.version("ros-rclpy").partition(".")[0])
    except metadata.PackageNotFoundError:
        return ""
    return next((distribution.name for distribution in DISTRIBUTIONS if distribution.rclpy == major), "")
