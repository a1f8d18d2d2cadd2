"""Find and set the Fast DDS profile whose shared memory is large enough for camera images."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""Fast DDS 3 (Kilted and later) reads the first and warns about the second; Fast DDS 2 reads the second."""

_FAST_DDS_2 = ("humble", "iron", "jazzy")
_PROFILE = Path("config") / "fastdds_shm.xml"


def shared_memory_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that set the shipped profile; empty if the environment already names a profile.

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
    return PROFILE_VARIABLES[environment.get("ROS_DISTRO", "") in _FAST_DDS_2]


def has_profile(environment: Mapping[str, str]) -> bool:
    """Return whether an environment names a profile."""
    return any(environment.get(name) for name in PROFILE_VARIABLES)


def _find_profile() -> Path | None:
    places = [Path(sys.prefix) / "share" / "deal_ros", Path(__file__).resolve().parents[2]]
    # After an installation with pip there is no ament index (OSError), or this package is not in it.
    with suppress(PackageNotFoundError, OSError):
        places.insert(0, Path(get_package_share_directory("deal_ros")))
    return next((place / _PROFILE for place in places if (place / _PROFILE).is_file()), None)
