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
        hidden = ("PYTHON", "ROS", "ROS_DISTRO", "PROFILE")
        kept = {name: value for name, value in os.environ.items() if name not in hidden}
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


def put_torch(site: Path, version: str, record: str = "torch/__init__.py,sha256=one,1") -> None:
    """Put a torch into a folder of packages, as an installer does."""
    (site / "torch").mkdir(parents=True, exist_ok=True)
    (site / "torch" / "__init__.py").touch()
    for old in site.glob("torch-*.dist-info"):
        shutil.rmtree(old)
    info = site / f"torch-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    (info / "RECORD").write_text(record)


@pytest.fixture
def site(copy: Copy) -> Path:
    """The folder of packages in the environment, which the first set-up makes."""
    return copy.venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def change(copy: Copy) -> None:
    """Change the pins, as an update of the project does."""
    for name in ("pypi-ros", "apt-ros", "jetpack6", "jetpack7"):
        with (copy.folder / "requirements" / f"{name}.txt").open("a") as file:
            file.write("# changed\n")


def installed(copy: Copy, call: str) -> str:
    """Return the requirements that a call of uv installs."""
    words = call.split()
    return (copy.folder / words[words.index("--requirement") + 1]).read_text()


NVIDIA = "2.5.0a0+872d972e41.nv24.08"
CUDA = ("torch==", "torchvision==", "triton==", "nvidia-", "cuda-toolkit")


@pytest.mark.parametrize("version", [NVIDIA, "2.13.0"])
def test_a_torch_that_someone_put_there_is_kept_by_every_later_set_up(copy: Copy, site: Path, version: str) -> None:
    assert copy.set_up().returncode == 0
    put_torch(site, version)
    for _ in range(2):
        copy.calls()
        change(copy)
        done = copy.set_up()
        assert done.returncode == 0, done.stderr
        assert f"keeping the torch that is there, which this script did not install: torch {version} in" in done.stderr
        packages, project = copy.calls()
        assert "--no-deps" in packages and "--no-deps" in project, "a dependency on torch would bring another one"
        text = installed(copy, packages)
        assert not [line for line in text.splitlines() if line.startswith(CUDA)]
        assert "\ntimm==" in text and "\nnumpy==" in text


def test_a_torch_of_the_set_up_is_replaced_until_someone_installs_another_build(copy: Copy, site: Path) -> None:
    uv = copy.tools / "uv"
    installs = f'[[ "$*" != *--requirement* ]] || . {copy.tools}/puts'
    uv.write_text(f"{uv.read_text().rstrip().removesuffix('exit 0')}{installs}\nexit 0\n")
    put = copy.tools / "site"
    put_torch(put, "2.13.0", "of the index")
    (copy.tools / "puts").write_text(f"mkdir -p {site} && cp -r {put}/. {site}\n")
    copy.set_up()
    copy.calls()
    change(copy)
    assert "keeping" not in copy.set_up().stderr
    assert copy.calls()[0].endswith("requirements/pypi-ros.txt")
    put_torch(site, "2.13.0", "built by someone")
    change(copy)
    assert "keeping the torch that is there" in copy.set_up().stderr


def test_a_torch_of_the_system_is_kept_where_the_environment_sees_it(copy: Copy, tmp_path: Path) -> None:
    put_torch(tmp_path / "system", NVIDIA)
    (tmp_path / "system" / "rclpy.py").touch()
    done = copy.set_up(ROS_DISTRO="humble", PYTHONPATH=str(tmp_path / "system"))
    assert f"torch {NVIDIA} in {tmp_path / 'system' / 'torch'}" in done.stderr
    packages = copy.calls()[1]
    assert "--no-deps" in packages and not [line for line in installed(copy, packages) if line.startswith(CUDA)]


def test_the_torch_of_an_environment_of_version_0_1_0_is_ours_if_it_is_the_pinned_one(copy: Copy, site: Path) -> None:
    pinned = next(
        line.split()[0].removeprefix("torch==")
        for line in (copy.folder / "requirements" / "pypi-ros.txt").read_text().splitlines()
        if line.startswith("torch==")
    )
    for version, is_kept in ((pinned, False), (NVIDIA, True)):
        copy.set_up(PROFILE="robot")  # makes it anew
        copy.set_up(PROFILE="desk")
        made_for = copy.venv / "made-for"
        made_for.write_text("".join(made_for.read_text().splitlines(keepends=True)[:3]))
        (copy.venv / "our-torch").unlink()
        put_torch(site, version)
        change(copy)
        assert ("keeping" in copy.set_up().stderr) is is_kept


def jetson(copy: Copy, release: str) -> None:
    script = copy.folder / "requirements" / "install.sh"
    tegra = copy.tools / "nv_tegra_release"
    tegra.write_text(f"# R{release} (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    assert "/etc/nv_tegra_release" in script.read_text()
    script.write_text(script.read_text().replace("/etc/nv_tegra_release", str(tegra)))


@pytest.mark.parametrize(("release", "jetpack"), [("36", "6"), ("38", "7"), ("39", "7")])
def test_a_jetson_gets_its_own_pins_and_no_torch_but_that_of_nvidia(
    copy: Copy, site: Path, release: str, jetpack: str
) -> None:
    jetson(copy, release)
    first = copy.set_up()
    assert first.returncode == 0, first.stderr
    assert "install NVIDIA's for this JetPack" in first.stderr
    _, packages, _ = copy.calls()
    assert "--no-deps" in packages
    text = installed(copy, packages)
    assert text == (copy.folder / "requirements" / f"jetpack{jetpack}.txt").read_text()
    put_torch(site, NVIDIA)
    change(copy)
    assert f"keeping the torch that is there, which this script did not install: torch {NVIDIA}" in copy.set_up().stderr


def test_another_jetson_is_refused(copy: Copy) -> None:
    jetson(copy, "35")
    refused = copy.set_up()
    assert refused.returncode == 1 and "expected a Jetson with JetPack 6 or 7" in refused.stderr


def test_a_robot_gets_no_torch_now_and_later(copy: Copy) -> None:
    done = copy.set_up(PROFILE="robot")
    assert done.returncode == 0, done.stderr
    _, packages, _ = copy.calls()
    pins = "--constraint=requirements/pypi-ros.txt"
    assert packages.endswith(f"{pins} --requirement setup.py --extra robot --extra ros setuptools")
    change(copy)
    assert copy.set_up().returncode == 0
    packages, _ = copy.calls()
    assert "--extra robot" in packages, "the profile is kept"
    assert copy.set_up().stderr == ""
    refused = copy.set_up("tests")
    assert refused.returncode == 1 and "PROFILE=desk make setup" in refused.stderr
    copy.set_up(PROFILE="desk")
    assert [call.split()[0] for call in copy.calls()] == ["venv", "pip", "pip"]


def test_a_robot_with_a_jetson_gets_the_memory_of_tensorrt(copy: Copy) -> None:
    jetson(copy, "36")
    copy.set_up(PROFILE="robot")
    packages = copy.calls()[1]
    assert "--constraint=requirements/jetpack6.txt" in packages and "--extra tensorrt" in packages


def test_an_unknown_profile_is_refused(copy: Copy) -> None:
    refused = copy.set_up(PROFILE="laptop")
    assert refused.returncode == 1 and "expected PROFILE=robot or PROFILE=desk, found 'laptop'" in refused.stderr
    assert copy.calls() == []


def test_a_torch_for_numpy_1_is_told(copy: Copy, site: Path) -> None:
    copy.set_up()
    put_torch(site, NVIDIA)
    fails = """
class zeros:
    __init__ = lambda *_: None
    def numpy(self):
        raise RuntimeError("Numpy is not available")
"""
    (site / "torch" / "__init__.py").write_text(fails)
    change(copy)
    done = copy.set_up()
    assert done.returncode == 0 and "built for numpy 1; for it: " in done.stderr and "'numpy<2'" in done.stderr


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
