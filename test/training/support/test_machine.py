"""What `deal doctor` finds on machines that stand-in modules make up, and on this one."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.made_up_machine import GOOD_BRIDGE, GOOD_FILTERS, GOOD_TORCH, MISSING, MadeUpMachine, sound_machine

from deal_core.isolated_python import Trial
from training.support import machine as machine_module
from training.support.machine import Finding


@pytest.fixture
def machine(tmp_path: Path) -> MadeUpMachine:
    """A machine where everything works; a test then breaks something."""
    return sound_machine(tmp_path)


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
    assert report.findings["pydantic"]["found"] == "1.10.14, expected >=2.8"


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


def the_rclpy(environment: dict[str, str]) -> Finding:
    (finding,) = [found for found in machine_module.examine(environment).findings if found.name == "rclpy"]
    return finding


@pytest.mark.parametrize(
    ("distribution", "state", "says"),
    [("lyrical", "ok", "ROS lyrical in"), ("foxy", "note", "written for humble, jazzy, kilted, lyrical")],
)
def test_a_distribution_is_known_or_noted(monkeypatch, distribution, state, says):
    ros = Trial('{"rclpy": "/opt/ros/rclpy/__init__.py", "rmw": "rmw_fastrtps_cpp"}', "")
    monkeypatch.setattr(machine_module, "try_python", lambda code: ros if "rclpy" in code else Trial("", "none"))
    monkeypatch.setattr(machine_module, "_has_package", lambda _: False)
    finding = the_rclpy({"ROS_DISTRO": distribution})
    assert finding.state == state and says in finding.found


@pytest.mark.parametrize(
    ("release", "package"),
    [
        ({"ID": "ubuntu", "VERSION_ID": "26.04"}, "ros-lyrical-ros-base"),
        ({"ID": "debian", "VERSION_ID": "13"}, "ROS 2"),
    ],
)
def test_an_arm_without_ros_is_told_the_ros_of_its_ubuntu(monkeypatch, release, package):
    monkeypatch.setattr(machine_module.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(machine_module.platform, "freedesktop_os_release", lambda: release)
    monkeypatch.setattr(machine_module, "try_python", lambda _: Trial("", "No module named 'rclpy'"))
    finding = the_rclpy({})
    assert finding.state == "missing" and finding.fix.startswith(f"install {package} with apt")


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


HIDE = """
import importlib.abc, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

sys.meta_path.insert(0, Hidden())
"""


def hide(machine: MadeUpMachine, *names: str) -> None:
    """Make modules impossible to import, and their packages not installed, in every Python of the machine."""
    (machine.folder / "sitecustomize.py").write_text(HIDE.format(names=set(names)))


TORCH = ("torch", "torchvision", "timm", "segmentation_models_pytorch")


def test_without_torch_a_machine_is_a_robot_that_lacks_nothing(machine):
    hide(machine, *TORCH)
    report = machine.report()
    assert report.profile == "robot" and report.code == 0
    assert report.profiles_lack["robot"] == report.lacks["run"] == report.lacks["record"] == []
    assert "device" in report.profiles_lack["desk"]
    for job in ("train", "depth", "export", "demo"):
        assert "device" in report.lacks[job]
    assert report.findings["device"]["fix"] == "make setup"
    assert report.findings["back ends"]["found"].startswith("onnxruntime (.onnx)")
    text = machine.doctor().stdout
    assert any(line.split() == ["robot", "ready", "(this", "machine)"] for line in text.splitlines())


def test_a_robot_needs_something_that_runs_exported_models(machine):
    hide(machine, *TORCH, "onnxruntime", "tensorrt")
    report = machine.report()
    assert report.code == 1 and report.lacks["run"] == ["back ends"] == report.profiles_lack["robot"]
    assert "neither onnxruntime, tensorrt nor torch" in report.findings["back ends"]["found"]
    hide(machine, *TORCH, "onnxruntime")
    machine.module("tensorrt")
    assert machine.report().lacks["run"] == []


def test_tensorrt_without_memory_is_warned_of(machine):
    machine.module("tensorrt")
    assert machine.report().state("back ends") == "ok"
    hide(machine, "cuda")
    report = machine.report()
    assert report.state("back ends") == "warning" and "cuda-bindings" in report.findings["back ends"]["found"]


def test_a_torch_for_numpy_1_beside_numpy_2_is_told(machine):
    machine.module("torch", GOOD_TORCH.replace("return [0.0]", "raise RuntimeError('Numpy is not available')"))
    report = machine.report()
    assert report.code == 1 and "built for numpy 1" in report.findings["device"]["found"]
    assert "'numpy<2'" in report.findings["device"]["fix"]
