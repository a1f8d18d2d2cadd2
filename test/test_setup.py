"""requirements/install.sh with a stand-in for uv: what it decides to do, and when it decides to do nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.paths import PROJECT

NEEDED = ("requirements", "config", "launch", "setup.py", "setup.cfg", "pyproject.toml", "package.xml")
# Writes down how it was called, and makes environments as far as the script looks at them.
UV = """#!/bin/bash
[[ $1 == --version ]] && exit 0
echo "$*" >>"$UV_CALLS"
[[ -n ${UV_FAILS_AT:-} && "$*" == *"$UV_FAILS_AT"* ]] && exit 1
if [[ $1 == venv ]]; then
    folder=${!#} sees_system=false
    [[ "$*" != *--system-site-packages* ]] || sees_system=true
    mkdir -p "$folder/bin" && ln -s "$4" "$folder/bin/python"
    echo "include-system-site-packages = $sees_system" >"$folder/pyvenv.cfg"
fi
exit 0
"""


@dataclass
class Copy:
    """A copy of what the script reads, and a PATH whose only uv is the stand-in."""

    folder: Path
    tools: Path

    def set_up(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "ROS", "ROS_DISTRO")}
        return subprocess.run(
            [self.folder / "requirements" / "install.sh", *words],
            capture_output=True,
            text=True,
            check=False,
            env={
                **kept,
                "PATH": f"{self.tools}:/usr/bin:/bin",
                "UV_CALLS": str(self.tools / "calls"),
                "PYTHON": sys.executable,
                **environment,
            },
        )

    def calls(self) -> list[str]:
        """Return how uv was called since the last time this was asked."""
        file = self.tools / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    @property
    def venv(self) -> Path:
        return self.folder / ".venv"


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    folder, tools = tmp_path / "project", tmp_path / "tools"
    folder.mkdir()
    for name in NEEDED:
        source = PROJECT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    script = folder / "requirements" / "install.sh"
    assert "/opt/ros/" in script.read_text()
    script.write_text(script.read_text().replace("/opt/ros/", f"{tmp_path}/opt/ros/"))
    tools.mkdir()
    (tools / "uv").write_text(UV)
    (tools / "uv").chmod(0o755)
    return Copy(folder, tools)


def test_the_first_run_installs_and_the_second_does_nothing(copy):
    first = copy.set_up()
    assert first.returncode == 0, first.stderr
    environment, packages, project = copy.calls()
    assert environment == f"venv --quiet --python {sys.executable} .venv"
    assert packages == "pip install --python .venv/bin/python --requirement=requirements/pypi-ros.txt"
    assert project.endswith("--editable .")
    assert (copy.venv / "COLCON_IGNORE").exists(), "colcon would look for packages in it"
    assert all(line.startswith("setup: ") for line in first.stderr.splitlines())

    second = copy.set_up()
    assert (second.returncode, second.stdout, second.stderr, copy.calls()) == (0, "", "", [])


@pytest.mark.parametrize("name", ["requirements/pypi-ros.txt", "setup.py", "config/fastdds_shm.xml"])
def test_what_changes_is_installed_into_the_same_environment(copy, name):
    copy.set_up()
    copy.calls()
    with (copy.folder / name).open("a") as file:
        file.write("\n")
    assert copy.set_up().returncode == 0
    assert [call.split()[0] for call in copy.calls()] == ["pip", "pip"]
    copy.set_up()
    assert copy.calls() == []


def test_an_environment_with_an_interrupted_installation_is_made_anew(copy):
    failed = copy.set_up(UV_FAILS_AT="--requirement=")
    assert failed.returncode != 0
    assert not (copy.venv / "setup-done").exists()
    (copy.venv / "half-written").touch()
    copy.calls()

    again = copy.set_up()
    assert again.returncode == 0
    assert "interrupted" in again.stderr
    assert not (copy.venv / "half-written").exists()
    assert [call.split()[0] for call in copy.calls()] == ["venv", "pip", "pip"]


def test_a_moved_folder_gets_an_environment_of_its_own(copy):
    copy.set_up()
    copy.calls()
    copy.folder = copy.folder.rename(copy.folder.with_name("moved"))
    assert copy.set_up().returncode == 0
    assert [call.split()[0] for call in copy.calls()] == ["venv", "pip", "pip"]


def test_an_environment_made_by_hand_is_taken_if_it_is_of_the_same_python(copy):
    (copy.venv / "bin").mkdir(parents=True)
    (copy.venv / "bin" / "python").symlink_to(sys.executable)
    (copy.venv / "pyvenv.cfg").write_text("include-system-site-packages = false\n")
    (copy.venv / "mine").touch()
    assert copy.set_up().returncode == 0
    assert [call.split()[0] for call in copy.calls()] == ["pip", "pip"]
    assert (copy.venv / "mine").exists()


def test_an_environment_made_by_hand_for_something_else_is_neither_used_nor_removed(copy):
    (copy.venv / "bin").mkdir(parents=True)
    (copy.venv / "bin" / "python").symlink_to("/bin/false")
    (copy.venv / "pyvenv.cfg").write_text("include-system-site-packages = false\n")
    refused = copy.set_up()
    assert refused.returncode == 1
    assert "move it away" in refused.stderr
    assert copy.calls() == []
    assert (copy.venv / "pyvenv.cfg").exists()


def test_a_sourced_ros_is_used_and_its_wheels_stay_out(copy, tmp_path):
    (tmp_path / "ros").mkdir()
    (tmp_path / "ros" / "rclpy.py").touch()
    ros = {"ROS_DISTRO": "jazzy", "PYTHONPATH": str(tmp_path / "ros")}
    copy.set_up()
    copy.calls()
    assert copy.set_up(**ros).returncode == 0
    environment, packages, _ = copy.calls()
    assert "--system-site-packages" in environment, "an environment without ROS is not turned into one with"
    assert packages.endswith("requirements/apt-ros.txt")
    copy.set_up(**ros)
    assert copy.calls() == []


def test_the_wheels_of_jazzy_have_an_environment_of_their_own(copy):
    copy.set_up()
    copy.calls()
    done = copy.set_up(ROS="jazzy")
    assert done.returncode == 0, done.stderr
    environment, packages, _ = copy.calls()
    assert environment.endswith(" .venv-jazzy")
    pins = "--requirement=requirements/apt-ros.txt --requirement=requirements/jazzy.txt"
    assert packages == f"pip install --python .venv-jazzy/bin/python {pins}"
    assert (copy.folder / ".venv-jazzy" / "COLCON_IGNORE").exists()
    copy.set_up()
    copy.set_up(ROS="jazzy")
    assert copy.calls() == [], "neither disturbs the other"


@pytest.mark.parametrize(
    ("ros", "distribution", "said"),
    [("foxy", "", "expected kilted or jazzy"), ("jazzy", "humble", "ROS humble is sourced")],
)
def test_wheels_that_cannot_be_had_are_refused(copy, ros, distribution, said):
    refused = copy.set_up(ROS=ros, ROS_DISTRO=distribution)
    assert refused.returncode == 1
    assert f"error: ROS={ros}" in refused.stderr and said in refused.stderr
    assert copy.calls() == [] and not list(copy.folder.glob(".venv*"))


def test_a_sourced_ros_that_this_python_cannot_import_is_refused(copy):
    blocked = copy.tools / "rclpy.py"
    blocked.write_text("raise ImportError")
    refused = copy.set_up(ROS_DISTRO="jazzy", PYTHONPATH=str(copy.tools))
    assert refused.returncode == 1
    assert "ros-jazzy-rclpy" in refused.stderr
    assert copy.calls() == []


def test_a_ros_that_is_installed_and_not_sourced_is_not_mixed_with_its_wheels(copy, tmp_path):
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    ros = tmp_path / "opt" / "ros"
    (ros / "foxy" / "lib" / "python3.8" / "site-packages" / "rclpy").mkdir(parents=True)
    assert copy.set_up().returncode == 0, "a ROS of another Python does not mix"
    copy.calls()

    (ros / "humble" / "local" / "lib" / version / "dist-packages" / "rclpy").mkdir(parents=True)
    shutil.rmtree(copy.venv)
    refused = copy.set_up()
    assert refused.returncode == 1
    assert f"source {ros}/humble/setup.bash" in refused.stderr
    assert copy.calls() == []


def test_an_old_python_is_refused_by_name(copy):
    old = copy.tools / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    refused = copy.set_up(PYTHON=str(old))
    assert refused.returncode == 1
    assert "3.10" in refused.stderr
    assert str(old) in refused.stderr
    assert copy.calls() == []


def test_two_at_once_install_once(copy):
    script = copy.folder / "requirements" / "install.sh"
    environment = {
        **os.environ,
        "PATH": f"{copy.tools}:/usr/bin:/bin",
        "UV_CALLS": str(copy.tools / "calls"),
        "PYTHON": sys.executable,
        "ROS": "kilted",
        "ROS_DISTRO": "",
    }
    both = [subprocess.Popen([script], env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    assert [(process.communicate()[1], process.returncode)[1] for process in both] == [0, 0]
    assert [call.split()[0] for call in copy.calls()] == ["venv", "pip", "pip"]


@pytest.mark.parametrize("works", [True, False])
def test_the_browser_of_the_tests_is_tried_once_and_never_fails(copy, works):
    script = copy.folder / "requirements" / "install.sh"
    assert "command -v chromedriver" in script.read_text()
    installed = copy.tools / "chromedriver"
    script.write_text(script.read_text().replace("command -v chromedriver", f"[[ -e {installed} ]]"))
    effect = f"touch {installed}" if works else "exit 1"
    stand_ins = {"apt-get": f'echo "$*" >>"$UV_CALLS"; {effect}', "sudo": 'shift; "$@"'}
    for name, does in stand_ins.items():
        (copy.tools / name).write_text(f"#!/bin/bash\n{does}\n")
        (copy.tools / name).chmod(0o755)
    copy.set_up()
    assert not [call for call in copy.calls() if "chromium" in call], "only tests need it"

    first = copy.set_up("tests")
    assert first.returncode == 0
    assert any("--yes" in call and call.endswith("chromium-driver") for call in copy.calls())
    assert ("are skipped" in first.stderr) is not works
    second = copy.set_up("tests")
    assert (second.returncode, second.stderr, copy.calls()) == (0, "", [])
