"""Launch files run, up to starting processes: what they declare they read, what they set and start is there."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from helpers.paths import CONFIG, PROJECT

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_core.errors import UsageError
from deal_ros.node.transport import profile_variable
from deal_ros.parameter_docs import DOCUMENTED

FILES = sorted(path.name for path in (PROJECT / "launch").glob("*.launch.py"))
PARAMETERS = {node.name: set(node.kind.__dataclass_fields__) for node in DOCUMENTED}
CAMERA = "camera/camera"


def parameters_of(node: Any) -> dict[str, Any]:
    """Return the parameters in all files of a node, and check that no later file repeats one of an earlier file."""
    files = [node.command[index + 1] for index, word in enumerate(node.command) if word == "--params-file"]
    found: dict[str, Any] = {}
    for file in files:
        for section in (yaml.safe_load(Path(file).read_text()) or {}).values():
            assert not set(found) & set(section["ros__parameters"])
            found.update(section["ros__parameters"])
    return found


def test_every_launch_file_is_tested(required: dict[str, Any]) -> None:
    assert sorted(required) == FILES


@pytest.mark.parametrize("name", FILES)
def test_each_argument_is_declared_once_described_and_read(
    name: str, stand_in: ModuleType, full_prefix: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(full_prefix))
    entities = stand_in.describe(PROJECT / "launch" / name).entities
    declared = [entity for entity in entities if isinstance(entity, stand_in.DeclareLaunchArgument)]
    names = [argument.name for argument in declared]
    assert len(names) == len(set(names)) and all(argument.description for argument in declared)
    # With the camera started too: its profiles are read only then.
    assert set(names) <= run(name, **({"start_camera": "true"} if "start_camera" in names else {})).read


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


def test_the_segmentation_node_reads_the_realsense(run: Callable[..., Any], model: Path) -> None:
    (node,) = run("segmentation.launch.py", device="cpu", namespace="robot1", use_respawn="True").nodes
    assert (node.namespace, node.full_name, node.respawn) == ("robot1", "/robot1/deal_segmentation", True)
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
    assert (given["model"], given["device"], given["autostart"]) == (str(model), "cpu", True)
    assert "use_sim_time" not in given


@pytest.mark.parametrize("name", ["segmentation.launch.py", "record.launch.py"])
def test_an_argument_that_is_not_given_leaves_the_parameters_to_the_file(
    name: str, run: Callable[..., Any], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.yaml"
    content = {"autostart": False, "use_sim_time": True, "tags": "mug", "page": True, "device": "cuda:1"}
    mine.write_text(yaml.dump({"/**": {"ros__parameters": content}}))
    (node,) = run(name, params_file=str(mine)).nodes
    found = parameters_of(node)
    assert {name: found[name] for name in content} == content


def test_what_is_required_may_come_from_the_file(run: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    content = {"model": str(model), "output": "kitchen_2", "classes": ["mug", "drill"]}
    mine.write_text(yaml.dump({"/**": {"ros__parameters": content}}))
    (node,) = run("segmentation.launch.py", params_file=str(mine), model="").nodes
    assert parameters_of(node)["model"] == str(model)
    (node,) = run("record.launch.py", params_file=str(mine), output="", classes="").nodes
    assert parameters_of(node)["classes"] == ["mug", "drill"]
    model.unlink()
    with pytest.raises(UsageError, match=r"parameter 'model' in .*mine\.yaml: there is no file .*m\.safetensors"):
        run("segmentation.launch.py", params_file=str(mine), model="")


def test_topics_follow_the_camera_or_are_named(run: Callable[..., Any]) -> None:
    (node,) = run("segmentation.launch.py", camera_namespace="", camera_name="wrist", depth_topic="/d/image").nodes
    topics = dict(node.remappings)
    assert topics["color/image_raw"] == "wrist/color/image_raw"
    assert (topics["depth/image_raw"], topics["depth/camera_info"]) == ("/d/image", "/d/camera_info")
    (node,) = run("segmentation.launch.py", camera_namespace="/left", color_topic="rgb").nodes
    topics = dict(node.remappings)
    assert (topics["color/image_raw"], topics["color/camera_info"]) == ("rgb", "camera_info")
    assert topics["depth/image_raw"] == "/left/camera/aligned_depth_to_color/image_raw"


@pytest.mark.parametrize("name", FILES)
def test_all_processes_get_the_transport_before_they_start(
    name: str, run: Callable[..., Any], stand_in: ModuleType, tmp_path: Path
) -> None:
    profile = run(name).environment[profile_variable({})]
    assert Path(profile).name == "fastdds_shm.xml" and Path(profile).is_file()
    assert run(name, dds_profile="none").environment == {}
    mine = tmp_path / "mine.xml"
    mine.touch()
    assert run(name, dds_profile=str(mine)).environment == {profile_variable({}): str(mine)}


def test_a_profile_in_the_environment_is_kept(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(profile_variable({}), "/theirs.xml")
    assert run("segmentation.launch.py").environment == {}


@pytest.mark.parametrize(("serial", "handed_on"), [("", "''"), ("831612073525", "_831612073525"), ("f123", "f123")])
def test_the_camera_starts_with_aligned_depth_in_one_frameset(
    run: Callable[..., Any], full_prefix: Path, monkeypatch: pytest.MonkeyPatch, serial: str, handed_on: str
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(full_prefix))
    context = run(
        "record.launch.py", start_camera="true", color_profile="1280x720x30", namespace="robot1", serial_no=serial
    )
    assert context.included[-1] == (
        str(full_prefix / "share" / "realsense2_camera" / "launch" / "rs_launch.py"),
        {
            "camera_namespace": "robot1/camera",
            "camera_name": "camera",
            "serial_no": handed_on,
            "rgb_camera.color_profile": "1280x720x30",
            "depth_module.depth_profile": "640x480x30",
            "align_depth.enable": "true",
            "enable_sync": "true",
            "log_level": "info",
            "output": "screen",
        },
    )
    driver, recorder = context.nodes
    assert (driver.full_name, recorder.full_name) == ("/robot1/camera/camera", "/robot1/deal_recorder")
    # The driver's `output` is where its log goes, the recorder's is a folder.
    assert context.configurations["output"].endswith("kitchen_1") and parameters_of(recorder)["output"].endswith("_1")


def test_a_pushed_namespace_is_around_camera_node_and_layout(
    run: Callable[..., Any], stand_in: ModuleType, full_prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(full_prefix))
    pushed = stand_in.PushRosNamespace("robot1")
    context = run("segmentation.launch.py", pushed, start_camera="true", rviz="true", namespace="arm")
    driver, node, rviz = context.nodes
    assert (driver.full_name, node.full_name) == ("/robot1/arm/camera/camera", "/robot1/arm/deal_segmentation")
    assert dict(node.remappings)["color/image_raw"] == f"{CAMERA}/color/image_raw"  # relative to /robot1/arm
    assert "/robot1/arm/deal_segmentation/overlay" in Path(rviz.arguments[1]).read_text()
    assert "__ns:=/robot1/arm" in rviz.command


def test_the_demo_is_a_node_a_camera_and_rviz(
    run: Callable[..., Any], full_prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(full_prefix))
    node, rviz, camera = run("demo.launch.py", profile="1280x720x30", namespace="robot1", camera_name="front").nodes
    assert (camera.executable, camera.full_name) == ("synthetic_camera_node", "/robot1/camera/front")
    assert parameters_of(camera) == {"profile": "1280x720x30"}
    assert (node.executable, node.full_name) == ("segmentation_node", "/robot1/deal_segmentation")
    assert dict(node.remappings)["color/image_raw"] == "camera/front/color/image_raw"
    assert rviz.package == "rviz2"
    assert len(run("demo.launch.py", rviz="false").nodes) == 2


@pytest.mark.parametrize(
    ("given", "node", "frame"),
    [
        ({}, "/deal_segmentation", "camera"),
        ({"namespace": "robot1"}, "/robot1/deal_segmentation", "camera"),
        ({"node_name": "front_segmentation", "camera_name": "front"}, "/front_segmentation", "front"),
    ],
)
def test_the_layout_shows_the_topics_and_the_frame_of_this_node(
    run: Callable[..., Any],
    full_prefix: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, str],
    node: str,
    frame: str,
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(full_prefix))
    rviz = run("segmentation.launch.py", rviz="true", **given).nodes[-1]
    option, path = rviz.arguments
    shown, shipped = Path(path).read_text(), (CONFIG / "deal.rviz").read_text()
    assert option == "-d" and yaml.safe_load(shown)
    topics = re.findall(r"/deal_segmentation/(\w+)", shipped)
    assert topics and re.findall(rf"Value: {node}/(\w+)", shown) == topics
    assert f"Fixed Frame: {frame}_color_optical_frame" in shown
    assert (shown == shipped) == (given == {})


def test_without_rviz_there_is_a_warning_and_all_else(
    run: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(run("demo.launch.py").nodes) == 2
    assert "rviz:=true: the package rviz2 is not installed; going on without RViz" in caplog.text


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("segmentation.launch.py", {"model": "nothere.onnx"}, "'model': there is no file nothere.onnx"),
        ("segmentation.launch.py", {"model": ""}, "'model': expected a value here or in .*segmentation.param.yaml"),
        ("record.launch.py", {"output": ""}, "'output': expected a value here or in"),
        ("record.launch.py", {"output": str(PROJECT)}, "'output': .* exists already"),
        ("record.launch.py", {"classes": "nothere/dataset.yaml"}, "'classes': there is no file nothere/dataset.yaml"),
        ("record.launch.py", {"page": "2"}, "'page': expected true or false, found '2'"),
        ("record.launch.py", {"marker": "compleet"}, "'marker': expected one of .* Did you mean 'complete'"),
        ("segmentation.launch.py", {"autostart": "maybe"}, "'autostart': expected true or false, found 'maybe'"),
        ("segmentation.launch.py", {"use_sim_time": "x"}, "'use_sim_time': expected true or false"),
        ("segmentation.launch.py", {"use_respawn": ""}, "'use_respawn': expected true or false, found ''"),
        ("segmentation.launch.py", {"rviz": "x"}, "'rviz': expected true or false"),
        ("segmentation.launch.py", {"backend": "onxruntime"}, "'backend': .* Did you mean 'onnxruntime'"),
        ("segmentation.launch.py", {"params_file": "nothere.yaml"}, "'params_file': there is no file nothere.yaml"),
        ("segmentation.launch.py", {"params_file": str(CONFIG / "deal.rviz")}, "'params_file': expected a parameter"),
        ("segmentation.launch.py", {"params_file": "complex_key.yaml"}, "'params_file': expected a parameter"),
        ("segmentation.launch.py", {"params_file": str(PROJECT / "Makefile")}, "'params_file': expected a parameter"),
        ("segmentation.launch.py", {"dds_profile": "nothere.xml"}, "'dds_profile': there is no file nothere.xml"),
        ("segmentation.launch.py", {"log_level": "loud"}, "'log_level': expected one of debug, info"),
        ("segmentation.launch.py", {"namespace": "1"}, "'namespace': .*found '1': .*starts with a number"),
        ("segmentation.launch.py", {"node_name": "a-b"}, "'node_name': .*found 'a-b'"),
        ("segmentation.launch.py", {"camera_name": "1"}, "'camera_name': .*found '1'"),
        ("segmentation.launch.py", {"color_topic": "a b"}, "'color_topic': .*found 'a b'"),
        ("demo.launch.py", {"profile": "huge"}, "'profile': expected WIDTHxHEIGHTxRATE"),
        ("demo.launch.py", {"model": "nothere.onnx"}, "'model': there is no file nothere.onnx"),
        ("demo.launch.py", {"log_level": "loud"}, "'log_level': expected one of debug, info"),
        ("demo.launch.py", {"camera_name": "1"}, "'camera_name': .*found '1'"),
        ("segmentation.launch.py", {"start_camera": "true"}, "start_camera:=true needs the package realsense2_camera"),
        ("record.launch.py", {"start_camera": "true"}, "start_camera:=true needs the package realsense2_camera"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    name: str,
    given: dict[str, str],
    said: str,
    stand_in: ModuleType,
    required: dict[str, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("complex_key.yaml").write_text("/**:\n  ros__parameters:\n    ? [a]\n    : 1\n")
    context = stand_in.Context()
    with pytest.raises(UsageError, match=said):
        stand_in.launch(PROJECT / "launch" / name, {**required[name], **given}, context)
    assert context.nodes == []  # launch leaves behind what it has started when a later action fails


@pytest.mark.parametrize("profile", ["color_profile", "depth_profile"])
def test_a_wrong_profile_is_said_before_the_driver_starts(
    profile: str, run: Callable[..., Any], full_prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(full_prefix))
    with pytest.raises(UsageError, match=f"'{profile}': expected WIDTHxHEIGHTxRATE"):
        run("record.launch.py", start_camera="true", **{profile: "big"})


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("lib/deal_ros/segmentation_node", "the package deal_ros has no executable"),
        ("lib/deal_ros/synthetic_camera_node", "the package deal_ros has no executable"),
        ("share/realsense2_camera/launch/rs_launch.py", "needs the package realsense2_camera"),
    ],
)
def test_what_is_not_installed_is_said_before_anything_starts(
    missing: str,
    said: str,
    stand_in: ModuleType,
    required: dict[str, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from helpers.installed_package import install_package, install_realsense

    folder = install_package(tmp_path / "prefix")
    install_realsense(folder)
    (folder / missing).unlink()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(folder))
    name, given = (
        ("segmentation.launch.py", {"start_camera": "true"}) if "realsense" in missing else ("demo.launch.py", {})
    )
    context = stand_in.Context()
    with pytest.raises(UsageError, match=said):
        stand_in.launch(PROJECT / "launch" / name, {**required[name], **given}, context)
    assert context.nodes == []


@pytest.mark.parametrize("name", FILES)
def test_the_real_launch_describes_the_file(name: str, required: dict[str, dict[str, str]]) -> None:
    """As `ros2 launch --show-args` does; the stand-ins above must agree with the real thing."""
    pytest.importorskip("launch_ros", reason="launch_ros is not installed: PyPI has no wheel of it")
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    from launch import LaunchContext

    source = PythonLaunchDescriptionSource(str(PROJECT / "launch" / name))
    arguments = source.get_launch_description(LaunchContext()).get_launch_arguments()
    assert {argument.name for argument in arguments} >= set(required[name])
