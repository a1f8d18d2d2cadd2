"""The segmentation node with exported models, where nothing is installed but what a robot needs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.paths import PROJECT

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("onnx", reason="onnx is not installed (extra export)")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra export)")

pytestmark = [pytest.mark.ros, pytest.mark.slow]

REMAPPINGS = {"color/image_raw": "/camera/camera/color/image_raw"}
UPLOAD_S = 12.0
"""Longer than onnxruntime waits before it looks up where to send its first events: 9 s."""


@pytest.fixture(scope="module")
def exported(model_file: Path, rgbd_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A CAM network on colour, and a segmenter on colour and depth, as .onnx files."""
    from deal_core.models.model_file import load_model
    from deal_core.runtime.onnx_export import export_onnx

    folder = tmp_path_factory.mktemp("exported")
    files = {}
    for name, source in (("cam", model_file), ("rgbd", rgbd_model)):
        files[name] = folder / f"{name}.onnx"
        files[name].write_bytes(export_onnx(load_model(source)).data)
    return files


def pixels(image: Any, *shape: int) -> np.ndarray:
    return np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, *shape)


@pytest.mark.parametrize("name", ["cam", "rgbd"])
def test_a_robot_without_torch_publishes_every_output_of_an_exported_model(
    exported: dict[str, Path], name: str, start_node: Callable[..., Any], new_camera: Callable[..., Any], tmp_path: Path
) -> None:
    from sensor_msgs.msg import CameraInfo, Image, PointCloud2
    from std_srvs.srv import Trigger
    from visualization_msgs.msg import MarkerArray

    from deal_core.runtime.segmenter import Segmenter

    running = start_node(
        exported[name], robot_only=True, depth_mode="required", max_age_ms=30_000, snapshot_dir=str(tmp_path)
    )
    camera = new_camera(running.domain)
    heard: dict[str, list[Any]] = {}
    kinds = {"confidence": Image, "overlay": Image, "points": PointCloud2, "object_markers": MarkerArray}
    for topic, kind in kinds.items():
        messages = heard.setdefault(topic, [])
        camera.node.create_subscription(kind, f"/deal_segmentation/{topic}", messages.append, 20)
    infos = camera.node.create_publisher(CameraInfo, "/camera/camera/color/camera_info", 20)
    camera.wait_ready()
    camera.wait(lambda: infos.get_subscription_count() > 0, "the node to want camera_info")
    here = Segmenter.load(exported[name])
    color, depth = camera.pair(3)
    infos.publish(
        CameraInfo(
            header=color.header,
            height=color.height,
            width=color.width,
            k=[60.0, 0.0, 32.0, 0.0, 60.0, 24.0, 0.0, 0.0, 1.0],
            distortion_model="plumb_bob",
            d=[0.0] * 5,
        )
    )
    mask = camera.segment(color, depth)
    metres = np.frombuffer(depth.data, np.uint16).reshape(depth.height, depth.width).astype(np.float32) / 1000
    expected = here.segment(pixels(color, 3), metres if here.uses_depth else None)
    np.testing.assert_array_equal(pixels(mask), expected.mask)

    def every_output() -> bool:
        camera.send(*camera.pair(4))
        return all(heard.values())

    camera.wait(every_output, f"all of {list(heard)}")
    assert camera.values["backend"] == "onnxruntime"
    saved = camera.call(Trigger, "save_snapshot")
    assert saved.success and (Path(saved.message) / "mask.png").is_file()
    reloaded = camera.call(Trigger, "reload_model")
    assert reloaded.success, reloaded.message
    running.node.stop()
    assert "Traceback" not in running.node.text()


def test_with_torch_installed_an_exported_model_does_not_load_it(
    exported: dict[str, Path], start_node: Callable[..., Any], new_camera: Callable[..., Any]
) -> None:
    running = start_node(exported["cam"], backend="auto", max_age_ms=30_000)
    camera = new_camera(running.domain, depth=False)
    camera.wait_ready()
    camera.segment(camera.pair()[0], None)
    maps = Path(f"/proc/{running.node.process.pid}/maps").read_text(encoding="utf-8")
    loaded = {word for line in maps.splitlines() for word in Path(line.split()[-1]).parts}
    assert "onnxruntime" in loaded, "else this test proves nothing"
    assert not loaded & {"torch", "torchvision", "timm", "pydantic_core", "scipy", "matplotlib", "onnx", "PIL"}


def test_a_robot_without_torch_says_what_a_safetensors_file_needs(
    model_file: Path, start_node: Callable[..., Any]
) -> None:
    node = start_node(model_file, robot_only=True).node
    assert node.process.wait(60) == 1
    said = node.text()
    assert "a .safetensors file needs PyTorch" in said and "deal export" in said and "Traceback" not in said


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed (sudo apt-get install strace)")
def test_a_node_with_an_exported_model_looks_no_name_up_and_writes_no_identifier(
    exported: dict[str, Path], new_domain: Callable[[], int], new_camera: Callable[..., Any], tmp_path: Path
) -> None:
    from deal_ros.node.process import node_process

    calls, home, domain = tmp_path / "calls.txt", tmp_path / "home", new_domain()
    home.mkdir()
    with node_process(
        "traced",
        tmp_path / "output.txt",
        parameters={"model": str(exported["cam"]), "diagnostics_period_s": 0.5, "max_age_ms": 30_000},
        remappings=REMAPPINGS,
        environment={
            **{"ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT / "test" / "helpers")},
            **{"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "TRACED_CALLS": str(calls)},
        },
    ) as node:
        camera = new_camera(domain, depth=False)
        camera.wait_ready()
        camera.segment(camera.pair()[0], None)
        time.sleep(UPLOAD_S)
        assert node.stop() == 0, node.text()
    traced = calls.read_text(encoding="utf-8", errors="replace")
    assert "onnxruntime_pybind11_state" in traced, "else nothing was traced"
    signs = ("/etc/resolv.conf", "htons(53)", "deviceid", "onnxruntime.db")
    assert [line for line in traced.splitlines() if any(sign in line for sign in signs)] == []
    assert not list(home.rglob("*onnxruntime*")), "an identifier of the device"
