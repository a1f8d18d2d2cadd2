"""CPU time and memory of a segmentation node from the start of its process to its first mask; a part of node.py.

As a script, it is the least that any node needs for the same network: rclpy, onnxruntime and OpenCV.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _processes import cpu_seconds, resident_mib, shared_mib

from deal_ros.input.conversions import stamp_to_ns

PROJECT = Path(__file__).resolve().parents[1]
SIZE, INPUT_SIZE = (480, 640), (240, 320)
COLOR_TOPIC, MASK_TOPIC = "/camera/camera/color/image_raw", "/deal_segmentation/mask"
PERIOD_S, WAIT_S = 1 / 30, 120.0
CLASSES = ("mug", "drill", "box", "can", "bottle", "tool")


@dataclass(frozen=True)
class Start:
    """A way to start a node.

    Args:
        title: Row of the table.
        model: File name of the model.
        command: Arguments of Python.
        folder: Checkout whose node is started.
    """

    title: str
    model: str
    command: tuple[str, ...]
    folder: Path = PROJECT


def start_up(out: Path, before: Path | None, *, quick: bool) -> dict[str, Any]:
    """Start each node several times in turn, and return the medians of CPU time, memory and time, by title.

    Args:
        out: Folder for the model files.
        before: Another checkout, whose node is measured between those of this one; None for none.
        quick: Whether to start each node once, with a tiny network.
    """
    save_models(out, quick=quick)
    module = ("-m", "deal_ros.segmentation.main", "--ros-args", "-r", f"color/image_raw:={COLOR_TOPIC}")
    exported = Start("exported model, onnxruntime", "robot.onnx", (*module, "-p", "depth_mode:=off"))
    on_torch = (*exported.command, "-p", "backend:=torch", "-p", "device:=cpu")
    starts = [exported, Start("model file, torch", "robot.safetensors", on_torch)]
    if before is not None:
        starts += [replace(start, title=f"{start.title}, before", folder=before) for start in starts]
    starts.append(Start("the same network by hand: rclpy, onnxruntime, OpenCV", "robot.onnx", (__file__,)))
    found: dict[str, list[dict[str, float]]] = {start.title: [] for start in starts}
    with camera_and_listener() as listener:
        for _ in range(1 if quick else 3):
            for start in starts:
                found[start.title].append(measure(start, out, listener))
                print(f"{start.title}: {found[start.title][-1]}", file=sys.stderr)
    return {
        title: {key: statistics.median(one[key] for one in rows) for key in rows[0]} for title, rows in found.items()
    }


def table(medians: dict[str, dict[str, float]]) -> list[str]:
    """Return the lines of a table of what `start_up` measured."""
    head = "| from the start to the first mask | CPU, s | resident, MiB | of it shared by Fast DDS | time, s |"
    return [head, "|---|---:|---:|---:|---:|"] + [
        f"| {title} | {row['cpu_s']:.2f} | {row['resident_mib']:.0f} | {row['shared_mib']:.0f} | {row['time_s']:.1f} |"
        for title, row in medians.items()
    ]


def measure(start: Start, out: Path, listener: Listener) -> dict[str, float]:
    """Start a node, wait for its first mask, and return what it took until then."""
    from deal_ros.node.transport import shared_memory_environment

    model = str((out / start.model).resolve())
    by_hand = start.command == (__file__,)
    words = [*start.command, model] if by_hand else [*start.command, "-p", f"model:={model}"]
    environment = {**os.environ, **shared_memory_environment(os.environ)}
    environment.pop("PYTHONPATH", None)
    with (out / "start.txt").open("wb") as log:
        begun = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *words], cwd=start.folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            listener.wait_for_mask(process)
            return {
                "cpu_s": cpu_seconds(process.pid),
                "resident_mib": resident_mib(process.pid),
                "shared_mib": shared_mib(process.pid),
                "time_s": time.monotonic() - begun,
            }
        finally:
            process.terminate()
            process.wait()


class Listener:
    """A camera that publishes one image 30 times a second, and hears masks."""

    def __init__(self, context: Any) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import Image
        from std_msgs.msg import Header

        from deal_ros.input.conversions import array_to_image
        from deal_ros.input.qos import mask_qos

        self.node = rclpy.create_node("benchmark_start", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self._begun_ns, self._has_mask = 0, False
        self.node.create_subscription(Image, MASK_TOPIC, self._hear, mask_qos())
        self._color = self.node.create_publisher(Image, COLOR_TOPIC, 1)
        pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
        self._image = array_to_image(pixels, Header(frame_id="optical"))
        self.node.create_timer(PERIOD_S, self._send)

    def wait_for_mask(self, process: subprocess.Popen[bytes]) -> None:
        """Return when a node has published a mask."""
        self._begun_ns, self._has_mask, end = time.time_ns(), False, time.monotonic() + WAIT_S
        while not self._has_mask:
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit("the node ended, or published no mask: see start.txt in the output folder")
            self.executor.spin_once(timeout_sec=0.01)

    def _send(self) -> None:
        self._image.header.stamp = self.node.get_clock().now().to_msg()
        self._color.publish(self._image)

    def _hear(self, message: Any) -> None:
        # A mask of the node before may still be on its way.
        self._has_mask = self._has_mask or stamp_to_ns(message.header.stamp) > self._begun_ns


@contextmanager
def camera_and_listener() -> Iterator[Listener]:
    """Give a listener in a context of its own."""
    import rclpy
    from rclpy.context import Context

    from deal_ros.node.transport import shared_memory

    context = Context()
    with shared_memory():
        rclpy.init(args=[], context=context)
        listener = Listener(context)
    try:
        yield listener
    finally:
        listener.executor.shutdown()
        listener.node.destroy_node()
        context.shutdown()


def save_models(out: Path, *, quick: bool) -> None:
    """Save the run-time network of config/distill.yaml, with random weights, as a model file and as an .onnx file."""
    from deal_core.models.factory import create_model
    from deal_core.models.model_file import ModelInfo, Threshold, load_model, save_model
    from deal_core.runtime.onnx_export import export_onnx
    from deal_core.settings_file import load_settings
    from deal_core.structures import ClassList
    from deal_core.trainer.settings import DistillSettings

    model = load_settings(DistillSettings, PROJECT / "config" / "distill.yaml", []).model
    tiny: dict[str, Any] = {"encoder": "test_resnet", "encoder_arguments": {}} if quick else {}
    arguments = {**model.arguments, "weights": "none", **tiny}
    info = ModelInfo(model.name, arguments, ClassList(CLASSES), INPUT_SIZE, Threshold(0.5, "argmax"))
    path = out / "robot.safetensors"
    save_model(path, create_model(model.name, len(CLASSES), **arguments), info)
    (out / "robot.onnx").write_bytes(export_onnx(load_model(path)).data)


def run_by_hand(model: str) -> None:
    """Publish a mask for each image, by the shortest way."""
    import cv2
    import rclpy
    from sensor_msgs.msg import Image

    from deal_core.runtime.backends.onnxruntime_backend import import_onnxruntime

    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rclpy.init(args=[])
    node = rclpy.create_node("by_hand")
    publisher = node.create_publisher(Image, MASK_TOPIC, 1)

    def segment(message: Any) -> None:
        rgb = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        small = cv2.resize(rgb, INPUT_SIZE[::-1], interpolation=cv2.INTER_AREA)
        image = small.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
        scores = session.run(["scores"], {"image": image})[0][0]
        full = np.stack([cv2.resize(score, (message.width, message.height)) for score in scores])
        mask = np.where(full.max(0) > 0.5, full.argmax(0) + 1, 0).astype(np.uint8)
        result = Image(header=message.header, height=message.height, width=message.width, encoding="mono8")
        result.step, result.data = message.width, mask.tobytes()
        publisher.publish(result)

    node.create_subscription(Image, COLOR_TOPIC, segment, 1)
    rclpy.spin(node)


if __name__ == "__main__":
    run_by_hand(sys.argv[1])
