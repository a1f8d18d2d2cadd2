"""A model file, nodes as processes of their own, and a camera to feed them with."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.interface_packages import CannotBuildError, InterfacePackages, are_installed, built_packages, forget
from helpers.paths import PROJECT
from helpers.ros_client import Client

COLOR_TOPIC, DEPTH_TOPIC = "/camera/camera/color/image_raw", "/camera/camera/aligned_depth_to_color/image_raw"
REMAPPINGS = {
    "color/image_raw": COLOR_TOPIC,
    "color/camera_info": "/camera/camera/color/camera_info",
    "depth/image_raw": DEPTH_TOPIC,
}
CLASSES = ("mug", "drill", "box")
FRAME = "camera_color_optical_frame"
PERIOD_S = 0.1

COUNTS = (
    "received_color",
    "received_depth",
    "paired",
    "color_alone",
    "unpaired_color",
    "unpaired_depth",
    "pending_color",
    "pending_depth",
    "published",
    "dropped_busy",
    "dropped_old",
    "dropped_rate",
    "dropped_disabled",
    "dropped_stopped",
    "failed",
    "in_flight",
)


def _domain_ids() -> Iterator[int]:
    """Yield ROS domains that nobody uses, from 1 to 88 (`test/conftest.py` uses 90 and up), each worker its own."""
    from deal_ros.node.domains import unused_domains

    run, workers = os.environ.get("PYTEST_XDIST_TESTRUNUID"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    start = zlib.crc32(run.encode()) if run else os.getpid() * 7  # runs at the same time begin at different domains
    return unused_domains(workers * (start % 88) + worker, workers, largest=88 // workers * workers)


@pytest.fixture(scope="session")
def new_domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], int]]:
    """Return ROS domains of this machine alone, so that tests that run at the same time do not disturb each other."""
    from deal_ros.node.transport import shared_memory_environment

    before = dict(os.environ)
    os.environ.update(shared_memory_environment(before))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_LOG_DIR"] = str(tmp_path_factory.mktemp("ros_log"))
    domains = _domain_ids()
    yield lambda: next(domains)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from deal_core.models.factory import create_model
    from deal_core.models.model_file import ModelInfo, Threshold, save_model
    from deal_core.structures import ClassList

    torch.manual_seed(0)
    arguments = {"backbone": "test_resnet", "width": 8}
    network = create_model("cam_net", len(CLASSES), **arguments)
    with torch.no_grad():  # as drawn, the classes differ too little for masks with more than one id
        network.classifier.weight *= 50
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(path, network, ModelInfo("cam_net", arguments, ClassList(CLASSES), (64, 64), Threshold(0.4, "fixed")))
    return path


class Camera(Client):
    """Publishes what it is told to, keeps the masks and the diagnostics it hears."""

    def __init__(self, domain: int, *, reliability: str = "reliable", depth: bool = True) -> None:
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import Image

        super().__init__(domain, "test_camera")
        qos = QoSProfile(depth=20, reliability=ReliabilityPolicy[reliability.upper()])
        self.color = self.node.create_publisher(Image, COLOR_TOPIC, qos)
        self.depth = self.node.create_publisher(Image, DEPTH_TOPIC, qos) if depth else None
        self.masks: dict[int, Any] = {}
        self.node.create_subscription(Image, "/deal_segmentation/mask", self._take_mask, 20)

    def header(self, stamp_ns: int, frame_id: str = FRAME) -> Any:
        from std_msgs.msg import Header

        from deal_ros.input.conversions import stamp_from_ns

        return Header(stamp=stamp_from_ns(stamp_ns), frame_id=frame_id)

    def pair(self, seed: int = 0, size: tuple[int, int] = (48, 64), stamp_ns: int | None = None) -> tuple[Any, Any]:
        """Return a colour and a depth message with random patches and one stamp."""
        from deal_ros.input.conversions import array_to_image

        rng = np.random.default_rng(seed)
        patches = rng.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), np.uint8)
        rgb = patches.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]
        header = self.header(time.time_ns() if stamp_ns is None else stamp_ns)
        color = array_to_image(rgb, header)
        return color, array_to_image(rng.integers(1, 5000, size, np.uint16), header)

    def send(self, color: Any, depth: Any | None) -> int:
        """Publish and return the colour image's stamp."""
        from deal_ros.input.conversions import stamp_to_ns

        self.color.publish(color)
        if depth is not None and self.depth is not None:
            self.depth.publish(depth)
        return stamp_to_ns(color.header.stamp)

    def segment(self, color: Any, depth: Any | None) -> Any:
        """Send a pair and return its mask."""
        stamp_ns = self.send(color, depth)
        self.wait(lambda: stamp_ns in self.masks, f"mask of {stamp_ns}")
        return self.masks[stamp_ns]

    def wait_ready(self) -> None:
        """Wait until node and camera have met in both directions."""

        def met() -> bool:
            offers = [
                self.values.get(f"{s}_publisher_offers") for s in ("color", "depth") if f"{s}_topic" in self.values
            ]
            seen = int(self.values.get("mask_subscribers", 0)) >= self.node.count_subscribers("/deal_segmentation/mask")
            subscribed = self.color.get_subscription_count() > 0
            return bool(self.labels) and bool(offers) and "no publisher" not in offers and seen and subscribed

        self.wait(met, "node and camera to meet")

    def count(self, key: str) -> int:
        return int(self.values.get(key, 0))

    def wait_count(self, key: str, expected: int) -> None:
        self.wait(lambda: self.count(key) >= expected, f"{key} >= {expected}")
        assert self.count(key) == expected

    def check_balance(self) -> dict[str, int]:
        """Check, in fresh diagnostics, that every message is accounted for; return the counts."""
        values = self.fresh_values()
        n = {key: int(values[key]) for key in COUNTS}
        handed_on = n["paired"] + n["color_alone"]
        assert n["received_color"] == handed_on + n["unpaired_color"] + n["pending_color"]
        assert n["received_depth"] == n["paired"] + n["unpaired_depth"] + n["pending_depth"]
        dropped = sum(number for key, number in n.items() if key.startswith("dropped_"))
        assert handed_on == n["published"] + dropped + n["failed"] + n["in_flight"]
        for total in ("unpaired_color", "unpaired_depth", "failed"):
            assert n[total] == sum(int(v) for k, v in values.items() if k.startswith(f"{total}: "))
        return n

    def _take_mask(self, message: Any) -> None:
        from deal_ros.input.conversions import stamp_to_ns

        self.masks[stamp_to_ns(message.header.stamp)] = message


@pytest.fixture(scope="session")
def new_camera(new_domain: Callable[[], int]) -> Iterator[Callable[..., Camera]]:
    """Make cameras: `new_camera(domain, reliability=..., depth=...)`."""
    cameras: list[Camera] = []

    def make(domain: int, **options: Any) -> Camera:
        cameras.append(Camera(domain, **options))
        return cameras[-1]

    yield make
    for camera in cameras:
        camera.close()


@dataclass(frozen=True)
class RunningNode:
    """A node's process and the domain it lives in."""

    node: Any
    domain: int


@pytest.fixture(scope="session")
def start_node(
    new_domain: Callable[[], int], model_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., RunningNode]]:
    """Start segmentation nodes in domains of their own; those that still run at the end are stopped.

    With `robot_only`, nothing is installed for a node but what a robot needs.
    """
    from deal_ros.node.process import node_process

    with ExitStack() as stack:

        def start(model: Path = model_file, *, robot_only: bool = False, **parameters: Any) -> RunningNode:
            domain = new_domain()
            # torch is at hand at once; what onnxruntime reads has to be exported first.
            backend = "auto" if robot_only else "torch"
            helpers = str(PROJECT / "test" / "helpers") if robot_only else ""
            python_path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), helpers)))
            node = stack.enter_context(
                node_process(
                    "robot_only" if robot_only else "deal_ros.segmentation.main",
                    tmp_path_factory.mktemp("node") / "output.txt",
                    parameters={
                        "model": str(model),
                        "diagnostics_period_s": PERIOD_S,
                        "backend": backend,
                        "data_dir": str(tmp_path_factory.getbasetemp()),
                        **parameters,
                    },
                    remappings=REMAPPINGS,
                    environment={"ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path},
                )
            )
            return RunningNode(node, domain)

        yield start


@pytest.fixture(scope="session")
def pair_node(start_node: Callable[..., RunningNode]) -> RunningNode:
    """A node that requires depth, shared by the tests that leave it alive."""
    return start_node(depth_mode="required", max_age_ms=30_000)


@pytest.fixture(scope="session")
def _built_interfaces() -> InterfacePackages | None:
    """None where the real packages are installed."""
    if are_installed():
        return None
    try:
        return built_packages()
    except CannotBuildError as error:
        pytest.skip(f"vision_msgs and tf2_msgs are neither installed nor can they be built: {error}")


@pytest.fixture
def interface_packages(_built_interfaces: InterfacePackages | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """vision_msgs, tf2_msgs and realsense2_camera_msgs can be imported, here and in processes that the test starts."""
    if _built_interfaces is None:
        yield
        return
    forget()
    _built_interfaces.use(monkeypatch)
    yield
    forget()
