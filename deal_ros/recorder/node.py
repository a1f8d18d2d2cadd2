"""The recorder node: records camera topics; parameters, a topic, services, keys and a web page set the tags.

The executor's thread receives messages and executes commands; a thread of `PairRecorder` writes. Keys, page, topic,
services and parameters all call `RecorderControls`, and the parameters always show the current tags.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import time
import traceback
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.timer import Timer
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from deal_core.errors import DealError, RecordingError
from deal_core.files import os_errors_as, write_private
from deal_core.recorder.controls import Control, RecorderControls
from deal_core.recorder.pair_recorder import PairRecorder
from deal_core.recorder.summary import RecordingSummary
from deal_core.recorder.tag_commands import CLEAR, parse_tags
from deal_core.recorder.terminal_keys import TerminalKeys
from deal_core.recording.image_messages import camera_of, is_rectified_topic
from deal_core.recording.writer import check_unused
from deal_core.structures import ClassList, TagMarker, TagState
from deal_core.web import check_installed
from deal_ros.diagnostics.status import to_message
from deal_ros.input.conversions import image_to_raw
from deal_ros.input.depth_alignment import DepthAlignment, DepthAlignmentError
from deal_ros.input.image_input import (
    CAMERA_INFO_TOPIC,
    COLOR_TOPIC,
    DEPTH_TOPIC,
    FOLLOW_PERIOD_S,
    ImageInput,
    transported,
)
from deal_ros.input.nearest_topics import describe_nearest
from deal_ros.input.qos import camera_info_qos
from deal_ros.node.executor_calls import ExecutorCalls
from deal_ros.node.parameters import LiveParameters
from deal_ros.node.paths import path_of
from deal_ros.recorder.diagnostics import RecorderSnapshot, assess_recorder
from deal_ros.recorder.motion_topics import MotionTopics
from deal_ros.recorder.parameters import RecorderParameters

NODE_NAME = "deal_recorder"
EXIT_LOSS = 3

_TICK_S = 0.1
_LOG_PERIOD_S = 5.0
_CAMERA_WAIT_S = 2.0
# One second at camera rate: the executor is busy while a recording starts or stops.
_INPUT_DEPTH = 30


class RecorderNode(Node):
    """Node with parameters, topics, services, keys and timers; `PairRecorder` does the work.

    Raises:
        UsageError: a parameter is invalid.
    """

    def __init__(self) -> None:
        super().__init__(NODE_NAME)
        self._started: RecorderControls | None = None
        self._live = LiveParameters(
            self,
            RecorderParameters,
            is_configured=lambda: self._started is not None,
            check=self._check,
            on_change=self._take_parameters,
        )
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._inputs: list[ImageInput] = []
        self._alignment: DepthAlignment | None = None
        self._motion: MotionTopics | None = None
        self._timers: list[Timer] = []
        self._calls = ExecutorCalls(self)
        self._people = ExitStack()
        self._has_camera = False
        self._images_since = 0.0
        self._is_waiting = self._is_quit = False
        self._used: set[Path] = set()
        self._summaries: list[RecordingSummary] = []
        self._failure: DealError | None = None
        self._reported: RecorderSnapshot | None = None

    @property
    def parameters(self) -> RecorderParameters:
        """The current parameters."""
        return self._live.current

    def start(self) -> None:
        """Subscribe and create the services; recording starts with the first images or with `~/start`.

        Raises:
            UsageError: no output or no classes are named, or the tags name another class.
            DatasetError: the dataset.yaml with the classes cannot be read.
            RecordingError: the output exists.
        """
        wanted = self.parameters
        controls = self._started = self._create_controls()
        if wanted.page:  # before the subscriptions, because it blocks the executor for too long
            self._open_page(controls)
        self._is_waiting = wanted.autostart
        self._create_services(controls)
        self._subscribe()
        self._create_timers()
        self.get_logger().info(
            f"ready: {len(controls.recorder.classes)} classes, {controls.said()}; "
            f"subscribed to {' and '.join(found.topic for found in self._inputs)}; "
            f"recording starts with {'the first images' if wanted.autostart else '~/start'}"
        )
        if wanted.keyboard and TerminalKeys.is_there():
            keys = TerminalKeys(lambda key: self._calls.post(partial(self._take_key, key)))
            self._people.callback(keys.close)
            self.get_logger().info(controls.key_help())

    def is_finished(self) -> bool:
        """Return whether the user quit, or recording was refused or failed."""
        return self._is_quit or self._failure is not None

    def finish(self) -> int:
        """Finish the recording and return the exit code: 0, or 3 if a recording lost more than `max_loss`.

        Raises:
            RecordingError: recording was refused or failed, or nothing was recorded.
        """
        for found in self._inputs:
            found.close()
        if self._motion:
            self._motion.close()
        for timer in self._timers:
            self.destroy_timer(timer)
        if self._core.state.is_recording:
            self._stop()
        self.publish_diagnostics()
        if self._failure:
            raise self._failure
        if self._is_waiting:
            raise RecordingError(f"nothing was recorded: {self._waits()}")
        worst = max((summary.loss for summary in self._summaries), default=0.0)
        if worst > self.parameters.max_loss:
            self.get_logger().error(
                f"{worst:.1%} of the pairs of a recording were lost, over max_loss ({self.parameters.max_loss:.1%})"
            )
            return EXIT_LOSS
        return 0

    def destroy_node(self) -> None:
        """Close the page and restore the terminal."""
        self._calls.close()  # first, because the page may wait for a call
        self._people.close()
        super().destroy_node()

    def publish_diagnostics(self) -> None:
        """Publish the current state of the node on /diagnostics."""
        now = self.get_clock().now().to_msg()  # before the snapshot, which is then newer than its stamp
        snapshot = RecorderSnapshot(
            time_s=time.monotonic(),
            inputs=tuple(found.snapshot for found in self._inputs),
            input_timeout_s=self.parameters.input_timeout_s,
            recorder=self._core.state,
            waits=self._waits() if self._is_waiting else "",
            info_topic=self.resolve_topic_name(CAMERA_INFO_TOPIC),
            has_camera=self._has_camera,
        )
        statuses = assess_recorder(snapshot, self._reported)
        self._reported = snapshot
        name = self.get_fully_qualified_name().lstrip("/")
        self._diagnostics.publish(to_message(statuses, name, now))

    @property
    def _controls(self) -> RecorderControls:
        if self._started is None:
            raise RuntimeError("start the node first")
        return self._started

    @property
    def _core(self) -> PairRecorder:
        return self._controls.recorder

    def _create_controls(self) -> RecorderControls:
        wanted = self.parameters
        settings = wanted.settings(self._session())
        check_unused(wanted.path, survives=True)
        recorder = PairRecorder(settings, parse_tags(wanted.tag_command, TagState(), settings.classes))
        extra = [
            Control("start_stop", " ", "start or stop", self._start_or_stop),
            Control("quit", "q", "quit", self._quit, ends=True),
        ]
        return RecorderControls(recorder, extra, self._show)

    def _subscribe(self) -> None:
        wanted = self.parameters
        streams = (
            ("color", COLOR_TOPIC, wanted.color_transport, wanted.color_qos, self._take_color),
            ("depth", DEPTH_TOPIC, wanted.depth_transport, wanted.depth_qos, self._take_depth),
        )
        self._inputs = []
        self._alignment = DepthAlignment(self, wanted.depth_values) if wanted.align_depth else None
        for stream, base, transport, qos, take in streams:
            topic, kind = transported(base, transport)
            self._inputs.append(ImageInput(self, stream, topic, qos, take, kind, depth=_INPUT_DEPTH))
        self.create_subscription(CameraInfo, CAMERA_INFO_TOPIC, self._take_info, camera_info_qos())
        self._motion = MotionTopics(self, wanted.motion_topics, self._take_motion)
        if self._motion.missing:
            self.get_logger().info(
                f"not recorded, because tf2_msgs or nav_msgs is not installed: {', '.join(self._motion.missing)}"
            )

    def _create_timers(self) -> None:
        # Steady time: with simulated time and no /clock, the node must still publish diagnostics.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers = [
            self.create_timer(period_s, callback, clock=steady)
            for period_s, callback in (
                (_TICK_S, self._tick),
                (FOLLOW_PERIOD_S, self._follow_publishers),
                (self.parameters.diagnostics_period_s, self.publish_diagnostics),
            )
        ]

    def _create_services(self, controls: RecorderControls) -> None:
        classes = controls.recorder.classes
        self.create_subscription(String, "~/set_tags", self._take_command, 10)
        triggers: dict[str, Callable[[], str]] = {
            "start": self._start,
            "stop": lambda: self._stop().lines()[0],
            "clear_tags": lambda: controls.set_tags(CLEAR, "service"),
            **{name: partial(controls.do, name, "service") for name in ("next_segment", "keep", "discard_last")},
        }
        for name, act in triggers.items():
            self.create_service(Trigger, f"~/{name}", partial(self._answer, act))
        for name, token in zip(classes.names, tag_services(classes), strict=True):
            self.create_service(SetBool, f"~/tag/{token}", partial(self._answer_switch, self._set_class, name))
        for marker in (TagMarker.COMPLETE, TagMarker.IGNORE):
            switch = partial(self._answer_switch, self._switch_marker, marker)
            self.create_service(SetBool, f"~/{marker.value}", switch)

    def _take_color(self, message: Any) -> None:
        self._core.add_color(image_to_raw(message))

    def _take_depth(self, message: Any) -> None:
        if self._alignment is None:
            self._core.add_depth(image_to_raw(message, is_depth=True))
            return
        try:
            self._core.add_depth(self._alignment.lazily(message))
        except DepthAlignmentError as error:
            self.get_logger().warning(f"depth is not recorded: {error}", throttle_duration_sec=_LOG_PERIOD_S)

    def _take_motion(self, topic: str, kind: str, data: bytes, is_static: bool) -> None:
        self._core.add_message(topic, kind, data, is_latched=is_static)

    def _take_info(self, message: CameraInfo) -> None:
        camera = camera_of(message, is_rectified=is_rectified_topic(self._inputs[0].topic))
        if camera is not None:
            self._core.set_camera(camera)
            self._has_camera = True

    def _tick(self) -> None:
        """Start recording when images and intrinsics have arrived; stop if writing failed."""
        if self._core.state.failure:
            self._fail()
        if not (self._is_waiting and self._core.has_images):
            return
        self._images_since = self._images_since or time.monotonic()
        if self._has_camera or time.monotonic() - self._images_since > _CAMERA_WAIT_S:
            self._is_waiting = False
            try:
                self._start()
            except DealError as error:
                self._failure = error

    def _fail(self) -> None:
        try:
            self._failure = RecordingError(self._stop().failure)
        except DealError as error:
            self._failure = error

    def _open_page(self, controls: RecorderControls) -> None:
        check_installed()
        from deal_core.recorder.live_page import create_live_app
        from deal_core.web.server import Door, ServingThread

        wanted = self.parameters
        door = self._people.enter_context(Door(wanted.page_host, wanted.page_port, names=("page_host", "page_port")))
        app = partial(create_live_app, controls, NODE_NAME, door.token, call=self._called)
        self._people.enter_context(ServingThread(app, door))
        if door.token is None:
            self.get_logger().info(f"page: open {door.address}")
            return
        # The log is read by others, too: it goes to /rosout and to files.
        file = path_of(wanted.data_dir) / f"{self.get_fully_qualified_name().strip('/').replace('/', '.')}.page"
        with os_errors_as(RecordingError, f"parameter 'data_dir': {file} cannot be written"):
            write_private(file, f"{door.address}\n")
        self._people.callback(file.unlink, missing_ok=True)
        self.get_logger().info(
            f"page: open {door.address_without_token} with its token: the whole address is in {file}"
        )

    def _called(self, act: Callable[[], str]) -> str:
        """Run a command of the page in the executor's thread and return its result."""
        try:
            return self._calls.post(act).result()
        except CancelledError:
            raise RecordingError("the node has ended") from None

    def _start_or_stop(self, source: str) -> str:
        return self._stop().lines()[0] if self._core.state.is_recording else self._start()

    def _quit(self, source: str) -> str:
        self._is_quit = True
        return "the node ends"

    def _start(self) -> str:
        path = self._next_path()
        self._core.start(path)
        self._used.add(path)
        self._is_waiting = False
        text = f"recording {path}; {self._controls.said()}"
        self.get_logger().info(text)
        return text

    def _stop(self) -> RecordingSummary:
        summary = self._core.stop()
        self._summaries.append(summary)
        for line in summary.lines():
            self.get_logger().info(line)
        return summary

    def _next_path(self) -> Path:
        wanted = self.parameters.path
        path, number = wanted, 1
        while path in self._used:
            number += 1
            path = wanted.with_name(f"{wanted.name}_{number}")
        return path

    def _take_command(self, message: String) -> None:
        self._try(lambda: self._controls.set_tags(message.data, "topic"))

    def _take_key(self, key: str) -> None:
        if self._try(lambda: self._controls.press(key, "keyboard")) is None:
            self.get_logger().info(self._controls.key_help())

    def _set_class(self, name: str, present: bool) -> str:
        return self._controls.set_tags(("+" if present else "-") + name, "service")

    def _switch_marker(self, marker: TagMarker, on: bool) -> str:
        return self._controls.switch_marker(marker, on, "service")

    def _show(self, text: str) -> None:
        """Log a text and set the parameters to the current tags; both at once, because each alone changes the tags."""
        tags, shown = self._core.state.tags, self.parameters
        if (shown.tags, shown.marker) != (tags.present, tags.marker.value):
            values = {"tags": ",".join(tags.present), "marker": tags.marker.value}
            self.set_parameters_atomically([Parameter(name, value=value) for name, value in values.items()])
        self.get_logger().info(text)

    def _check(self, values: RecorderParameters) -> None:
        if self._started:
            if values.output != self.parameters.output:
                check_unused(values.path, survives=True)
            parse_tags(values.tag_command, TagState(), self._started.recorder.classes)

    def _take_parameters(self, values: RecorderParameters) -> None:
        if self._started is None:
            return
        before = self._core.state.tags
        if self._core.set_tags(values.tag_command, "parameter") != before:
            self.get_logger().info(self._controls.said())

    def _answer(self, act: Callable[[], str], _request: Any, response: Any) -> Any:
        answer = self._try(act)
        response.success = not isinstance(answer, Exception)
        response.message = str(answer)
        return response

    def _answer_switch(self, switch: Callable[[Any, bool], str], what: Any, request: Any, response: Any) -> Any:
        return self._answer(lambda: switch(what, bool(request.data)), request, response)

    def _try(self, act: Callable[[], object]) -> object:
        """Return the result of a command, or the error if it is refused."""
        try:
            return act()
        except DealError as error:
            self.get_logger().warning(str(error))
            return error
        except Exception as error:  # whatever somebody asks for, the node goes on and answers
            self.get_logger().error(traceback.format_exc())
            return error

    def _waits(self) -> str:
        silent = [found.snapshot for found in self._inputs if not found.snapshot.received]
        missing = ", ".join(
            f"{found.stream} on {found.topic}{'' if found.offers else f' ({describe_nearest(found.nearest)})'}"
            for found in silent
        )
        return f"no images received yet: {missing}" if missing else "recording has not started yet"

    def _follow_publishers(self) -> None:
        for found in self._inputs:
            found.follow_publisher()

    def _session(self) -> dict[str, object]:
        topics = {"color": COLOR_TOPIC, "camera_info": CAMERA_INFO_TOPIC, "depth": DEPTH_TOPIC}
        try:
            version = importlib.metadata.version("deal_ros")
        except importlib.metadata.PackageNotFoundError:
            version = "unknown"
        return {
            "tool": f"deal_ros {version} {NODE_NAME}",
            "ros_distro": os.environ.get("ROS_DISTRO", "unknown"),
            "topics": {name: self.resolve_topic_name(topic) for name, topic in topics.items()},
        }


def tag_services(classes: ClassList) -> list[str]:
    """Return the name of each class' service `~/tag/<name>`: `_` replaces characters that ROS does not allow."""
    tokens: list[str] = []
    for id_, name in enumerate(classes.names, start=1):
        token = re.sub(r"(\W|_)+", "_", name, flags=re.ASCII)
        token = f"class_{token}" if token[0].isdigit() else token
        tokens.append(f"{token}_{id_}" if token in tokens else token)
    return tokens
