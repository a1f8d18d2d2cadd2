"""Launch files that run in this process, up to starting the nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers.paths import PROJECT


@pytest.fixture(scope="session")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix with this package alone."""
    from helpers.installed_package import install_package

    return install_package(tmp_path_factory.mktemp("prefix"))


@pytest.fixture(scope="session")
def full_prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix with this package, a camera driver and RViz."""
    from helpers.installed_package import install_package, install_realsense, install_rviz

    folder = install_package(tmp_path_factory.mktemp("full_prefix"))
    install_realsense(folder)
    install_rviz(folder)
    return folder


@pytest.fixture
def stand_in(prefix: Path) -> Iterator[ModuleType]:
    """Stand-ins for `launch` and `launch_ros`, with the prefix of this package alone."""
    from helpers import launch_stand_in

    with launch_stand_in.in_use(prefix):
        yield launch_stand_in


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file that is there; nothing reads it."""
    path = tmp_path / "m.safetensors"
    path.touch()
    return path


@pytest.fixture
def required(model: Path, tmp_path: Path) -> dict[str, dict[str, str]]:
    """Arguments without which a launch file starts nothing."""
    return {
        "segmentation.launch.py": {"model": str(model)},
        "record.launch.py": {"output": str(tmp_path / "kitchen_1"), "classes": "mug,drill"},
        "demo.launch.py": {"model": str(model)},
    }


@pytest.fixture
def run(stand_in: ModuleType, required: dict[str, dict[str, str]]) -> Callable[..., Any]:
    """Run a launch file and return its context; `within` are actions before it."""

    def launch(name: str, *within: Any, **given: str) -> Any:
        context = stand_in.Context()
        for action in within:
            stand_in.visit(action, context)
        stand_in.launch(PROJECT / "launch" / name, {**required[name], **given}, context)
        return context

    return launch
