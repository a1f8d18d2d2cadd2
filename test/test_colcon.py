"""`colcon build`, as on a robot: what ROS looks for is where it looks."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.checkout import copy_sources, write_other_training
from helpers.paths import PROJECT

if importlib.util.find_spec("colcon_ros") is None:
    pytest.skip(
        "colcon-ros is not installed (extra colcon; on Ubuntu python3-colcon-common-extensions)",
        allow_module_level=True,
    )

INSTALL = (PROJECT / "docs" / "how_to" / "install.md").read_text()
(BUILD,) = re.findall(r"^cd ~/ws && (.* colcon build .*)$", INSTALL, re.MULTILINE)


@pytest.fixture(scope="module", params=["", " --symlink-install"])
def workspace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean workspace, built by the line of the documents."""
    folder = tmp_path_factory.mktemp("workspace")
    project = copy_sources(folder / "src" / "deal_ros")
    (project / ".venv").symlink_to(sys.prefix)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "AMENT_PREFIX_PATH")}
    built = subprocess.run(
        ["bash", "-c", BUILD + request.param],
        cwd=folder,
        env={**environment, "HOME": str(folder), "SETUPTOOLS_USE_DISTUTILS": "local"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=250,
        check=False,
    )
    assert built.returncode == 0, built.stdout
    assert "1 package finished" in built.stdout
    return folder


@pytest.mark.parametrize("file", sorted((PROJECT / "docker").glob("*.Dockerfile")), ids=lambda file: file.stem)
def test_a_dockerfile_builds_by_the_same_line(file: Path) -> None:
    assert BUILD in file.read_text()


def test_marker_share_and_executables_are_installed(workspace: Path) -> None:
    prefix = workspace / "install" / "deal_ros"
    assert (prefix / "share" / "ament_index" / "resource_index" / "packages" / "deal_ros").exists()
    share = prefix / "share" / "deal_ros"
    for folder in ("launch", "config", "config/schema", "config/experiments"):
        wanted = {path.name for path in (PROJECT / folder).iterdir() if path.is_file()}
        assert wanted <= {path.name for path in (share / folder).iterdir()}
    assert (share / "package.xml").exists()
    scripts = prefix / "lib" / "deal_ros"
    assert {"deal", "segmentation_node", "recorder_node", "synthetic_camera_node", "replay_node"} <= {
        path.name for path in scripts.iterdir()
    }
    first = (scripts / "segmentation_node").read_text().splitlines()[0]
    python = workspace / "src" / "deal_ros" / ".venv" / "bin" / "python"
    assert first == f"#!{python}", "a venv's packages are found only by the Python that built"


def test_a_sourced_workspace_finds_package_and_command(workspace: Path) -> None:
    script = (
        "set -e; source install/setup.bash; "
        'python_of_workspace="$1"; '
        '"$python_of_workspace" -c "from ament_index_python.packages import get_package_share_directory as share; '
        "print(share('deal_ros'))\"; "
        "install/deal_ros/lib/deal_ros/deal --help"
    )
    pytest.importorskip("ament_index_python", reason="ROS 2 is not installed here")
    found = subprocess.run(
        ["bash", "-c", script, "bash", sys.executable],
        cwd=workspace,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert Path(lines[0]) == workspace / "install" / "deal_ros" / "share" / "deal_ros"
    assert "deal [OPTIONS] COMMAND" in found.stdout


def test_another_package_called_training_does_not_hide_the_command(workspace: Path, tmp_path: Path) -> None:
    other = write_other_training(tmp_path / "other", "package")
    prefix = workspace / "install" / "deal_ros"
    (packages,) = prefix.glob("lib/python*/site-packages")
    # `--symlink-install` leaves a link file there; where it leads is what a sourced workspace adds to PYTHONPATH.
    build = workspace / "build" / "deal_ros"
    places = [str(other), str(packages), *([str(build)] if (packages / "deal-ros.egg-link").exists() else [])]
    done = subprocess.run(
        [prefix / "lib" / "deal_ros" / "deal", "--help"],
        cwd=other,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "deal [OPTIONS] COMMAND" in done.stdout
