"""`deal doctor` on machines that stand-in modules make up, and on this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import PROJECT

GOOD_TORCH = """
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 2)
    get_device_name = staticmethod("GPU {}".format)
class version:
    cuda = "13.0"
__version__ = "2.13.0"
"""
GOOD_ROS = 'def get_rmw_implementation_identifier():\n    return "rmw_fastrtps_cpp"\n'
GOOD_CAMERA = """
class camera_info:
    name = 0
class _Camera:
    def get_info(self, which):
        return "Intel RealSense D435I"
class context:
    devices = [_Camera()]
"""
GOOD_BRIDGE = """
import numpy
class CvBridge:
    def imgmsg_to_cv2(self, message, encoding):
        return numpy.full((message.height, message.width, 3), 9)
"""
GOOD_FILTERS = """
class SimpleFilter: pass
class TimeSynchronizer:
    def __init__(self, filters, queue_size, slop=0.0):
        self.queues = [{} for _ in filters]
class ApproximateTimeSynchronizer(TimeSynchronizer): pass
"""
INTERFACES = ("sensor_msgs.msg", "std_msgs.msg", "std_srvs.srv", "diagnostic_msgs.msg", "lifecycle_msgs.msg")
MISSING = "raise ModuleNotFoundError(f'No module named {__name__!r}')"


@dataclass
class MadeUpMachine:
    """Modules and package descriptions that hide those installed here."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def module(self, name: str, content: str = "") -> None:
        folder = self.folder
        for part in name.split("."):
            folder = folder / part
            folder.mkdir(exist_ok=True)
            (folder / "__init__.py").touch()
        (folder / "__init__.py").write_text(content)

    def package(self, name: str, version: str) -> None:
        folder = self.folder / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    def doctor(self, *options: str) -> subprocess.CompletedProcess[str]:
        hidden = ("ROS_DISTRO", "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
        kept = {name: value for name, value in os.environ.items() if name not in hidden}
        return subprocess.run(
            [sys.executable, "-m", "training.cli", "doctor", *options],
            capture_output=True,
            text=True,
            check=False,
            cwd=PROJECT,
            env={**kept, "PYTHONPATH": str(self.folder), "COLUMNS": "80", **self.environment},
        )

    def report(self) -> Report:
        done = self.doctor("--json")
        assert done.stderr == ""
        value = json.loads(done.stdout)
        return Report(done.returncode, value["lacks"], {f["name"]: f for f in value["findings"]})


@dataclass
class Report:
    """What the command said in JSON."""

    code: int
    lacks: dict[str, list[str]]
    findings: dict[str, dict[str, Any]]

    def state(self, name: str) -> str:
        return str(self.findings[name]["state"])


@pytest.fixture
def machine(tmp_path: Path) -> MadeUpMachine:
    """A machine where everything works; a test then breaks something."""
    made_up = MadeUpMachine(tmp_path)
    made_up.module("torch", GOOD_TORCH)
    made_up.module("torchvision")
    made_up.module("rclpy", GOOD_ROS)
    made_up.module("ament_index_python.packages", "class PackageNotFoundError(KeyError): pass\n")
    made_up.module("pyrealsense2", GOOD_CAMERA)
    for name in INTERFACES:
        made_up.module(name)
    with (tmp_path / "ament_index_python" / "packages" / "__init__.py").open("a") as file:
        file.write("def get_package_share_directory(name):\n    raise PackageNotFoundError(name)\n")
    made_up.environment["ROS_DISTRO"] = "jazzy"
    return made_up


@pytest.mark.slow
def test_on_this_machine_the_exit_code_is_what_the_demo_lacks(tmp_path):
    report = MadeUpMachine(tmp_path).report()
    assert report.code == bool(report.lacks["demo"])
    for job, names in report.lacks.items():
        missing = {n for n, f in report.findings.items() if f["state"] == "missing" and job in f["jobs"]}
        assert missing == set(names)
    assert all(f["fix"] for f in report.findings.values() if f["state"] in ("missing", "warning"))


def test_gpus_ros_and_camera_are_named(machine):
    report = machine.report()
    assert report.findings["device"]["found"] == "GPU 0, GPU 1, CUDA 13.0"
    assert report.findings["pyrealsense2"]["found"] == "Intel RealSense D435I"
    assert report.findings["middleware"]["found"] == "rmw_fastrtps_cpp"


def test_torchvision_of_another_build_stops_every_job(machine):
    machine.module("torchvision", "raise RuntimeError('operator torchvision::nms does not exist')")
    report = machine.report()
    assert report.code == 1
    assert "torchvision::nms" in report.findings["device"]["found"]
    assert "torch 2.13.0" in report.findings["device"]["found"]
    assert all("device" in names for names in report.lacks.values())


def test_a_library_that_is_too_old_is_named_with_what_is_expected(machine):
    machine.package("pydantic", "1.10.14")
    report = machine.report()
    assert report.code == 1
    assert report.findings["pydantic"]["found"] == "1.10.14, expected >=2.6"


def test_a_training_library_that_is_too_old_does_not_stop_the_robot(machine):
    machine.package("lightning_fabric", "1.0")
    lacks = machine.report().lacks
    assert lacks["train"] == lacks["demo"] == ["lightning-fabric"]
    assert "lightning-fabric" not in lacks["run"] + lacks["record"]


def test_without_the_viewer_only_viewing_is_impossible(machine):
    machine.package("rerun_sdk", "0.0.1")
    lacks = machine.report().lacks
    assert lacks["view"] == ["rerun-sdk"]
    assert not any("rerun-sdk" in names for job, names in lacks.items() if job != "view")


def test_what_one_job_alone_needs_stops_that_job_alone(machine):
    needs = {"tag": ["fastapi", "uvicorn"], "depth": ["transformers"], "export": ["onnx", "onnxruntime", "onnxscript"]}
    for package in (package for packages in needs.values() for package in packages):
        machine.package(package, "0.0.1")
    lacks = machine.report().lacks
    for job, packages in needs.items():
        assert lacks[job] == packages
        assert not any(set(packages) & set(names) for other, names in lacks.items() if other != job)


def test_without_ros_one_can_train_and_record_but_not_run(machine):
    machine.module("rclpy", MISSING)
    del machine.environment["ROS_DISTRO"]
    report = machine.report()
    assert report.code == 1
    assert "rclpy" in report.lacks["run"]
    assert "rclpy" in report.lacks["demo"]
    assert "rclpy" not in report.lacks["train"] + report.lacks["record"]
    assert report.findings["rclpy"]["fix"]
    assert "middleware" not in report.findings


def test_a_sourced_ros_without_rclpy_names_the_package_to_install(machine):
    machine.module("rclpy", MISSING)
    assert "ros-jazzy-ros-base" in machine.report().findings["rclpy"]["fix"]


def test_wheels_beside_an_apt_ros_are_warned_of(machine):
    machine.package("ros_rclpy", "9.1.2")
    finding = machine.report().findings["rclpy"]
    assert finding["state"] == "warning"
    assert "jazzy" in finding["found"]
    assert "rm -rf .venv && make setup" in finding["fix"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("print('A module that was compiled using NumPy 1.x'); raise ImportError('multiarray failed')", "multiarray"),
        ("import os; os.abort()", "signal 6"),
    ],
)
def test_a_cv_bridge_that_does_not_load_is_only_noted(machine, content, reason):
    machine.module("cv_bridge", content)
    report = machine.report()
    assert report.state("cv_bridge") == "note"
    assert reason in report.findings["cv_bridge"]["found"]
    assert "rare encodings by rosbags-image" in report.findings["cv_bridge"]["found"]
    assert not any("cv_bridge" in names for names in report.lacks.values())


def test_optional_libraries_that_load_are_said_to_be_in_use(machine):
    machine.module("cv_bridge", GOOD_BRIDGE)
    machine.module("message_filters", GOOD_FILTERS)
    report = machine.report()
    assert report.state("cv_bridge") == report.state("message_filters") == "ok"
    assert report.findings["cv_bridge"]["found"] == "rare encodings by cv_bridge"
    assert report.findings["message_filters"]["found"] == "pairing by message_filters"


def test_without_libusb_recording_needs_ros(machine):
    machine.module("pyrealsense2", "raise ImportError('libusb-1.0.so.0: cannot open shared object file')")
    with_ros = machine.report()
    assert with_ros.state("pyrealsense2") == "note"
    assert with_ros.findings["pyrealsense2"]["fix"] == "sudo apt-get install libusb-1.0-0"
    assert "pyrealsense2" not in with_ros.lacks["record"]
    machine.module("rclpy", MISSING)
    assert "pyrealsense2" in machine.report().lacks["record"]


def test_a_profile_that_is_not_there_is_warned_of(machine, tmp_path):
    machine.environment["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(tmp_path / "gone.xml")
    report = machine.report()
    assert report.state("Fast DDS profile") == "warning"
    assert "gone.xml" in report.findings["Fast DDS profile"]["found"]
    (tmp_path / "gone.xml").touch()
    assert machine.report().state("Fast DDS profile") == "ok"


def test_without_a_profile_the_command_to_set_it_is_given(machine):
    machine.environment["ROS_DISTRO"] = "kilted"
    finding = machine.report().findings["Fast DDS profile"]
    assert finding["state"] == "note"
    name, _, file = finding["fix"].rpartition("export ")[2].partition("=")
    assert name == "FASTDDS_DEFAULT_PROFILES_FILE"
    assert Path(file).name == "fastdds_shm.xml"
    assert Path(file).is_file()


def test_the_text_has_every_finding_and_whole_commands(machine):
    machine.module("rclpy", MISSING)
    report, text = machine.report(), machine.doctor().stdout
    for name, finding in report.findings.items():
        assert any(line.split()[:1] == [finding["state"]] and name in line for line in text.splitlines())
        assert finding["fix"] in text
    last = [line.split()[:2] for line in text.splitlines()[-len(report.lacks) :]]
    assert last == [[job, "lacks" if names else "ready"] for job, names in report.lacks.items()]
