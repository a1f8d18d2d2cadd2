"""What the segmentation node adds to its network: overhead, age of results, idle CPU, memory growth.

    python benchmarks/node.py --out bench_node
    python benchmarks/node.py --out bench_node --cases overhead_640x480_2 age
    python benchmarks/node.py --out bench_node --cases start --before ../deal_before   # in turn with another checkout
    python benchmarks/node.py --out bench_node --quick      # seconds instead of a minute, to see that everything runs

Synthetic camera and node are processes of their own, with the shared-memory profile; this process counts masks and
reads /diagnostics. All is real but the network: in its place stands one that waits, as for a GPU, and answers with
objects in three of its 6 or 20 classes, as a segmenter does, or, as the worst case, with maps of noise everywhere, in
two or all of the six classes of a CAM network. Overhead is the time from the second message of a pair, before it
is taken from the middleware, to the mask published, less the wait. Prints a table; node.md and node.json in the output
folder hold it too. About 6 minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import _start_up
import numpy as np
from _processes import cpu_seconds, resident_mib

CAMERA = "/camera/camera"
COLOR_TOPIC, DEPTH_TOPIC = f"{CAMERA}/color/image_raw", f"{CAMERA}/aligned_depth_to_color/image_raw"
NODE = "/deal_segmentation"
CLASSES, INPUT_SIZE = 6, (240, 320)  # the size of config/train.yaml
WAIT_S = 300.0
SERVE_VARIABLE = "DEAL_BENCHMARK_NODE"
"""Set for the process that is the node; holds where its times go, and how long its network takes."""
STAGES = ("take", "pairing", "hand over", "conversion", "resize and decision", "publish", "rest")
START_TITLE = "start to the first mask, exported model with onnxruntime"
UNCOUNTED = 10
"""Frames at the start, in which caches and threads warm up."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One measurement.

    Args:
        title: row of the table.
        measure: does it; told a folder for its files and whether to be quick.
    """

    title: str
    measure: Callable[[Path, bool], Row]


@dataclass(frozen=True)
class Sight:
    """What the stand-in for a network answers.

    Args:
        classes: its classes.
        seen: how many of them it sees.
        objects: whether it is a segmenter that sees objects, and nearly nothing elsewhere; else a CAM network that sees
            noise everywhere.
    """

    classes: int = CLASSES
    seen: int = CLASSES
    objects: bool = False

    @property
    def name(self) -> str:
        """Part of the name of a case."""
        return f"{self.seen}_of_{self.classes}" if self.objects else str(self.seen)

    @property
    def words(self) -> str:
        """Part of the title of a case."""
        return f"{self.seen} of {self.classes} classes seen{'' if self.objects else ', noise everywhere'}"


NOISE = Sight()


def main() -> None:
    if SERVE_VARIABLE in os.environ:
        sys.exit(serve(**json.loads(os.environ[SERVE_VARIABLE])))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench_node"))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="rows to measure; all")
    parser.add_argument("--before", type=Path, help="a checkout whose node is started in turn with this one's")
    parser.add_argument("--quick", action="store_true", help="a few frames of each")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.before is not None:
        CASES["start"] = Case(START_TITLE, functools.partial(start, arguments.before.resolve()))
    rows = {}
    for name in arguments.cases:
        rows[name] = {"title": CASES[name].title, **CASES[name].measure(arguments.out, arguments.quick)}
        print(f"{name}: {json.dumps(rows[name])}", file=sys.stderr)
    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load": os.getloadavg()[0],
        "quick": arguments.quick,
        "cases": rows,
    }
    text = table(record)
    (arguments.out / "node.md").write_text(text, encoding="utf-8")
    (arguments.out / "node.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
    print(text)


def table(record: Row) -> str:
    """Return what was measured, for people."""
    rows = record["cases"].values()
    lines = [f"{record['machine']}, load {record['load']:.1f}", "", "| what | measured | aim |", "|---|---|---|"]
    lines += [f"| {row['title']} | {row['measured']} | {row['aim']} |" for row in rows]
    for row in rows:
        lines += ["", *_start_up.table(row["start"])] if "start" in row else []
    staged = [row for row in rows if "stages_ms" in row]
    if staged:
        lines += ["", f"| part of the overhead, ms (median) | {' | '.join(STAGES)} |", "|---|" + "---|" * len(STAGES)]
        for row in staged:
            times = " | ".join(f"{row['stages_ms'][stage]:.2f}" for stage in STAGES)
            lines.append(f"| {row['title']} | {times} |")
    return "\n".join(lines) + "\n"


# The cases -------------------------------------------------------------------------------------------------------


def overhead(width: int, height: int, sight: Sight, aim_ms: float, out: Path, quick: bool) -> Row:
    """Measure the overhead and its parts, with a network of 10 ms."""
    times = out / f"times_{width}x{height}_{sight.name}.json"
    with measured_node(out, sight, wait_ms=10.0, times=times), camera(out, f"{width}x{height}x30") as observer:
        observer.play(2.0 if quick else 15.0)
        age_ms = observer.number("age_at_publish_ms_p50")
    frames = json.loads(times.read_text(encoding="utf-8"))[UNCOUNTED:]
    total = [frame["total"] - frame["forward"] for frame in frames]
    stages = {stage: statistics.median(frame[stage] for frame in frames) for stage in STAGES}
    wait_ms = statistics.median(frame["forward"] for frame in frames)
    p50, p99 = np.percentile(total, (50, 99))
    return {
        "measured": f"{p50:.1f} ms p50, {p99:.1f} ms p99 of {len(total)}; "
        f"with the camera's publishing and transport {age_ms - wait_ms:.1f} ms p50",
        "aim": f"at most {aim_ms:g} ms p50",
        "overhead_ms": {"p50": p50, "p99": p99},
        "from_stamp_ms_p50": age_ms - wait_ms,
        "stages_ms": stages,
        "account": observer.account(),
    }


def age(out: Path, quick: bool) -> Row:
    """Measure how old frames are when the network begins, and whether each is accounted for."""
    with measured_node(out, wait_ms=50.0), camera(out, "640x480x30") as observer:
        observer.play(3.0 if quick else 15.0)
        p50, p99 = (observer.number(f"age_at_start_ms_{which}") for which in ("p50", "p99"))
        account = observer.account()
    return {
        "measured": f"{p50:.1f} ms p50, {p99:.1f} ms p99; of {account['sent']} pairs {account['lost_before']} lost "
        f"before the node, {account['published']} published, {account['dropped']} dropped and counted, "
        f"{account['unexplained']} unexplained",
        "aim": "at most 25 ms p50, none unexplained",
        "age_at_start_ms": {"p50": p50, "p99": p99},
        "account": account,
    }


def idle(out: Path, quick: bool) -> Row:
    """Measure the CPU time of a node that is configured but not active."""
    with measured_node(out, parameters={"autostart": False}) as node, observing() as observer:
        observer.configure()
        observer.spin(3.0)
        cpu_s, begun = cpu_seconds(node.process.pid), time.monotonic()
        observer.spin(2.0 if quick else 15.0)
        share = (cpu_seconds(node.process.pid) - cpu_s) / (time.monotonic() - begun)
    return {"measured": f"{share:.1%} of a core", "aim": "under 5 % of a core", "share": share}


def memory(out: Path, quick: bool) -> Row:
    """Measure by how much the node grows over 10,000 images, small ones at a high rate."""
    wanted, warm = (400, 100) if quick else (10_000, 1_000)
    with measured_node(out) as node, camera(out, "64x48x120") as observer:
        observer.set_camera(silent=False)
        observer.wait(lambda: observer.received() >= warm, f"{warm} messages")
        before, first, begun = resident_mib(node.process.pid), observer.received(), time.monotonic()
        observer.wait(lambda: observer.received() >= first + wanted, f"{wanted} messages")
        growth, count = resident_mib(node.process.pid) - before, observer.received() - first
        rate = count / (time.monotonic() - begun)
    return {
        "measured": f"{growth:+.1f} MiB over {count} messages ({rate:.0f} a second), from {before:.0f} MiB",
        "aim": "under 20 MB",
        "growth_mib": growth,
    }


def start(before: Path | None, out: Path, quick: bool) -> Row:
    """Measure what the node takes from its start to its first mask."""
    medians = _start_up.start_up(out, before, quick=quick)
    exported = next(iter(medians.values()))
    own_mib, shared_mib = exported["resident_mib"] - exported["shared_mib"], exported["shared_mib"]
    return {
        "measured": f"{exported['cpu_s']:.2f} s of CPU, {own_mib:.0f} MiB; {shared_mib:.0f} MiB that Fast DDS shares",
        "aim": "at most 1.5 s of CPU and 200 MiB",
        "start": medians,
    }


# The processes ---------------------------------------------------------------------------------------------------


@contextmanager
def measured_node(
    out: Path,
    sight: Sight = NOISE,
    *,
    wait_ms: float | None = None,
    times: Path | None = None,
    parameters: dict[str, Any] | None = None,
) -> Iterator[Any]:
    """Run this script as the segmentation node, on the camera's topics; its network waits where that is wanted."""
    from deal_ros.node.process import node_process

    model = out / f"stand_in_{sight.name}.safetensors"
    save_stand_in(model, sight)
    values: dict[str, Any] = {"model": str(model), "depth_mode": "required", "device": "cpu"}
    served = {"wait_ms": wait_ms, "sight": dataclasses.asdict(sight), "times": str(times) if times else ""}
    with node_process(
        Path(__file__).stem,
        out / "node.txt",
        parameters={**values, **(parameters or {})},
        remappings={"color/image_raw": COLOR_TOPIC, "depth/image_raw": DEPTH_TOPIC},
        environment={"PYTHONPATH": python_path(), SERVE_VARIABLE: json.dumps(served)},
    ) as node:
        yield node


@contextmanager
def camera(out: Path, profile: str) -> Iterator[Observer]:
    """Run a silent camera, and wait until it and the node have met."""
    from deal_ros.node.process import node_process

    parameters: dict[str, Any] = {"profile": profile, "views": 1, "silent": True}
    with (
        node_process("deal_ros.synthetic_camera.main", out / "camera.txt", parameters=parameters),
        observing() as observer,
    ):
        observer.wait_until_met()
        yield observer


@contextmanager
def observing() -> Iterator[Observer]:
    """Give an observer in the ROS domain of this process."""
    from deal_ros.node.transport import shared_memory

    with shared_memory():
        observer = Observer()
    try:
        yield observer
    finally:
        observer.close()


class Observer:
    """Counts masks, keeps the last values of /diagnostics and of the camera's report, speaks to both."""

    def __init__(self) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rcl_interfaces.srv import SetParameters
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import Image
        from std_msgs.msg import String

        from deal_ros.input.qos import labels_qos, mask_qos

        self._context = Context()
        rclpy.init(args=[], context=self._context)
        self.node = rclpy.create_node("benchmark", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.masks = 0
        self.values: dict[str, str] = {}
        self.sent: dict[str, Any] = {}
        self.node.create_subscription(Image, f"{NODE}/mask", self._take_mask, mask_qos())
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, 10)
        self.node.create_subscription(String, f"{CAMERA}/sent", self._take_report, labels_qos())
        self._camera = self.node.create_client(SetParameters, f"{CAMERA}/set_parameters")

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.shutdown()

    def spin(self, seconds: float) -> None:
        """Take in what comes for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def wait(self, is_true: Callable[[], Any], what: str) -> None:
        """Take in what comes until something is true."""
        end = time.monotonic() + WAIT_S
        while not is_true():
            if time.monotonic() > end:
                raise SystemExit(f"waited in vain for {what}; /diagnostics: {self.values}; camera: {self.sent}")
            self._executor.spin_once(timeout_sec=0.1)

    def wait_until_met(self) -> None:
        """Wait until camera, node and observer know each other."""

        def met() -> bool:
            offers = [self.values.get(f"{stream}_publisher_offers", "no") for stream in ("color", "depth")]
            is_heard = int(self.values.get("mask_subscribers", 0)) > 0
            return bool(self.sent) and is_heard and not any(offer.startswith("no") for offer in offers)

        self.wait(met, "camera and node")

    def play(self, seconds: float) -> None:
        """Let the camera send for so long; wait until the node has worked off what came."""
        self.set_camera(silent=False)
        self.spin(seconds)
        self.set_camera(silent=True)
        self.wait(lambda: self.sent["changed"].get("silent") and self.sent["waiting"] == 0, "the camera's silence")
        self.values.clear()
        self.wait(lambda: self.values, "diagnostics")
        self.values.clear()
        self.wait(lambda: self.values and self.number("in_flight") == 0, "the last mask")

    def account(self) -> dict[str, int]:
        """Return what became of the pairs; `unexplained` is what came to the node and it does not account for."""
        dropped = sum(int(value) for key, value in self.values.items() if key.startswith("dropped_"))
        paired, published, failed = (int(self.values[key]) for key in ("paired", "published", "failed"))
        return {
            "sent": self.sent["pairs"],
            "lost_before": self.sent["pairs"] - paired,
            "published": published,
            "dropped": dropped,
            "failed": failed,
            "unexplained": paired - published - dropped - failed,
            "masks_heard": self.masks,
        }

    def received(self) -> int:
        """Return how many messages the node has received."""
        return sum(int(self.values.get(f"received_{stream}", 0)) for stream in ("color", "depth"))

    def number(self, key: str) -> float:
        """Return a value of /diagnostics."""
        return float(self.values[key])

    def set_camera(self, **values: Any) -> None:
        """Set parameters of the camera."""
        import rclpy
        from rcl_interfaces.srv import SetParameters

        parameters = [rclpy.Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        self.wait(self._camera.service_is_ready, "the camera's parameters")
        answer = self._camera.call_async(SetParameters.Request(parameters=parameters))
        self.wait(answer.done, "the camera's answer")

    def configure(self) -> None:
        """Have the node load its model, and no more."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        client = self.node.create_client(ChangeState, f"{NODE}/change_state")
        self.wait(client.service_is_ready, "the node")
        answer = client.call_async(ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE)))
        self.wait(lambda: answer.done() and self.values.get("state") == "inactive", "an inactive node")

    def _take_mask(self, message: Any) -> None:
        self.masks += 1

    def _take_diagnostics(self, message: Any) -> None:
        mine = [status for status in message.status if status.name.startswith(NODE[1:])]
        if mine:
            self.values = {entry.key: entry.value for status in mine for entry in status.values}

    def _take_report(self, message: Any) -> None:
        self.sent = json.loads(message.data)


def python_path() -> str:
    """Return PYTHONPATH with this script's folder, so that `python -m node` is this script."""
    return os.pathsep.join(filter(None, (str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH"))))


# The node that is measured ---------------------------------------------------------------------------------------


def save_stand_in(path: Path, sight: Sight) -> None:
    """Save a small segmenter, or a small CAM network whose classes all answer somewhere."""
    import torch

    from deal_core.models.factory import create_model
    from deal_core.models.model_file import ModelInfo, Threshold, save_model
    from deal_core.structures import ClassList

    torch.manual_seed(0)
    name = "segmenter" if sight.objects else "cam_net"
    arguments: dict[str, Any] = {"encoder": "test_resnet"} if sight.objects else {"backbone": "test_resnet", "width": 8}
    network = create_model(name, sight.classes, **arguments)
    if not sight.objects:
        with torch.no_grad():
            network.get_parameter("classifier.weight").mul_(50)
    classes = ClassList(tuple(f"class_{number}" for number in range(sight.classes)))
    threshold = Threshold(0.5 if sight.objects else 0.4, "fixed")
    save_model(path, network, ModelInfo(name, arguments, classes, INPUT_SIZE, threshold))


def objects(shape: tuple[int, ...], seen: int) -> Any:
    """Return the scores (K, h, w) of a segmenter that sees one or two objects of so many classes."""
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 0.03, shape)
    rows, columns = np.mgrid[: shape[1], : shape[2]] / shape[1]
    for class_id in rng.permutation(shape[0])[:seen]:
        for _ in range(rng.integers(1, 3)):
            row, column, radius = rng.uniform(0.2, 0.8), rng.uniform(0.2, 1.1), rng.uniform(0.08, 0.2)
            distance = np.hypot(rows - row, columns - column)
            scores[class_id] = np.maximum(scores[class_id], 1 / (1 + np.exp((distance - radius) / 0.02)))
    return scores.astype(np.float32)


def serve(wait_ms: float | None, sight: dict[str, Any], times: str) -> int:
    """Be the segmentation node, with a network that waits, if any wait is wanted; at the end write all times."""
    from deal_ros.segmentation.main import main as run_node

    watch = StopWatch()
    if wait_ms is not None:
        stand_in(wait_ms / 1000, Sight(**sight), watch)
    if times:
        attach(watch)
    result = run_node(sys.argv)
    if times:
        Path(times).write_text(json.dumps(watch.frames), encoding="utf-8")
    return result


def stand_in(wait_s: float, sight: Sight, watch: StopWatch) -> None:
    """Let every network compute its answer once, for noise, and then wait instead."""
    from deal_core.runtime.segmenter import Segmenter

    initialise = Segmenter.__init__

    def with_stand_in(self: Segmenter, *arguments: Any) -> None:
        initialise(self, *arguments)
        noise = np.random.default_rng(0).standard_normal((1, 3, *self.input_size), np.float32)
        answer = self._backend(noise)
        answer[sight.seen :] = 0
        if sight.objects:
            answer = objects(answer.shape, sight.seen)

        def wait(image: Any, depth: Any) -> Any:
            begun = time.perf_counter()
            time.sleep(wait_s)
            watch.add("forward", begun)
            return answer

        self._backend = wait  # type: ignore[assignment]

    mock.patch.object(Segmenter, "__init__", with_stand_in).start()


class StopWatch:
    """Times of each frame, milliseconds. Arrival comes from the executor's thread, all else from the worker's."""

    def __init__(self) -> None:
        self.frames: list[dict[str, float]] = []
        self._taken = 0.0
        self._arrived: dict[int, tuple[float, float, float]] = {}
        self._spent: dict[str, float] = defaultdict(float)
        self._begun = 0.0

    def add(self, stage: str, begun: float) -> None:
        """Count the time since `begun` to a stage of the frame at work."""
        self._spent[stage] += (time.perf_counter() - begun) * 1000

    def take(self) -> None:
        """Note that a message is going to be taken from the middleware."""
        self._taken = time.perf_counter()

    def arrive(self, stamp_ns: int, received: float) -> None:
        """Note that a message was received, and is dealt with now; of a pair, the second one counts."""
        self._arrived[stamp_ns] = self._taken, received, time.perf_counter()
        if len(self._arrived) > 100:
            with suppress(KeyError):
                del self._arrived[min(self._arrived)]

    def begin(self) -> float:
        """Note that the worker begins with a frame."""
        self._spent.clear()
        self._begun = time.perf_counter()
        return self._begun

    def end(self, stamp_ns: int) -> None:
        """Note that the mask of a frame is published."""
        now, spent = time.perf_counter(), self._spent
        taken, received, dealt_with = self._arrived[stamp_ns]
        found = {
            "total": (now - taken) * 1000,
            "forward": spent["forward"],
            "take": (received - taken) * 1000,
            "pairing": (dealt_with - received) * 1000,
            "hand over": (self._begun - dealt_with) * 1000,
            "conversion": spent["frame"] - spent["segment"],
            "resize and decision": spent["segment"] - spent["forward"],
            "publish": spent["publish"],
        }
        found["rest"] = found["total"] - found["forward"] - sum(found[stage] for stage in STAGES if stage != "rest")
        self.frames.append(found)


def attach(watch: StopWatch) -> None:
    """Have the parts of the node say when they begin and end."""
    from rclpy.executors import Executor
    from rclpy.node import Node
    from rclpy.publisher import Publisher
    from sensor_msgs.msg import Image

    from deal_core.runtime.segmenter import Segmenter
    from deal_ros.input.conversions import stamp_to_ns
    from deal_ros.segmentation import one_frame, pipeline

    take, create, publish = Executor._take_subscription, Node.create_subscription, Publisher.publish
    segment, segment_frame = Segmenter.segment, one_frame.segment_frame

    def timed_take(self: Executor, subscription: Any) -> Any:
        watch.take()
        return take(self, subscription)

    def timed_create(self: Node, kind: Any, topic: str, callback: Any, *others: Any, **options: Any) -> Any:
        def timed(message: Any) -> None:
            received = time.perf_counter()
            callback(message)
            watch.arrive(stamp_to_ns(message.header.stamp), received)

        return create(self, kind, topic, timed if kind is Image else callback, *others, **options)

    def timed_segment(self: Segmenter, *images: Any) -> Any:
        begun = time.perf_counter()
        result = segment(self, *images)
        watch.add("segment", begun)
        return result

    def timed_segment_frame(*arguments: Any, **options: Any) -> Any:
        begun = watch.begin()
        result = segment_frame(*arguments, **options)
        watch.add("frame", begun)
        return result

    def timed_publish(self: Publisher, message: Any) -> None:
        begun = time.perf_counter()
        publish(self, message)
        if isinstance(message, Image):
            watch.add("publish", begun)
            watch.end(stamp_to_ns(message.header.stamp))

    for owner, name, timed in (
        (Executor, "_take_subscription", timed_take),
        (Node, "create_subscription", timed_create),
        (Publisher, "publish", timed_publish),
        (Segmenter, "segment", timed_segment),
        (pipeline, "segment_frame", timed_segment_frame),
    ):
        mock.patch.object(owner, name, timed).start()


CASES = {
    **{
        f"overhead_{width}x{height}_{sight.name}": Case(
            f"overhead at {width}x{height}, {sight.words}",
            functools.partial(overhead, width, height, sight, aim_ms),
        )
        for width, height, aim_ms in ((640, 480, 2.5), (1280, 720, 5.0))
        for sight in (Sight(6, 3, True), Sight(20, 3, True), Sight(seen=2), NOISE)
    },
    "age": Case("age when a network of 50 ms begins, 640x480, 30 Hz", age),
    "idle": Case("CPU of an inactive node", idle),
    "memory": Case("memory growth", memory),
    "start": Case(START_TITLE, functools.partial(start, None)),
}

if __name__ == "__main__":
    main()
