"""The Fast DDS profile whose shared memory camera images fit into."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""Fast DDS 3 (Kilted and later) reads the first and warns of the second; Fast DDS 2 reads the second."""

_FAST_DDS_2 = ("humble", "iron", "jazzy")
_PROFILE = Path("config") / "fastdds_shm.xml"


def shared_memory_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to add to an environment so that images fit into shared memory; none where a profile is set.

    They have effect on processes that start with them, or that meet Fast DDS for the first time.
    """
    profile = _find_profile()
    if has_profile(environment) or profile is None:
        return {}
    return {profile_variable(environment): str(profile)}


@contextmanager
def shared_memory() -> Iterator[None]:
    """Within the block, ROS contexts of this process get shared memory for images if they are its first."""
    added = shared_memory_environment(os.environ)
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def profile_variable(environment: Mapping[str, str]) -> str:
    """Return the variable that the ROS distribution of an environment reads."""
    return PROFILE_VARIABLES[environment.get("ROS_DISTRO", "") in _FAST_DDS_2]


def has_profile(environment: Mapping[str, str]) -> bool:
    """Return whether an environment names a profile."""
    return any(environment.get(name) for name in PROFILE_VARIABLES)


def _find_profile() -> Path | None:
    places = [Path(sys.prefix) / "share" / "deal_ros", Path(__file__).resolve().parents[2]]
    # Installed with pip, there is no ament index (OSError) or not for this package.
    with suppress(PackageNotFoundError, OSError):
        places.insert(0, Path(get_package_share_directory("deal_ros")))
    return next((place / _PROFILE for place in places if (place / _PROFILE).is_file()), None)
