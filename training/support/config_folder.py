"""The folder of the settings that come with the project."""

from __future__ import annotations

from pathlib import Path

from deal_core.errors import UsageError


def config_folder() -> Path:
    """Return the folder of settings: `config` beside the sources, or the share folder of an installed package.

    Raises:
        UsageError: neither folder contains train.yaml.
    """
    import sysconfig

    places = [
        Path(__file__).resolve().parents[2] / "config",
        Path(sysconfig.get_path("data")) / "share/deal_ros/config",
    ]
    for place in places:
        if (place / "train.yaml").exists():
            return place
    raise UsageError(f"found train.yaml in none of {', '.join(map(str, places))}: name the settings file yourself")
