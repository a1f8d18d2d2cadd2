"""Launch files run, up to starting processes: what they declare they read, what they set and start is there."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers.paths import HELPERS, PROJECT

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_core.errors import UsageError
from deal_ros.parameter_docs import DOCUMENTED

FILES = sorted(path.name for path in (PROJECT / "launch").glob("*.launch.py"))
REQUIRED = {
    "segmentation.launch.py": {"model": "m.safetensors"},
    "record.launch.py": {"output": "kitchen_1", "classes": "mug,drill"},
    "demo.launch.py": {"model": "m.safetensors"},
}
PARAMETERS = {node.name: {field.name for field in dataclasses.fields(node.kind)} for node in DOCUMENTED}
CAMERA = "/camera/camera"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("launch_stand_in", HELPERS / "launch_stand_in.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    stand_ins: dict[str, ModuleType] = {}
    module.install(stand_ins)
    for name, found in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, found)
    monkeypatch.delitem(sys.modules, "deal_ros.node.launching", raising=False)
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "ROS_DISTRO"):
        monkeypatch.delenv(name, raising=False)
    yield module
    sys.modules.pop("deal_ros.node.launching", None)  # it holds the stand-ins


@pytest.fixture
def run(stand_in: ModuleType) -> Callable[..., Any]:
    def launch(name: str, **given: str) -> Any:
        context = stand_in.Context(PROJECT)
        stand_in.launch(PROJECT / "launch" / name, {**REQUIRED[name], **given}, context)
        return context

    return launch


def parameters_of(node: Any) -> dict[str, Any]:
    return {name: value for found in node.parameters if isinstance(found, dict) for name, value in found.items()}


def test_every_launch_file_is_tested() -> None:
    assert sorted(REQUIRED) == FILES


@pytest.mark.parametrize("name", FILES)
def test_each_argument_is_declared_once_described_and_read(name: str, stand_in: ModuleType) -> None:
    entities = stand_in.describe(PROJECT / "launch" / name).entities
    declared = [entity for entity in entities if isinstance(entity, stand_in.DeclareLaunchArgument)]
    names = [argument.name for argument in declared]
    assert len(names) == len(set(names)) and all(argument.description for argument in declared)
    context = stand_in.Context(PROJECT)
    # With the camera started too: its profiles are read only then.
    given = {**REQUIRED[name], **({"start_camera": "true"} if "start_camera" in names else {})}
    sys.modules["deal_ros.node.launching"].get_package_share_directory = lambda package: f"/share/{package}"  # type: ignore[attr-defined]
    stand_in.launch(PROJECT / "launch" / name, given, context)
    assert set(names) <= context.read


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_how_it_is_called(name: str) -> None:
    assert f"ros2 launch deal_ros {name}" in (PROJECT / "launch" / name).read_text()


@pytest.mark.parametrize("name", FILES)
def test_nodes_are_executables_with_the_parameters_they_are_given(name: str, run: Callable[..., Any]) -> None:
    context = run(name)
    scripts = (PROJECT / "setup.py").read_text()
    own = [node for node in context.nodes if node.package == "deal_ros"]
    assert own
    for node in own:
        room = node.executable.removesuffix("_node")
        assert f'"{node.executable} = deal_ros.{room}.main:main"' in scripts
        assert set(parameters_of(node)) - {"use_sim_time"} <= PARAMETERS[room]
        files = [found for found in node.parameters if isinstance(found, str)]
        assert all(Path(found).is_file() for found in files)


def test_the_segmentation_node_reads_the_realsense(run: Callable[..., Any]) -> None:
    (node,) = run("segmentation.launch.py", device="cpu", namespace="robot1", use_respawn="true").nodes
    assert (node.namespace, node.respawn) == ("robot1", True)
    assert dict(node.remappings) == {
        "color/image_raw": f"{CAMERA}/color/image_raw",
        "color/image_raw/compressed": f"{CAMERA}/color/image_raw/compressed",
        "color/camera_info": f"{CAMERA}/color/camera_info",
        "depth/image_raw": f"{CAMERA}/aligned_depth_to_color/image_raw",
        "depth/image_raw/compressed": f"{CAMERA}/aligned_depth_to_color/image_raw/compressed",
        "depth/image_raw/compressedDepth": f"{CAMERA}/aligned_depth_to_color/image_raw/compressedDepth",
        "depth/camera_info": f"{CAMERA}/aligned_depth_to_color/camera_info",
    }
    given = parameters_of(node)
    assert given == {"model": "m.safetensors", "device": "cpu", "autostart": "true", "use_sim_time": False}


def test_topics_follow_the_camera_or_are_named(run: Callable[..., Any]) -> None:
    (node,) = run("segmentation.launch.py", camera_namespace="", camera_name="wrist", depth_topic="/d/image").nodes
    topics = dict(node.remappings)
    assert topics["color/image_raw"] == "/wrist/color/image_raw"
    assert (topics["depth/image_raw"], topics["depth/camera_info"]) == ("/d/image", "/d/camera_info")


@pytest.mark.parametrize("name", FILES)
def test_all_processes_get_the_transport_before_they_start(name: str, run: Callable[..., Any]) -> None:
    profile = run(name).environment["FASTDDS_DEFAULT_PROFILES_FILE"]
    assert Path(profile).name == "fastdds_shm.xml" and Path(profile).is_file()
    assert run(name, dds_profile="none").environment == {}
    assert run(name, dds_profile="/mine.xml").environment == {"FASTDDS_DEFAULT_PROFILES_FILE": "/mine.xml"}


def test_a_profile_in_the_environment_is_kept(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "/theirs.xml")
    assert run("segmentation.launch.py").environment == {}


def test_the_camera_starts_with_aligned_depth_in_one_frameset(
    run: Callable[..., Any], stand_in: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import deal_ros.node.launching

    monkeypatch.setattr(deal_ros.node.launching, "get_package_share_directory", lambda package: f"/share/{package}")
    context = run("record.launch.py", start_camera="true", color_profile="1280x720x30")
    assert context.included == [
        (
            "/share/realsense2_camera/launch/rs_launch.py",
            {
                "camera_namespace": "camera",
                "camera_name": "camera",
                "rgb_camera.color_profile": "1280x720x30",
                "depth_module.depth_profile": "640x480x30",
                "align_depth.enable": "true",
                "enable_sync": "true",
            },
        )
    ]


def test_a_missing_driver_is_named(run: Callable[..., Any]) -> None:
    if importlib.util.find_spec("realsense2_camera"):
        pytest.skip("realsense2_camera is installed here")
    with pytest.raises(UsageError, match="start_camera:=true needs the package realsense2_camera"):
        run("segmentation.launch.py", start_camera="true")


def test_the_demo_is_a_camera_a_node_and_rviz(run: Callable[..., Any]) -> None:
    context = run("demo.launch.py", profile="1280x720x30")
    camera, node, rviz = context.nodes
    assert (camera.executable, camera.namespace) == ("synthetic_camera_node", "camera")
    assert parameters_of(camera) == {"profile": "1280x720x30"}
    assert node.executable == "segmentation_node"
    assert dict(node.remappings)["color/image_raw"] == f"{CAMERA}/color/image_raw"
    assert rviz.package == "rviz2" and Path(rviz.arguments[1]).name == "deal.rviz"
    assert len(run("demo.launch.py", rviz="false").nodes) == 2


@pytest.mark.parametrize("name", FILES)
def test_the_real_launch_describes_the_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `ros2 launch --show-args` does; the stand-ins above must agree with the real thing."""
    pytest.importorskip("launch_ros", reason="launch_ros is not installed: PyPI has no wheel of it")
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    from launch import LaunchContext

    source = PythonLaunchDescriptionSource(str(PROJECT / "launch" / name))
    arguments = source.get_launch_description(LaunchContext()).get_launch_arguments()
    assert {argument.name for argument in arguments} >= set(REQUIRED[name])
