"""How fast the robot's network runs, and in how much memory, beside the CAM network that its masks come from.

    python benchmarks/runtime.py --out bench_runtime
    python benchmarks/runtime.py --out bench_runtime --cases cam_torch segmenter_int8 --sizes 640x480
    python benchmarks/runtime.py --out bench_runtime --threads 1    # where other work has the second core
    python benchmarks/runtime.py --out bench_runtime --quick        # tiny networks, to see that everything runs

The networks of config/train.yaml and config/distill.yaml, and the latter's with other encoders and decoders, weights
random: time does not depend on them. Image to mask as in the node, at the network's own size, on two cores (a GPU's
rows: beside all cores). Each row has a process of its own, so that its memory is its own, and they take turns, a few
frames each, so that what the machine does meanwhile falls on all; how much faster a row is than the first is the median
over the turns, of time and of CPU time. A row that this machine cannot run is told with the reason. Prints a table;
runtime.md and runtime.json in the output folder hold it too. About 5 minutes, and more where TensorRT builds engines.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

import numpy as np
from _processes import peak_mib

if TYPE_CHECKING:
    from deal_core.dataset.dataset import FrameRecord
    from deal_core.structures import Float32Array, UInt8Array

CONFIG = Path(__file__).resolve().parents[1] / "config"
CLASSES = ("mug", "drill", "box", "bowl", "can", "jar")
SIZES = ("320x240", "640x480")
ROUNDS, FRAMES = 8, 3
WARM_UP = 3
BASE = "cam_torch"
MOBILENET: dict[str, Any] = {"encoder": "mobilenetv2_100", "encoder_arguments": {}}
"""In place of the encoder of config/distill.yaml: one that has ImageNet weights."""
OTHERS: dict[str, dict[str, Any]] = {"mobilenet": MOBILENET, "wide": {**MOBILENET, "decoder_arguments": {}}}
"""Changes of config/distill.yaml; the wide decoder is as its authors have it."""


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Args:
        title: what runs.
        file: the kind of model file, one of those `prepare` writes.
        backend: that runs it.
        device: cpu or cuda.
        precision: what the back end is asked for.
        compile: let PyTorch compile the network.
    """

    title: str
    file: str
    backend: str
    device: str = "cpu"
    precision: str = "auto"
    compile: bool = False


CASES = {
    BASE: Case("CAM network, torch", "cam.safetensors", "torch"),
    "cam_onnxruntime": Case("CAM network, onnxruntime", "cam.onnx", "onnxruntime"),
    "segmenter_torch": Case("segmenter, torch", "segmenter.safetensors", "torch"),
    "segmenter_onnxruntime": Case("segmenter, onnxruntime", "segmenter.onnx", "onnxruntime"),
    "segmenter_int8": Case("segmenter, onnxruntime, int8", "segmenter_int8.onnx", "onnxruntime"),
    "mobilenet_onnxruntime": Case("segmenter on MobileNetV2, onnxruntime", "mobilenet.onnx", "onnxruntime"),
    "mobilenet_int8": Case("segmenter on MobileNetV2, onnxruntime, int8", "mobilenet_int8.onnx", "onnxruntime"),
    "wide_onnxruntime": Case("the same, wide decoder, onnxruntime", "wide.onnx", "onnxruntime"),
    "wide_int8": Case("the same, wide decoder, onnxruntime, int8", "wide_int8.onnx", "onnxruntime"),
    "cam_cuda": Case("CAM network, torch on the GPU, float32", "cam.safetensors", "torch", "cuda", "float32"),
    "cuda_float32": Case("segmenter, torch on the GPU, float32", "segmenter.safetensors", "torch", "cuda", "float32"),
    "cuda_float16": Case("segmenter, torch on the GPU, float16", "segmenter.safetensors", "torch", "cuda", "float16"),
    "cuda_compiled": Case(
        "segmenter, torch on the GPU, float16, compiled", "segmenter.safetensors", "torch", "cuda", "float16", True
    ),
    "wide_cuda": Case(
        "MobileNetV2, wide decoder, torch on the GPU, float16", "wide.safetensors", "torch", "cuda", "float16"
    ),
    "tensorrt": Case("segmenter, tensorrt", "segmenter.onnx", "tensorrt", "cuda"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench_runtime"))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="rows to measure; all")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), metavar="WIDTHxHEIGHT", help="of image and network")
    parser.add_argument("--threads", type=int, default=2, help="to compute with, and cores to do it on (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny networks, a frame each")
    parser.add_argument("--serve", metavar="JSON", help="be the process of one row")
    wanted = parser.parse_args()
    if wanted.serve:
        serve(**json.loads(wanted.serve))
        return
    wanted.out.mkdir(parents=True, exist_ok=True)
    names = sorted({BASE, *wanted.cases}, key=list(CASES).index)
    rows = []
    for size in ["64x48"] if wanted.quick else wanted.sizes:
        width, height = map(int, size.split("x"))
        prepare(wanted.out, (height, width), {CASES[name].file for name in names}, quick=wanted.quick)
        rows += measure(wanted.out, (height, width), names, wanted.threads, quick=wanted.quick)
    record = {"machine": machine(wanted.threads), "load": os.getloadavg()[0], "quick": wanted.quick, "rows": rows}
    text = table(record)
    (wanted.out / "runtime.md").write_text(text, encoding="utf-8")
    (wanted.out / "runtime.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
    print(text)


def machine(threads: int) -> str:
    """Return what the figures were taken on."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} ({capability}), {threads} of {os.cpu_count()} cores, torch {torch.__version__}, {gpu}"


def table(record: dict[str, Any]) -> str:
    """Return what was measured, for people."""
    lines = [
        f"Median, in brackets the middle 80 % of the frames. {record['machine']}, load {record['load']:.1f}",
        "",
        "| what | size | to mask, ms | network, ms | CPU, ms | frames/s | times faster | by CPU | MiB (model's) |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in record["rows"]:
        if "skipped" in row:
            lines.append(f"| {row['title']} | {row['size']} | skipped: {row['skipped']} | | | | | | |")
            continue
        low, p50, high = np.percentile(row["total_ms"], (10, 50, 90))
        forward, cpu = statistics.median(row["forward_ms"]), statistics.median(row["cpu_ms"])
        turns, by_cpu = row["times_faster"], row["cpu_faster"]
        lines.append(
            f"| {row['title']} | {row['size']} | {p50:.1f} ({low:.1f} to {high:.1f}) | {forward:.1f} | {cpu:.1f} | "
            f"{1000 / p50:.1f} | {statistics.median(turns):.2f} ({min(turns):.2f} to {max(turns):.2f}) | "
            f"{statistics.median(by_cpu):.2f} | {row['peak_mib']:.0f} ({row['peak_mib'] - row['start_mib']:.0f}) |"
        )
    return "\n".join(lines) + "\n"


# The model files -------------------------------------------------------------------------------------------------


class Pictures:
    """Reads frames that are soft blobs of colour, to learn the ranges of int8 from."""

    advice: ClassVar[str] = ""

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size

    def image(self, frame: FrameRecord) -> UInt8Array:
        """Return (H, W, 3) RGB."""
        import cv2

        blobs = np.random.default_rng(frame.stamp_ns).integers(0, 256, (6, 8, 3), np.uint8)
        return cv2.resize(blobs, self._size[::-1], interpolation=cv2.INTER_CUBIC).astype(np.uint8)

    def depth(self, frame: FrameRecord, size: tuple[int, int]) -> Float32Array | None:
        """Return None: there is no depth."""

    def mask(self, frame: FrameRecord, size: tuple[int, int]) -> UInt8Array | None:
        """Return None: nobody drew masks."""


def prepare(out: Path, size: tuple[int, int], files: set[str], *, quick: bool) -> None:
    """Write the model files for images of this size: here, so that making them is not in the memory of the rows."""
    import torch

    from deal_core.dataset.dataset import Dataset, FrameRecord
    from deal_core.models.factory import create_model
    from deal_core.models.model_file import ModelInfo, Threshold, load_model, save_model
    from deal_core.runtime import quantisation
    from deal_core.runtime.onnx_export import export_onnx
    from deal_core.settings_file import load_settings
    from deal_core.structures import ClassList, TagState
    from deal_core.trainer.settings import DistillSettings, TrainSettings

    classes = ClassList(CLASSES)
    cam = load_settings(TrainSettings, CONFIG / "train.yaml", []).model
    segmenter = load_settings(DistillSettings, CONFIG / "distill.yaml", []).model
    tiny: dict[str, Any] = {"encoder": "test_resnet", "encoder_arguments": {}} if quick else {}
    for kind, model, changed in (
        ("cam", cam, {"backbone": "test_resnet"} if quick else {}),
        ("segmenter", segmenter, tiny),
        *((kind, segmenter, {**changed, **tiny}) for kind, changed in OTHERS.items()),
    ):
        if not any(file.startswith(kind) for file in files):
            continue
        arguments = {**model.arguments, "weights": "none", **changed}
        torch.manual_seed(0)
        threshold = Threshold(0.3, "fixed") if kind == "cam" else Threshold(0.5, "argmax")
        path = out / f"{kind}.safetensors"
        network = create_model(model.name, len(classes), **arguments)
        save_model(path, network, ModelInfo(model.name, arguments, classes, size, threshold))
        if not files & {f"{kind}.onnx", f"{kind}_int8.onnx"}:
            continue
        loaded = load_model(path)
        exported = export_onnx(loaded)
        (out / f"{kind}.onnx").write_bytes(exported.data)
        if f"{kind}_int8.onnx" in files:
            frames = [FrameRecord("blobs", i, out / "blobs", None, None, TagState(()), 0) for i in range(8)]
            dataset = Dataset(out, classes, frames, Pictures(size))
            with mock.patch.object(quantisation, "LEAST_AGREEMENT", 0.0):  # random weights have little to agree on
                quantised = quantisation.quantise(exported, loaded.sha256, dataset)
            (out / f"{kind}_int8.onnx").write_bytes(quantised.data)


# The rows --------------------------------------------------------------------------------------------------------


class Worker:
    """The process of one row."""

    def __init__(self, name: str, out: Path, size: tuple[int, int], threads: int) -> None:
        spec = {"out": str(out), "size": size, "threads": threads, "case": asdict(CASES[name])}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        self.first = self._answer()

    def ask(self, frames: int) -> dict[str, Any]:
        """Return what it measures over so many frames."""
        assert self._process.stdin
        print(frames, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a row's process ended with {self._process.wait()}; its messages are above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def measure(
    out: Path, size: tuple[int, int], names: Sequence[str], threads: int, *, quick: bool
) -> list[dict[str, Any]]:
    """Return a row for each name: times of its frames, and by how much each turn was faster than the first row's."""
    rows: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        workers = {}
        for name in names:
            rows[name] = {"name": name, "title": CASES[name].title, "size": f"{size[1]}x{size[0]}"}
            reason = no_gpu() if CASES[name].device == "cuda" else ""
            if not reason:
                worker = Worker(name, out, size, threads)
                stack.callback(worker.close)
                reason = worker.first.get("refused", "")
            if reason:
                rows[name]["skipped"] = reason
            else:
                workers[name] = worker
                rows[name].update(total_ms=[], forward_ms=[], cpu_ms=[], times_faster=[], cpu_faster=[], **worker.first)
            print(f"{name}: {reason or 'ready'}", file=sys.stderr)
        for _ in range(2 if quick else ROUNDS):
            first: dict[str, Any] = {}
            for name, worker in workers.items():
                found = worker.ask(1 if quick else FRAMES)
                for key in ("total_ms", "forward_ms", "cpu_ms"):
                    rows[name][key] += found[key]
                first = first or found
                for ratio, key in (("times_faster", "total_ms"), ("cpu_faster", "cpu_ms")):
                    rows[name][ratio].append(statistics.median(first[key]) / statistics.median(found[key]))
                rows[name]["peak_mib"] = found["peak_mib"]
    return list(rows.values())


def no_gpu() -> str:
    """Return why no row of a GPU can be measured; empty where one is."""
    import torch

    return "" if torch.cuda.is_available() else "there is no GPU that PyTorch can use"


def serve(out: str, size: Sequence[int], threads: int, case: dict[str, Any]) -> None:
    """Load the model, then answer each line with a number of frames by their times."""
    import torch

    from deal_core.errors import DealError
    from deal_core.runtime.segmenter import Segmenter

    wanted = Case(**case)
    if wanted.device == "cpu":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    start_mib = peak_mib()
    try:
        segmenter = Segmenter.load(
            Path(out, wanted.file),
            wanted.device,
            wanted.precision,  # type: ignore[arg-type]
            backend=wanted.backend,  # type: ignore[arg-type]
            engine_cache_dir=Path(out, "cache"),
            compile=wanted.compile,
        )
    except DealError as error:
        print(json.dumps({"refused": str(error)}), flush=True)
        return
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for _ in range(WARM_UP):
        segmenter.segment(image)
    print(json.dumps({"start_mib": start_mib, "precision": segmenter.precision}), flush=True)
    for line in sys.stdin:
        found: dict[str, list[float]] = {"total_ms": [], "forward_ms": [], "cpu_ms": []}
        for _ in range(int(line)):
            start, cpu_start = time.perf_counter(), time.process_time()
            done = segmenter.segment(image)
            found["total_ms"].append((time.perf_counter() - start) * 1000)
            found["cpu_ms"].append((time.process_time() - cpu_start) * 1000)
            found["forward_ms"].append(done.forward_ms)
        print(json.dumps({**found, "peak_mib": peak_mib()}), flush=True)


if __name__ == "__main__":
    main()
