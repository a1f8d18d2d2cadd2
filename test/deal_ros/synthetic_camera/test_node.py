"""The synthetic camera as a process of its own, seen by a subscriber."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

from deal_core.recording.image_encodings import ImageFormatError
from deal_core.synthetic.recording import SyntheticConfig, render_scenes
from deal_ros.input.conversions import color_to_rgb, image_to_depth_mm, stamp_to_ns

pytestmark = pytest.mark.ros
COLOR, DEPTH = "/camera/camera/color/image_raw", "/camera/camera/aligned_depth_to_color/image_raw"
WIDTH, HEIGHT, VIEWS = 96, 64, 3
WAIT_S = 60.0
CONFIG = SyntheticConfig(seed=5, scenes=1, frames_per_scene=VIEWS, width=WIDTH, height=HEIGHT)


class Viewer:
    """Hears all that the camera says, and sets its parameters."""

    def __init__(self, domain: int, is_alive: Callable[[], bool]) -> None:
        import rclpy
        from rcl_interfaces.srv import SetParameters
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import CameraInfo, Image
        from std_msgs.msg import String

        from deal_ros.input.qos import labels_qos

        self._is_alive, self._context = is_alive, Context()
        rclpy.init(args=[], context=self._context, domain_id=domain)
        self.node = rclpy.create_node("viewer", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.color: list[Any] = []
        self.depth: list[Any] = []
        self.infos: dict[str, list[Any]] = {COLOR: [], DEPTH: []}
        self.sent: dict[str, Any] = {}
        self.changed: set[str] = set()
        subscribe = self.node.create_subscription
        subscribe(Image, COLOR, self.color.append, 50)
        subscribe(Image, DEPTH, self.depth.append, 50)
        for topic, infos in self.infos.items():
            subscribe(CameraInfo, topic.replace("image_raw", "camera_info"), infos.append, 50)
        subscribe(String, "/camera/camera/sent", lambda found: self.sent.update(json.loads(found.data)), labels_qos())
        self._client = self.node.create_client(SetParameters, "/camera/camera/set_parameters")

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.shutdown()

    def wait(self, is_true: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + WAIT_S
        while not is_true():
            assert self._is_alive(), "the camera has ended"
            assert time.monotonic() < end, f"waited in vain for: {what}; the camera says {self.sent}"
            self._executor.spin_once(timeout_sec=0.05)

    def set(self, **values: Any) -> str:
        """Set parameters; return why they are refused, or nothing."""
        import rclpy
        from rcl_interfaces.srv import SetParameters

        self.wait(self._client.service_is_ready, "the parameter service")
        parameters = [rclpy.Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        answer = self._client.call_async(SetParameters.Request(parameters=parameters))
        self.wait(answer.done, "an answer")
        results = answer.result().results
        self.changed.update(name for name, found in zip(values, results, strict=True) if found.successful)
        return "".join(found.reason for found in results)

    def forget(self) -> None:
        for kept in (self.color, self.depth, *self.infos.values()):
            kept.clear()

    def frames(self, count: int = 1) -> None:
        """Wait until so many more images of both streams are here."""
        self.forget()
        self.wait(lambda: min(len(self.color), len(self.depth)) >= count, f"{count} images of both streams")

    def report(self) -> tuple[float, dict[str, Any]]:
        """Wait for the camera's next report; return when it came, and what it says."""
        before = dict(self.sent)
        self.wait(lambda: self.sent != before, "a report")
        return time.monotonic(), dict(self.sent)

    def pause(self) -> dict[str, Any]:
        """Silence the camera; return what it has sent, a report later, when all of that is here."""
        self.set(silent=True)
        self.wait(lambda: self.sent.get("changed", {}).get("silent") and not self.sent["waiting"], "silence")
        return self.report()[1]


@pytest.fixture(scope="module")
def cameras(
    new_domain: Callable[[], int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Any, Viewer]]]:
    """Two cameras with a viewer each, started at once because their imports take seconds."""
    from contextlib import ExitStack

    from deal_ros.node.process import node_process

    kinds: dict[str, dict[str, Any]] = {
        "small": {"profile": f"{WIDTH}x{HEIGHT}x30", "views": VIEWS, "view_rate_hz": 0, "seed": CONFIG.seed},
        "usual": {"views": 1},
    }
    with ExitStack() as stack:
        found = {}
        for kind, parameters in kinds.items():
            domain = new_domain()
            process = stack.enter_context(
                node_process(
                    "deal_ros.synthetic_camera.main",
                    tmp_path_factory.mktemp(kind) / "output.txt",
                    parameters=parameters,
                    environment={"ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1"},
                )
            )
            viewer = Viewer(domain, process.is_alive)
            stack.callback(viewer.close)
            found[kind] = (process, viewer)
        yield found


@pytest.fixture
def viewer(cameras: dict[str, tuple[Any, Viewer]]) -> Iterator[Viewer]:
    """The viewer of the small camera; faults that a test sets are taken back."""
    import dataclasses

    from deal_ros.synthetic_camera.parameters import SyntheticCameraParameters

    viewer = cameras["small"][1]
    viewer.frames()
    viewer.wait(lambda: viewer.sent, "the first report")
    yield viewer
    defaults = {field.name: field.default for field in dataclasses.fields(SyntheticCameraParameters)}
    viewer.set(**{name: defaults[name] for name in viewer.changed})
    viewer.changed.clear()
    viewer.wait(lambda: viewer.sent["changed"] == {"view_rate_hz": 0.0}, "the faults to end")


def stamps(messages: list[Any]) -> list[int]:
    return [stamp_to_ns(message.header.stamp) for message in messages]


def test_topics_messages_and_their_agreement_are_those_of_a_realsense(viewer: Viewer) -> None:
    viewer.frames(20)
    offers = {
        name: [info.qos_profile for info in viewer.node.get_publishers_info_by_topic(name)] for name in viewer.infos
    }
    assert [len(found) for found in offers.values()] == [1, 1]
    assert {found[0].reliability.name for found in offers.values()} == {"RELIABLE"}
    common = set(stamps(viewer.color)) & set(stamps(viewer.depth))
    assert len(common) >= 15
    for message, encoding, step in ((viewer.color[0], "rgb8", 3 * WIDTH), (viewer.depth[0], "16UC1", 2 * WIDTH)):
        assert (message.width, message.height, message.encoding, message.step) == (WIDTH, HEIGHT, encoding, step)
        assert message.header.frame_id == "camera_color_optical_frame"
    by_stamp = {stamp_to_ns(image.header.stamp): image for image in viewer.depth}
    rendered = {frame.pair.color.tobytes(): frame.pair.depth_mm for frame in render_scenes(CONFIG)}
    for color in viewer.color:
        if (depth := by_stamp.get(stamp_to_ns(color.header.stamp))) is not None:
            np.testing.assert_array_equal(image_to_depth_mm(depth), rendered[color_to_rgb(color).tobytes()])
    for topic, images in ((COLOR, viewer.color), (DEPTH, viewer.depth)):
        viewer.wait(
            lambda topic=topic, images=images: stamps(viewer.infos[topic])[-1:] >= stamps(images)[:1], "an info"
        )
        info = viewer.infos[topic][-1]
        assert (info.width, info.height, info.header.frame_id) == (WIDTH, HEIGHT, "camera_color_optical_frame")
        assert [info.k[i] for i in (0, 4, 2, 5)] == pytest.approx(
            [CONFIG.camera.fx, CONFIG.camera.fy, CONFIG.camera.cx, CONFIG.camera.cy]
        )


@pytest.mark.slow
def test_the_rate_is_kept(viewer: Viewer) -> None:
    begun, before = viewer.report()
    while (after := viewer.report())[1]["ticks"] < before["ticks"] + 60:
        pass
    due = sum(after[1][key] - before[key] for key in ("ticks", "skipped"))
    assert 20 < due / (after[0] - begun) < 45


@pytest.mark.slow
def test_the_camera_accounts_for_every_image_it_sends_or_loses(viewer: Viewer) -> None:
    before = viewer.pause()
    viewer.forget()
    viewer.set(silent=False, lost_color=0.3, lost_depth=0.5, late_depth_ms=40.0)
    viewer.wait(lambda: viewer.sent["ticks"] >= before["ticks"] + 60, "60 ticks")
    after = viewer.pause()
    for stream, images in (("color", viewer.color), ("depth", viewer.depth)):
        assert len(images) == after[stream]["sent"] - before[stream]["sent"]
        assert after["ticks"] == sum(after[stream].values()) and after[stream]["lost"] > 0
    assert len(set(stamps(viewer.color)) & set(stamps(viewer.depth))) == after["pairs"] - before["pairs"]


def nothing_valid(color: Any, depth: Any) -> bool:
    return not image_to_depth_mm(depth).any()


@pytest.mark.parametrize(
    ("faults", "shows"),
    [
        ({"color_encoding": "bgr8"}, lambda color, depth: color.encoding == "bgr8"),
        (
            {"color_encoding": "rgba8"},
            lambda color, depth: color.step == 4 * WIDTH and len(color.data) == 4 * WIDTH * HEIGHT,
        ),
        ({"depth_encoding": "32FC1"}, lambda color, depth: np.isnan(np.frombuffer(depth.data, np.float32)).any()),
        ({"empty_depth": True}, nothing_valid),
        ({"empty_depth": True, "depth_encoding": "32FC1"}, nothing_valid),
        ({"resolution": "80x48"}, lambda color, depth: (color.width, depth.height, color.step) == (80, 48, 240)),
        ({"unaligned": "frame"}, lambda color, depth: depth.header.frame_id == "camera_depth_optical_frame"),
        ({"unaligned": "size"}, lambda color, depth: (color.width, depth.width) == (WIDTH, WIDTH // 2)),
        ({"malformed": "color_step"}, lambda color, depth: color.step == 3 * WIDTH - 1),
        ({"malformed": "depth_truncated"}, lambda color, depth: len(depth.data) == WIDTH * HEIGHT),
    ],
)
def test_a_fault_shows_in_the_messages(
    viewer: Viewer, faults: dict[str, Any], shows: Callable[[Any, Any], bool]
) -> None:
    assert not shows(viewer.color[-1], viewer.depth[-1])
    assert viewer.set(**faults) == ""
    viewer.wait(lambda: shows(viewer.color[-1], viewer.depth[-1]), f"{faults}")
    if "resolution" in faults:
        viewer.wait(lambda: viewer.infos[COLOR][-1].width == viewer.infos[DEPTH][-1].width == 80, "infos that fit")
    if "malformed" in faults:
        with pytest.raises(ImageFormatError):
            color_to_rgb(viewer.color[-1])
            image_to_depth_mm(viewer.depth[-1])


def test_stamps_go_wrong_as_wanted(viewer: Viewer) -> None:
    viewer.set(depth_stamp_offset_ms=-4.0)
    offset = 4_000_000
    viewer.wait(lambda: set(stamps(viewer.color)) & {stamp + offset for stamp in stamps(viewer.depth)}, "an offset")
    viewer.set(stamp_offset_s=-2.0)
    viewer.wait(lambda: (np.diff(stamps(viewer.color)) < -1_500_000_000).sum() == 1, "a step back")
    viewer.set(duplicate_stamps=0.5)
    viewer.wait(lambda: (np.diff(stamps(viewer.color)) == 0).any(), "a stamp twice")


def test_late_depth_comes_late(viewer: Viewer) -> None:
    viewer.set(late_depth_ms=500.0)
    viewer.wait(lambda: viewer.sent["waiting"] >= 10, "depth to wait")
    viewer.frames()
    assert stamps(viewer.color)[-1] - stamps(viewer.depth)[0] > 300_000_000


def test_a_frozen_camera_repeats_itself_under_new_stamps(viewer: Viewer) -> None:
    viewer.frames(8)
    assert len({bytes(image.data) for image in viewer.color}) == VIEWS
    viewer.set(frozen=True)
    viewer.frames(8)
    same = viewer.color[-4:]
    assert len({bytes(image.data) for image in same}) == 1 and len(set(stamps(same))) == 4


def test_an_unplugged_camera_comes_back_with_what_it_should_offer(viewer: Viewer) -> None:
    viewer.set(unplugged=True)
    viewer.wait(lambda: not viewer.node.count_publishers(COLOR) + viewer.node.count_publishers(DEPTH), "it to be gone")
    viewer.wait(lambda: viewer.sent["color"]["withheld"] > 0, "images to be withheld")
    viewer.set(unplugged=False, qos="best_effort")
    viewer.wait(lambda: viewer.node.count_publishers(COLOR) == 1, "it to come back")
    (offer,) = viewer.node.get_publishers_info_by_topic(COLOR)
    assert offer.qos_profile.reliability.name == "BEST_EFFORT"
    viewer.set(qos="reliable")
    viewer.frames(3)


def test_a_wrong_or_static_value_is_refused_with_its_reason(viewer: Viewer) -> None:
    assert "'resolution': expected WIDTHxHEIGHT, for example 320x240, found 'big'" in viewer.set(resolution="big")
    assert "parameter 'profile' was read when the node was configured" in viewer.set(profile="320x240x30")


@pytest.mark.parametrize(
    ("kind", "number", "sending"),
    [("small", signal.SIGINT, "96x64 at 30 Hz"), ("usual", signal.SIGTERM, "640x480 at 30 Hz")],
)
def test_a_signal_ends_it_with_what_it_sent(
    cameras: dict[str, tuple[Any, Viewer]], kind: str, number: signal.Signals, sending: str
) -> None:
    process, viewer = cameras[kind]
    viewer.frames()
    assert process.stop(number) == 0
    text = process.text()
    assert f"sending {sending} on {COLOR} and {DEPTH}" in text and 'stopped: {"ticks": ' in text
    assert "Traceback" not in text and "error" not in text.lower()
