"""Launch files with real processes and real DDS; with the real launch where it is installed."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import HELPERS, PROJECT

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from helpers.ros_client import Client
from sensor_msgs.msg import Image

pytestmark = [pytest.mark.ros, pytest.mark.slow]
PAGE = PROJECT / "docs" / "how_to" / "run_the_node.md"
PROFILE = "96x64x20"


@dataclass(frozen=True)
class Launched:
    """A process of `ros2 launch`, with all it starts in one process group."""

    process: subprocess.Popen[bytes]
    output: Path

    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> int:
        """Send SIGINT to launch alone, as systemd does, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(300)

    def wait_text(self, wanted: str) -> None:
        end = time.monotonic() + Client.wait_s
        while wanted not in self.text():
            assert time.monotonic() < end and self.process.poll() is None, f"no {wanted!r} in: {self.text()}"
            time.sleep(0.1)

    def left_behind(self) -> list[str]:
        """Return the command lines of the processes of the group that still run."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == self.process.pid and fields[0] != "Z":
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
            except OSError:  # it has ended
                continue
        return found


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix with this package, and a driver that is the synthetic camera."""
    from helpers.installed_package import install_package, install_realsense

    folder = install_package(tmp_path_factory.mktemp("prefix"))
    install_realsense(folder)
    return folder


@contextmanager
def launched(prefix: Path, folder: Path, domain: int, name: str | Path, *words: str) -> Iterator[Launched]:
    """Run a launch file within the block, in a folder of its own; what is left behind is killed."""
    folder.mkdir(exist_ok=True)
    with (folder / "output.txt").open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, HELPERS / "launch_stand_in.py", PROJECT / "launch" / name, *words],
            cwd=folder,
            env={
                **os.environ,
                "AMENT_PREFIX_PATH": str(prefix),
                "ROS_DOMAIN_ID": str(domain),
                "OMP_NUM_THREADS": "1",
                "PYTHONUNBUFFERED": "1",
                "TMPDIR": str(folder),
            },
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Launched(process, folder / "output.txt")
    try:
        yield running
        running.stop()
        assert not list(folder.glob("deal_launch_*"))
    finally:
        for number in (signal.SIGINT, signal.SIGKILL):
            if running.left_behind():
                os.killpg(process.pid, number)
                time.sleep(1)


@contextmanager
def client(domain: int, target: str) -> Iterator[Client]:
    found = Client(domain, "watcher", target)
    try:
        yield found
    finally:
        found.close()


def values_of(client: Client, *names: str) -> list[Any]:
    """Return the parameters of the client's target."""
    from rcl_interfaces.srv import GetParameters
    from rclpy.parameter import parameter_value_to_python

    request = GetParameters.Request(names=list(names))
    return [parameter_value_to_python(value) for value in client.call(GetParameters, "get_parameters", request).values]


def test_a_segmentation_node_has_every_argument_in_its_type(
    prefix: Path, new_domain: Callable[[], int], model_file: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "/robot1/eyes:\n  ros__parameters: {device: auto, autostart: true, max_age_ms: 0, classes: [drill]}\n"
    )
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "1e3").symlink_to(model_file)
    words = ["model:=1e3", "backend:=torch", "device:=0", "autostart:=False", "use_sim_time:=true", "log_level:=debug"]
    words += ["namespace:=robot1", "node_name:=eyes", f"params_file:={mine}", "use_respawn:=false", "rviz:=1"]
    domain = new_domain()
    with (
        launched(prefix, folder, domain, "segmentation.launch.py", *words) as run,
        client(domain, "/robot1/eyes") as watcher,
    ):
        assert watcher.state() == "unconfigured"
        names = ("model", "backend", "device", "autostart", "use_sim_time", "max_age_ms", "classes")
        assert values_of(watcher, *names) == ["1e3", "torch", "0", False, True, 0, ["drill"]]
        assert watcher.set(device="cpu") == ""  # what "0" names is no device here, but it arrived as text
        assert watcher.change_state("configure") == "inactive"
        run.wait_text("waiting for a lifecycle manager (or: ros2 lifecycle set /robot1/eyes configure)")
        assert run.stop() == 0 and not run.left_behind()
    assert "rviz:=true: the package rviz2 is not installed" in run.text()
    assert "[DEBUG]" in run.text()


def test_a_recorder_has_every_argument_in_its_type_and_records_the_camera_beside_it(
    prefix: Path, new_domain: Callable[[], int], tmp_path: Path
) -> None:
    words = ["output:=1e3", "classes:=no,on,y", "tags:=no", "marker:=complete", "page:=true", "page_host:=127.0.0.1"]
    mine = tmp_path / "mine.yaml"
    mine.write_text("/**:\n  ros__parameters: {page_port: 0, page: false, tags: true, rate_hz: 20}\n")
    words += ["start_camera:=true", "camera_name:=wrist", f"color_profile:={PROFILE}", f"params_file:={mine}"]
    domain = new_domain()
    with (
        launched(prefix, tmp_path / "run", domain, "record.launch.py", *words) as run,
        client(domain, "/deal_recorder") as watcher,
    ):
        run.wait_text("page: open http://127.0.0.1:")
        run.wait_text("recording 1e3;")
        names = ("output", "classes", "tags", "marker", "page", "page_host", "page_port", "rate_hz", "use_sim_time")
        expected = ["1e3", "no,on,y", "no", "complete", True, "127.0.0.1", 0, 20, False]
        assert values_of(watcher, *names) == expected
        watcher.wait(lambda: int(watcher.values.get("written", 0)) > 5, "pairs")
        assert run.stop() == 0 and not run.left_behind()
    assert (tmp_path / "run" / "1e3" / "metadata.yaml").is_file()


# A launch file of a user's, as Nav2's for several robots are.
_MINE = """
from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace


def generate_launch_description():
    included = IncludeLaunchDescription(
        PythonLaunchDescriptionSource({file!r}), launch_arguments=list({arguments!r}.items())
    )
    return LaunchDescription([GroupAction([PushRosNamespace("robot1"), included])])
"""


def test_a_pushed_namespace_holds_node_and_camera_together_and_nothing_is_left_behind(
    prefix: Path, new_domain: Callable[[], int], model_file: Path, tmp_path: Path
) -> None:
    arguments = {"model": str(model_file), "profile": "96x64x10", "namespace": "arm", "camera_name": "front"}
    mine = tmp_path / "mine.launch.py"
    mine.write_text(_MINE.format(file=str(PROJECT / "launch" / "demo.launch.py"), arguments=arguments))
    domain = new_domain()
    with launched(prefix, tmp_path / "run", domain, mine) as run:
        with client(domain, "/robot1/arm/deal_segmentation") as watcher:
            masks: list[Image] = []
            watcher.node.create_subscription(Image, "/robot1/arm/deal_segmentation/mask", masks.append, 10)
            watcher.wait(lambda: len(masks) > 3, "masks")
            assert masks[0].header.frame_id == "front_color_optical_frame"  # the layout of RViz shows it
            assert watcher.fresh_values()["color_topic"] == "/robot1/arm/camera/front/color/image_raw"
        assert run.stop() == 0 and not run.left_behind()
    assert "going on without RViz" in run.text()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("segmentation.launch.py", ["model:=nothere.onnx", "start_camera:=true"]),
        ("segmentation.launch.py", ["model:={model}", "start_camera:=true", "namespace:=1"]),
        ("segmentation.launch.py", ["model:={model}", "start_camera:=true", "params_file:=nothere.yaml"]),
        ("demo.launch.py", ["model:={model}", "camera_name:=a-b"]),
        ("demo.launch.py", ["model:={model}", "log_level:=loud"]),
    ],
)
def test_a_launch_that_fails_leaves_nothing_behind(
    prefix: Path, new_domain: Callable[[], int], model_file: Path, tmp_path: Path, name: str, words: list[str]
) -> None:
    given = [word.format(model=model_file) for word in words]
    with launched(prefix, tmp_path / "run", new_domain(), name, *given) as run:
        assert run.process.wait(60) == 1
        assert not run.left_behind()
    assert "Caught exception in launch (see debug for traceback): launch argument '" in run.text()


def test_a_node_that_dies_leaves_the_camera_to_launch_which_stops_it(
    prefix: Path, new_domain: Callable[[], int], model_file: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(model_file.read_bytes()[:5000])
    words = [f"model:={damaged}", "start_camera:=true", f"color_profile:={PROFILE}"]
    with launched(prefix, tmp_path / "run", new_domain(), "segmentation.launch.py", *words) as run:
        run.wait_text("damaged or truncated")
        run.wait_text("sending 96x64 at 20 Hz")
        assert run.stop() == 0 and not run.left_behind()


# The executables have the Python of colcon, but `ros2 launch` has the system's, with the packages of ROS alone.
_ONLY_ROS = """
import importlib.abc, runpy, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "cv2", "pydantic", "lazy_loader", "safetensors", "typer", "rich", "PIL"):
            raise ImportError(f"{name} is not in the system's Python")
sys.meta_path.insert(0, Hidden())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("name", ["segmentation.launch.py", "record.launch.py", "demo.launch.py"])
def test_launch_files_need_only_what_ros_brings(prefix: Path, name: str) -> None:
    words = [HELPERS / "launch_stand_in.py", PROJECT / "launch" / name, "model:=nothere", "output:=/", "classes:=mug"]
    done = subprocess.run(
        [sys.executable, "-c", _ONLY_ROS, *words],
        env={**os.environ, "AMENT_PREFIX_PATH": str(prefix)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1 and "launch argument '" in done.stderr + done.stdout, done.stderr


@dataclass
class Robot:
    """A camera and its node, and what a watcher knows of them."""

    camera: str
    watcher: Client

    def __post_init__(self) -> None:
        from std_msgs.msg import String

        from deal_ros.input.qos import labels_qos

        self.sent: dict[str, Any] = {}
        self.watcher.node.create_subscription(String, f"{self.camera}/sent", self._take_sent, labels_qos())

    def wait_masks(self) -> None:
        self.watcher.wait(lambda: int(self.watcher.values.get("published", 0)) > 3, "masks")

    def be_silent(self, silent: bool) -> None:
        assert self.watcher.set(self.camera, silent=silent) == ""

    def counts(self) -> tuple[int, int, int, int]:
        """Return how many images of each stream the camera sent and the node received, when nothing is on its way."""
        self.watcher.wait(lambda: self.sent.get("changed", {}).get("silent"), "a silent camera")
        before = None
        while before != (before := self._counted()):
            pass
        return before

    def balance(self) -> None:
        """Check that the node accounts for each image that it received."""
        values = self.watcher.fresh_values()
        n = {key: int(value) for key, value in values.items() if re.fullmatch(r"-?\d+", value)}
        handed_on = n["paired"] + n["color_alone"]
        assert n["received_color"] == handed_on + n["unpaired_color"] + n["pending_color"]
        assert n["received_depth"] == n["paired"] + n["unpaired_depth"] + n["pending_depth"]
        dropped = sum(count for key, count in n.items() if key.startswith("dropped_"))
        assert handed_on == n["published"] + dropped + n["failed"] + n["in_flight"]

    def _counted(self) -> tuple[int, int, int, int]:
        values = self.watcher.fresh_values()
        sent = [self.sent[stream]["sent"] for stream in ("color", "depth")]
        received = [int(values[f"received_{stream}"]) for stream in ("color", "depth")]
        return sent[0], sent[1], received[0], received[1]

    def _take_sent(self, message: Any) -> None:
        self.sent = json.loads(message.data)


def documented_lines(heading: str) -> list[list[str]]:
    """Return the words of each `ros2 launch` under a heading of the page."""
    text = re.split(r"^#+ ", PAGE.read_text(), flags=re.MULTILINE)
    (section,) = [part for part in text if part.startswith(heading)]
    return [shlex.split(line) for line in section.splitlines() if line.startswith("ros2 launch")]


@pytest.mark.parametrize(
    ("heading", "nodes", "cameras"),
    [
        (
            "Two robots",
            ["/robot1/deal_segmentation", "/robot2/deal_segmentation"],
            ["/robot1/camera/camera", "/robot2/camera/camera"],
        ),
        (
            "Two cameras on one robot",
            ["/front_segmentation", "/wrist_segmentation"],
            ["/camera/front", "/camera/wrist"],
        ),
    ],
)
def test_the_documented_lines_for_several_cameras_balance_to_the_message(
    prefix: Path,
    new_domain: Callable[[], int],
    model_file: Path,
    tmp_path: Path,
    heading: str,
    nodes: list[str],
    cameras: list[str],
) -> None:
    lines = documented_lines(heading)
    assert len(lines) == 2 and all(
        line[:4] == ["ros2", "launch", "deal_ros", "segmentation.launch.py"] for line in lines
    )
    mine = tmp_path / "mine.yaml"
    mine.write_text("/**:\n  ros__parameters: {depth_mode: required, diagnostics_period_s: 0.2, max_age_ms: 0}\n")
    small = [f"model:={model_file}", "backend:=torch", f"color_profile:={PROFILE}", f"params_file:={mine}"]
    domain = new_domain()
    with ExitStack() as stack:
        runs, robots = [], []
        for number, (line, node, camera) in enumerate(zip(lines, nodes, cameras, strict=True)):
            words = [word for word in line[4:] if not word.startswith("model:=")] + small
            running = launched(prefix, tmp_path / f"run_{number}", domain, line[3], *words)
            runs.append(stack.enter_context(running))
            robots.append(Robot(camera, stack.enter_context(client(domain, node))))
        for robot in robots:
            robot.wait_masks()
            assert robot.watcher.values["color_topic"] == f"{robot.camera}/color/image_raw"
            robot.be_silent(True)
        before = [robot.counts() for robot in robots]
        # Only the first camera sends: the other node must receive nothing.
        robots[0].be_silent(False)
        robots[0].watcher.wait(
            lambda: int(robots[0].watcher.values["received_color"]) > before[0][2] + 20, "20 more images"
        )
        robots[0].be_silent(True)
        after = [robot.counts() for robot in robots]
        color, depth, received_color, received_depth = (new - old for new, old in zip(after[0], before[0], strict=True))
        assert color == received_color > 20 and depth == received_depth > 20
        assert after[1] == before[1]
        for robot in robots:
            robot.balance()
        for run in runs:
            assert run.stop() == 0 and not run.left_behind()
