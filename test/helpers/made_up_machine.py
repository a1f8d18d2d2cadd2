"""Machines that stand-in modules make up, on which `deal doctor` is run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.paths import PROJECT

GOOD_TORCH = """
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 2)
    get_device_name = staticmethod("GPU {}".format)
class version:
    cuda = "13.0"
__version__ = "2.13.0"
class zeros:
    def __init__(self, *shape):
        pass
    def numpy(self):
        return [0.0]
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
        findings = {f["name"]: f for f in value["findings"]}
        return Report(done.returncode, value["lacks"], findings, value["profile"], value["profiles_lack"])


@dataclass
class Report:
    """What the command said in JSON."""

    code: int
    lacks: dict[str, list[str]]
    findings: dict[str, dict[str, Any]]
    profile: str
    profiles_lack: dict[str, list[str]]

    def state(self, name: str) -> str:
        return str(self.findings[name]["state"])


def sound_machine(folder: Path) -> MadeUpMachine:
    """A machine where everything works; a test then breaks something."""
    made_up = MadeUpMachine(folder)
    made_up.module("torch", GOOD_TORCH)
    made_up.module("torchvision")
    made_up.module("rclpy", GOOD_ROS)
    made_up.module("ament_index_python.packages", "class PackageNotFoundError(KeyError): pass\n")
    made_up.module("pyrealsense2", GOOD_CAMERA)
    for name in INTERFACES:
        made_up.module(name)
    with (folder / "ament_index_python" / "packages" / "__init__.py").open("a") as file:
        file.write("def get_package_share_directory(name):\n    raise PackageNotFoundError(name)\n")
    made_up.environment["ROS_DISTRO"] = "jazzy"
    return made_up
