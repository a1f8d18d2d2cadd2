"""What nodes bear of strangers: messages, parameters and service calls that nobody sane sends.

    python benchmarks/strangers.py --out bench_strangers
    python benchmarks/strangers.py --out bench_strangers --count 100    # to see that it runs

The segmentation node, the recorder with compressed images, and the synthetic camera run as processes in one ROS domain.
A stranger in it sends each of them, at random, hostile messages, sets of parameters and service calls, `--count` of
each kind. Then each node must be there, answer, and use little memory, and no file may lie outside the folders that
the operator gave. Prints a table; strangers.json in the output folder holds it too. With 10000, half an hour.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from _processes import resident_mib

from deal_ros.node.domains import unused_domains
from deal_ros.node.process import NodeProcess, node_process

OPERATOR, HOME = "operator", "home"
"""Folders in the output folder: where the operator keeps files, and the user's home, with the folder `data_dir`."""
START_TIMEOUT_S, ANSWER_TIMEOUT_S = 300.0, 20.0
_PASSED_OVER_S = 2.0  # a later call has been answered for so long: this one was not taken
_AT_ONCE = 5  # services keep 10 requests, and lose others
_SETTLE_S = 2.0
_NO_TYPE = 0.002  # share of parameters of a type that does not exist: rclpy fails and does not answer
_LAST_STATES = (5, 6, 7)  # the transitions of a shutdown, which anybody in a domain may ask for


@dataclass(frozen=True)
class Outcome:
    """What a node bore.

    Attributes:
        node: name of the node.
        messages, parameters, calls: numbers of hostile messages, sets of parameters and service calls.
        accepted: sets of parameters that the node took.
        unanswered: sets and calls that got no answer, because of a failure in their callbacks.
        alive: whether it runs and answers.
        growth_mib: growth of its resident memory.
    """

    node: str
    messages: int
    parameters: int
    accepted: int
    calls: int
    unanswered: int
    alive: bool
    growth_mib: float


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the nodes' files and the results")
    parser.add_argument("--count", type=int, default=10_000, help="number of each kind for each node")
    parser.add_argument("--model", type=Path, help="model file; by default a small one is made")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = options.model or make_model(options.out / "model.safetensors")
    outcomes, strays = attack(options.out, model, options.count, options.seed)
    print("| node | messages | parameter sets (taken) | calls | unanswered | alive | memory, MiB |")
    print("|---|---|---|---|---|---|---|")
    for o in outcomes:
        sets = f"{o.parameters} ({o.accepted})"
        print(f"| {o.node} | {o.messages} | {sets} | {o.calls} | {o.unanswered} | {o.alive} | {o.growth_mib:+.0f} |")
    print(f"files outside the operator's folders: {', '.join(strays) or 'none'}")
    result = {"outcomes": [asdict(outcome) for outcome in outcomes], "strays": strays}
    (options.out / "strangers.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if strays or not all(outcome.alive for outcome in outcomes):
        raise SystemExit(1)


def attack(out: Path, model: Path, count: int, seed: int = 0) -> tuple[list[Outcome], list[str]]:
    """Start the nodes, attack them, and return what they bore, and the files that lie where they must not.

    Args:
        out: folder for the nodes' files.
        model: model file of the segmentation node.
        count: number of messages, sets and calls for each node.
        seed: of the random numbers.
    """
    (out / OPERATOR).mkdir()
    (out / HOME).mkdir()
    own = out / OPERATOR / model.name
    own.write_bytes(model.read_bytes())
    domain = next(unused_domains(seed))
    environment = {"ROS_DOMAIN_ID": str(domain), "HOME": str(out / HOME), "ROS_LOG_DIR": str(out / "log")}
    with ExitStack() as opened:

        def start(room: str, **parameters: Any) -> NodeProcess:
            file = out / f"{room}.txt"
            module = f"deal_ros.{room}.main"
            remappings = {name: f"/{room}/{name}" for name in _TOPICS}
            return opened.enter_context(
                node_process(module, file, parameters=parameters, remappings=remappings, environment=environment)
            )

        nodes = {
            "/deal_segmentation": start("segmentation", model=str(own.absolute()), max_age_ms=0, depth_mode="required"),
            "/deal_recorder": start(
                "recorder",
                output=str((out / OPERATOR / "kitchen").absolute()),
                classes="mug,drill",
                autostart=False,
                keyboard=False,
                planned_minutes=0,
                color_transport="compressed",
                depth_transport="compressedDepth",
            ),
            "/camera/camera": start("synthetic_camera", profile="64x48x5", views=1),
        }
        stranger = _Stranger(domain, random.Random(seed))
        opened.callback(stranger.close)
        outcomes = [stranger.attack(name, node, count) for name, node in nodes.items()]
    return outcomes, _strays(out)


def _strays(out: Path) -> list[str]:
    allowed = (f"{OPERATOR}/kitchen", f"{HOME}/.ros", f"{HOME}/.cache")
    found = {str(path.relative_to(out)) for folder in (OPERATOR, HOME) for path in (out / folder).rglob("*")}
    return sorted(path for path in found if not path.startswith(allowed) and not path.endswith(_MODELS))


_MODELS = (".safetensors", ".onnx")
_TOPICS = (
    "color/image_raw",
    "color/image_raw/compressed",
    "color/camera_info",
    "depth/image_raw",
    "depth/image_raw/compressedDepth",
)
_TEXTS = (
    *("", "/", ".", "..", "~", "/etc/passwd", "/dev/zero", "/proc/self/mem", "../../x", "~root/x", "a\nb", "\x1b[2J"),
    *("x" * 300, "y" * 5000, "é" * 150, "a/" * 2000, "mug", "+drill", "-mug,complete", "clear", "ignore", "+" * 50),
    *("mug," * 2000, "🐍", "%s%n", "{0.__class__}", "$(id)", "`id`", "'; --", "nan", "off", "rgb8", "16UC1", "32FC1"),
)
_NUMBERS = (0, 1, -1, 255, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))
_REALS = (0.0, -0.0, 1.5, -1e9, 1e308, 5e-324, float("nan"), float("inf"), float("-inf"))


class _Stranger:
    """A node that sends what nobody sane sends."""

    def __init__(self, domain: int, chance: random.Random) -> None:
        import rclpy
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor

        self._chance = chance
        self._context = Context()
        rclpy.init(args=[], context=self._context, domain_id=domain)
        self._node = rclpy.create_node("stranger", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._waiting: list[tuple[Any, float]] = []
        self._late: list[Any] = []
        self._answers: list[Any] = []
        self._answered_asked_s: list[tuple[float, float]] = []  # of the last calls with an answer

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.shutdown()

    def attack(self, name: str, process: NodeProcess, count: int) -> Outcome:
        names = self._parameters(name)
        before = resident_mib(process.process.pid)
        publishers = self._publishers(name)
        for _ in range(count if publishers else 0):
            publisher, make = self._chance.choice(publishers)
            publisher.publish(make())
            self._spin(0.0)
        self._answers.clear()
        self._late.clear()
        sets = self._sets(name, names)
        self._settle()
        for _ in range(count):
            self._chance.choice(sets)()
        self._finish()
        accepted = sum(result.successful for answer in self._answers for result in _results(answer))
        calls = self._calls(name, names)
        self._settle()
        for _ in range(count):
            self._chance.choice(calls)()
        self._finish()
        is_there = process.is_alive() and self._ask_parameters(name, START_TIMEOUT_S) is not None
        growth = resident_mib(process.process.pid) - before if is_there else float("nan")
        sent = count if publishers else 0
        unanswered = sum(not answer.done() for answer in self._late)
        return Outcome(name, sent, count, accepted, count, unanswered, is_there, growth)

    # --- messages

    def _publishers(self, name: str) -> list[tuple[Any, Callable[[], Any]]]:
        from sensor_msgs.msg import CameraInfo, CompressedImage, Image
        from std_msgs.msg import String

        topics: dict[str, dict[str, tuple[Any, Callable[[], Any]]]] = {
            "/deal_segmentation": {
                "/segmentation/color/image_raw": (Image, self._image),
                "/segmentation/depth/image_raw": (Image, self._image),
                "/segmentation/color/camera_info": (CameraInfo, self._info),
            },
            "/deal_recorder": {
                "/recorder/color/image_raw/compressed": (CompressedImage, self._compressed),
                "/recorder/depth/image_raw/compressedDepth": (CompressedImage, self._compressed),
                "/recorder/color/camera_info": (CameraInfo, self._info),
                "/deal_recorder/set_tags": (String, lambda: String(data=self._text())),
            },
        }
        made = [
            (self._node.create_publisher(kind, topic, 10), make) for topic, (kind, make) in topics.get(name, {}).items()
        ]
        end = time.monotonic() + 10.0  # some have no subscription until something needs them
        while time.monotonic() < end and not all(publisher.get_subscription_count() for publisher, _ in made):
            self._spin(0.1)
        return made

    def _header(self) -> Any:
        from builtin_interfaces.msg import Time
        from std_msgs.msg import Header

        stamp = Time(sec=self._chance.choice((0, 5, 2**31 - 1, -(2**31))), nanosec=self._chance.choice((0, 2**32 - 1)))
        return Header(stamp=stamp, frame_id=self._text()[:300])

    def _image(self) -> Any:
        from sensor_msgs.msg import Image

        chance = self._chance
        side = lambda: chance.choice((0, 1, 3, 48, 64, 65535, 2**32 - 1))  # noqa: E731
        encoding = chance.choice(("rgb8", "16UC1", "32FC1", "bgr8", "mono8", "bayer_rggb8", "yuv422", self._text()))
        message = Image(header=self._header(), width=side(), height=side(), step=side(), encoding=encoding)
        message.is_bigendian = chance.choice((0, 1, 255))
        message.data.frombytes(chance.randbytes(chance.choice((0, 1, 9216, 6144, 20_000))))
        return message

    def _compressed(self) -> Any:
        from sensor_msgs.msg import CompressedImage

        chance = self._chance
        kind = chance.choice(("jpeg", "png", "rgb8; jpeg compressed bgr8", "16UC1; compressedDepth png", self._text()))
        head = chance.choice((b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"\0" * 12 + b"\x89PNG\r\n\x1a\n"))
        message = CompressedImage(header=self._header(), format=kind)
        message.data.frombytes(head + chance.randbytes(chance.choice((0, 1, 12, 5000))))
        return message

    def _info(self) -> Any:
        from sensor_msgs.msg import CameraInfo

        chance = self._chance
        real = lambda: chance.choice(_REALS)  # noqa: E731
        message = CameraInfo(header=self._header(), width=chance.choice((0, 64, 2**32 - 1)), height=48)
        message.distortion_model = chance.choice(("plumb_bob", "equidistant", self._text()[:300]))
        message.d = [real() for _ in range(chance.choice((0, 4, 5, 300)))]
        message.k, message.p = [real() for _ in range(9)], [real() for _ in range(12)]
        return message

    # --- parameters

    def _parameters(self, name: str) -> list[str]:
        """Wait until a node answers, and return the names of its parameters."""
        found = self._ask_parameters(name, START_TIMEOUT_S)
        if found is None:
            raise SystemExit(f"{name} does not answer")
        return [*found, "no_such_parameter", *_TEXTS[:4]]

    def _ask_parameters(self, name: str, timeout_s: float) -> list[str] | None:
        from rcl_interfaces.srv import ListParameters

        client = self._node.create_client(ListParameters, f"{name}/list_parameters")
        end = time.monotonic() + timeout_s
        while not client.service_is_ready() and time.monotonic() < end:
            self._spin(0.1)
        answer = client.call_async(ListParameters.Request())
        while not answer.done() and time.monotonic() < end:
            self._spin(0.1)
        return list(answer.result().result.names) if answer.done() else None

    def _sets(self, name: str, names: list[str]) -> list[Callable[[], None]]:
        from rcl_interfaces.srv import SetParameters, SetParametersAtomically

        one = self._node.create_client(SetParameters, f"{name}/set_parameters")
        some = self._node.create_client(SetParametersAtomically, f"{name}/set_parameters_atomically")
        return [
            lambda: self._call(one, SetParameters.Request(parameters=[self._parameter(names)])),
            lambda: self._call(
                some, SetParametersAtomically.Request(parameters=[self._parameter(names) for _ in range(3)])
            ),
        ]

    def _parameter(self, names: list[str]) -> Any:
        from rcl_interfaces.msg import Parameter, ParameterValue

        chance, value = self._chance, ParameterValue(type=self._chance.choice((0, 1, 2, 3, 4, 4, 4, 5, 9, 9)))
        if chance.random() < _NO_TYPE:
            value.type = 77
        value.bool_value, value.integer_value = chance.random() < 0.5, chance.choice(_NUMBERS)
        value.double_value, value.string_value = chance.choice(_REALS), self._text()
        value.byte_array_value = [b"\0", b"\xff"]
        value.string_array_value = [self._text() for _ in range(chance.choice((0, 1, 50)))]
        return Parameter(name=chance.choice(names), value=value)

    def _text(self) -> str:
        return self._chance.choice(_TEXTS)

    # --- services

    def _calls(self, name: str, names: list[str]) -> list[Callable[[], None]]:
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState
        from rcl_interfaces.srv import DescribeParameters, GetParameters, GetParameterTypes, ListParameters
        from std_srvs.srv import SetBool, Trigger

        chance = self._chance
        pick = lambda: [chance.choice([*names, *_TEXTS]) for _ in range(chance.choice((0, 1, 9)))]  # noqa: E731
        transitions = [number for number in (0, 1, 2, 3, 4, 8, 9, 10, 99, 255) if number not in _LAST_STATES]
        makers: dict[str, tuple[Any, Callable[[], Any]]] = {
            "describe_parameters": (DescribeParameters, lambda: DescribeParameters.Request(names=pick())),
            "get_parameters": (GetParameters, lambda: GetParameters.Request(names=pick())),
            "get_parameter_types": (GetParameterTypes, lambda: GetParameterTypes.Request(names=pick())),
            "list_parameters": (
                ListParameters,
                lambda: ListParameters.Request(prefixes=pick(), depth=chance.choice((0, 1, 2**64 - 1))),
            ),
        }
        if name == "/deal_segmentation":
            makers["enable"] = (SetBool, lambda: SetBool.Request(data=chance.random() < 0.5))
            makers["change_state"] = (
                ChangeState,
                lambda: ChangeState.Request(
                    transition=Transition(id=chance.choice(transitions), label=chance.choice(("", self._label())))
                ),
            )
            makers |= dict.fromkeys(("reload_model", "save_snapshot"), (Trigger, Trigger.Request))
        elif name == "/deal_recorder":
            triggers = ("start", "stop", "clear_tags", "next_segment", "keep", "discard_last")
            makers |= dict.fromkeys(triggers, (Trigger, Trigger.Request))
            switch = lambda: SetBool.Request(data=chance.random() < 0.5)  # noqa: E731
            makers |= dict.fromkeys(("tag/mug", "tag/drill", "complete", "ignore"), (SetBool, switch))
        calls: list[Callable[[], None]] = []
        for service, (kind, make) in makers.items():
            client = self._node.create_client(kind, f"{name}/{service}")
            calls.append(partial(self._call_new, client, make))
        return calls

    def _label(self) -> str:
        return self._chance.choice(("configure", "activate", "deactivate", "cleanup", self._text()[:300]))

    # --- answers

    def _call_new(self, client: Any, make: Callable[[], Any]) -> None:
        self._call(client, make())

    def _call(self, client: Any, request: Any) -> None:
        """Call a service without waiting, unless many calls wait already."""
        end = time.monotonic() + ANSWER_TIMEOUT_S
        while not client.service_is_ready() and time.monotonic() < end:
            self._spin(0.01)
        self._waiting.append((client.call_async(request), time.monotonic()))
        self._spin(0.0)
        while len(self._waiting) >= _AT_ONCE:
            self._spin(0.01)

    def _settle(self) -> None:
        """Let the nodes find the new clients: an answer to one that is not known yet is lost."""
        end = time.monotonic() + _SETTLE_S
        while time.monotonic() < end:
            self._spin(0.1)

    def _finish(self) -> None:
        while self._waiting:
            self._spin(0.01)

    def _spin(self, timeout_s: float) -> None:
        self._executor.spin_once(timeout_sec=timeout_s)
        waiting, now = [], time.monotonic()
        for answer, asked_s in self._waiting:
            if answer.done():
                self._answers.append(answer.result())
                self._answered_asked_s = [*self._answered_asked_s[-_AT_ONCE:], (now, asked_s)]
            elif self._is_passed_over(asked_s, now):
                self._late.append(answer)
            else:
                waiting.append((answer, asked_s))
        self._waiting = waiting

    def _is_passed_over(self, asked_s: float, now: float) -> bool:
        """Return whether a call gets no answer; while a node loads a model, it answers nobody, and then everybody."""
        if now - asked_s > START_TIMEOUT_S:
            return True
        later = (at for at, asked in self._answered_asked_s if asked > asked_s + _PASSED_OVER_S)
        return now - asked_s > ANSWER_TIMEOUT_S and now - min(later, default=now) > _PASSED_OVER_S


def _results(answer: Any) -> list[Any]:
    """Return the results of a set of parameters; none of another answer."""
    if hasattr(answer, "results"):
        return list(answer.results)
    return [answer.result] if hasattr(getattr(answer, "result", None), "successful") else []


def make_model(path: Path) -> Path:
    """Write a small model file and return its path."""
    from deal_core.models.factory import create_model
    from deal_core.models.model_file import ModelInfo, Threshold, save_model
    from deal_core.structures import ClassList

    classes, arguments = ClassList(("mug", "drill")), {"backbone": "test_resnet", "width": 8}
    info = ModelInfo("cam_net", arguments, classes, (64, 64), Threshold(0.4, "fixed"))
    save_model(path, create_model("cam_net", len(classes), **arguments), info)
    return path


if __name__ == "__main__":
    main()
