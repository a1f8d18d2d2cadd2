"""What `deal collect` loses, and what it costs, with a camera of 640x480 at 30 Hz on this machine.

    python benchmarks/collect.py --out bench_collect
    python benchmarks/collect.py --out bench_collect --seconds 5    # to see that it runs
    python benchmarks/collect.py --out bench_collect --viewers 3    # with the live page open in so many browsers

The camera is the SDK's software device in the same process, with colour beside depth as in a D435: what it costs to
make its images is part of the figures. Every pair is recorded. Then the recording is extracted, as JPEG and as PNG.
Prints a table; collect.json in the output folder holds it too. The recordings are removed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "test"))

import numpy as np
from _processes import resident_mib
from helpers.software_camera import PERIOD_MS, SoftwareCamera  # type: ignore[import-not-found]

from deal_core.dataset.extract import ExtractOptions, extract_recording
from deal_core.recorder.collect import collect_pairs
from deal_core.recorder.controls import RecorderControls
from deal_core.recorder.live_page import create_live_app
from deal_core.recorder.pair_recorder import PairRecorder, RecorderSettings
from deal_core.recorder.realsense import RealSense, StreamRequest
from deal_core.structures import ClassList, TagState
from deal_core.web.server import Door, ServingThread

SIZE = (480, 640)
VIEWER = """
import sys, time, urllib.request
while True:
    for path in ("picture.jpg", "picture.jpg", "state"):
        urllib.request.urlopen(sys.argv[1] + path).read()
        time.sleep(0.15)
"""


@dataclass(frozen=True)
class Measurement:
    """One recording and its extraction in numbers.

    Attributes:
        seconds: of recording.
        given: pairs that the camera took.
        written: pairs in the recording.
        loss: share of the pairs that were lost.
        lost: them, by cause.
        cpu_cores: processor time per second, camera included.
        growth_mib: memory that came after the first quarter.
        pairs_per_cpu_s: extracted, by format of colour.
    """

    seconds: float
    given: int
    written: int
    loss: float
    lost: dict[str, int]
    cpu_cores: float
    growth_mib: float
    pairs_per_cpu_s: dict[str, float]


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for collect.json")
    parser.add_argument("--seconds", type=float, default=60.0, help="of recording (default: %(default)s)")
    parser.add_argument("--viewers", type=int, default=0, help="that look at the live page (default: %(default)s)")
    wanted = parser.parse_args()
    wanted.out.mkdir(parents=True, exist_ok=True)
    found = measure(wanted.seconds, wanted.out, wanted.viewers)
    for name, value in asdict(found).items():
        print(f"{name:16} {value}")
    content = {"machine": platform.platform(), "cores": os.cpu_count(), **asdict(found)}
    (wanted.out / "collect.json").write_text(json.dumps(content, indent=2) + "\n")


def measure(seconds: float, out: Path, viewers: int = 0) -> Measurement:
    """Record, with the live page if somebody looks at it, and extract."""
    recording = out / "recording"
    shutil.rmtree(recording, ignore_errors=True)
    camera = SoftwareCamera(SIZE, shift=0.015, focal=(380.0, 600.0))
    memory: list[float] = []
    given = 0
    is_over = threading.Event()

    def run() -> None:
        nonlocal given
        random = np.random.default_rng(0)
        small = random.integers(0, 256, (6, 8, 3), np.uint8)  # smooth, with noise, as photographs are
        color = np.kron(small, np.ones((80, 80, 1), np.uint8)) + random.integers(0, 8, (*SIZE, 3), np.uint8)
        depth = np.linspace(600, 2500, SIZE[0]).astype(np.uint16)[:, None] + random.integers(0, 9, SIZE, np.uint16)
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            given += 1
            camera.give(given, np.roll(color, given, axis=1), depth)
            memory.append(resident_mib(os.getpid()))
            time.sleep(max(0.0, begin + given * PERIOD_MS / 1000 - time.monotonic()))
        time.sleep(0.5)
        is_over.set()

    with RealSense(camera.device, StreamRequest(SIZE[1], SIZE[0], 30)) as source:
        thread = threading.Thread(target=run)
        open_ = ExitStack()
        begin_s, cpu_s = time.monotonic(), time.process_time()
        thread.start()
        done = collect_pairs(
            source,
            lambda: PairRecorder(RecorderSettings(ClassList(("mug",)), rate_hz=0), TagState(("mug",))),
            recording,
            is_stopped=is_over.is_set,
            on_start=lambda recorder: _look(recorder, viewers, open_),
        )
        thread.join()
        open_.close()
        took_s, used_s = time.monotonic() - begin_s, time.process_time() - cpu_s
    rates = {}
    for form in ("jpeg", "png"):
        cpu_s = time.process_time()
        extract_recording(recording, out / f"data_{form}", ExtractOptions(color_format=form))
        rates[form] = done.summary.counts.written / (time.process_time() - cpu_s)
        shutil.rmtree(out / f"data_{form}")
    shutil.rmtree(recording)
    counts = done.summary.counts
    growth = memory[-1] - memory[len(memory) // 4]
    return Measurement(took_s, given, counts.written, counts.loss, counts.causes, used_s / took_s, growth, rates)


def _look(recorder: PairRecorder, viewers: int, open_: ExitStack) -> None:
    """Serve the live page, and look at it as browsers do."""
    if not viewers:
        return
    door = open_.enter_context(Door("127.0.0.1", 0))
    open_.enter_context(ServingThread(lambda: create_live_app(RecorderControls(recorder), "benchmark"), door))

    for _ in range(viewers):
        viewer = subprocess.Popen([sys.executable, "-c", VIEWER, door.address], stderr=subprocess.DEVNULL)
        open_.callback(viewer.wait)
        open_.callback(viewer.kill)


if __name__ == "__main__":
    main()
