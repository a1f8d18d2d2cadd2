"""The segmentation node as a process of its own, fed by a camera that behaves and misbehaves."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")

pytestmark = pytest.mark.ros
WHEELS_BOOTSTRAP = ("_ROS_WHEELS_BOOTSTRAP_COMPLETE", "LD_LIBRARY_PATH")
SCRIPT = Path(sys.executable).with_name("segmentation_node")


@pytest.fixture(scope="module")
def camera(pair_node: Any, new_camera: Callable[..., Any]) -> Any:
    camera = new_camera(pair_node.domain)
    camera.wait_ready()
    return camera


@pytest.fixture(scope="module")
def segmenter(model_file: Path) -> Any:
    from deal_core.runtime.segmenter import Segmenter

    return Segmenter.load(model_file, device="cpu", backend="torch")


def pixels(image: Any, *shape: int) -> np.ndarray:
    return np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, *shape)


def test_ten_pairs_give_ten_masks(camera: Any, segmenter: Any) -> None:
    before = camera.check_balance()
    for seed in range(10):
        color, depth = camera.pair(seed, size=(48 + seed, 64))
        mask = camera.segment(color, depth)
        assert mask.header == color.header
        assert (mask.encoding, mask.height, mask.width, mask.step) == ("mono8", color.height, color.width, color.width)
        np.testing.assert_array_equal(pixels(mask), segmenter.segment(pixels(color, 3)).mask)
    after = camera.check_balance()
    assert {key: after[key] - before[key] for key in ("received_color", "received_depth", "paired", "published")} == {
        "received_color": 10,
        "received_depth": 10,
        "paired": 10,
        "published": 10,
    }
    assert len(np.unique(pixels(mask))) > 1, "the model should find something, or equal masks prove little"


def test_labels_reach_a_late_subscriber(pair_node: Any, camera: Any, new_camera: Callable[..., Any]) -> None:
    late = new_camera(pair_node.domain)
    late.wait(lambda: bool(late.labels), "labels")
    assert late.labels == {0: "background", 1: "mug", 2: "drill", 3: "box", 255: "unlabelled"}


def test_diagnostics_say_what_runs_and_how(camera: Any, pair_node: Any, model_file: Path) -> None:
    camera.segment(*camera.pair(1))
    values = camera.fresh_values()
    assert values["model_sha256"] == hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert (values["model"], values["backend"]) == (str(model_file), "torch")
    assert (values["device"], values["precision"], values["state"]) == ("cpu", "float32", "active")
    assert values["color_topic"] == "/camera/camera/color/image_raw"
    assert (values["color_encoding"], values["depth_encoding"]) == ("rgb8", "16UC1")
    assert values["color_size"] == "64x48" and values["valid_depth"] == "1.000"
    for key in ("age_at_start_ms", "age_at_publish_ms", "inference_ms"):
        assert 0 < float(values[f"{key}_p50"]) <= float(values[f"{key}_p99"])
    assert float(values["age_at_publish_ms_p50"]) >= float(values["age_at_start_ms_p50"])


def test_encodings_byte_order_and_padding_are_understood(camera: Any, segmenter: Any) -> None:
    from deal_ros.input.conversions import array_to_image

    rgb = np.random.default_rng(5).integers(0, 256, (40, 52, 3), np.uint8)
    metres = np.random.default_rng(6).uniform(0.5, 2, (40, 52)).astype(np.float32)
    expected = segmenter.segment(rgb).mask

    def bgr(color: Any, depth: Any) -> None:
        color.encoding = "bgr8"
        color.data[:] = array_to_image(rgb[..., ::-1], color.header).data

    def padded(color: Any, depth: Any) -> None:
        color.step += 7
        del color.data[:]
        color.data.frombytes(np.pad(rgb.reshape(40, -1), ((0, 0), (0, 7))).tobytes())

    def big_endian(color: Any, depth: Any) -> None:
        depth.is_bigendian = 1
        depth.data[:] = array_to_image(
            np.frombuffer(depth.data, np.uint16).reshape(40, 52).byteswap(), color.header
        ).data

    def float_depth(color: Any, depth: Any) -> None:
        depth.encoding, depth.step = "32FC1", 4 * 52
        del depth.data[:]
        depth.data.frombytes(metres.tobytes())

    for change in (bgr, padded, big_endian, float_depth):
        color, depth = camera.pair(5, size=(40, 52))
        color.data[:] = array_to_image(rgb, color.header).data
        change(color, depth)
        np.testing.assert_array_equal(pixels(camera.segment(color, depth)), expected, err_msg=change.__name__)
    assert camera.fresh_values()["valid_depth"] == "1.000"


def garbage(color: Any, depth: Any, kind: str) -> None:
    if kind == "step":
        color.step -= 1
    elif kind == "length":
        color.data.pop()
    elif kind == "unknown_encoding":
        color.encoding = "rgb10"
    elif kind == "zero_size":
        color.width = color.height = color.step = 0
        del color.data[:]
    elif kind == "depth length":
        depth.data.pop()
    elif kind == "depth is colour":
        depth.encoding, depth.step = "rgb8", 3 * depth.width
        depth.data.frombytes(bytes(depth.width * depth.height))
    elif kind == "other size":
        depth.height -= 1
        del depth.data[-depth.step :]
    elif kind == "other frame":
        depth.header.frame_id = "camera_depth_optical_frame"


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("step", "step"),
        ("length", "length"),
        ("unknown_encoding", "unknown_encoding"),
        ("zero_size", "zero_size"),
        ("depth length", "length"),
        ("depth is colour", "unknown_encoding"),
        ("other size", "unaligned_depth"),
        ("other frame", "unaligned_depth"),
    ],
)
def test_garbage_is_counted_with_its_cause_and_the_node_lives_on(camera: Any, kind: str, cause: str) -> None:
    before = int(camera.fresh_values().get(f"failed: {cause}", 0))
    color, depth = camera.pair(3)
    # A header of its own: the two messages share theirs.
    depth.header = camera.header(time.time_ns())
    depth.header.stamp = color.header.stamp
    garbage(color, depth, kind)
    stamp_ns = camera.send(color, depth)
    camera.wait(lambda: camera.count(f"failed: {cause}") > before, f"failed: {cause}")
    assert f"frame {stamp_ns}: {cause}: expected" in camera.values["last_error"]
    camera.wait(lambda: camera.statuses["results"][0] in (0, 1, 2), "a status")
    camera.segment(*camera.pair(4))
    counts = camera.check_balance()
    assert stamp_ns not in camera.masks and counts["failed"] > 0


def test_depth_without_any_measurement_is_segmented_and_reported(camera: Any) -> None:
    from deal_ros.input.conversions import array_to_image

    reports = []
    color, depth = camera.pair(1)
    camera.segment(color, array_to_image(np.zeros((48, 64), np.uint16), depth.header))
    camera.wait(lambda: reports.append(camera.statuses["results"]) or "no pixel" in reports[-1][1], "no pixel …")  # type: ignore[func-returns-value]
    assert camera.statuses["results"][0] == 1 and camera.values["valid_depth"] == "0.000"
    camera.check_balance()


@pytest.mark.slow
def test_colour_without_depth_is_counted_with_its_cause(camera: Any) -> None:
    before = camera.check_balance()
    start = time.time_ns()
    for index in range(12):
        camera.send(camera.pair(index, stamp_ns=start + index)[0], None)
        camera.wait_count("received_color", before["received_color"] + index + 1)
    after = camera.check_balance()
    assert after["pending_color"] == 10
    assert after["unpaired_color"] - before["unpaired_color"] + before["pending_color"] == 2
    assert int(camera.values["unpaired_color: queue full"]) >= 2
    camera.segment(*camera.pair(1))
    camera.check_balance()


def test_a_frame_from_the_past_is_dropped_as_old(camera: Any) -> None:
    before = camera.check_balance()
    camera.send(*camera.pair(1, stamp_ns=1_000_000_000))
    camera.wait_count("dropped_old", before["dropped_old"] + 1)
    assert "older than max_age_ms (30000)" in camera.statuses["results"][1]
    camera.segment(*camera.pair(2))
    assert camera.check_balance()["published"] == before["published"] + 1


@pytest.mark.slow
def test_a_recording_is_answered_pair_by_pair(
    pair_node: Any, camera: Any, real_recording: Path, real_frames: Any, tmp_path: Path
) -> None:
    """The real frames, through the executable: a mask for each, named by the recorded stamps."""
    out = tmp_path / "masks"
    command = [sys.executable, "-m", "deal_ros.replay.main", str(real_recording), "--out", str(out), "--json"]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(pair_node.domain)}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert (
        len(result["sent"]) == len(real_frames.pairs) and result["answered"] == result["sent"] and result["lost"] == []
    )
    assert sorted(p.name for p in out.iterdir()) == sorted(f"{stamp}.png" for stamp in result["sent"])
    assert result["labels"] == {"0": "background", "1": "mug", "2": "drill", "3": "box"}
    camera.check_balance()


def test_the_masks_of_real_frames_are_the_networks(
    pair_node: Any, camera: Any, real_frames: Any, segmenter: Any
) -> None:
    from deal_ros.replay.player import replay

    masks: dict[int, np.ndarray] = {}
    result = replay(
        real_frames.pairs[:3],
        lambda stamp_ns, mask: masks.update({stamp_ns: mask.copy()}),
        camera=real_frames.camera,
        is_alive=pair_node.node.is_alive,
        domain_id=pair_node.domain,
    )
    assert result.lost == () and result.unexpected == 0
    for pair in real_frames.pairs[:3]:
        np.testing.assert_array_equal(masks[pair.stamp_ns], segmenter.segment(pair.color).mask)
    assert result.diagnostics is not None and result.diagnostics.values["depth_encoding"] == "16UC1"


@pytest.mark.slow
def test_a_best_effort_camera_is_followed(pair_node: Any, camera: Any, new_camera: Callable[..., Any]) -> None:
    blunt = new_camera(pair_node.domain, reliability="best_effort")
    blunt.wait(lambda: blunt.values.get("color_node_requests") == "best_effort", "the node to ask for best effort")
    blunt.wait(lambda: blunt.values.get("depth_node_requests") == "best_effort", "the node to ask for best effort")
    blunt.wait_ready()
    blunt.segment(*blunt.pair(1))
    blunt.check_balance()


@dataclass(frozen=True)
class TruncatedStart:
    """A console script that was started with a truncated model file."""

    process: subprocess.Popen[str]
    model: Path


@pytest.fixture(scope="module", autouse=True)
def truncated_start(
    model_file: Path, new_domain: Callable[[], int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TruncatedStart | None]:
    """The console script in a fresh shell, where the PyPI wheels start Python twice; None if it is not installed.

    It starts before the first test of this module, because it imports torch for seconds.
    """
    if not SCRIPT.is_file():
        yield None
        return
    truncated = tmp_path_factory.mktemp("truncated") / "cut off.safetensors"
    truncated.write_bytes(model_file.read_bytes()[:5000])
    environment = {name: value for name, value in os.environ.items() if name not in WHEELS_BOOTSTRAP}
    process = subprocess.Popen(
        [str(SCRIPT), "--ros-args", "-p", f"model:={truncated}"],
        env={**environment, "ROS_DOMAIN_ID": str(new_domain())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield TruncatedStart(process, truncated)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_truncated_model_file_is_one_clear_line(truncated_start: TruncatedStart | None) -> None:
    if truncated_start is None:
        pytest.skip(f"the package is not installed with its console scripts: {SCRIPT} does not exist")
    output, _ = truncated_start.process.communicate(timeout=200)
    assert truncated_start.process.returncode == 1
    (line,) = output.strip().splitlines()
    assert f"{truncated_start.model}: damaged or truncated" in line


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["-p", "model:=/nowhere/m.safetensors"], 1, "/nowhere/m.safetensors: expected a model file"),
        ([], 2, "parameter 'model': expected the path of a model file"),
        (["-p", "model:=m", "-p", "depth_mode:=sometimes"], 2, "parameter 'depth_mode': expected one of off"),
        (["-p", "model:={model}", "-p", "device:=cuda:77"], 2, "device 'cuda:77' cannot be used here"),
        (["--params-file", "/nowhere/p.yaml"], 2, "the node cannot start"),
    ],
)
def test_a_node_that_cannot_start_says_why(
    arguments: list[str], code: int, said: str, model_file: Path, new_domain: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    from deal_ros.segmentation.main import main

    given = [argument.format(model=model_file) for argument in arguments]
    before = signal.getsignal(signal.SIGINT)
    assert main(["segmentation_node", "--ros-args", *given]) == code
    captured = capfd.readouterr()
    assert said in captured.err + captured.out and "Traceback" not in captured.err
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.gpu
def test_on_the_gpu_masks_are_nearly_those_of_the_cpu(
    start_node: Callable[..., Any], new_camera: Callable[..., Any], segmenter: Any
) -> None:
    camera = new_camera(start_node(device="auto").domain)
    camera.wait_ready()
    for seed in range(5):
        color, depth = camera.pair(seed)
        expected = segmenter.segment(pixels(color, 3)).mask
        assert (pixels(camera.segment(color, depth)) == expected).mean() > 0.95
    values = camera.fresh_values()
    assert (values["device"], values["precision"]) == ("cuda", "float16")
