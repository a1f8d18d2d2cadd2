"""A copy of what a build needs, so that building leaves nothing in the project's folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from helpers.paths import PROJECT

FOLDERS = ("config", "deal_core", "deal_ros", "launch", "resource", "training")
FILES = ("package.xml", "setup.py", "setup.cfg", "pyproject.toml")


def copy_sources(to: Path) -> Path:
    """Copy the sources into a new folder, and return it."""
    to.mkdir(parents=True)
    for name in FOLDERS:
        shutil.copytree(PROJECT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(PROJECT / name, to)
    return to


def write_other_training(folder: Path, kind: str) -> Path:
    """Write something else called `training` into a folder: a "package", a "module" or a "namespace"; return it."""
    code = "raise RuntimeError('another package called training was imported')\n"
    if kind == "module":
        folder.mkdir(parents=True)
        (folder / "training.py").write_text(code)
    else:
        (folder / "training").mkdir(parents=True)
        (folder / "training" / "cli.py").write_text(code)
        if kind == "package":
            (folder / "training" / "__init__.py").write_text(code)
    return folder
