"""What is installed, declared and pinned; and how little the command line loads."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import os
import re
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import setuptools
from helpers.checkout import copy_sources, write_other_training
from helpers.paths import PROJECT
from packaging.requirements import Requirement

PINS = ("apt-ros.txt", "pypi-ros.txt")
JETSON_PINS = {"jetpack6.txt": "3.10", "jetpack7.txt": "3.12"}
OF_TORCH = re.compile(r"(torch|torchvision|triton|nvidia-.*|cuda-toolkit)")
JAZZY = "jazzy.txt"
HEAVY = {"cv2", "lightning_fabric", "matplotlib", "numpy", "rclpy", "rosbags", "timm", "torch", "torchvision"}
ROS_PACKAGES = {
    "ament_index_python",
    "builtin_interfaces",
    "cv_bridge",
    "diagnostic_msgs",
    "geometry_msgs",
    "launch",
    "launch_ros",
    "lifecycle_msgs",
    "message_filters",
    "rcl_interfaces",
    "rclpy",
    "sensor_msgs",
    "std_msgs",
    "std_srvs",
    "tf2_msgs",
    "vision_msgs",
    "visualization_msgs",
}


@pytest.fixture
def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    arguments: dict[str, Any] = {}
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(setuptools, "setup", lambda **given: arguments.update(given))
    runpy.run_path("setup.py")
    return arguments


def package_xml() -> ElementTree.Element:
    return ElementTree.parse(PROJECT / "package.xml").getroot()


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_every_folder_of_modules_is_a_package_that_is_installed(setup_arguments):
    folders = [
        p.parent for room in ("deal_core", "deal_ros", "training") for p in (PROJECT / room).rglob("__init__.py")
    ]
    assert sorted(setup_arguments["packages"]) == sorted(".".join(f.relative_to(PROJECT).parts) for f in folders)
    for room in ("deal_core", "deal_ros", "training"):
        modules = {file.parent for file in (PROJECT / room).rglob("*.py")}
        assert modules <= set(folders), "a folder with modules has no __init__.py"


def test_every_file_ros_looks_for_is_installed_where_it_looks(setup_arguments):
    places = dict(setup_arguments["data_files"])
    assert places["share/ament_index/resource_index/packages"] == ["resource/deal_ros"]
    assert places["share/deal_ros"] == ["package.xml"]
    for folder in ("launch", "config", "config/experiments"):
        files = [str(p.relative_to(PROJECT)) for p in (PROJECT / folder).iterdir() if p.is_file()]
        assert sorted(places[f"share/deal_ros/{folder}"]) == sorted(files)
    assert all((PROJECT / file).is_file() for files in places.values() for file in files)


def test_every_file_a_package_reads_is_installed_with_it(setup_arguments):
    data = setup_arguments["package_data"]
    for package in setup_arguments["packages"]:
        folder = PROJECT / package.replace(".", "/")
        kept = {file for pattern in data[""] + data.get(package, []) for file in folder.glob(pattern)}
        there = {file for file in folder.iterdir() if file.is_file() and file.suffix not in (".py", ".pyc")}
        assert kept == there, package


def test_package_xml_says_the_same_as_setup_py(setup_arguments):
    package = package_xml()
    assert package.attrib["format"] == "3"
    assert package.findtext("name") == setup_arguments["name"]
    assert package.findtext("version") == setup_arguments["version"]
    assert package.findtext("license") == setup_arguments["license"]
    assert package.findtext("export/build_type") == "ament_python"
    assert re.fullmatch(r"\S+@\S+", package.find("maintainer").attrib["email"])


def test_package_xml_declares_every_ros_package_that_is_imported():
    declared = {element.text for element in package_xml() if element.tag in ("depend", "exec_depend")}
    files = [*(PROJECT / "deal_ros").rglob("*.py"), *(PROJECT / "launch").glob("*.py")]
    assert set().union(*map(imported, files)) & ROS_PACKAGES <= declared


def test_executables_are_functions_of_modules_that_are_there(setup_arguments):
    scripts = dict(re.split(r"\s*=\s*", line) for line in setup_arguments["entry_points"]["console_scripts"])
    assert set(scripts) == {"deal", "segmentation_node", "recorder_node", "replay_node", "synthetic_camera_node"}
    for target in scripts.values():
        module, _, name = target.partition(":")
        tree = ast.parse((PROJECT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8"))
        (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
        required = len(function.args.args) - len(function.args.defaults)
        assert required == 0, f"{target} is called without arguments"


def test_ros2_run_finds_the_executables():
    settings = configparser.ConfigParser()
    settings.read(PROJECT / "setup.cfg")
    # With dashes they are ignored by some setuptools, and the executables land where ros2 run does not look.
    assert dict(settings["develop"]) == {"script_dir": "$base/lib/deal_ros"}
    assert dict(settings["install"]) == {"install_scripts": "$base/lib/deal_ros"}


def pins(name: str) -> list[Requirement]:
    lines = (PROJECT / "requirements" / name).read_text().splitlines()
    asked = (line.rstrip(" \\") for line in lines if line and not line.lstrip().startswith(("#", "--hash=")))
    return [Requirement(line) for line in asked]


@pytest.mark.parametrize("name", (*PINS, *JETSON_PINS, JAZZY, "label-tools.txt"))
def test_pins_name_no_place(name):
    text = (PROJECT / "requirements" / name).read_text()
    assert not re.search(r"://|--\S*(index|links|host)|(?<!\S)/|@ ", text)
    for pin in pins(name):
        assert [s.operator for s in pin.specifier] == ["=="]


def applying_to(minor: int, machine: str) -> Callable[[Requirement], bool]:
    """Return whether a requirement applies to Linux with Python 3.`minor` on a machine."""
    target = {
        "python_version": f"3.{minor}",
        "python_full_version": f"3.{minor}.1",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
    }
    return lambda requirement: requirement.marker is None or requirement.marker.evaluate(target)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("minor", range(10, 15))
@pytest.mark.parametrize("name", PINS)
def test_pins_fit_what_setup_py_asks_for(setup_arguments, name, minor, machine):
    applies = applying_to(minor, machine)
    chosen = {pin.name.lower(): pin for pin in pins(name) if applies(pin)}
    assert len(chosen) == sum(map(applies, pins(name))), "two versions of one package"
    extras = dict(setup_arguments["extras_require"])
    if name == "apt-ros.txt":
        del extras["ros"], extras["interfaces"], extras["colcon"]
    wanted = map(
        Requirement, [*setup_arguments["install_requires"], *(line for lines in extras.values() for line in lines)]
    )
    for requirement in filter(applies, wanted):
        (version,) = chosen[requirement.name.lower()].specifier
        assert requirement.specifier.contains(version.version), requirement


@pytest.mark.parametrize("name", JETSON_PINS)
def test_pins_of_a_jetson_fit_setup_py_without_torch_and_cuda(setup_arguments, name):
    target = {
        "python_version": JETSON_PINS[name],
        "python_full_version": f"{JETSON_PINS[name]}.1",
        "platform_machine": "aarch64",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
    }
    chosen = {pin.name.lower(): pin for pin in pins(name)}
    assert not [package for package in chosen if OF_TORCH.fullmatch(package)]
    extras = setup_arguments["extras_require"]
    lines = [line for extra in set(extras) - {"ros", "interfaces", "colcon", "view", "docs"} for line in extras[extra]]
    for requirement in map(Requirement, [*setup_arguments["install_requires"], *lines]):
        is_wanted = requirement.marker is None or requirement.marker.evaluate(target)
        if is_wanted and not OF_TORCH.fullmatch(requirement.name):
            (version,) = chosen[requirement.name.lower()].specifier
            assert requirement.specifier.contains(version.version), requirement
    (cuda,) = chosen["cuda-bindings"].specifier
    assert cuda.version.startswith("12." if name == "jetpack6.txt" else "13.")


def test_pins_of_jetpack_6_have_the_numpy_that_its_torch_takes():
    versions = {pin.name: str(pin.specifier) for pin in pins("jetpack6.txt")}
    assert versions["numpy"].startswith("==1.") and versions["opencv-python-headless"] < "==4.12"


def closure(names: set[str]) -> set[str]:
    """Return the packages that packages need, as far as they are installed here."""
    found: set[str] = set()
    ahead = {name.lower() for name in names}
    while ahead:
        name = ahead.pop()
        found.add(name)
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        needs = [Requirement(line) for line in lines]
        ahead |= {n.name.lower() for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})} - found
    return found


@pytest.mark.parametrize("extra", ["", "robot", "tensorrt", "ros", "realsense", "tag", "view"])
def test_what_a_robot_installs_brings_no_torch(setup_arguments, extra):
    extras = setup_arguments["extras_require"]
    lines = [*setup_arguments["install_requires"], *(extras[extra] if extra else ())]
    assert not closure({Requirement(line).name for line in lines}) & {"torch", "torchvision", "timm"}


@pytest.mark.parametrize("extra", ["torch", "train", "depth", "export"])
def test_what_needs_networks_brings_torch(setup_arguments, extra):
    names = {Requirement(line).name for line in setup_arguments["extras_require"][extra]}
    assert {"torch", "torchvision", "timm", "segmentation-models-pytorch"} <= names


def test_wheels_of_ros_are_not_installed_over_an_apt_ros():
    with_wheels, without = ({(p.name, str(p.specifier)) for p in pins(name)} for name in reversed(PINS))
    assert without < with_wheels
    assert not [name for name, *_ in without if name.startswith("ros-")]
    # What the wheels and colcon bring along would hide what apt's ROS builds messages with.
    extra = {name for name, *_ in with_wheels - without}
    assert {"empy", "lark-parser", "colcon-ros"} <= extra
    assert not {"empy", "lark-parser"} & {name for name, *_ in without}
    assert not [name for name, *_ in without if name.startswith("colcon")]


@pytest.mark.parametrize("minor", range(10, 14))
def test_wheels_of_jazzy_go_with_the_other_pins(minor):
    applies = applying_to(minor, "x86_64")
    others, jazzy = ({p.name: str(p.specifier) for p in pins(name) if applies(p)} for name in ("apt-ros.txt", JAZZY))
    shared = jazzy.keys() & others.keys()
    assert "numpy" in shared and {name: jazzy[name] for name in shared} == {name: others[name] for name in shared}


def test_wheels_of_jazzy_are_those_of_setup_py(setup_arguments):
    """Kilted's generators have a smaller package in the place of ros-ament-cmake-ros."""
    lines = (PROJECT / "requirements" / "jazzy.in").read_text().splitlines()
    asked = {Requirement(line).name for line in lines if line and not line.startswith("#")}
    extras = setup_arguments["extras_require"]
    wanted = {Requirement(line).name for line in (*extras["ros"], *extras["interfaces"])}
    assert wanted - {"ros-ament-cmake-ros-core"} <= asked
    chosen = {pin.name: str(pin.specifier) for pin in pins(JAZZY)}
    assert asked <= chosen.keys() and chosen["ros-rclpy"].startswith("==7.")


HELP = """
import contextlib, io, sys
from training.cli import app, main
names = [command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands]
for words in [[], *([name] for name in names)]:
    sys.argv = ["deal", *words, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main()
    assert "Usage" in out.getvalue(), words
print(*sys.modules)
"""


def test_help_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, cwd=PROJECT, check=False)
    assert done.returncode == 0, done.stderr
    assert not HEAVY & {name.partition(".")[0] for name in done.stdout.split()}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's packages, and the script `deal` as an installer writes it."""
    folder = tmp_path_factory.mktemp("installed")
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    source = copy_sources(folder / "source")
    done = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    zipfile.ZipFile(wheel).extractall(site)
    scripts = configparser.ConfigParser()
    scripts.read(next(site.glob("*.dist-info")) / "entry_points.txt")
    module, _, name = scripts["console_scripts"]["deal"].partition(":")
    (site / "bin").mkdir()
    script = f"#!{sys.executable}\nimport sys\nfrom {module} import {name}\nsys.exit({name}())\n"
    (site / "bin" / "deal").write_text(script)
    return site


def run_installed(
    installed: Path, *words: str | Path, folder: Path, path: tuple[Path, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, where the installed packages are found after those of `path`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, installed)))}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


WHICH = """
import sys
from deal_ros.__main__ import main
try:
    main()
finally:
    print(sys.modules["training.cli"].__file__)
"""


@pytest.mark.parametrize("kind", ["package", "module", "namespace"])
def test_something_else_called_training_does_not_hide_the_command(installed: Path, tmp_path: Path, kind: str) -> None:
    other = write_other_training(tmp_path / "other", kind)
    script = installed / "bin" / "deal"
    # Earlier on PYTHONPATH, and in the working folder, which is first for -m and -c.
    for words in ([script], ["-m", "deal_ros"]):
        done = run_installed(installed, *words, "--help", folder=other, path=(other,))
        assert done.returncode == 0, done.stderr
        assert "deal [OPTIONS] COMMAND" in done.stdout
    done = run_installed(installed, "-c", WHICH, "--help", folder=other, path=(other,))
    assert done.stdout.splitlines()[-1] == str(installed / "training" / "cli.py")


def test_the_command_works_beside_another_package_called_training(installed: Path, tmp_path: Path) -> None:
    other = write_other_training(tmp_path / "other", "package")
    small = ("--scenes", "1", "--frames-per-scene", "2", "--size", "64x48")
    script = installed / "bin" / "deal"
    done = run_installed(installed, script, "synth", "recording", *small, folder=other, path=(other,))
    assert done.returncode == 0, done.stderr
    done = run_installed(installed, script, "check", "recording", "--json", folder=other, path=(other,))
    assert done.returncode == 0, done.stderr
