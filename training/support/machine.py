"""What this machine has, and which of the project's jobs it can do.

Libraries that may not fit this machine are imported in separate processes: some print long messages or crash the
interpreter.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from deal_core.isolated_python import Trial, is_installed, try_python

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from deal_ros.input.optional_libraries import OptionalLibrary

PROJECT = "deal_ros"
_OLDEST_PYTHON = (3, 10)
_LOW_DISK_GB = 10


Job = Literal["record", "tag", "depth", "train", "export", "run", "demo", "view"]
"""What the project is used for."""
JOBS: tuple[Job, ...] = get_args(Job)
Profile = Literal["robot", "desk"]
"""What a machine is for. robot: records, and runs exported models, without PyTorch. desk: every job."""
PROFILES: dict[Profile, tuple[Job, ...]] = {"robot": ("record", "run"), "desk": JOBS}
State = Literal["ok", "note", "warning", "missing"]
"""Result of looking for one thing. note: missing, but not needed. warning: works, but slowly or unreliably."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Args:
        name: name of the library or part of the machine.
        state: the result.
        found: version and place, or what is wrong.
        fix: the command or step that corrects it; empty if there is nothing to correct.
        jobs: the jobs that need it.
    """

    name: str
    state: State
    found: str
    fix: str = ""
    jobs: tuple[Job, ...] = ()


@dataclass(frozen=True)
class Machine:
    """All findings about a machine, and its profile: a robot if PyTorch is not installed."""

    findings: tuple[Finding, ...]
    profile: Profile = "desk"

    def lacks(self, *jobs: Job) -> list[str]:
        """Return the names of everything that one of the jobs needs and this machine lacks."""
        return [f.name for f in self.findings if f.state == "missing" and set(jobs) & set(f.jobs)]


def examine(environment: Mapping[str, str] = os.environ, folder: Path = Path()) -> Machine:
    """Look at Python, libraries, ROS, camera and disk.

    Args:
        environment: environment variables, which ROS and Fast DDS read.
        folder: folder for recordings and runs; its disk is looked at.
    """
    from deal_ros.input import optional_libraries

    with ThreadPoolExecutor() as pool:
        optional = [pool.submit(look) for look in (optional_libraries.message_filters, optional_libraries.cv_bridge)]
        torch, ros, camera = pool.map(try_python, (_TORCH, _ROS, _CAMERA))
    return Machine(
        (
            _python(),
            *_libraries(),
            _torch(torch),
            *_back_ends(),
            _ros(ros, environment),
            *_transport(ros, environment),
            *_optional_ros(ros, [library.result() for library in optional]),
            _camera(camera, has_ros=not ros.error),
            _disk(folder),
        ),
        "desk" if is_installed("torch") else "robot",
    )


# --- Python and its libraries

_TORCH_JOBS: tuple[Job, ...] = ("depth", "train", "export", "demo")
_JOBS_OF_EXTRA: dict[str, tuple[Job, ...]] = {  # of the other extras, `examine` looks for what they are for
    "": JOBS,
    "torch": _TORCH_JOBS,
    "tag": ("tag",),
    "depth": ("depth",),
    "train": ("train", "demo"),
    "export": ("export",),
    "view": ("view",),
}
_SAME_MODULE = {"opencv-python-headless": "cv2"}  # other packages provide it as well: opencv-python, apt, JetPack


def _python() -> Finding:
    found = f"{platform.python_version()} in {sys.prefix}"
    if sys.version_info >= _OLDEST_PYTHON:
        return Finding("python", "ok", found)
    return Finding("python", "missing", found, "PYTHON=/path/to/python3.10 make setup", JOBS)


def _libraries() -> list[Finding]:
    """Compare the requirements of setup.py with the installed packages."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in importlib.metadata.requires(PROJECT) or []]
    except importlib.metadata.PackageNotFoundError:
        return [Finding(PROJECT, "missing", f"not installed for {sys.executable}", _install("."), JOBS)]
    extras = [(_extra(requirement), requirement) for requirement in requirements]
    of_torch = {requirement.name for extra, requirement in extras if extra == "torch"}  # in several extras
    return [
        _library(requirement, extra, _JOBS_OF_EXTRA[extra])
        for extra, requirement in extras
        if extra in _JOBS_OF_EXTRA and (extra == "torch" or requirement.name not in of_torch)
    ]


def _extra(requirement: Requirement) -> str:
    match = re.search(r'extra == "(.+?)"', str(requirement.marker or ""))
    return match[1] if match else ""


def _library(requirement: Requirement, extra: str, jobs: tuple[Job, ...]) -> Finding:
    name = requirement.name
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
        here = f"{sys.platform} {platform.machine()}"
        return Finding(name, "missing", f"no wheel for {here}", "build it, or use another machine", jobs)
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if name in _SAME_MODULE and is_installed(_SAME_MODULE[name]):
            return Finding(name, "ok", f"{_SAME_MODULE[name]} from another package")
        return Finding(name, "missing", "not installed", _install(name, for_desk="run" not in jobs), jobs)
    if requirement.specifier.contains(version, prereleases=True):
        return Finding(name, "ok", version)
    found = f"{version}, expected {requirement.specifier}"
    return Finding(name, "missing", found, _install(str(requirement)), jobs)


def _install(what: str, *, for_desk: bool = False) -> str:
    """Return the command that installs it: `make setup` in the environment of a checkout, pip elsewhere."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "Makefile").is_file() and Path(sys.prefix).is_relative_to(checkout):
        return "PROFILE=desk make setup" if for_desk and _is_set_up_for_robot() else "make setup"
    return f"{sys.executable} -m pip install '{what.partition(';')[0].strip()}'"


def _is_set_up_for_robot() -> bool:
    made_for = Path(sys.prefix) / "made-for"  # by requirements/install.sh
    return made_for.is_file() and made_for.read_text(encoding="utf-8").split()[-1:] == ["robot"]


# --- PyTorch

_TORCH = """
import json, torch
try:
    import torchvision
except (ImportError, OSError, RuntimeError) as error:
    raise SystemExit(f"torchvision does not import beside torch {torch.__version__}: {error}")
try:
    torch.zeros(1).numpy()
    numpy_error = ""
except Exception as error:  # "Numpy is not available"
    numpy_error = str(error)
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
gpus = [torch.cuda.get_device_name(i) for i in range(count)]
print(json.dumps({"cuda": torch.version.cuda, "gpus": gpus, "numpy_error": numpy_error}))
"""
_GPU_FILES = ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0/power")  # PC and Jetson


def _torch(trial: Trial) -> Finding:
    if trial.error:
        jobs = JOBS if is_installed("torch") else _TORCH_JOBS
        return Finding("device", "missing", trial.error, _install(f"{PROJECT}[torch]", for_desk=True), jobs)
    facts = json.loads(trial.output)
    if "Numpy is not available" in facts["numpy_error"]:
        found = f"this torch was built for numpy 1, and numpy {_version('numpy')} is installed"
        return Finding("device", "missing", found, f"{sys.executable} -m pip install 'numpy<2'", _TORCH_JOBS)
    if facts["gpus"]:
        return Finding("device", "ok", f"{', '.join(facts['gpus'])}, CUDA {facts['cuda']}")
    if not any(Path(file).exists() for file in _GPU_FILES):
        return Finding("device", "ok", "CPU; this machine has no NVIDIA GPU")
    if facts["cuda"] is None:
        fix = "install a torch built with CUDA"
        return Finding("device", "warning", "CPU: this torch is built without CUDA", fix)
    fix = f"update the GPU driver to one with CUDA {facts['cuda']}, or install a torch for the driver's CUDA version"
    return Finding("device", "warning", f"CPU: this torch needs a driver with CUDA {facts['cuda']}", fix)


def _back_ends() -> list[Finding]:
    """Return what can run a model; a robot needs one of them."""
    files = {"torch": ".safetensors", "onnxruntime": ".onnx", "tensorrt": ".onnx on a GPU"}
    found = [name for name in files if is_installed(name)]
    said = ", ".join(f"{name} ({files[name]})" for name in found)
    if not found:
        nothing = "neither onnxruntime, tensorrt nor torch is installed"
        return [Finding("back ends", "missing", nothing, _install(f"{PROJECT}[robot]"), ("run",))]
    if "tensorrt" in found and not is_installed("cuda.bindings"):
        fix = _install(f"{PROJECT}[tensorrt]")
        return [Finding("back ends", "warning", f"{said}; tensorrt lacks cuda-bindings", fix)]
    return [Finding("back ends", "ok", said)]


# --- ROS

_ROS = """
import json, rclpy, sensor_msgs.msg, std_msgs.msg, std_srvs.srv, diagnostic_msgs.msg, lifecycle_msgs.msg
print(json.dumps({"rclpy": rclpy.__file__, "rmw": rclpy.get_rmw_implementation_identifier()}))
"""
_ROS_JOBS: tuple[Job, ...] = ("run", "demo")


def _ros(trial: Trial, environment: Mapping[str, str]) -> Finding:
    from deal_ros.node.distributions import DISTRIBUTIONS, distribution_in_use

    distribution = environment.get("ROS_DISTRO", "")
    if trial.error:
        return Finding("rclpy", "missing", trial.error, _ros_fix(distribution), _ROS_JOBS)
    place = Path(json.loads(trial.output)["rclpy"]).parent
    if not _has_package("ros-rclpy"):
        found = f"ROS {distribution} in {place}"
        names = [known.name for known in DISTRIBUTIONS]
        if distribution in names:
            return Finding("rclpy", "ok", found)
        return Finding("rclpy", "note", f"{found}; the nodes are written for {', '.join(names)}")
    if not distribution and place.is_relative_to(sys.prefix):
        wheel = f"wheel {importlib.metadata.version('ros-rclpy')} from PyPI"
        return Finding("rclpy", "ok", f"{wheel} ({distribution_in_use(environment) or 'of an unknown distribution'})")
    found = f"ROS wheels from PyPI and the sourced ROS {distribution} are mixed (rclpy is {place})"
    return Finding("rclpy", "warning", found, "in this shell: rm -rf .venv && make setup")


def _ros_fix(distribution: str) -> str:
    if distribution:
        return f"sudo apt-get install ros-{distribution}-ros-base && make setup"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for installed in sorted(Path("/opt/ros").glob("*/setup.bash")):
        if any(installed.parent.glob(f"**/{version}/*-packages/rclpy/__init__.py")):
            return f"source {installed} && make setup"
    if (sys.platform, platform.machine()) == ("linux", "x86_64"):
        return _install(f"{PROJECT}[ros]")
    ros = next((f"ros-{name}-ros-base" for name in _distributions_of_this_ubuntu()), "ROS 2")
    return f"install {ros} with apt (its PyPI wheels are for Linux on x86-64 only), source it, and run make setup"


def _distributions_of_this_ubuntu() -> list[str]:
    from deal_ros.node.distributions import DISTRIBUTIONS

    try:
        system = platform.freedesktop_os_release()
    except OSError:
        return []
    release = system.get("VERSION_ID", "") if system.get("ID") == "ubuntu" else ""
    return [distribution.name for distribution in DISTRIBUTIONS if distribution.ubuntu == release]


def _transport(ros: Trial, environment: Mapping[str, str]) -> list[Finding]:
    """Return the middleware, and whether its shared memory is large enough for images."""
    if ros.error:
        return []
    rmw = json.loads(ros.output)["rmw"]
    finding = Finding("middleware", "ok", rmw)
    return [finding, _profile(environment)] if rmw.startswith("rmw_fastrtps") else [finding]


def _profile(environment: Mapping[str, str]) -> Finding:
    from deal_ros.node.transport import profile_variable, shared_memory_environment

    name, variable = "Fast DDS profile", profile_variable(environment)
    file = environment.get(variable)
    if file and Path(file).is_file():
        return Finding(name, "ok", f"{variable}={file}")
    if file:
        found = f"{variable}={file}: the file does not exist, so images may be lost"
        return Finding(name, "warning", found, f"unset {variable}, or set it to a file that exists")
    found = "not set in this shell; the launch files and `deal demo` set it for the nodes they start"
    exports = [f"export {k}={v}" for k, v in shared_memory_environment(environment).items()]
    return Finding(name, "note", found, f"before starting a camera by hand: {' '.join(exports)}" if exports else "")


def _optional_ros(ros: Trial, libraries: list[OptionalLibrary]) -> list[Finding]:
    """Return the packages that an apt ROS has and the wheels lack."""
    if ros.error:
        return []
    labels = "not installed; label names are published as JSON"
    has_labels = is_installed("vision_msgs")
    return [
        *(Finding(found.name, "ok" if found.is_usable else "note", str(found)) for found in libraries),
        Finding("vision_msgs", "ok", "installed") if has_labels else Finding("vision_msgs", "note", labels),
    ]


def _version(package: str) -> str:
    """Return the version of an installed package; "?" if it has none."""
    return next((found.version for found in importlib.metadata.distributions(name=package)), "?")


def _has_package(name: str) -> bool:
    return any(importlib.metadata.distributions(name=name))


# --- camera and disk

_CAMERA = """
import json, pyrealsense2 as rs
print(json.dumps([device.get_info(rs.camera_info.name) for device in rs.context().devices]))
"""


def _camera(trial: Trial, *, has_ros: bool) -> Finding:
    name = "pyrealsense2"
    if not trial.error:
        cameras = json.loads(trial.output)
        return Finding(name, "ok", ", ".join(cameras) if cameras else "installed; no RealSense is connected")
    no_libusb = "libusb" in trial.error
    fix = "sudo apt-get install libusb-1.0-0" if no_libusb else _install(f"{PROJECT}[realsense]")
    if has_ros:  # the topics of a camera can be recorded
        return Finding(name, "note", f"{trial.error}; recording from ROS topics works without it", fix)
    return Finding(name, "missing", trial.error, fix, ("record",))


def _disk(folder: Path) -> Finding:
    free_gb = shutil.disk_usage(folder).free / 1e9
    found = f"{free_gb:.0f} GB free in {folder.resolve()}"
    if free_gb >= _LOW_DISK_GB:
        return Finding("disk", "ok", found)
    fix = "free some space, or use another disk"
    return Finding("disk", "warning", f"{found}; one minute of raw images takes 3 GB", fix)
