"""The recorder as a process of its own: whatever a camera sends and people say, recording and exit code tell it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_core.dataset.check import check_recording
from deal_core.dataset.dataset import Dataset
from deal_core.dataset.extract import ExtractOptions, extract_recording
from deal_core.recording.image_messages import MessageDecoder
from deal_core.recording.reader import open_recording
from deal_core.recording.tags import read_session
from deal_core.recording.writer import TAGS_TOPIC
from deal_core.structures import CameraIntrinsics, ClassList
from deal_ros.input.conversions import stamp_to_ns
from deal_ros.node.process import NodeProcess, node_process
from deal_ros.recorder.node import tag_services

pytestmark = pytest.mark.ros

CAMERA = CameraIntrinsics(64, 48, 60.0, 61.0, 32.0, 24.0)
COLOR, INFO = "/camera/camera/color/image_raw", "/camera/camera/color/camera_info"
DEPTH = "/camera/camera/aligned_depth_to_color/image_raw"
REMAPPINGS = {"color/image_raw": COLOR, "color/camera_info": INFO, "depth/image_raw": DEPTH}
PERIOD_S = 0.02
EVERYTHING = {
    "classes": "mug,drill,red box",
    "rate_hz": 0.0,
    "tag_guard_s": 0.05,
    "keyboard": False,
    "diagnostics_period_s": 0.1,
}


class Operator:
    """Films with a camera, talks to the recorder, and hears what it says of itself."""

    def __init__(self, camera: Any, process: Any, output: Path) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from rcl_interfaces.srv import GetParameters, SetParameters
        from sensor_msgs.msg import CameraInfo
        from std_msgs.msg import String
        from std_srvs.srv import SetBool, Trigger

        self.camera, self.process, self.output = camera, process, output
        self.values: dict[str, str] = {}
        self.said: dict[str, tuple[int, str]] = {}
        self.warnings: list[str] = []
        self.stamps: list[int] = []
        self._stamp_ns = 0
        self._string, self._switch, self._trigger = String, SetBool, Trigger
        self._set_parameters, self._get_parameters = SetParameters, GetParameters
        self._clients: dict[str, Any] = {}
        self._info = camera.node.create_publisher(CameraInfo, INFO, 20)
        self._commands = camera.node.create_publisher(String, "/deal_recorder/set_tags", 10)
        camera.node.create_subscription(DiagnosticArray, "/diagnostics", self._take, 20)

    def film(self, count: int, *, depth: bool = True, size: tuple[int, int] = (48, 64)) -> list[int]:
        """Publish pairs and return their stamps."""
        from deal_ros.input.conversions import camera_to_info

        stamps = []
        for _ in range(count):
            color, distance = self.camera.pair(len(self.stamps), size)
            self._info.publish(camera_to_info(CAMERA, color.header))
            stamps.append(self.camera.send(color, distance if depth else None))
            self.stamps.append(stamps[-1])
            due = time.monotonic() + PERIOD_S
            self.camera.wait(lambda due=due: time.monotonic() >= due, "the next image")
        return stamps

    def film_until_recording(self) -> None:
        def filmed() -> bool:
            self.film(1)
            return self.values.get("recording", "none") != "none"

        self.wait(filmed, "recording to begin")

    def film_written(self, count: int) -> list[int]:
        """Film and wait until all of it is in the file."""
        paired, stamps = int(self.fresh()["paired"]), self.film(count)
        self.wait(lambda: int(self.values["paired"]) >= paired + count, "all pairs")
        self.wait(lambda: self.values["pending_pairs"] == "0", "the disk")
        return stamps

    def say(self, command: str) -> None:
        self.wait(lambda: self._commands.get_subscription_count() > 0, "the recorder's subscription")
        self._commands.publish(self._string(data=command))

    def trigger(self, name: str) -> tuple[bool, str]:
        response = self._call(self._trigger, name, self._trigger.Request())
        return response.success, response.message

    def switch(self, name: str, on: bool) -> tuple[bool, str]:
        response = self._call(self._switch, name, self._switch.Request(data=on))
        return response.success, response.message

    def set_parameter(self, name: str, value: str) -> tuple[bool, str]:
        from rclpy.parameter import Parameter

        request = self._set_parameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        (result,) = self._call(self._set_parameters, "set_parameters", request).results
        return result.successful, result.reason

    def parameter(self, name: str) -> str:
        request = self._get_parameters.Request(names=[name])
        return str(self._call(self._get_parameters, "get_parameters", request).values[0].string_value)

    def wait_tags(self, tags: str, marker: str) -> None:
        self.wait(lambda: (self.values.get("tags"), self.values.get("marker")) == (tags, marker), f"{tags} ({marker})")

    def fresh(self) -> dict[str, str]:
        """Return diagnostics with a stamp after this call; older ones may still be in the queue."""
        begun_ns = time.time_ns()
        self.wait(lambda: self._stamp_ns >= begun_ns, "diagnostics")
        return self.values

    def wait(self, is_true: Callable[[], bool], what: str) -> None:
        def is_true_or_over() -> bool:
            assert self.process.is_alive(), self.process.text()
            return is_true()

        self.camera.wait(is_true_or_over, f"{what}; {self.values} {self.said}; {self.process.text()}")

    def _call(self, kind: Any, name: str, request: Any) -> Any:
        if name not in self._clients:
            self._clients[name] = self.camera.node.create_client(kind, f"/deal_recorder/{name}")
        client = self._clients[name]
        self.wait(client.service_is_ready, f"service {name}")
        future = client.call_async(request)
        self.wait(future.done, f"answer of {name}")
        return future.result()

    def _take(self, message: Any) -> None:
        mine = [s for s in message.status if s.name.startswith("deal_recorder: ")]
        if mine:
            self._stamp_ns = stamp_to_ns(message.header.stamp)
            self.values = {entry.key: entry.value for status in mine for entry in status.values}
            self.said = {s.name.split(": ", 1)[1]: (s.level[0], s.message) for s in mine}
            self.warnings += [s.message for s in mine if s.level[0]]


@pytest.fixture
def record(
    new_domain: Callable[[], int], new_camera: Callable[..., Any], tmp_path: Path
) -> Iterator[Callable[..., Operator]]:
    """Start recorders with a camera each."""
    with ExitStack() as stack:

        def start(name: str = "kitchen", **parameters: Any) -> Operator:
            domain, output = new_domain(), tmp_path / name
            node = node_process(
                "deal_ros.recorder.main",
                tmp_path / f"{name}.txt",
                parameters={**EVERYTHING, "output": str(output), **parameters},
                remappings=REMAPPINGS,
                environment={"ROS_DOMAIN_ID": str(domain)},
            )
            process = stack.enter_context(node)
            return Operator(new_camera(domain), process, output)

        yield start


def tags_of(recording: Path) -> list[dict[str, Any]]:
    with open_recording(recording) as found:
        return [json.loads(MessageDecoder().text(m.data)) for m in found.messages([TAGS_TOPIC])]


@pytest.mark.slow
def test_what_people_say_by_any_way_is_what_the_dataset_holds(record: Callable[..., Operator], tmp_path: Path) -> None:
    kitchen = record(tags="mug", note="the blue one")
    kitchen.film_until_recording()
    filmed = [(("mug",), kitchen.film_written(8))]

    assert kitchen.set_parameter("tags", "drill") == (True, "")
    kitchen.wait_tags("drill", "partial")
    assert kitchen.set_parameter("marker", "complete") == (True, "")
    filmed.append((("drill",), kitchen.film_written(8)))

    kitchen.say("+red box")
    kitchen.wait_tags("drill, red box", "complete")
    assert (kitchen.parameter("tags"), kitchen.parameter("marker")) == ("drill,red box", "complete")
    filmed.append((("drill", "red box"), kitchen.film_written(8)))

    assert kitchen.switch("tag/mug", True) == (True, "tags: drill, mug, red box (complete)")
    assert kitchen.switch("tag/red_box", False) == (True, "tags: drill, mug (complete)")
    assert kitchen.switch("complete", False)[1] == kitchen.switch("complete", False)[1] == "tags: drill, mug (partial)"
    filmed.append((("drill", "mug"), kitchen.film_written(8)))
    assert kitchen.switch("ignore", True) == (True, "tags: drill, mug (ignore)")
    kitchen.film_written(3)
    assert kitchen.switch("ignore", False) == (True, "tags: drill, mug (partial)")
    discarded = kitchen.film_written(8)
    done, text = kitchen.trigger("discard_last")
    assert done and text.startswith("discarded the last segment: ")
    assert kitchen.trigger("clear_tags") == (True, "tags: none (partial)")

    for done, text in (kitchen.set_parameter("tags", "mugg"), kitchen.set_parameter("rate_hz", "7")):
        assert not done and ("Did you mean 'mug'" in text or "cannot change now" in text)
    kitchen.say("drll")
    kitchen.wait(lambda: "Did you mean 'drill'" in kitchen.process.text(), "the refusal of a topic's tags")
    assert kitchen.trigger("start") == (False, f"{kitchen.output} is being recorded already: stop it first")

    done, text = kitchen.trigger("stop")
    assert done and text.startswith(f"{kitchen.output}: ")
    unseen = kitchen.film(3)
    assert kitchen.trigger("stop") == (False, "no recording is running: start one first")
    assert kitchen.trigger("start") == (True, f"recording {kitchen.output}_2; tags: none (partial)")
    again = kitchen.film_written(5)
    assert kitchen.process.stop(signal.SIGINT) == 0, kitchen.process.text()

    report = check_recording(kitchen.output)
    assert report.errors == [] and report.unpaired == {}
    assert {tags["source"] for tags in tags_of(kitchen.output)} >= {"start", "parameter", "topic", "service", "discard"}
    with open_recording(kitchen.output) as recording:
        session = read_session(recording, MessageDecoder())
    assert session.classes is not None and session.classes.names == ("mug", "drill", "red box")
    assert session.facts["parameters"]["note"] == "the blue one"
    assert session.facts["topics"] == {"color": COLOR, "camera_info": INFO, "depth": DEPTH}

    extraction = extract_recording(kitchen.output, tmp_path / "data", ExtractOptions())
    assert extraction.report.unpaired == {} and extraction.report.errors == []
    dataset = Dataset.open(tmp_path / "data")
    assert dataset.camera("kitchen") == CAMERA
    frames = {frame.stamp_ns: frame for frame in dataset.frames}
    for tags, stamps in filmed:  # the guard takes at most the first and last 50 ms, two images each
        kept = [frames[stamp] for stamp in stamps if stamp in frames]
        assert len(kept) >= len(stamps) - 6 and all(frame.tags.present == tags for frame in kept)
    assert not frames.keys() & {*discarded, *unseen}
    second = check_recording(kitchen.output.with_name("kitchen_2"))
    assert second.errors == [] and second.pairs == len(again)


@pytest.mark.slow
def test_the_file_is_one_that_other_tools_read(record: Callable[..., Operator]) -> None:
    reader = pytest.importorskip("mcap.reader", reason="needs the package mcap, of the extra dev")
    from rosbags.highlevel import AnyReader

    kitchen = record()
    kitchen.film_until_recording()
    kitchen.film_written(5)
    assert kitchen.process.stop(signal.SIGTERM) == 0, kitchen.process.text()
    with AnyReader([kitchen.output]) as bag:
        found = Counter(connection.topic for connection, _, _ in bag.messages())
        headers = {
            (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id)
            for connection, _, data in bag.messages()
            if connection.topic in (COLOR, DEPTH)
            for message in [bag.deserialize(data, connection.msgtype)]
        }
    assert found[COLOR] == found[DEPTH] == found[INFO] == len(headers) >= 5
    with next(kitchen.output.glob("*.mcap")).open("rb") as file:
        listed = Counter(channel.topic for _, channel, _ in reader.make_reader(file).iter_messages())
    assert listed == found


@pytest.mark.slow
def test_the_page_says_the_same_as_a_service(record: Callable[..., Operator]) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed (extra tag)")
    kitchen = record(page=True, page_port=0)
    kitchen.film_until_recording()
    found = re.search(r"page: open (http://127.0.0.1:\d+/)", kitchen.process.text())
    assert found, kitchen.process.text()

    def ask(path: str, body: dict[str, str] | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(found[1] + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())

    begun = json.loads(ask("session"))
    assert [c["name"] for c in begun["classes"]] == ["mug", "drill", "red box"]
    assert [c["key"] for c in begun["controls"]] == ["n", "k", "u", " ", "q"]
    assert ask("picture.jpg")[:2] == b"\xff\xd8"

    def act(**wish: str) -> dict[str, Any]:
        return dict(json.loads(ask("act", {"session": begun["session"], **wish})))

    assert act(tags="+red box")["said"] == "tags: red box (partial)"
    assert kitchen.parameter("tags") == "red box"
    assert act(tags="+mug,complete")["states"] == [1, 0, 1]
    assert kitchen.parameter("marker") == "complete"
    kitchen.film_written(3)
    assert kitchen.switch("tag/drill", True)[0] and json.loads(ask("state"))["states"] == [1, 1, 1]
    assert kitchen.trigger("next_segment") == (True, "a new segment begins; tags: drill, mug, red box (complete)")
    assert kitchen.trigger("keep") == (True, "the next pair is kept")
    kitchen.film_written(3)
    state = json.loads(ask("state"))
    assert state["recording"] == str(kitchen.output) and state["written"] >= 6 and state["lost"] == {}
    assert act(name="start_stop")["said"].startswith(f"{kitchen.output}: ")
    assert act(name="quit")["said"] == "the node ends"
    assert kitchen.process.process.wait(60) == 0, kitchen.process.text()
    assert [tags["present"] for tags in tags_of(kitchen.output) if tags["source"] == "page"] == [
        ["red box"],
        ["mug", "red box"],
    ]


@pytest.mark.slow
def test_the_token_of_the_page_is_for_its_owner_alone(
    record: Callable[..., Operator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed (extra tag)")
    from rcl_interfaces.msg import Log
    from rclpy.qos import DurabilityPolicy, QoSProfile

    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "log"))
    kitchen = record(page=True, page_port=0, page_host="0.0.0.0", data_dir=str(tmp_path / "data"))
    heard: list[str] = []
    latched = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    kitchen.camera.node.create_subscription(Log, "/rosout", lambda found: heard.append(found.msg), latched)
    kitchen.film_until_recording()
    file = tmp_path / "data" / "deal_recorder.page"
    kitchen.wait(lambda: any(str(file) in said for said in heard), "the address on /rosout")
    assert file.stat().st_mode & 0o777 == 0o600
    address = file.read_text(encoding="utf-8").strip()
    token = address.partition("?token=")[2]
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert answer.status == 200
    logs = [path.read_text(encoding="utf-8") for path in (tmp_path / "log").rglob("*") if path.is_file()]
    assert logs and len(token) >= 16
    assert not any(token in said for said in (*heard, *logs, kitchen.process.text()))
    refused, reason = kitchen.set_parameter("output", "/etc/recording")
    assert not refused and "takes a path below" in reason
    for output in ("x" * 300, "/", "", str(tmp_path)):
        assert not kitchen.set_parameter("output", output)[0], output
    kitchen.film(1)
    kitchen.process.stop()
    assert not file.exists()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "openpty"), reason="this system has no pseudo-terminals")
def test_keys_set_tags_start_stop_undo_and_quit(
    new_domain: Callable[[], int], new_camera: Callable[..., Any], tmp_path: Path
) -> None:
    domain, output = new_domain(), tmp_path / "kitchen"
    master, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    command = [sys.executable, "-m", "deal_ros.recorder.main", "--ros-args", "-p", f"output:={output}"]
    for name, value in {**EVERYTHING, "keyboard": True}.items():
        command += ["-p", f"{name}:={value}"]
    for name, topic in REMAPPINGS.items():
        command += ["-r", f"{name}:={topic}"]

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with (tmp_path / "output.txt").open("wb") as sink:
        process = subprocess.Popen(
            command,
            stdin=terminal,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, "ROS_DOMAIN_ID": str(domain)},
            preexec_fn=own_terminal,
        )
    try:
        operator = Operator(new_camera(domain), NodeProcess(process, tmp_path / "output.txt"), output)

        def press(keys: str) -> None:
            os.write(master, keys.encode())

        operator.film_until_recording()
        assert "keys: 1 mug, 2 drill, 3 red box" in operator.process.text()
        for keys, tags, marker in (
            ("1", "mug", "partial"),
            ("3m", "mug, red box", "complete"),
            ("1", "red box", "complete"),
        ):
            press(keys)
            operator.wait_tags(tags, marker)
        operator.film_written(5)
        press("c\x1b[A2i")  # an arrow between them
        operator.wait_tags("drill", "ignore")
        press("i")
        operator.wait_tags("drill", "complete")
        press("u")
        operator.wait(lambda: "discarded the last segment" in operator.process.text(), "undo")
        operator.film_written(3)
        press(" ")
        operator.wait(lambda: operator.values.get("recording") == "none", "stop")
        press(" ")
        operator.wait(lambda: operator.values.get("recording") == f"{output}_2", "start")
        operator.film_written(3)
        press("q")
        assert process.wait(20) == 0, operator.process.text()
        assert termios.tcgetattr(terminal) == before
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(terminal)
    assert {tags["source"] for tags in tags_of(output)} == {"start", "keyboard", "guard", "discard"}
    assert check_recording(output).errors == [] == check_recording(output.with_name("kitchen_2")).errors


@pytest.mark.slow
def test_loss_shows_in_diagnostics_and_in_the_exit_code(record: Callable[..., Operator]) -> None:
    kitchen = record(max_loss=0.1, sync_queue=2)
    kitchen.film_until_recording()
    kitchen.film_written(5)
    kitchen.film(10, depth=False)
    kitchen.film(12)
    kitchen.wait(lambda: int(kitchen.values["lost"]) >= 8, "the losses")
    assert any(text.startswith("lost since the last report: ") for text in kitchen.warnings)
    assert kitchen.process.stop() == 3, kitchen.process.text()
    assert "over max_loss" in kitchen.process.text()
    summary = json.loads((kitchen.output / "summary.json").read_text())
    assert summary["loss"] > 0.1 and summary["counts"]["unpaired_color"]
    assert check_recording(kitchen.output).errors == []


@pytest.mark.slow
def test_a_camera_without_aligned_depth_ends_the_node_and_nothing_is_left(record: Callable[..., Operator]) -> None:
    from deal_ros.input.conversions import array_to_image

    kitchen = record()
    while kitchen.process.is_alive():
        color, depth = kitchen.camera.pair()
        small = array_to_image(np_half(depth), depth.header)
        kitchen.camera.send(color, small)
        due = time.monotonic() + PERIOD_S
        kitchen.camera.wait(lambda due=due: time.monotonic() >= due, "the next image")
    assert kitchen.process.stop() == 1
    assert "depth is not aligned to colour: colour is 64x48" in kitchen.process.text()
    assert [path.name for path in kitchen.output.parent.iterdir()] == ["kitchen.txt"]


def np_half(depth: Any) -> Any:
    from deal_ros.input.conversions import image_to_depth_mm

    return image_to_depth_mm(depth)[::2, ::2]


def test_without_images_it_says_what_it_waits_for(record: Callable[..., Operator]) -> None:
    kitchen = record()
    kitchen.fresh()
    assert kitchen.said["recording"] == (1, f"no images received yet: color on {COLOR}, depth on {DEPTH}")
    assert kitchen.process.stop(signal.SIGTERM) == 1
    assert "nothing was recorded: no images received yet" in kitchen.process.text()
    assert not kitchen.output.exists()


def test_every_class_has_a_service_of_its_own() -> None:
    classes = ClassList(("mug", "red box", "red-box", "2nd mug", "çup"))
    assert tag_services(classes) == ["mug", "red_box", "red_box_3", "class_2nd_mug", "_up"]
