"""Find and set the Fast DDS profile whose shared memory is large enough for camera images."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

from deal_ros.node.distributions import distribution_in_use

PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""Fast DDS 3 (Kilted and later) reads the first only; the Fast DDS 2 of the distributions before, the second only."""

_FAST_DDS_2 = ("humble", "iron", "jazzy")
_PROFILE = Path("config") / "fastdds_shm.xml"


def shared_memory_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that set the shipped profile; empty if the environment already names one that is read.

    A process reads them when it creates its first ROS context.
    """
    profile = _find_profile()
    if has_profile(environment) or profile is None:
        return {}
    return {profile_variable(environment): str(profile)}


@contextmanager
def shared_memory() -> Iterator[None]:
    """Set the shipped profile within the block; it takes effect if the process creates its first ROS context there."""
    added = shared_memory_environment(os.environ)
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def profile_variable(environment: Mapping[str, str]) -> str:
    """Return the name of the variable that the ROS distribution of an environment reads."""
    return PROFILE_VARIABLES[distribution_in_use(environment) in _FAST_DDS_2]


def has_profile(environment: Mapping[str, str]) -> bool:
    """Return whether an environment names a profile, in the variable that its ROS distribution reads."""
    return bool(environment.get(profile_variable(environment)))


def _find_profile() -> Path | None:
    places = [Path(sys.prefix) / "share" / "deal_ros", Path(__file__).resolve().parents[2]]
    # After an installation with pip there is no ament index (OSError), or this package is not in it.
    with suppress(PackageNotFoundError, OSError):
        places.insert(0, Path(get_package_share_directory("deal_ros")))
    return next((place / _PROFILE for place in places if (place / _PROFILE).is_file()), None)
